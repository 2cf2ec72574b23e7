"""Predictions beside the truth: points are images, bars are shares of them, and residuals are those of slow loops."""

import itertools

import numpy as np
import pytest
from scipy import stats

from head.show.figures.predictions import (
    density,
    draw_distributions,
    draw_residuals,
    draw_scatter,
    fitted_line,
    tenths_of,
)
from head.show.figures.results import results_of
from head.show.style import styled
from tests.helpers.predictions import predicted, random_steps, row

TRUTH, STEPS = random_steps(97, 3)
PREDICTION = STEPS.sum(axis=1)
TRUTH_70, STEPS_70 = random_steps(70, 2)


def test_points_are_the_predictions_the_densest_on_top() -> None:
    head = row(predicted("paper", "1", TRUTH, STEPS))
    with styled():
        figure, _ = draw_scatter([head])
    (axes,) = figure.axes
    (points,) = axes.collections
    both = np.stack([TRUTH, PREDICTION])
    near = stats.gaussian_kde(both)(both)
    order = np.argsort(near)
    np.testing.assert_array_equal(points.get_offsets(), both.T[order])
    np.testing.assert_allclose(points.get_array(), near[order])
    assert axes.get_title() == f"paper\nrho {head.scored[0].metrics.rho:.3f}"


def test_lines_are_the_identity_and_the_least_squares_fit() -> None:
    head = row(predicted("paper", "1", TRUTH, STEPS))
    with styled():
        figure, _ = draw_scatter([head])
    identity, fit = figure.axes[0].get_lines()
    assert (identity.get_xdata() == identity.get_ydata()).all()
    expected = np.polyfit(TRUTH, PREDICTION, 1)
    assert fitted_line(results_of(head)) == pytest.approx(expected)
    assert fit.get_ydata().tolist() == pytest.approx(np.polyval(expected, fit.get_xdata()).tolist())
    low, high = figure.axes[0].get_xlim()
    assert low < min(TRUTH.min(), PREDICTION.min()) < max(TRUTH.max(), PREDICTION.max()) < high


def test_very_many_images_are_counted_in_hexagons() -> None:
    truth, steps = random_steps(3000, 2)
    with styled():
        figure, _ = draw_scatter([row(predicted("paper", "1", truth, steps))])
    (hexagons,) = figure.axes[0].collections
    assert hexagons.get_array().sum() == 3000
    assert hexagons.get_array().min() >= 1


def test_a_constant_prediction_has_no_density_and_a_constant_truth_no_fit() -> None:
    assert density(TRUTH, np.full(97, 0.5)) is None
    assert fitted_line(results_of(row(predicted("a", "1", [0.5, 0.5, 0.5], [[0.1], [0.2], [0.3]])))) is None
    with styled():
        figure, _ = draw_scatter([row(predicted("flat", "1", TRUTH, np.full((97, 1), 0.5)))])
    assert figure.axes[0].get_title() == "flat\nrho undefined"
    assert len(figure.axes[0].collections[0].get_offsets()) == 97


def test_bars_are_the_shares_of_images_by_truth_and_prediction() -> None:
    head = row(predicted("paper", "1", TRUTH, STEPS), predicted("paper", "2", TRUTH[:31], STEPS[:31]))
    with styled():
        figure, caption = draw_distributions([head])
    (axes,) = figure.axes
    for patch, values in zip(axes.patches, (TRUTH, STEPS.sum(axis=1)), strict=True):
        heights, edges, _ = patch.get_data()
        both = np.concatenate([values, values[:31]])
        expected = [np.mean((both >= low) & (both < high)) for low, high in itertools.pairwise(edges)]
        expected[-1] = np.mean((both >= edges[-2]) & (both <= edges[-1]))
        assert heights.tolist() == pytest.approx(expected)
        assert heights.sum() == pytest.approx(1)
    assert caption.endswith("Test part of splits 1, 2, evaluation view; n = 128 predictions of 97 images.")


def test_bins_are_shared_by_heads() -> None:
    rows = [row(predicted(name, "1", TRUTH, scale * STEPS, lr=scale)) for name, scale in (("a", 1.0), ("b", 3.0))]
    with styled():
        figure, _ = draw_distributions(rows)
    edges = [patch.get_data()[1].tolist() for axes in figure.axes for patch in axes.patches]
    assert all(one == edges[0] for one in edges)
    assert edges[0][-1] == pytest.approx(3 * STEPS.sum(axis=1).max())


def test_the_spread_is_in_the_title() -> None:
    with styled():
        figure, _ = draw_distributions([row(predicted("flat", "1", [0.25, 0.75], [[0.5], [0.5]]))])
    assert figure.axes[0].get_title() == "flat\nsd 0.000, truth 0.250"


def test_bars_and_line_are_the_mean_residuals_of_tenths_by_truth() -> None:
    with styled():
        figure, _ = draw_residuals([row(predicted("paper", "1", TRUTH_70, STEPS_70))])
    (axes,) = figure.axes
    images = sorted(zip(TRUTH_70, STEPS_70.sum(axis=1), strict=True))
    residuals = [[prediction - truth for truth, prediction in images[k : k + 7]] for k in range(0, 70, 7)]
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([np.mean(np.abs(one)) for one in residuals])
    assert axes.get_lines()[0].get_ydata().tolist() == pytest.approx([np.mean(one) for one in residuals])
    means = [np.mean([truth for truth, _ in images[k : k + 7]]) for k in range(0, 70, 7)]
    assert [label.get_text() for label in axes.get_xticklabels()] == [f"{mean:.2f}" for mean in means]


def test_tenths_are_of_nearly_equal_size_and_fewer_for_fewer_images() -> None:
    few = tenths_of(results_of(row(predicted("a", "1", [0.5, 0.25, 0.75], [[0.5], [0.5], [0.5]]))))
    assert few.truth.tolist() == [0.25, 0.5, 0.75]
    assert few.signed.tolist() == [0.25, 0, -0.25]
    assert few.absolute.tolist() == [0.25, 0, 0.25]


def test_a_head_that_only_says_the_mean_is_too_high_below_and_too_low_above() -> None:
    signed = tenths_of(results_of(row(predicted("a", "1", TRUTH_70, np.full((70, 1), TRUTH_70.mean()))))).signed
    assert (np.diff(signed) < 0).all()
    assert signed[0] > 0 > signed[-1]
