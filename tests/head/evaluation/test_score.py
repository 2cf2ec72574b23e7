"""Scores against a plain loop over the cache, and the guard against scoring a head on what it was trained on."""

import csv
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from featcache.base.errors import BadInput, CacheIncomplete, CorruptFile, InvalidSettings, Mismatch
from featcache.datasets.dataset import open_dataset
from featcache.extraction.extract import extract
from featcache.settings import ViewSettings
from featcache.store.cache import FeatureCache, open_cache
from head.evaluation.evaluate import evaluate
from head.evaluation.score import json_number, score_run, write_scores
from head.models.kinds import KINDS
from head.runs.find import FoundRuns, find_runs_of
from head.runs.head_file import load_head
from head.runs.run import Run, read_run
from tests.helpers.results import changed
from tests.helpers.tiny import TINY_EXTRACT


@pytest.fixture
def cache(tiny_cache: Path) -> FeatureCache:
    return open_cache(tiny_cache)


@pytest.fixture
def run(tiny_runs: Path) -> Run:
    return read_run(tiny_runs / "tiny" / "paper" / "split-1")


@pytest.fixture
def runs_copy(tiny_runs: Path, tmp_path: Path) -> Path:
    """The home of runs, to be written into."""
    shutil.copytree(tiny_runs, tmp_path / "runs")
    return tmp_path / "runs"


def as_split(run: Run, split: str) -> Run:
    """Return a run that claims to be of another split."""
    return changed(run, split=split)


def predict_alone(run: Run, cache: FeatureCache, row: int, view: int) -> np.ndarray:
    """Return the step scores (T) of one row and view, on the scale of the data, one image at a time."""
    head = load_head(run)
    features = torch.from_numpy(cache.read(row, view)).float()
    with torch.no_grad():
        steps = head.module(features).step_scores[0].double().numpy()
    return steps * head.target_scale + head.target_mean / len(steps)


@pytest.mark.parametrize("name", ["paper", "plain"])
@pytest.mark.parametrize("part", ["val", "test"])
def test_predictions_are_those_of_a_plain_loop_over_the_cache(
    tiny_runs: Path, cache: FeatureCache, part: str, name: str
) -> None:
    run = read_run(tiny_runs / "tiny" / name / "split-1")
    scored = score_run(run, cache, part=part)
    rows = cache.splits["1"][part].rows
    wanted = np.array([predict_alone(run, cache, row, view=0) for row in rows])
    np.testing.assert_allclose(scored.step_scores, wanted, atol=1e-5)
    np.testing.assert_allclose(scored.prediction, wanted.sum(axis=1), atol=1e-5)
    np.testing.assert_array_equal(scored.truth, cache.splits["1"][part].scores)
    assert scored.names == [cache.images[row].name for row in rows]


