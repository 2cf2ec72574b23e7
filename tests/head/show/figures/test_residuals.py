"""Residuals by tenths of the truth, against slow loops."""

import numpy as np
import pytest

from head.show.figures.residuals import draw_residuals, tenths_of
from head.show.figures.results import results_of
from head.show.style import styled
from tests.helpers.predictions import predicted, random_steps, row

TRUTH, STEPS = random_steps(70, 2)


def test_bars_and_line_are_the_mean_residuals_of_tenths_by_truth() -> None:
    with styled():
        figure, _ = draw_residuals([row(predicted("paper", "1", TRUTH, STEPS))])
    (axes,) = figure.axes
    images = sorted(zip(TRUTH, STEPS.sum(axis=1), strict=True))
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
    signed = tenths_of(results_of(row(predicted("a", "1", TRUTH, np.full((70, 1), TRUTH.mean()))))).signed
    assert (np.diff(signed) < 0).all()
    assert signed[0] > 0 > signed[-1]
