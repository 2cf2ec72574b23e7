"""Trainings whose images count by their ratings: as if images were repeated, in parts of batches, and in runs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR, LinearSVR
from threadpoolctl import threadpool_limits

from featcache.base.errors import BadInput, Mismatch
from featcache.base.progress import silent
from featcache.datasets.reliability import Raters
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.manifest import read_manifest, write_manifest
from head.data.batches import split_data
from head.data.vectors import read_vectors
from head.data.weights import image_weights
from head.evaluation.score import score_run
from head.models.banded import BANDED_RIDGE
from head.models.baselines import RIDGE, RIDGE_ALPHAS
from head.models.kinds import input_of
from head.runs.ratings import difference
from head.runs.run import Run
from head.settings import TrainSettings
from head.training.baselines import task_of
from head.training.gradients.trainer import Trainer
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.command_line import amnet
from tests.helpers.tiny import TINY_TRAIN

Array = NDArray[np.float64]


def with_raters(folder: Path, counts: NDArray[np.int64], errors: Array) -> FeatureCache:
    """Seal the cache in folder anew with these numbers of ratings and standard errors of its rows."""
    raters = {"": Raters(np.arange(len(counts)), counts, errors)}
    write_manifest(folder, replace(read_manifest(folder), raters=raters))
    return open_cache(folder)


@pytest.fixture
def cache(tiny_cache: Path, tmp_path: Path) -> FeatureCache:
    folder = Path(shutil.copytree(tiny_cache, tmp_path / "cache" / "tiny"))
    rng = np.random.default_rng(6)
    return with_raters(folder, rng.integers(1, 5, 41), rng.uniform(0.1, 0.5, 41))


def settings_for(head: str, weight: str = "n", **more: object) -> TrainSettings:
    usual = {"head": head, "epochs": 3, "patience": 2, "weight": weight}
    return TrainSettings(**{**usual, **more})  # type: ignore[arg-type]


def job_of(cache: FeatureCache, settings: TrainSettings, folder: Path, split: str = "1") -> TrainingJob:
    return TrainingJob(cache, split, settings, folder / settings.default_name() / f"split-{split}", "one")


def trained(cache: FeatureCache, settings: TrainSettings, folder: Path, split: str = "1") -> Run:
    with threadpool_limits(1):
        return train(job_of(cache, settings, folder, split))


def repeated(cache: FeatureCache, settings: TrainSettings) -> tuple[StandardScaler, Array, Array, float]:
    """Return a scaler, standardised vectors and scores with each image as often as it has ratings, and the mean n."""
    part = split_data(cache, "1", settings).train
    vectors = read_vectors(cache, part, input_of(cache, settings), seed=0)
    assert cache.raters is not None and cache.raters.counts is not None
    counts = cache.raters.counts[part.rows]
    x = vectors.x * vectors.deviation + vectors.mean
    each = len(x) // len(counts)
    scaler = StandardScaler()
    z = scaler.fit_transform(np.repeat(x, np.repeat(counts, each), axis=0))
    return scaler, z, np.repeat(vectors.scores, np.repeat(counts, each)), float(counts.mean())


@pytest.mark.parametrize("head", ["linear", "ridge", "lsvr", "svr"])
def test_a_baseline_weighted_by_n_is_scikit_learns_of_images_repeated_n_times(
    cache: FeatureCache, tmp_path: Path, head: str
) -> None:
    settings = settings_for(head, pooling="mean")
    run = trained(cache, settings, tmp_path)
    chosen = dict(run.result.hyperparameters or {})
    scaler, z, scores, mean_n = repeated(cache, settings)
    mean, deviation = scores.mean(), scores.std()
    unseen = input_of(cache, settings).read(cache, cache.splits["1"]["test"].rows, 0).flatten(1).double().numpy()
    unseen, y = scaler.transform(unseen), (scores - mean) / deviation
    if head == "svr":
        model = SVR(C=chosen["C"] / mean_n, epsilon=chosen["epsilon"], gamma=chosen["gamma"])
    elif head == "lsvr":
        model = LinearSVR(epsilon=1e-6, C=1 / mean_n, dual=True, max_iter=10**6, random_state=0)
        z, unseen = z / np.sqrt(z.shape[1]), unseen / np.sqrt(z.shape[1])
    else:
        model = LinearRegression() if head == "linear" else Ridge(chosen["alpha"] * mean_n)
    expected = model.fit(z, y).predict(unseen) * deviation + mean
    atol = {"svr": 2e-3, "lsvr": 5e-3}.get(head, 1e-6)  # those solvers stop near the optimum
    np.testing.assert_allclose(score_run(run, cache).prediction, expected, rtol=0, atol=atol)


def test_banded_ridge_begins_with_the_candidates_of_ridge(cache: FeatureCache, tmp_path: Path) -> None:
    job = job_of(cache, settings_for("ridge"), tmp_path)
    task, _ = task_of(job, RIDGE, split_data(cache, "1", job.settings).train)
    candidates = zip(RIDGE.candidates(task), BANDED_RIDGE.candidates(task), strict=False)
    for _, (one, other) in zip(RIDGE_ALPHAS, candidates, strict=False):
        weights = [next(found.heads).get_buffer("weight") for found in (one, other)]
        torch.testing.assert_close(*weights, rtol=1e-7, atol=1e-10)


def test_parts_of_a_batch_add_up_to_the_weighted_batch(cache: FeatureCache, tmp_path: Path) -> None:
    settings = replace(TINY_TRAIN, weight="se", dropout=0.0)
    data, gradients, losses = split_data(cache, "1", settings), [], []
    weights = image_weights(cache, data.train, "se")
    assert weights is not None
    for accumulate in (1, 3):
        job = job_of(cache, replace(settings, accumulate=accumulate), tmp_path)
        trainer = Trainer(job, data, device=torch.device("cpu"), on_progress=silent, on_history=lambda _: None)
        assert trainer.weights is not None
        np.testing.assert_array_equal(trainer.weights[data.train.rows], weights.of_images)
        [batch] = trainer.batches(1)[:1]
        [features], [target] = trainer.features([batch[:2]]), trainer.targets([batch])
        losses.append(float(trainer.step(features, *target)))
        gradients.append([one.grad for one in trainer.model.parameters()])
        output = trainer.model(features)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and output.score.shape == (10,)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_a_gradient_head_learns_otherwise_with_weights_and_is_selected_without(
    cache: FeatureCache, tmp_path: Path
) -> None:
    runs = [trained(cache, replace(TINY_TRAIN, epochs=2, weight=weight), tmp_path) for weight in ("none", "n", "se")]
    assert len({run.result.head_sha256 for run in runs}) == 3
    assert [run.result.document.get("weights", {}).keys() for run in runs] == [
        set(),
        {"effective_images"},
        {"effective_images", "se_at_least", "images_at_floor"},
    ]
    assert [run.settings["weight"] for run in runs] == ["none", "n", "se"]
    assert len({run.config.selected_on for run in runs}) == 1


def test_weights_are_a_part_of_what_a_run_learnt_from(cache: FeatureCache, tmp_path: Path) -> None:
    whole = "full"
    runs = [trained(cache, settings_for("ridge", weight), tmp_path) for weight in ("none", "n", "se")]
    trained(cache, settings_for("ridge", "n"), tmp_path, "2")
    full = trained(cache, settings_for("ridge", "n"), tmp_path, whole)
    assert [difference(run, cache) for run in (*runs, full)] == [""] * 4
    known = cache.raters
    assert known and known.counts is not None and known.errors is not None
    train_rows, test_rows = (cache.splits["1"][part].rows for part in ("train", "test"))
    counts = known.counts.copy()
    counts[train_rows[0]] += 1
    now = with_raters(cache.path, counts, known.errors)
    other = "it was trained or selected on other scores of these images, or with other weights (n)"
    assert [difference(run, now) for run in runs] == ["", other, ""]
    assert difference(full, now) == "1 image that it was trained on had other scores or weights then"
    with pytest.raises(Mismatch, match="with other weights"):
        trained(now, settings_for("ridge", "n"), tmp_path)
    counts = known.counts.copy()
    counts[test_rows] += 1
    assert [difference(run, with_raters(cache.path, counts, known.errors)) for run in runs] == ["", "", ""]


def test_a_cache_without_them_is_refused_before_anything_is_trained(tiny_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--weight se needs standard errors, which 23 of 23 training images lack"):
        trained(open_cache(tiny_cache), settings_for("ridge", "se"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_names_runs_by_weight_says_what_they_are_worth_and_refuses_mlp(
    cache: FeatureCache, tmp_path: Path
) -> None:
    call = ("train-head", "--split", "1", "--cache", cache.path, "--runs", tmp_path / "runs")
    text = amnet(*call, "--head", "ridge", "--weight", "none,n,se").stdout
    homes = sorted(path.name for path in (tmp_path / "runs" / "tiny").iterdir())
    assert homes == ["ridge", "ridge,weight=n", "ridge,weight=se"]
    assert "weighted by n (worth " in text and "standard errors below " in text
    config = json.loads((tmp_path / "runs" / "tiny" / "ridge,weight=n" / "split-1" / "config.json").read_text())
    assert config["settings"]["weight"] == "n"
    refused = amnet(*call, "--head", "mlp", "--weight", "n", status=2).stderr
    assert "--weight: of no effect on --head mlp; leave it out" in refused


@pytest.mark.parametrize(("split", "what"), [("1", "other weights (se)"), ("full", "other scores or weights")])
def test_a_head_made_of_others_is_of_other_data_once_the_weights_of_its_members_are(
    cache: FeatureCache, tmp_path: Path, split: str, what: str
) -> None:
    heads = [settings_for("ridge", weight) for weight in ("none", "se")]
    mean = TrainSettings(head="mean", members=tuple(one.default_name() for one in heads))
    for one in dict.fromkeys(["1", split]):
        plain, weighted, together = (trained(cache, settings, tmp_path, one) for settings in (*heads, mean))
    assert weighted.settings["weight"] == "se" and together.settings["weight"] == "none"
    raters = cache.raters
    assert raters is not None and raters.counts is not None and raters.errors is not None
    asked_more = with_raters(cache.path, raters.counts + 1, raters.errors)  # no head was weighted by n
    assert [difference(run, asked_more) for run in (plain, weighted, together)] == ["", "", ""]
    other = with_raters(cache.path, raters.counts, raters.errors * np.linspace(1, 2, 41))
    assert difference(plain, other) == ""
    assert what in difference(together, other)
    assert difference(together, other) == difference(weighted, other)
