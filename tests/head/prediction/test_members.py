"""A folder of several runs of one head predicts their mean, with one pass of the backbone; others are refused."""

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from cli import main
from featcache.base.errors import InvalidSettings
from featcache.store.cache import open_cache
from head.prediction.members import find_members
from head.prediction.predictor import Prediction, Predictor
from head.prediction.text import Predictions
from head.runs.head_file import load_head
from head.runs.run import read_run
from head.settings import TrainSettings
from head.training.job import TrainingJob
from head.training.train import train

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def paper(tiny_runs: Path) -> Path:
    return tiny_runs / "tiny" / "paper"


@pytest.fixture(scope="module")
def members(paper: Path) -> Predictor:
    return Predictor.load(paper)


@pytest.fixture(scope="module")
def paths(tiny_dataset: Path) -> list[Path]:
    return sorted((tiny_dataset / "images").glob("*.jpg"))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def copied(run: Path, to: Path, edit: Edit = lambda config: None) -> Path:
    """Return to, a copy of a run whose config.json is edited."""
    shutil.copytree(run, to)
    config = json.loads((to / "config.json").read_text())
    edit(config)
    (to / "config.json").write_text(json.dumps(config))
    return to


def seeded(seed: int) -> Edit:
    return lambda config: config["settings"].update(seed=seed)


