"""Heads on principal directions are those of features projected by hand, and are used as every other head is."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import head.data.channels
import head.training.gradients.trainer
from featcache.base.errors import InvalidSettings
from featcache.datasets.splits import Part
from featcache.maintenance.project import project_cache
from featcache.store.cache import FeatureCache, open_cache
from head.data.batches import split_data
from head.data.channels import ProjectedInput, fit_channels
from head.data.inputs import HeadInput
from head.evaluation.evaluate import evaluate
from head.evaluation.score import score_run
from head.explain.faithfulness import emptied_places
from head.explain.occlusion import occlusion_of
from head.grid import grid
from head.models.kinds import kind_of
from head.prediction.predictor import Predictor
from head.runs.head_file import load_head
from head.runs.run import Run, read_run
from head.settings import TrainSettings, options_of, settings_of
from head.share.export import export_head
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.command_line import amnet
from tests.helpers.tiny import TINY_TRAIN

C = 7
SETTINGS = replace(TINY_TRAIN, channels=C, epochs=4)
RIDGE = TrainSettings(head="ridge", channels=C)


def trained(cache: FeatureCache, folder: Path, settings: TrainSettings = SETTINGS, split: str = "1", **how: Any) -> Run:
    return train(TrainingJob(cache, split, settings, folder, folder.parent.name), **how)


@pytest.fixture(scope="module")
def run(cache: FeatureCache, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(cache, tmp_path_factory.mktemp("runs") / cache.name / "fewer" / "split-1")


@pytest.fixture(scope="module")
def ridge(cache: FeatureCache, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(cache, tmp_path_factory.mktemp("runs") / cache.name / "ridge" / "split-1", RIDGE)


@pytest.fixture(scope="module")
def derived(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    out = tmp_path_factory.mktemp("projected") / "derived"
    project_cache(tiny_cache, out, channels=C, split="1")
    return open_cache(out)


class ByHand:
    """Features projected by NumPy, as a head may read them."""

    pooled = stored_pooled = False
    layers = ("layer3",)

    def __init__(self, cache: FeatureCache, rows: np.ndarray) -> None:
        x = np.concatenate([cache.read(rows, view) for view in range(1, cache.views)]).astype(np.float64)
        x = x.reshape(-1, x.shape[-1])
        self.mean, directions = x.mean(axis=0), np.linalg.eigh(np.cov(x.T, bias=True))[1][:, : -C - 1 : -1]
        self.directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), range(C)])

    def read(self, cache: FeatureCache, rows: np.ndarray, views: Any) -> Tensor:
        return torch.from_numpy((cache.read(rows, views) - self.mean) @ self.directions).float()

    def batches(self, cache: FeatureCache, pairs: Any, *, pinned: bool = False) -> Iterator[Tensor]:
        return (self.read(cache, *pair) for pair in pairs)


def test_a_head_is_that_of_features_projected_by_hand(
    cache: FeatureCache, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = ByHand(cache, cache.splits["1"]["train"].rows)
    monkeypatch.setattr(head.training.gradients.trainer, "_reading", lambda job, data, heads: (hand, None))
    expected = load_head(trained(cache, tmp_path / "hand")).module
    found: Any = load_head(run).module
    for (name, one), other in zip(found.head.state_dict().items(), expected.state_dict().values(), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3, err_msg=name)
    np.testing.assert_allclose(found.mean, hand.mean, atol=1e-5)
    np.testing.assert_allclose(found.directions, hand.directions, atol=1e-5)
    x = torch.from_numpy(cache.read(np.arange(5), 0)).float()
    by_hand = expected(hand.read(cache, np.arange(5), 0))
    np.testing.assert_allclose(found(x).score, by_hand.score, atol=2e-3)
    np.testing.assert_allclose(found(x).maps, by_hand.maps, atol=2e-3)


def test_directions_are_found_from_the_training_part_alone(cache: FeatureCache, run: Run) -> None:
    data = split_data(cache, "1", SETTINGS)
    source = HeadInput(("layer3",), "maps")
    of_train = fit_channels(cache, data.train, source, channels=C, seed=0)
    every = fit_channels(cache, Part(np.arange(cache.rows), np.zeros(cache.rows)), source, channels=C, seed=0)
    found: Any = load_head(run).module
    np.testing.assert_array_equal(found.directions.numpy(), of_train.directions)
    assert not np.allclose(found.directions.numpy(), every.directions)
    kept = run.result.document["channels"]
    assert kept == {"of": 256, "kept": C, "variance": of_train.variance, "vectors": len(data.train.rows) * 2 * 16}


def test_of_many_positions_a_sample_is_drawn_by_the_seed(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head.data.channels, "MOST_POSITIONS", 5 * 16)
    part, source = cache.splits["1"]["train"], HeadInput(("layer3",), "maps")
    found = [fit_channels(cache, part, source, channels=C, seed=seed) for seed in (3, 3, 4)]
    assert [one.vectors for one in found] == [80, 80, 80]
    np.testing.assert_array_equal(found[0].directions, found[1].directions)
    assert not np.array_equal(found[0].directions, found[2].directions)


@pytest.mark.parametrize("share", [10**9, 10**5])
def test_a_head_is_the_same_whether_its_features_fit_in_memory_or_not(
    cache: FeatureCache, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: int
) -> None:
    monkeypatch.setattr(head.data.channels, "free_bytes", lambda: 10**9 if share == 10**9 else 16 * C * 4 * 11 * share)
    monkeypatch.setattr(head.data.channels, "SHARE_OF_MEMORY", share)
    assert trained(cache, tmp_path / "run").result.head_sha256 == run.result.head_sha256


def test_features_are_read_with_all_channels_once(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, seen = HeadInput.read, []

    def counted(self: HeadInput, cache: FeatureCache, rows: Any, views: Any) -> Tensor:
        seen.extend(zip(rows.tolist(), np.broadcast_to(views, rows.shape).tolist(), strict=True))
        return read(self, cache, rows, views)

    monkeypatch.setattr(HeadInput, "read", counted)
    trained(cache, tmp_path / "run")
    train_rows = set(cache.splits["1"]["train"].rows.tolist())
    counts = [seen.count(pair) for pair in set(seen)]
    assert max(counts) == 2  # to find directions, and to be projected
    assert {row for row, _ in seen} == train_rows | set(cache.splits["1"]["val"].rows.tolist())


def test_a_run_killed_after_an_epoch_ends_as_if_it_had_not_been(
    cache: FeatureCache, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("head.training.gradients.checkpoint.CHECKPOINT_SECONDS", 0)

    def stop(progress: Any) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(cache, tmp_path / "cut" / "run", on_progress=stop)
    resumed: list[int] = []
    trained(cache, tmp_path / "cut" / "run", on_progress=lambda progress: resumed.append(progress.done))
    assert resumed == [2, 3, 4] or resumed == [3, 4]
    assert (tmp_path / "cut/run/head.safetensors").read_bytes() == (run.folder / "head.safetensors").read_bytes()


def test_predictions_of_images_are_those_of_the_cache(
    cache: FeatureCache, run: Run, ridge: Run, tiny_dataset: Path
) -> None:
    for one in (run, ridge):
        scored = score_run(one, cache)
        paths = [tiny_dataset / "images" / name for name in scored.names]
        predictor = Predictor.load(one.folder)
        np.testing.assert_allclose([found.score for found in predictor(paths)], scored.prediction, atol=1e-5)


@pytest.mark.parametrize("name", ["run", "ridge"])
def test_an_export_gives_the_same_scores(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("onnxruntime")
    exported = export_head(request.getfixturevalue(name).folder, tmp_path / "out")
    assert max(exported.differences.values()) < 1e-4
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{C} of {256 if name == 'run' else 512} channels" in card
    assert read_run(tmp_path / "out").result.channels == request.getfixturevalue(name).result.channels


def test_a_head_of_a_projected_cache_takes_images_and_is_exported(
    derived: FeatureCache, tiny_dataset: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    run = trained(derived, tmp_path / "runs" / derived.name / "paper" / "split-1", replace(SETTINGS, channels=0))
    scored = score_run(run, derived)
    shutil.copytree(run.folder, tmp_path / "alone")  # the head needs no cache
    predictor = Predictor.load(tmp_path / "alone")
    paths = [tiny_dataset / "images" / name for name in scored.names]
    np.testing.assert_allclose([one.score for one in predictor(paths)], scored.prediction, atol=1e-5)
    exported = export_head(run.folder, tmp_path / "out")
    assert max(exported.differences.values()) < 1e-4
    assert "features projected on fewer channels" in (tmp_path / "out" / "README.md").read_text()
    np.testing.assert_allclose(
        [one.score for one in Predictor.load(tmp_path / "out")(paths)], scored.prediction, atol=1e-5
    )


def test_pooled_vectors_are_projected_as_numpy_does(cache: FeatureCache, ridge: Run) -> None:
    module: Any = load_head(ridge).module
    pooled = np.concatenate([cache.read_pooled(cache.splits["1"]["train"].rows, v).reshape(-1, 512) for v in (1, 2)])
    expected = np.linalg.eigh(np.cov(pooled.T.astype(np.float64), bias=True))[1][:, : -C - 1 : -1]
    np.testing.assert_allclose(np.abs(module.directions.numpy().T @ expected), np.eye(C), atol=1e-4)
    assert module(torch.from_numpy(pooled[:3]).unsqueeze(1)).score.dtype == torch.float64


def test_maps_of_what_a_score_hangs_on_are_of_all_channels(cache: FeatureCache, run: Run, ridge: Run) -> None:
    found = load_head(run)
    features = torch.from_numpy(cache.read(np.arange(3), 0)).float()
    emptied = emptied_places(found, HeadInput(("layer3",), "maps"), cache.recipe, features)
    projected: Any = found.module
    np.testing.assert_allclose((emptied - projected.mean) @ projected.directions, 0, atol=1e-5)
    maps = next(occlusion_of(cache, ridge, np.arange(3)))
    assert maps.shape == (3, 1, 4, 4)
    assert np.abs(maps).max() > 0
    assert kind_of(found.module).attends


def test_heads_are_scored_and_stacked_beside_others(cache: FeatureCache, tmp_path: Path) -> None:
    home = tmp_path / cache.name
    for name, settings in (("a", RIDGE), ("b", SETTINGS)):
        trained(cache, home / name / "split-1", settings)
    mean = trained(cache, home / "mean" / "split-1", TrainSettings(head="mean", members=("a", "b")))
    found = {one.run.name: one for one in evaluate(cache, tmp_path, splits="1").scored}
    expected = (found["a"].prediction + found["b"].prediction) / 2
    np.testing.assert_allclose(score_run(mean, cache).prediction, expected, atol=1e-6)


def test_cross_validation_finds_directions_without_what_is_held_out(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, seen = open_cache(tiny_cache), list[set[int]]()
    for parts in cache.splits.values():
        del parts["val"]

    def told(cache: FeatureCache, part: Part, source: HeadInput, **how: Any) -> Any:
        seen.append(set(part.rows.tolist()))
        return fit_channels(cache, part, source, **how)

    monkeypatch.setattr(head.training.gradients.trainer, "fit_channels", told)
    settings = replace(SETTINGS, epochs=1, channels=3)
    data = split_data(cache, "1", settings)
    assert data.cross_validated
    trained(cache, tmp_path / "run", settings)
    assert seen == [*(set(kept.rows.tolist()) for kept, _ in data.parts), set(data.train.rows.tolist())]


def test_folds_and_processes_share_the_memory_for_projected_features(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, kept = open_cache(tiny_cache), list[int]()
    for parts in cache.splits.values():
        del parts["val"]
    view = 16 * 3 * 4  # bytes, projected
    monkeypatch.setattr(head.data.channels, "free_bytes", lambda: 4 * 2 * 6 * 5 * view)  # 5 views for each of 2 * 6
    own = ProjectedInput.__init__

    def told(self: ProjectedInput, *given: Any, **how: Any) -> None:
        own(self, *given, **how)
        kept.append(self.bytes)

    monkeypatch.setattr(ProjectedInput, "__init__", told)
    settings = replace(SETTINGS, epochs=1, channels=3)
    train(TrainingJob(cache, "1", settings, tmp_path / "run", "run", processes=2))
    assert kept == [5 * view] * 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 256}, "--channels 256: a head on layer3 of .* reads 256 channels anyhow; ask for fewer"),
        ({"channels": 512, "head": "ridge"}, "reads 512 channels anyhow"),
        ({"channels": 300, "head": "ridge", "pooling": "mean"}, "reads 256 channels anyhow"),
        ({"channels": 200, "head": "ridge"}, "--channels 200: these 46 training vectors of 512 .* vary along 45 "),
    ],
)
def test_more_channels_than_there_are_to_choose_from_are_refused(
    cache: FeatureCache, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSettings, match=message):
        trained(cache, tmp_path / "run", settings_of(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "tail"}, "--channels: of no effect on --head tail"),
        ({"head": "banded-ridge"}, "--channels: of no effect on --head banded-ridge"),
        ({"recipe": "published"}, "the published recipe reads features as its authors' code does"),
        ({"head": "svr", "kernel": "chi2"}, "--kernel chi2 reads features as they are stored"),
        ({"channels": -1}, "--channels must be 0 to 65536, found -1"),
    ],
)
def test_heads_that_read_features_as_they_are_refuse_fewer(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        settings_of(**{"channels": 3, **settings})


def test_a_tail_of_a_projected_cache_is_refused(derived: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="goes on from features as the network gave them"):
        trained(derived, tmp_path / "run", settings_of(head="tail"))


def test_grids_names_and_commands_know_it() -> None:
    points = grid({"channels": (0, 64, 128), "head": ("amnet",)})
    assert [point.name for point in points] == ["paper", "paper,channels=64", "paper,channels=128"]
    assert options_of(points[1].settings) == ["--channels", "64"]


def test_a_forecast_counts_what_is_kept_in_memory(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--cache", tiny_cache, "--split", "1", "--channels", C, "--epochs", 2, "--hidden-size", 16]
    (found,) = json.loads(amnet("train-head", *words, "--dry-run", "--json").stdout)
    images, each = 23 + 7, 2 * 16 * C * 4  # of train and val, in two views
    assert found["memory"]["projected features"] == images * each
    told = amnet("train-head", *words)
    assert f"on {C} of 256 channels, " in told.stdout


def test_heads_of_other_splits_of_a_projected_cache_are_warned_of(
    derived: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = amnet("train-head", "--cache", derived.path, "--split", "2", "--head", "ridge")
    assert "found from the train part of split 1, which has test images of other splits" in told.stderr
