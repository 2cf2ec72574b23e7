"""Intervals, p and Holm's adjustment, against SciPy called directly and definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.coverage import covered
from head.evaluation.metrics import row_spearman
from head.evaluation.statistics import (
    corrected_interval,
    corrected_p,
    half_width,
    holm,
    mean_rho_interval,
    ratio_interval,
    resampled_interval,
    standard_error,
    t_quantile,
)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9).filter(lambda values: np.std(values) > 1e-3))
def test_without_a_test_share_it_is_students_interval_and_scipys_test(values: list[float]) -> None:
    array = np.array(values)
    wanted = stats.t.interval(0.95, len(array) - 1, loc=array.mean(), scale=stats.sem(array))
    assert corrected_interval(array, 0.0) == (pytest.approx(wanted[0]), pytest.approx(wanted[1]))
    other = np.linspace(-1, 1, len(array))
    wanted_p = stats.ttest_rel(array + other, other).pvalue
    assert corrected_p((array + other) - other, 0.0) == pytest.approx(wanted_p, rel=1e-6)


def test_overlapping_training_sets_widen_the_interval_and_raise_p() -> None:
    values = np.array([0.1, 0.3, 0.2])
    error = 0.1 * math.sqrt(1 / 3 + 1 / 2)
    wanted = stats.t.interval(0.95, 2, loc=0.2, scale=error)
    assert corrected_interval(values, 1 / 2) == (pytest.approx(wanted[0]), pytest.approx(wanted[1]))
    assert corrected_p(values, 1 / 2) == pytest.approx(2 * stats.t.sf(0.2 / error, 2))


def test_without_two_values_or_a_share_nothing_is_known_and_equal_values_have_no_p() -> None:
    for values, share in ((np.array([]), 0.5), (np.array([0.1]), 0.5), (np.array([0.1, 0.2]), math.nan)):
        assert all(math.isnan(bound) for bound in corrected_interval(values, share))
        assert math.isnan(corrected_p(values, share))
    assert corrected_interval(np.array([0.5, 0.5]), 0.5) == (0.5, 0.5)
    assert math.isnan(corrected_p(np.array([0.5, 0.5]), 0.5))


@pytest.mark.parametrize("rho", [0.5, 0.8, 0.95])
def test_the_interval_of_a_mean_rho_holds_it_in_95_of_100_experiments(rho: float) -> None:
    assert 0.93 <= covered(rho, images=150, experiments=2000, seed=1) <= 0.975  # 0.97, and its standard error


def test_the_interval_of_a_mean_rho_is_that_of_fishers_z() -> None:
    rho, images = np.array([0.70, 0.80, 0.75, 0.78, 0.72]), np.full(5, 40)
    half = stats.t.ppf(0.975, 4) * standard_error(np.arctanh(rho), 0.3)
    wanted = [np.tanh(np.arctanh(rho.mean()) + sign * half) for sign in (-1, 1)]
    assert mean_rho_interval(rho, 0.3, images) == (pytest.approx(wanted[0]), pytest.approx(wanted[1]))


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9), st.integers(4, 50))
def test_the_interval_of_a_mean_rho_holds_the_mean_and_stays_within_1(values: list[float], n: int) -> None:
    rho = np.array(values)
    low, high = mean_rho_interval(rho, 0.3, np.full(len(rho), n))
    assert -1 <= low <= rho.mean() + 1e-12
    assert rho.mean() - 1e-12 <= high <= 1


def test_the_interval_of_a_mean_rho_is_unknown_of_one_split_where_a_rho_is_and_of_three_images() -> None:
    for values, n in (([0.5], 9), ([0.5, math.nan], 9), ([1, -1, 1, 1, -1], 2), ([1, 0.5], 3)):
        found = mean_rho_interval(np.array(values), 0.3, np.full(len(values), n))
        assert all(math.isnan(bound) for bound in found)


def test_holm_multiplies_by_how_many_are_left_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == [pytest.approx(p) for p in (0.03, 0.06, 0.06, 0.02)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    left, undefined, right = holm([0.02, math.nan, 0.03])
    assert (left, right) == (pytest.approx(0.04), pytest.approx(0.04))
    assert math.isnan(undefined)
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_is_its_definition(p: list[float]) -> None:
    order = sorted(p)
    for value, adjusted in zip(p, holm(p), strict=True):
        rank = order.index(value)
        steps = [min(1.0, (len(p) - i) * order[i]) for i in range(rank + 1)]
        assert adjusted == pytest.approx(max(steps))


@pytest.mark.parametrize(("rho", "n"), [(0.0, 20), (0.7, 20), (0.7, 100), (-0.3, 50)])
def test_what_images_can_tell_is_how_far_rho_strays_in_samples(rho: float, n: int) -> None:
    rng, r = np.random.default_rng(0), 2 * math.sin(math.pi * rho / 6)
    truth = rng.normal(size=(4000, n))
    found = row_spearman(r * truth + math.sqrt(1 - r * r) * rng.normal(size=truth.shape), truth)
    low, high = np.percentile(found, [2.5, 97.5])
    assert half_width(rho, n) == pytest.approx((high - low) / 2, rel=0.12)


def test_three_images_can_tell_nothing() -> None:
    assert math.isnan(half_width(0.5, 3))
    assert math.isnan(half_width(math.nan, 30))


def test_a_resampled_interval_is_that_of_a_mean_over_images() -> None:
    values, images = np.random.default_rng(0).normal(1, 2, 300), np.arange(300)
    low, high = resampled_interval([values], [images])
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 300**0.5, rel=0.1)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.03)


def test_an_image_in_two_splits_is_no_two_images() -> None:
    values, images = np.random.default_rng(0).normal(1, 2, 300), np.arange(300)
    both = resampled_interval([values, values[::-1]], [images, images[::-1]])
    assert both == pytest.approx(resampled_interval([values], [images]))
    assert np.isnan(resampled_interval([values[:3]], [images[:3]])).all()


def test_the_interval_of_a_ratio_is_that_of_the_first_where_the_second_is_exact() -> None:
    found = ratio_interval(0.6, (0.5, 0.65), 0.8, (math.nan, math.nan))
    assert found == (pytest.approx(0.5 / 0.8), pytest.approx(0.65 / 0.8))
    assert ratio_interval(-0.6, (-0.8, -0.3), 0.8, (0.8, 0.8)) == (pytest.approx(-1), pytest.approx(-0.375))


def test_the_interval_of_a_ratio_holds_it_in_95_of_100_experiments() -> None:
    rng = np.random.default_rng(4)
    first, second, errors = 0.7, 0.9, np.array([0.05, 0.03])
    draws = np.array([first, second]) + errors * rng.normal(size=(4000, 2))
    halves = 1.96 * errors
    intervals = [
        ratio_interval(a, (a - halves[0], a + halves[0]), b, (b - halves[1], b + halves[1])) for a, b in draws.tolist()
    ]
    assert 0.94 <= np.mean([low <= first / second <= high for low, high in intervals]) <= 0.96


def test_a_ratio_whose_interval_cannot_be_known_has_none() -> None:
    for of_first, second, of_second in (
        ((math.nan, math.nan), 0.9, (0.8, 0.95)),
        ((0.5, 0.7), 0.1, (0.0, 0.4)),
        ((0.5, 0.7), 0.2, (0.1, 0.4)),
    ):
        assert all(math.isnan(bound) for bound in ratio_interval(0.6, of_first, second, of_second))


def test_quantiles_of_t_are_those_of_scipy() -> None:
    for freedom in (1, 2, 4, 24, 499):
        assert t_quantile(0.975, freedom) == stats.t.ppf(0.975, freedom)
