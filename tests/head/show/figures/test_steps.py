"""Slopes of step scores over the looks, and their relation to scores."""

import numpy as np
import pytest

from head.show.figures.steps import draw_steps, slopes, thirds, without_steps
from head.show.style import styled
from tests.helpers.predictions import predicted, row


def test_slopes_are_those_of_the_fitted_lines() -> None:
    steps = np.random.default_rng(0).normal(size=(13, 5))
    expected = [np.polyfit(np.arange(5), one, 1)[0] for one in steps]
    assert slopes(steps).tolist() == pytest.approx(expected)
    assert slopes(np.array([[0.1, 0.4]])).tolist() == pytest.approx([0.3])


def test_thirds_hold_every_image_once_from_low_to_high() -> None:
    scores = np.random.default_rng(0).permutation(11) / 10
    found = thirds(scores)
    assert sorted(np.concatenate(found).tolist()) == list(range(11))
    assert scores[found[0]].max() < scores[found[1]].min() < scores[found[1]].max() < scores[found[2]].min()


def test_points_are_images_and_the_line_is_the_mean_of_tenths() -> None:
    rng = np.random.default_rng(0)
    steps = rng.uniform(0.1, 0.3, size=(40, 3))
    steps[:, 2] += steps[:, 0]  # grows with the score
    with styled():
        figure, _ = draw_steps([row(predicted("paper", "1", rng.uniform(size=40), steps))])
    histogram, against = figure.axes
    points, means, _ = against.get_lines()
    score, change = steps.sum(axis=1), (steps[:, 2] - steps[:, 0]) / 2
    np.testing.assert_allclose(points.get_xydata(), np.stack([score, change], axis=1))
    order = np.argsort(score).reshape(10, 4)
    np.testing.assert_allclose(means.get_xydata(), np.stack([score[order].mean(1), change[order].mean(1)], axis=1))
    top = np.max([patch.get_data().values for patch in histogram.patches], axis=0)
    np.testing.assert_array_equal(top, np.histogram(change, histogram.patches[0].get_data().edges)[0])
    assert against.get_title().startswith("rho with score 0.")


def test_many_images_are_thinned_and_their_means_are_not() -> None:
    steps = np.random.default_rng(0).uniform(size=(2000, 2))
    with styled():
        figure, _ = draw_steps([row(predicted("paper", "1", steps[:, 0], steps))])
    points, means, _ = figure.axes[1].get_lines()
    assert points.get_xydata().shape == (500, 2)
    assert means.get_xydata().mean(axis=0).tolist() == pytest.approx([steps.sum(1).mean(), slopes(steps).mean()])


def test_heads_that_look_once_say_so() -> None:
    assert (
        without_steps(row(predicted("a", "1", [0, 1], [[0.1], [0.2]]))) == "looks once, so nothing changes over steps"
    )
    assert without_steps(row(predicted("a", "1", [0, 1], [[0.1, 0.2], [0.2, 0.1]]))) == ""