def amnet(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_scores_steps_and_maps_are_means_over_members(members: Predictor, paper: Path, paths: list[Path]) -> None:
    found = members(paths)
    singles = [Predictor.load(paper / split)(paths) for split in ("split-1", "split-2")]
    scores = np.array([[one.score for one in run] for run in singles], np.float64)  # (M, N)
    steps = np.array([[one.step_scores for one in run] for run in singles])  # (M, N, T)
    maps = np.array([[one.attention for one in run] for run in singles])  # (M, N, T, H, W)
    np.testing.assert_allclose([one.score for one in found], scores.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose([one.deviation for one in found], scores.std(axis=0, ddof=1), atol=1e-6)
    np.testing.assert_allclose([one.step_scores for one in found], steps.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose([sum(one.step_scores) for one in found], [one.score for one in found], atol=1e-6)
    np.testing.assert_allclose([one.attention for one in found], maps.mean(axis=0), atol=1e-6)
    assert all(one.deviation is None for run in singles for one in run)


def test_the_backbone_computes_each_batch_once_for_all_members(
    members: Predictor, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    backbone = members.backbone

    def counted(pixels: Any) -> Any:
        sizes.append(len(pixels))
        return backbone(pixels)

    counted.batch_size = 16  # type: ignore[attr-defined]
    monkeypatch.setattr(members, "backbone", counted)
    members.predict(paths)
    assert sizes == [16, 16, len(paths) - 32]


def test_members_that_read_the_same_have_it_encoded_once(
    members: Predictor, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    encoded = members._read
    monkeypatch.setattr(members, "_read", lambda *given: read.append(0) or encoded(*given))
    members.predict(paths[:2])
    assert len(read) == 1


def test_members_at_once_in_threads_predict_what_they_do_in_turn(
    members: Predictor, paths: list[Path], two_threads: None
) -> None:
    assert torch.get_num_threads() == 2
    found = [float(one) for one in members(paths[:5])]
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert found == pytest.approx([float(one) for one in members(paths[:5])], abs=1e-6)


def test_a_head_is_loaded_without_drawing_weights(paper: Path) -> None:
    before = torch.get_rng_state()
    load_head(read_run(paper / "split-1"))
    assert torch.equal(torch.get_rng_state(), before)


def test_baselines_on_several_layers_predict_their_mean(
    layered_cache: Path, torn_dataset: Path, tmp_path: Path
) -> None:
    cache = open_cache(layered_cache)
    settings = TrainSettings(head="linear", layers=("layer2", "layer3"), pooling="mean+deviation")
    folders = [
        train(TrainingJob(cache, split, settings, tmp_path / "linear" / f"split-{split}", "linear")).folder
        for split in list(cache.splits)[:2]
    ]
    images = [torn_dataset / "images" / image.name for image in cache.images[:5]]
    images = [path for path in images if not Predictor.load(folders[0]).predict([path])[0].problem]
    wanted = np.mean([[float(one) for one in Predictor.load(folder)(images)] for folder in folders], axis=0)
    np.testing.assert_allclose([float(one) for one in Predictor.load(tmp_path)(images)], wanted, atol=1e-6)


def test_an_image_is_in_training_if_one_member_was_trained_on_it(
    members: Predictor, paths: list[Path], tiny_cache: Path
) -> None:
    sha256 = {image.name: image.sha256 for image in open_cache(tiny_cache).images}
    counts = [sum(sha256[path.name] in member.head.train_images for member in members.members) for path in paths]
    found = members.predict(paths)
    assert set(counts) == {0, 1, 2}
    assert [one.trained_members for one in found] == counts
    assert [one.in_training for one in found] == [count > 0 for count in counts]
    assert members(np.zeros((20, 20, 3), np.uint8)).in_training is None


def test_images_that_imported_heads_were_trained_on_are_unknown(paper: Path, paths: list[Path], tmp_path: Path) -> None:
    for split in ("split-1", "split-2"):
        run = copied(paper / split, tmp_path / split, lambda config: config.update(imported={"file": "a.pkl"}))
        assert run.is_dir()
    found = Predictor.load(tmp_path)
    assert found.in_training("0" * 64) is None


def test_one_run_is_what_it_was(paper: Path, members: Predictor) -> None:
    one = Predictor.load(paper / "split-2")
    assert (len(one.members), one.run.split, one.members[0].head) == (1, "2", one.head)
    assert [member.run.split for member in members.members] == ["1", "2"]
    assert (members.run, members.head) == (members.members[0].run, members.members[0].head)


# which runs are one head


def test_seeds_beside_each_other_are_one_head_and_a_copy_counts_once(paper: Path, tmp_path: Path) -> None:
    for seed, name in ((0, "paper"), (1, "paper,seed=1"), (2, "paper,seed=2")):
        for split in ("split-1", "split-2"):
            copied(paper / split, tmp_path / "faces" / name / split, seeded(seed))
    copied(paper / "split-1", tmp_path / "faces" / "exported")
    found, unfinished = find_members(tmp_path / "faces")
    assert [(run.split, run.seed) for run in found] == [(split, seed) for split in "12" for seed in (0, 1, 2)]
    assert unfinished == []


def test_a_run_counts_and_not_its_export_in_the_same_folder(paper: Path, tmp_path: Path) -> None:
    shutil.copytree(paper, tmp_path / "runs")
    for split in ("1", "2"):
        copy = tmp_path / "runs" / "export" / f"split-{split}"
        shutil.copytree(paper / f"split-{split}", copy)
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, "exported": {"sha256": {}}}))
    found = find_members(tmp_path / "runs").runs
    assert [run.folder.relative_to(tmp_path).as_posix() for run in found] == ["runs/split-1", "runs/split-2"]
    assert len(find_members(tmp_path / "runs" / "export").runs) == 2


def test_unfinished_runs_are_named_and_left_out(paper: Path, paths: list[Path], tmp_path: Path) -> None:
    copied(paper / "split-1", tmp_path / "split-1")
    unfinished = copied(paper / "split-2", tmp_path / "split-2", lambda config: config.pop("result"))
    found = Predictor.load(tmp_path)
    assert [member.run.split for member in found.members] == ["1"]
    assert found.warnings() == [
        f"warning: left out, their training has not finished: {unfinished}; the same train-head command ends it",
        "scores have no prediction interval: "
        "one of 0.9 takes 9 images that the head was not fitted to, and there were 7",
    ]
    done = amnet("predict", "--run", tmp_path, paths[0])
    assert (done.exit_code, str(unfinished) in done.stderr, "deviation" in done.stdout) == (0, True, False)


def test_without_a_finished_run_the_runs_are_named(paper: Path, tmp_path: Path) -> None:
    run = copied(paper / "split-1", tmp_path / "paper" / "split-1", lambda config: config.pop("result"))
    with pytest.raises(InvalidSettings, match=f"no run there; name one of {run}"):
        Predictor.load(tmp_path)


def test_several_heads_are_refused_and_the_folders_of_each_listed(tiny_runs: Path, tmp_path: Path) -> None:
    home = tmp_path / "runs"
    shutil.copytree(tiny_runs, home)
    with pytest.raises(InvalidSettings) as raised:
        Predictor.load(home)
    assert str(raised.value).splitlines() == [
        f"{home}: its 3 finished runs are not of one head, on the same features and scores:",
        f"  {home}/tiny/paper: 2 runs",
        f"  {home}/tiny/plain: 1 run",
        "Name one of these folders.",
    ]
    assert len(find_members(home / "tiny" / "plain").runs) == 1


@pytest.mark.parametrize("other", [{"fingerprint": "0" * 64}, {"target": "beauty"}, {"cache": "other"}])
def test_runs_of_other_features_or_scores_are_not_one_head(paper: Path, tmp_path: Path, other: dict[str, str]) -> None:
    copied(paper / "split-1", tmp_path / "split-1")
    copied(paper / "split-2", tmp_path / "split-2", lambda config: config.update(other))
    with pytest.raises(InvalidSettings, match=f"{tmp_path}/split-1: 1 run\n  {tmp_path}/split-2: 1 run\n"):
        find_members(tmp_path)


# what is written and told


def test_the_table_of_several_members_has_their_deviation(paper: Path, paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "torn.jpg").write_text("torn")
    table = tmp_path / "scores.csv"
    given = [*paths[:2], tmp_path / "torn.jpg"]
    done = amnet("predict", "--run", paper, *given, "--csv", table, "--json")
    assert done.exit_code == 3
    lines = list(csv.DictReader(table.read_text().splitlines()))
    assert list(lines[0]) == [
        "path",
        "score",
        "deviation",
        "m_1",
        "m_2",
        "m_3",
        "in_training",
        "outside_range",
        "problem",
    ]
    deviations = [one["deviation"] for one in json.loads(done.stdout)]
    assert [line["deviation"] for line in lines] == [*(f"{one:.6f}" for one in deviations[:2]), ""]
    assert deviations[2] is None
    assert "unidentified" in lines[2]["problem"]
    alone = amnet("predict", "--head", paper / "split-1", *given, "--csv", table, "--json")
    assert table.read_text().splitlines()[0] == "path,score,m_1,m_2,m_3,in_training,outside_range,problem"
    assert [one["deviation"] for one in json.loads(alone.stdout)] == [None] * 3


def test_on_how_many_images_how_many_members_were_trained_is_told() -> None:
    found = [Prediction(Path("a.jpg"), 0.5, in_training=count > 0, trained_members=count) for count in (2, 0, 1, 2)]
    assert Predictions(found, members=5).warnings() == [
        "warning: the head was trained on 3 of these images (2 by 2 of 5 members, 1 by 1 of 5 members); "
        "its scores of them say nothing"
    ]
