"""Predicted against true: points are images, lines are what they are called."""

import numpy as np
import pytest
from scipy import stats

from head.show.figures.results import results_of
from head.show.figures.scatter import density, draw_scatter, fitted_line
from head.show.style import styled
from tests.helpers.predictions import predicted, random_steps, row

TRUTH, STEPS = random_steps(97, 3)
PREDICTION = STEPS.sum(axis=1)


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
