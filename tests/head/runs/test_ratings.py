"""A run belongs to a cache as long as what it learnt from has the same images and scores there."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featcache.base.errors import CorruptFile, InvalidSettings, Mismatch
from featcache.datasets.splits import Part, Splits
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.manifest import read_manifest, write_manifest
from head.evaluation.evaluate import evaluate
from head.prediction.members import find_members
from head.runs.find import find_runs_of
from head.runs.ratings import difference
from head.runs.run import RATINGS_NAME, Run, read_run
from head.settings import settings_of
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.command_line import amnet

Change = Callable[[Splits], Splits]


def with_splits(folder: Path, change: Change) -> FeatureCache:
    """Seal the cache in folder anew with its splits changed, as extract does for another table of the same images."""
    manifest = read_manifest(folder)
    write_manifest(folder, replace(manifest, ratings={"": change(manifest.ratings[""])}))
    return open_cache(folder)


def changed(part: str, change: Callable[[Part], Part]) -> Change:
    """Return the change of one part of every split."""
    return lambda splits: {
        split: {name: change(found) if name == part else found for name, found in parts.items()}
        for split, parts in splits.items()
    }


def fit(cache: FeatureCache, home: Path, name: str = "ridge", split: str = "1", **settings: object) -> Run:
    folder = home / cache.name / name / f"split-{split}"
    return train(TrainingJob(cache, split, settings_of(head="ridge", **settings), folder, name))  # type: ignore[arg-type]


@pytest.fixture
def own(tiny_cache: Path, tmp_path: Path) -> FeatureCache:
    """A cache of its own for each test, under the name of 'own'."""
    shutil.copytree(tiny_cache, tmp_path / "own")
    return open_cache(tmp_path / "own")


def reversed_scores(part: Part) -> Part:
    return Part(part.rows, 1 - part.scores)


def one_of(part: Part) -> Part:
    """Return a part whose first image alone has another score."""
    return Part(part.rows, np.concatenate([[part.scores[0] + 0.25], part.scores[1:]]))


def of_none(part: Part) -> Part:
    return Part(part.rows[:0], part.scores[:0])


def without_one(part: Part) -> Part:
    return Part(part.rows[1:], part.scores[1:])


def in_other_order(part: Part) -> Part:
    return Part(part.rows[::-1].copy(), part.scores[::-1].copy())


@pytest.mark.parametrize(
    ("part", "change", "reason"),
    [
        ("train", reversed_scores, "it was trained or selected on other scores of these images"),
        ("train", one_of, "it was trained or selected on other scores of these images"),
        ("val", one_of, "it was trained or selected on other scores of these images"),
        ("train", without_one, "it was trained or selected on other images than its parts hold now"),
        ("val", without_one, "it was trained or selected on other images than its parts hold now"),
        ("test", reversed_scores, "11 images of the test part had other scores when it was trained"),
        ("test", one_of, "1 image of the test part had other scores when it was trained"),
        ("test", without_one, ""),
        ("test", in_other_order, ""),
        ("train", in_other_order, ""),
    ],
)
def test_a_run_of_other_data_is_named_and_never_scored(
    own: FeatureCache, tmp_path: Path, part: str, change: Callable[[Part], Part], reason: str
) -> None:
    run = fit(own, tmp_path / "runs")
    cache = with_splits(own.path, changed(part, change))
    assert difference(run, cache) == reason
    if not reason:
        assert len(evaluate(cache, tmp_path / "runs").scored) == 1
        assert fit(cache, tmp_path / "runs").result == run.result  # it is done
        return
    with pytest.raises(
        InvalidSettings, match=f"no finished run .* and 1 of other data .{reason}.*make one with"
    ) as raised:
        evaluate(cache, tmp_path / "runs")
    said = str(raised.value).partition("make one with: ")[2]
    assert said.startswith(f"amnet train-head --cache {cache.path} --split 1 --head ridge ")
    assert said.endswith(" --no-resume")
    fit(cache, tmp_path / "runs", "new")
    found = evaluate(cache, tmp_path / "runs")
    assert [scored.run.name for scored in found.scored] == ["new"]
    assert f"{run.folder}: {reason}; left out" in found.warnings()
    assert found.as_json()["left_out"] == [{"run": str(run.folder), "reason": reason}]
    assert not found.errors
    assert not (run.folder / "scores.json").exists()
    with pytest.raises(Mismatch, match=f"holds a run of other settings or data:\n  {reason}\n"):
        fit(cache, tmp_path / "runs")


def test_scores_of_a_part_that_selects_are_what_was_learnt_from(own: FeatureCache, tmp_path: Path) -> None:
    run = fit(own, tmp_path / "runs", select_on="test")
    assert difference(run, with_splits(own.path, changed("test", without_one))).startswith("it was trained or selected")
    other = with_splits(own.path, changed("val", reversed_scores))
    assert difference(run, other).startswith("it was trained or selected on other images")  # of the cache before


def test_an_image_that_is_added_or_mended_elsewhere_changes_nothing(
    torn_cache: Path, tiny_cache: Path, tmp_path: Path
) -> None:
    """In split 1 an image of train and one of test could not be read; here it is one of test alone."""
    absent = ~open_cache(torn_cache).present

    def sound(part: Part) -> Part:
        keep = ~absent[part.rows]
        return Part(part.rows[keep], part.scores[keep])

    shutil.copytree(torn_cache, tmp_path / "own")
    train_is_sound = changed("train", sound)
    torn = with_splits(tmp_path / "own", train_is_sound)
    run = fit(torn, tmp_path / "runs")
    before = evaluate(torn, tmp_path / "runs").scored[0]
    assert before.absent == 1
    shutil.rmtree(tmp_path / "own")
    shutil.copytree(tiny_cache, tmp_path / "own")
    mended = with_splits(tmp_path / "own", train_is_sound)
    after = evaluate(mended, tmp_path / "runs").scored[0]
    assert (after.absent, len(after.names)) == (0, len(before.names) + 1)
    assert fit(mended, tmp_path / "runs").result == run.result
    assert (
        difference(run, open_cache(tiny_cache)) == "it was trained or selected on other images than its parts hold now"
    )


def test_images_that_move_to_other_rows_are_the_same(own: FeatureCache, tmp_path: Path) -> None:
    run = fit(own, tmp_path / "runs")
    rows = np.roll(np.arange(own.rows), 7)
    own.images = [own.images[row] for row in np.argsort(rows)]
    for parts in own.splits.values():
        parts.update({name: Part(rows[part.rows], part.scores) for name, part in parts.items()})
    assert difference(run, own) == ""


def test_a_run_that_is_to_go_on_takes_the_rows_it_began_with(own: FeatureCache, tmp_path: Path) -> None:
    run = fit(own, tmp_path / "runs")
    config = json.loads((run.folder / "config.json").read_text())
    del config["result"]
    (run.folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(Mismatch, match="its images are in other rows or another order than when it began"):
        fit(with_splits(own.path, changed("train", in_other_order)), tmp_path / "runs")


def test_a_run_that_does_not_say_its_ratings_is_judged_by_its_rows(own: FeatureCache, tmp_path: Path) -> None:
    run = fit(own, tmp_path / "runs")
    config = json.loads((run.folder / "config.json").read_text())
    for key in ("images_sha256", "ratings_sha256"):
        del config[key]
    (run.folder / "config.json").write_text(json.dumps(config))
    (run.folder / RATINGS_NAME).unlink()
    earlier = read_run(run.folder)
    assert difference(earlier, own) == ""
    assert difference(earlier, with_splits(own.path, changed("test", reversed_scores))) == ""  # nobody noted these
    for change in (one_of, of_none):
        other = with_splits(own.path, changed("train", change))
        assert difference(earlier, other) == "it was trained on other images or scores than are there now"


def test_runs_of_other_scores_are_no_members_of_one_mean(own: FeatureCache, tmp_path: Path) -> None:
    home = fit(own, tmp_path / "runs").folder.parent
    fit(own, tmp_path / "runs", split="2")
    assert len(find_members(home).runs) == 2
    (home / "split-2").rename(tmp_path / "before")
    rescored = with_splits(
        own.path, lambda splits: changed("train", reversed_scores)(changed("test", reversed_scores)(splits))
    )
    fit(rescored, tmp_path / "runs", split="2")
    with pytest.raises(InvalidSettings, match=r"its 2 runs are not of the same scores.*\n  .*split-2\n.*--no-resume"):
        find_members(home)


def test_splits_drawn_anew_for_other_scores_are_told_as_that(own: FeatureCache, tmp_path: Path) -> None:
    run = fit(own, tmp_path / "runs")
    rescored = with_splits(own.path, lambda splits: {"1": changed("train", reversed_scores)(splits)["2"]})
    assert re.fullmatch(r"it was trained when \d+ images of the cache had other scores", difference(run, rescored))


def test_damaged_ratings_of_a_run_are_told(own: FeatureCache, tmp_path: Path) -> None:
    run = fit(own, tmp_path / "runs")
    (run.folder / RATINGS_NAME).write_bytes(b"torn")
    with pytest.raises(CorruptFile, match="damaged"):
        difference(run, own)
    found = find_runs_of(own, tmp_path / "runs")
    assert (found.runs, [type(error) for error in found.errors]) == ([], [CorruptFile])


def test_every_command_leaves_runs_of_other_data_out(own: FeatureCache, tmp_path: Path) -> None:
    where = ("--cache", str(own.path), "--runs", str(tmp_path / "runs"))
    run = fit(own, tmp_path / "runs")
    cache = with_splits(own.path, changed("train", reversed_scores))
    fit(cache, tmp_path / "runs", "new")
    said = f"{run.folder}: it was trained or selected on other scores of these images; left out"
    for command in (
        ["score-cache"],
        ["report", "--out", tmp_path / "report.html"],
        ["figures", "--out", tmp_path / "f"],
    ):
        result = amnet(*command, *where)
        assert said in result.stderr, command
        assert not any(line.startswith("ridge") for line in result.stdout.splitlines())


def test_a_renamed_cache_keeps_its_runs_beside_new_ones(own: FeatureCache, tmp_path: Path) -> None:
    fit(own, tmp_path / "runs")
    (tmp_path / "own").rename(tmp_path / "renamed")
    (tmp_path / "runs" / "own").rename(tmp_path / "runs" / "renamed")
    renamed = open_cache(tmp_path / "renamed")
    fit(renamed, tmp_path / "runs", "new")
    assert [run.name for run in find_runs_of(renamed, tmp_path / "runs").runs] == ["new", "ridge"]


def test_where_all_runs_are_of_other_scores_the_command_trains_these_heads_again(
    own: FeatureCache, tmp_path: Path
) -> None:
    fit(own, tmp_path / "runs", "mine", pooling="mean")
    rescored = with_splits(own.path, changed("train", reversed_scores))
    with pytest.raises(InvalidSettings) as raised:
        find_runs_of(rescored, tmp_path / "runs")
    command = str(raised.value).partition("; make one with: ")[2]
    assert command.startswith("amnet train-head ")
    amnet(*shlex.split(command)[1:])
    assert [run.name for run in find_runs_of(rescored, tmp_path / "runs").runs] == ["mine"]
