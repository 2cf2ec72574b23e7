"""Banded ridge against its definition, and against ridge where there is one layer, or one penalty."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.store.cache import FeatureCache, open_cache
from head.data.vectors import Vectors
from head.evaluation.score import score_run
from head.models.banded import BANDED_RIDGE, ratios_of
from head.models.baselines import RIDGE, RIDGE_ALPHAS, Task
from head.runs.history import read_history
from head.runs.run import Run
from head.settings import TrainSettings
from head.training.job import TrainingJob
from head.training.train import train

Array = NDArray[np.float64]
SIZES = {"a": 3, "b": 7, "c": 5}


def fit(cache: FeatureCache, folder: Path, head: str, layers: tuple[str, ...], **more: object) -> Run:
    settings = TrainSettings(head=head, layers=layers, **more)  # type: ignore[arg-type]
    return train(TrainingJob(cache, "1", settings, folder, head))


def task_of(n: int, sizes: dict[str, int]) -> Task:
    rng = np.random.default_rng(n)
    stops = np.cumsum([0, *sizes.values()])
    bands = {name: slice(int(stops[k]), int(stops[k + 1])) for k, name in enumerate(sizes)}
    x = rng.normal(size=(n, stops[-1]))
    vectors = Vectors(x, rng.normal(size=n), np.zeros(stops[-1]), np.ones(stops[-1]), n, 1, bands)
    return Task(vectors, rng.normal(size=n), TrainSettings(head="banded-ridge"))


@pytest.mark.parametrize("n", [11, 15, 37])
def test_weights_are_those_of_least_squares_with_a_penalty_for_each_layer(n: int) -> None:
    task = task_of(n, SIZES)
    x = task.vectors.x
    candidates = list(BANDED_RIDGE.candidates(task))
    assert len(candidates) == BANDED_RIDGE.number(task) == len(ratios_of(3)) * len(RIDGE_ALPHAS)
    for one in candidates[::7]:
        penalty = np.repeat([one.values[f"alpha {name}"] for name in SIZES], list(SIZES.values()))
        wanted = np.linalg.solve(x.T @ x + np.diag(penalty), x.T @ task.y)
        np.testing.assert_allclose(next(one.heads).weight, wanted, atol=1e-11)


@pytest.mark.parametrize("n", [11, 37])
def test_with_one_penalty_for_all_layers_it_is_ridge(n: int) -> None:
    task = task_of(n, SIZES)
    for one, ridge in zip(BANDED_RIDGE.candidates(task), RIDGE.candidates(task), strict=False):
        assert set(one.values.values()) == set(ridge.values.values())
        np.testing.assert_allclose(next(one.heads).weight, next(ridge.heads).weight, rtol=0, atol=1e-14)


@pytest.mark.parametrize("pooling", ["mean", "mean+deviation"])
def test_with_one_layer_it_is_ridge(tiny_cache: Path, tmp_path: Path, pooling: str) -> None:
    cache = open_cache(tiny_cache)
    ridge, banded = (fit(cache, tmp_path / head, head, (), pooling=pooling) for head in ("ridge", "banded-ridge"))
    assert ridge.result.hyperparameters is not None
    assert banded.result.hyperparameters == {"alpha layer3": ridge.result.hyperparameters["alpha"]}
    lines = [read_history(run.folder) for run in (ridge, banded)]
    assert [line["val_rho"] for line in lines[0]] == [line["val_rho"] for line in lines[1]]
    scores = [score_run(run, cache).prediction for run in (ridge, banded)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=0, atol=1e-14)


def test_no_set_of_ratios_is_tried_twice_and_the_first_is_of_equal_ones() -> None:
    assert [len(ratios_of(bands)) for bands in (1, 2, 3, 12)] == [1, 9, 14, 16]
    for bands in (2, 3, 12):
        ratios = np.array(ratios_of(bands))
        assert (ratios[0] == 1).all()
        assert (ratios.min(axis=1) == 1).all()
        assert ratios.max() <= 1000
    assert ratios_of(3) == ratios_of(3)


def test_the_penalty_of_each_layer_is_shown_and_it_does_as_well_as_ridge_where_that_was_chosen(
    layered_cache: Path, tmp_path: Path
) -> None:
    cache = open_cache(layered_cache)
    run, ridge = (fit(cache, tmp_path / head, head, ("all",)) for head in ("banded-ridge", "ridge"))
    assert [part.split("=")[0] for part in run.chosen.split(", ")] == ["alpha layer2", "alpha layer3"]
    assert run.result.val_rho is not None
    assert ridge.result.val_rho is not None
    assert run.result.val_rho >= ridge.result.val_rho
    other_seed = fit(cache, tmp_path / "seed", "banded-ridge", ("all",), seed=5)
    alphas = [
        [{key: value for key, value in line.items() if key.startswith("alpha")} for line in read_history(one.folder)]
        for one in (run, other_seed)
    ]
    assert alphas[0] == alphas[1]


def test_a_layer_of_noise_is_penalised_more_than_one_that_tells() -> None:
    rng = np.random.default_rng(0)
    task = task_of(60, {"noise": 200, "tells": 20})
    weight = rng.normal(size=20)
    x, unseen = task.vectors.x, rng.normal(size=(500, 220))
    y, truth = x[:, 200:] @ weight, unseen[:, 200:] @ weight
    task = Task(task.vectors, y, task.settings)
    errors = {
        tuple(one.values.values()): np.square(unseen @ next(one.heads).weight.numpy() - truth).mean()
        for one in BANDED_RIDGE.candidates(task)
    }
    noise, tells = min(errors, key=lambda penalties: errors[penalties])
    assert noise > 10 * tells
    assert errors[noise, tells] < 0.5 * min(errors[alpha, alpha] for alpha in RIDGE_ALPHAS)
