"""Where a selection part would be tiny, the epoch or penalty is chosen by predictions for held-out folds of train."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from featcache.store.cache import FeatureCache, open_cache
from head.data.batches import split_data
from head.data.vectors import read_vectors
from head.evaluation.metrics import mean_squared_error, spearman
from head.evaluation.score import score_run
from head.models.kinds import input_of
from head.runs.head_file import load_head
from head.runs.run import Run
from head.settings import TrainSettings
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.tiny import TINY_TRAIN

SHORT = replace(TINY_TRAIN, epochs=6, patience=3)


@pytest.fixture
def small(tiny_cache: Path) -> FeatureCache:
    """The tiny cache, whose splits have no val part, and 23 images to train on."""
    cache = open_cache(tiny_cache)
    for parts in cache.splits.values():
        del parts["val"]
    return cache


def fit(cache: FeatureCache, folder: Path, settings: TrainSettings) -> Run:
    return train(TrainingJob(cache, "1", settings, folder, "small"))


def history_of(run: Run) -> list[dict[str, float]]:
    with (run.folder / "history.csv").open() as file:
        return [{name: float(value) for name, value in line.items()} for line in csv.DictReader(file)]


def held_out_predictions(cache: FeatureCache, settings: TrainSettings, alpha: float) -> NDArray[np.float64]:
    """Return what scikit-learn's ridge, fitted on the other folds, predicts for each image that selects."""
    source, found = input_of(cache, settings), []
    for part, held in split_data(cache, "1", settings).folds:
        vectors = read_vectors(cache, part, source, seed=settings.seed)
        model = Ridge(alpha).fit(vectors.x, vectors.scores)
        x = source.read(cache, held.rows, 0).flatten(1).double().numpy()
        found.append(model.predict((x - vectors.mean) / vectors.deviation))
    return np.concatenate(found)


def test_a_penalty_is_chosen_by_held_out_predictions_and_all_of_train_is_fitted_with_it(
    small: FeatureCache, tmp_path: Path
) -> None:
    settings = TrainSettings(head="ridge")
    run = fit(small, tmp_path, settings)
    data = split_data(small, "1", settings)
    for line in history_of(run)[::4]:
        predicted = held_out_predictions(small, settings, line["alpha"])
        assert line["val_rho"] == pytest.approx(spearman(predicted, data.select.scores), abs=1e-9)
        assert line["val_mse"] == pytest.approx(mean_squared_error(predicted, data.select.scores), rel=1e-6)
    assert run.config.selected_on == "5-fold cross-validation within train"
    assert run.result.hyperparameters is not None
    vectors = read_vectors(small, data.train, input_of(small, settings), seed=0)
    alpha = run.result.hyperparameters["alpha"]
    y = (vectors.scores - vectors.scores.mean()) / vectors.scores.std()
    wanted = Ridge(alpha, fit_intercept=False).fit(vectors.x, y).coef_
    np.testing.assert_allclose(load_head(run).module.weight, wanted, atol=1e-9)
    assert len(load_head(run).train_images) == 23 == run.config.train_images


@pytest.mark.parametrize("settings", [SHORT, replace(SHORT, attention=False), replace(SHORT, recipe="published")])
def test_a_head_is_trained_on_all_of_train_for_as_many_epochs_as_held_out_predictions_say(
    small: FeatureCache, tmp_path: Path, settings: TrainSettings
) -> None:
    run = fit(small, tmp_path / "cross", settings)
    history = history_of(run)
    rhos = [line["val_rho"] for line in history]
    best = run.result.best_epoch
    assert best == 1 + int(np.argmax(rhos))
    assert len(history) <= min(settings.epochs, best + settings.patience)
    again = fit(small, tmp_path / "again", settings)
    assert again.result == run.result
    assert len(load_head(run).train_images) == 23
    assert score_run(run, small).metrics.n == 11


def test_a_perceptron_is_stopped_at_the_same_epoch_in_all_folds(small: FeatureCache, tmp_path: Path) -> None:
    run = fit(small, tmp_path, TrainSettings(head="mlp", epochs=4, patience=2))
    assert run.result.hyperparameters is not None
    assert list(run.result.hyperparameters) == ["hidden_size", "alpha", "epochs"]
    assert 1 <= run.result.hyperparameters["epochs"] <= 4


@pytest.mark.parametrize("head", ["linear", "ridge", "banded-ridge", "lsvr", "svr", "mlp", "amnet"])
@pytest.mark.parametrize("n", [2, 3, 6])
def test_a_few_images_rated_yes_or_no_are_enough(small: FeatureCache, tmp_path: Path, head: str, n: int) -> None:
    part = small.splits["1"]["train"]
    small.splits["1"]["train"] = replace(part, rows=part.rows[:n], scores=np.array([1.0] + [0.0] * (n - 1)))
    settings = replace(SHORT, epochs=2) if head == "amnet" else TrainSettings(head=head, epochs=2)
    run = fit(small, tmp_path, settings)
    assert np.isfinite(score_run(run, small).prediction).all()
