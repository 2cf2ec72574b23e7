"""Metrics against scipy, closed forms, and simulations whose truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from head.evaluation.metrics import (
    average_ranks,
    bootstrap_interval,
    mean_squared_error,
    measure,
    row_spearman,
    spearman,
)

tied = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30)


def correlated(n: int, pearson: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw n pairs of a bivariate normal distribution."""
    a, noise = np.random.default_rng(seed).normal(size=(2, n))
    return a, pearson * a + math.sqrt(1 - pearson**2) * noise


@given(tied)
@settings(max_examples=50, deadline=None)
def test_rho_is_scipys_with_ties_and_nan_for_a_constant_without_a_warning(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs, float).T
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(spearman(a, b))
    else:
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_rho_without_ties_is_equation_16() -> None:
    rng = np.random.default_rng(0)
    n = 23
    a, b = rng.permutation(n).astype(float), rng.permutation(n).astype(float)
    assert spearman(a, b) == pytest.approx(1 - 6 * ((a - b) ** 2).sum() / (n * (n**2 - 1)), abs=1e-12)


def test_rho_sees_ranks_only() -> None:
    truth = np.linspace(0.1, 0.9, 13)
    assert spearman(np.exp(5 * truth), truth) == pytest.approx(1)
    assert spearman(-truth, truth) == pytest.approx(-1)


def test_rho_of_one_image_is_undefined() -> None:
    assert math.isnan(spearman(np.array([0.5]), np.array([0.5])))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_rho_by_rows_is_scipys_for_each_row(seed: int) -> None:
    a, b = np.random.default_rng(seed).integers(0, 4, size=(2, 5, 9)).astype(float)
    wanted = [spearman(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(row_spearman(a, b), wanted, atol=1e-12)


def test_rho_by_rows_is_nan_for_a_constant_row_alone() -> None:
    rows = np.array([[1.0, 2, 3], [4, 4, 4]])
    rho = row_spearman(rows, np.array([[1.0, 2, 3], [1, 2, 3]]))
    np.testing.assert_array_equal(rho, [1, np.nan])


def test_mse_is_equation_17() -> None:
    assert mean_squared_error(np.array([0.5, 0.0, 1.0]), np.array([0.0, 0.0, 0.5])) == pytest.approx(0.5 / 3)
    truth = np.random.default_rng(0).uniform(size=101)
    offset_and_noise = np.full(101, truth.mean() + 0.1)
    assert mean_squared_error(offset_and_noise, truth) == pytest.approx(np.var(truth) + 0.01)


def test_the_interval_holds_the_true_rho_about_as_often_as_it_says() -> None:
    pearson = 0.6
    truth = 6 / math.pi * math.asin(pearson / 2)  # of a bivariate normal distribution
    held = 0
    for seed in range(60):
        low, high = bootstrap_interval(*correlated(150, pearson, seed), resamples=200)
        held += low <= truth <= high
    assert held >= 51  # 95% of 60 is 57; fewer than 51 would come by chance once in 500


def test_the_interval_narrows_with_the_square_root_of_the_images() -> None:
    widths = [np.ptp(bootstrap_interval(*correlated(n, 0.6, seed=1), resamples=500)) for n in (200, 3200)]
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.3)


def test_two_or_three_images_have_a_rho_and_no_interval() -> None:
    for n in (2, 3):
        metrics = measure(np.arange(n) + 0.5, np.arange(n) * 2.0)
        assert metrics.rho == pytest.approx(1)
        assert math.isnan(metrics.rho_low)
        assert math.isnan(metrics.rho_high)


def test_the_interval_is_seeded() -> None:
    a, b = correlated(50, 0.5, seed=3)
    assert bootstrap_interval(a, b, seed=7) == bootstrap_interval(a, b, seed=7)
    assert bootstrap_interval(a, b, seed=7) != bootstrap_interval(a, b, seed=8)


def test_the_interval_does_not_depend_on_how_many_resamples_are_ranked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = correlated(50, 0.5, seed=3)
    whole = bootstrap_interval(a, b, resamples=100)
    monkeypatch.setattr("head.evaluation.metrics._ROWS_AT_ONCE", 7)
    assert bootstrap_interval(a, b, resamples=100) == whole


def test_constant_predictions_give_nan_and_a_finite_mse() -> None:
    metrics = measure(np.full(9, 0.7), np.linspace(0, 1, 9))
    assert all(math.isnan(value) for value in (metrics.rho, metrics.rho_low, metrics.rho_high))
    assert metrics.mse == pytest.approx(np.var(np.linspace(0, 1, 9)) + 0.2**2)
    assert metrics.prediction_sd == 0


def test_predictions_that_have_nothing_to_do_with_the_truth_give_an_interval_around_zero() -> None:
    metrics = measure(*correlated(500, 0.0, seed=5))
    assert abs(metrics.rho) < 3 / math.sqrt(500)
    assert metrics.rho_low < 0 < metrics.rho_high


def test_measure_gathers_what_the_single_functions_say() -> None:
    prediction, truth = correlated(31, 0.4, seed=2)
    metrics = measure(prediction, truth, seed=4)
    assert (metrics.n, metrics.rho, metrics.mse) == (
        31,
        spearman(prediction, truth),
        mean_squared_error(prediction, truth),
    )
    assert (metrics.rho_low, metrics.rho_high) == bootstrap_interval(prediction, truth, seed=4)
    assert (metrics.prediction_min, metrics.prediction_max) == (prediction.min(), prediction.max())
    assert (metrics.prediction_sd, metrics.truth_sd) == (np.std(prediction), np.std(truth))


def test_ranks_and_rho_are_those_of_scipy_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 3, 17, 101):
        tied, close = rng.integers(0, 5, (6, n)).astype(float), rng.normal(size=(6, n))
        for values in (tied, close, np.array([[1.0, np.nan, *range(n - 2)], [-0.0, 0.0, *range(n - 2)]])):
            np.testing.assert_array_equal(average_ranks(values), stats.rankdata(values, axis=1))
        for one, other in zip(tied, close, strict=True):
            if np.ptp(one):
                assert spearman(one, other) == stats.spearmanr(one, other).statistic


def test_rho_with_nan_is_nan() -> None:
    assert np.isnan(spearman(np.array([1.0, np.nan, 2.0]), np.array([1.0, 2.0, 3.0])))
