"""Histograms of scores: bars are shares of images, in bins that hold all scores."""

import itertools

import numpy as np
import pytest

from head.show.figures.distributions import draw_distributions
from head.show.style import styled
from tests.helpers.predictions import predicted, random_steps, row

TRUTH, STEPS = random_steps(97, 3)


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