def test_scores_do_not_depend_on_how_many_are_computed_at_once(
    run: Run, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = score_run(run, cache).prediction
    monkeypatch.setitem(KINDS, "paper", replace(KINDS["paper"], at_once=3))
    np.testing.assert_allclose(score_run(run, cache).prediction, whole, atol=1e-6)


def test_step_scores_add_up_to_the_prediction(run: Run, cache: FeatureCache) -> None:
    scored = score_run(run, cache, views="all")
    assert scored.step_scores.shape == (11, 3)
    np.testing.assert_allclose(scored.step_scores.sum(axis=1), scored.prediction, atol=1e-12)


def test_all_views_is_the_mean_over_every_view(run: Run, cache: FeatureCache) -> None:
    scored = score_run(run, cache, views="all")
    rows = cache.splits["1"]["test"].rows
    wanted = [np.mean([predict_alone(run, cache, row, view).sum() for view in range(3)]) for row in rows]
    np.testing.assert_allclose(scored.prediction, wanted, atol=1e-5)
    assert not np.allclose(scored.prediction, score_run(run, cache).prediction, atol=1e-3)


def test_metrics_are_of_the_predictions(run: Run, cache: FeatureCache) -> None:
    scored = score_run(run, cache)
    assert scored.metrics.n == 11
    assert scored.metrics.rho == pytest.approx(stats.spearmanr(scored.prediction, scored.truth).statistic)
    assert scored.metrics.mse == pytest.approx(((scored.prediction - scored.truth) ** 2).mean())


def test_images_without_features_are_left_out_and_counted(run: Run, torn_cache: Path) -> None:
    cache = open_cache(torn_cache)
    scored = score_run(run, cache)
    rows = cache.splits["1"]["test"].rows
    assert (scored.absent, scored.metrics.n) == (1, 10)
    assert scored.names == [cache.images[row].name for row in rows[1:]]
    np.testing.assert_array_equal(scored.truth, cache.splits["1"]["test"].scores[1:])


# what a head must not be scored on


def test_a_head_is_not_scored_on_its_train_part(run: Run, cache: FeatureCache) -> None:
    first = ", ".join(cache.images[row].name for row in cache.splits["1"]["train"].rows[:3])
    with pytest.raises(BadInput, match=rf"trained on 23 of these 23 images \({first}, \.\.\.\).*test part of its own"):
        score_run(run, cache, part="train")


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_head_is_not_scored_on_a_part_of_another_split_that_overlaps_its_train_part(
    run: Run, cache: FeatureCache, part: str
) -> None:
    trained = set(cache.splits["1"]["train"].rows.tolist())
    overlap = [row for row in cache.splits["2"][part].rows.tolist() if row in trained]
    assert 0 < len(overlap) < len(cache.splits["2"][part].rows)
    first = ", ".join(cache.images[row].name for row in overlap[:3])
    message = rf"trained on {len(overlap)} of these {len(cache.splits['2'][part].rows)} images \({first}"
    with pytest.raises(BadInput, match=message):
        score_run(as_split(run, "2"), cache, part=part)


def test_the_guard_knows_images_by_content_not_by_name(run: Run, tiny_dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(tiny_dataset, folder)
    train = (folder / "splits" / "train_1.txt").read_text().split()
    (folder / "splits" / "train_1.txt").unlink()
    shutil.copy(folder / "images" / train[0], folder / "images" / "renamed.jpg")
    with (folder / "splits" / "test_1.txt").open("a") as file:
        file.write("renamed.jpg 0.5\n")
    extract(open_dataset(str(folder)), replace(TINY_EXTRACT, augs=0), tmp_path / "tiny")
    with pytest.raises(BadInput, match=r"trained on 1 of these 12 images \(renamed\.jpg\)"):
        score_run(run, open_cache(tmp_path / "tiny"))


def test_a_cache_of_other_features_is_refused_with_the_field_and_both_values(
    run: Run, tiny_dataset: Path, tmp_path: Path
) -> None:
    settings = replace(TINY_EXTRACT, augs=0, views=ViewSettings(image_size=64, eval_view="squash"))
    extract(open_dataset(str(tiny_dataset)), settings, tmp_path / "tiny")
    with pytest.raises(Mismatch, match=r'eval_view: "center" there, "squash" asked for') as caught:
        score_run(run, open_cache(tmp_path / "tiny"))
    assert str(run.folder) in str(caught.value)
    assert "weights" not in str(caught.value)  # only what differs is named


def test_an_unknown_part_split_or_choice_of_views_is_refused(run: Run, cache: FeatureCache) -> None:
    with pytest.raises(InvalidSettings, match="has no dev part of split 1"):
        score_run(run, cache, part="dev")
    with pytest.raises(InvalidSettings, match="has no test part of split 9"):
        score_run(as_split(run, "9"), cache)
    with pytest.raises(InvalidSettings, match="--views must be eval or all, found 'best'"):
        score_run(run, cache, views="best")


def test_an_unfinished_run_cannot_be_scored(run: Run, cache: FeatureCache) -> None:
    unfinished = replace(run, config=replace(run.config, result=None))
    with pytest.raises(CacheIncomplete, match="training has not finished"):
        score_run(unfinished, cache)


# what is written


def test_scores_are_written_beside_the_run(runs_copy: Path, cache: FeatureCache) -> None:
    run = read_run(runs_copy / "tiny" / "paper" / "split-1")
    scored = score_run(run, cache)
    write_scores(scored)
    found = json.loads((run.folder / "scores.json").read_text())
    result = run.result.document
    assert found == json.loads(json.dumps(scored.as_json()))
    assert {key: found[key] for key in ("name", "split", "part", "views", "n", "absent", "selected_on")} == {
        "name": "paper",
        "split": "1",
        "part": "test",
        "views": "eval",
        "n": 11,
        "absent": 0,
        "selected_on": "the val part",
    }
    assert (found["rho"], found["mse"]) == (scored.metrics.rho, scored.metrics.mse)
    assert (found["rho_low"], found["rho_high"]) == (scored.metrics.rho_low, scored.metrics.rho_high)
    assert found["best_epoch"] == result["best_epoch"]
    assert found["lowest_mse_epoch"] == result["lowest_mse_epoch"]


def test_predictions_are_written_row_by_row_with_their_steps(runs_copy: Path, cache: FeatureCache) -> None:
    run = read_run(runs_copy / "tiny" / "paper" / "split-1")
    scored = score_run(run, cache)
    write_scores(scored)
    header, *lines = csv.reader((run.folder / "predictions.csv").read_text().splitlines())
    assert header == ["name", "score", "prediction", "m_1", "m_2", "m_3"]
    assert [line[0] for line in lines] == scored.names
    numbers = np.array([[float(cell) for cell in line[1:]] for line in lines])
    np.testing.assert_array_equal(numbers[:, 0], scored.truth)
    np.testing.assert_allclose(numbers[:, 1], scored.prediction, atol=1e-6)
    np.testing.assert_allclose(numbers[:, 2:], scored.step_scores, atol=1e-6)


def test_nan_is_null_in_json(run: Run, cache: FeatureCache) -> None:
    scored = score_run(run, cache)
    undefined = replace(scored, metrics=replace(scored.metrics, rho=math.nan, rho_low=math.nan, rho_high=math.nan))
    found = json.loads(json.dumps(undefined.as_json(), allow_nan=False))
    assert (found["rho"], found["rho_low"], found["rho_high"]) == (None, None, None)
    assert [json_number(value) for value in (math.nan, math.inf, -math.inf, 0.5)] == [None, None, None, 0.5]


# which runs belong to a cache


def names_and_splits(found: FoundRuns) -> list[tuple[str, str]]:
    """Return the names and splits of runs that were found without errors."""
    assert not found.errors
    assert not found.of_other_data
    return [(run.name, run.split) for run in found.runs]


def test_the_runs_of_a_cache_are_found_in_order_of_name_and_split(runs_copy: Path, cache: FeatureCache) -> None:
    folder = runs_copy / "tiny" / "paper"
    config = json.loads((folder / "split-1" / "config.json").read_text())
    shutil.copytree(folder / "split-1", folder / "split-10")
    (folder / "split-10" / "config.json").write_text(json.dumps({**config, "split": "10"}))
    everything = [("paper", "1"), ("paper", "2"), ("paper", "10"), ("plain", "1")]
    assert names_and_splits(find_runs_of(cache, runs_copy)) == everything
    assert names_and_splits(find_runs_of(cache, runs_copy, "1")) == [("paper", "1"), ("plain", "1")]
    assert names_and_splits(find_runs_of(cache, runs_copy, "10, 2")) == [("paper", "2"), ("paper", "10")]
    assert names_and_splits(find_runs_of(cache, folder / "split-2")) == [("paper", "2")]


def test_runs_on_another_cache_are_left_alone(runs_copy: Path, cache: FeatureCache) -> None:
    for path in runs_copy.rglob("config.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "cache": "other", "fingerprint": "f" * 64}))
    (runs_copy / "tiny").rename(runs_copy / "other")
    with pytest.raises(InvalidSettings, match="no finished run of any split on tiny"):
        find_runs_of(cache, runs_copy)


def test_runs_of_other_images_are_not_offered(runs_copy: Path, cache: FeatureCache, tmp_path: Path) -> None:
    shutil.copytree(cache.path, tmp_path / "other")
    other = open_cache(tmp_path / "other")
    other.images = [replace(image, sha256=f"{row:064x}") for row, image in enumerate(cache.images)]
    for twice in (False, True):
        if twice:
            shutil.copytree(runs_copy / "tiny", runs_copy / "twin")
        with pytest.raises(InvalidSettings, match="no finished run of any split on other, and 0 unfinished; make one"):
            find_runs_of(other, runs_copy)


def forget_results(runs: Path) -> None:
    """Make every run in a folder or below it an unfinished one."""
    for path in runs.rglob("config.json"):
        config = json.loads(path.read_text())
        del config["result"]
        path.write_text(json.dumps(config))


def test_unfinished_runs_are_found_beside_finished_ones(runs_copy: Path, cache: FeatureCache) -> None:
    forget_results(runs_copy / "tiny" / "paper" / "split-2")
    assert [run.finished for run in find_runs_of(cache, runs_copy).runs] == [True, False, True]


def test_a_cache_that_was_renamed_keeps_its_runs(tiny_cache: Path, runs_copy: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_cache, tmp_path / "renamed")
    renamed = open_cache(tmp_path / "renamed")
    assert names_and_splits(find_runs_of(renamed, runs_copy)) == [("paper", "1"), ("paper", "2"), ("plain", "1")]
    shutil.copytree(runs_copy / "tiny", runs_copy / "twin")
    for path in (runs_copy / "twin").rglob("config.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "cache": "twin"}))
    equal = "runs of the same features and scores are there for tiny and twin: name one with --runs"
    with pytest.raises(InvalidSettings, match=equal):
        find_runs_of(renamed, runs_copy)
    assert len(find_runs_of(renamed, runs_copy / "twin").runs) == 3


def test_without_a_finished_run_the_way_to_one_is_named(runs_copy: Path, cache: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="no finished run of split 7,8 on tiny, and 0 unfinished"):
        find_runs_of(cache, runs_copy, "1,7,8")
    way_out = r"make one with: amnet train-head --cache \S+tiny --split"
    with pytest.raises(InvalidSettings, match=rf"no finished run of split 7 on tiny, and 0 unfinished; {way_out} 7"):
        find_runs_of(cache, runs_copy, "7")
    with pytest.raises(
        InvalidSettings, match=rf"no finished run of any split on tiny, and 0 unfinished; {way_out} all"
    ):
        find_runs_of(cache, tmp_path / "nowhere")
    forget_results(runs_copy)
    with pytest.raises(InvalidSettings, match=rf"no finished run of split 1 on tiny, and 2 unfinished; {way_out} 1"):
        find_runs_of(cache, runs_copy, "1")


def test_a_run_that_cannot_be_read_or_scored_does_not_hide_the_others(runs_copy: Path, cache: FeatureCache) -> None:
    folder = runs_copy / "tiny" / "paper"
    (folder / "split-1" / "config.json").write_text("{}")
    (folder / "split-2" / "head.safetensors").write_bytes(b"torn")
    found = evaluate(cache, runs_copy)
    assert [result.run.name for result in found.scored] == ["plain"]
    assert [type(error) for error in found.errors] == [CorruptFile, CorruptFile]
    assert "split-1" in str(found.errors[0])
    assert "split-2" in str(found.errors[1])


def test_if_no_run_can_be_read_that_is_not_called_none(runs_copy: Path, cache: FeatureCache) -> None:
    for path in runs_copy.rglob("config.json"):
        path.write_text("[")
    found = find_runs_of(cache, runs_copy)
    assert (found.runs, len(found.errors)) == ([], 3)
