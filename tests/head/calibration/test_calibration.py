"""Calibrations are what NumPy and scikit-learn fit, keep steps adding up, and are refused where they say nothing."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from featcache.base.errors import BadInput
from head.calibration.calibration import Calibration, cross_fitted, fit_calibration, mean_calibration

Scores = NDArray[np.float64]
KINDS = ["linear", "isotonic"]


def drawn(n: int = 61, seed: int = 0) -> tuple[Scores, Scores]:
    """Return predictions and the ratings they are of, on another scale."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(1, 9, n)
    return 0.1 * truth + rng.normal(0, 0.15, n), truth


def test_a_linear_one_is_the_line_of_least_squares() -> None:
    predicted, truth = drawn()
    slope, intercept = np.polyfit(predicted, truth, 1)
    found = fit_calibration("linear", predicted, truth)
    scores = np.array([-3.0, 0.2, 0.5, 11.0])
    np.testing.assert_allclose(found(scores), slope * scores + intercept, rtol=1e-9)


def test_an_isotonic_one_is_scikit_learns_beyond_its_ends_too() -> None:
    predicted, truth = drawn()
    wanted = IsotonicRegression(out_of_bounds="clip").fit(predicted, truth)
    scores = np.concatenate([np.linspace(-1, 2, 301), predicted])
    np.testing.assert_allclose(
        fit_calibration("isotonic", predicted, truth)(scores), wanted.predict(scores), atol=1e-12
    )


@pytest.mark.parametrize("kind", KINDS)
def test_step_scores_add_up_to_the_calibrated_score(kind: str) -> None:
    found = fit_calibration(kind, *drawn())
    steps = torch.from_numpy(np.random.default_rng(3).normal(0.15, 0.1, (17, 3)))
    calibrated = found.of_steps(steps)
    np.testing.assert_allclose(calibrated.sum(dim=1), found(steps.sum(dim=1).numpy()), atol=1e-12)
    apart = np.ptp(found(np.array([0.0, 1.0]))) if kind == "linear" else 1.0
    torch.testing.assert_close(calibrated.diff(dim=1), steps.diff(dim=1) * apart)


@pytest.mark.parametrize(
    ("kind", "predicted", "truth", "why"),
    [
        ("linear", [0.1, 0.2, 0.4], [3.0, 2.0, 1.0], "does not rise, its slope is -6.43"),
        ("linear", [0.1, 0.2, 0.4], [0.1, 0.1, 0.1], "ratings are all alike"),
        ("isotonic", [0.1, 0.2, 0.4], [0.1, 0.1, 0.1], "ratings are all alike"),
        ("linear", [0.3, 0.3, 0.3], [1.0, 2.0, 3.0], "predictions are all alike"),
        ("isotonic", [0.3, 0.3, 0.3], [1.0, 2.0, 3.0], "predictions are all alike"),
        ("isotonic", [0.1, 0.2, 0.4], [3.0, 2.0, 1.0], "is the same for all predictions"),
    ],
)
def test_one_that_falls_or_is_constant_is_refused(
    kind: str, predicted: list[float], truth: list[float], why: str
) -> None:
    with pytest.raises(BadInput, match=why):
        fit_calibration(kind, np.array(predicted), np.array(truth))


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_of_several_gives_the_mean_of_what_they_give(kind: str) -> None:
    several = [fit_calibration(kind, *drawn(seed=seed)) for seed in range(3)]
    scores = np.linspace(-1, 2, 501)
    wanted = np.mean([one(scores) for one in several], axis=0)
    np.testing.assert_allclose(mean_calibration(several)(scores), wanted, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_is_cross_fitted_without_its_own_rating(kind: str) -> None:
    predicted, truth = drawn(n=43)
    before = cross_fitted(kind, predicted, truth)
    for place in (0, 19, 42):
        other = truth.copy()
        other[place] += 100
        after = cross_fitted(kind, predicted, other)
        assert after[place] == before[place]
        assert (after != before).any()


def test_where_others_give_no_calibration_a_score_stays() -> None:
    predicted, truth = np.array([0.1, 0.2]), np.array([1.0, 2.0])
    assert cross_fitted("linear", predicted, truth).tolist() == predicted.tolist()


@pytest.mark.parametrize(
    ("kind", "knots"),
    [
        ("cubic", [[0.0, 1.0], [0.0, 1.0]]),
        ("linear", [[0.0, 0.0], [0.0, 1.0]]),
        ("isotonic", [[0.0], [1.0]]),
        ("isotonic", [[0.0, float("nan")], [1.0, 2.0]]),
        ("isotonic", [0.0, 1.0]),
    ],
)
def test_knots_that_are_no_line_are_refused(kind: str, knots: object) -> None:
    with pytest.raises(ValueError, match="no line over rising scores"):
        Calibration(kind, torch.tensor(knots, dtype=torch.float64))
