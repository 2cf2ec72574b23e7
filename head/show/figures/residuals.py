"""Residuals by tenths of the true score: where a head is wrong, and in which direction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from head.evaluation.metrics import Scores
from head.evaluation.summary import HeadSummary
from head.show.figures.results import Results, results_of, scope
from head.show.style import BLUE, GREY, INK, label_lowest, panels, settled, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_TENTHS = 10


@dataclass(frozen=True)
class Tenths:
    """Of each tenth (k <= 10) of images by true score: its mean truth, mean residual, and mean absolute residual."""

    truth: Scores
    signed: Scores
    absolute: Scores


def tenths_of(results: Results) -> Tenths:
    """Return the tenths of images by truth, the lowest first; equal truths in their order, fewer for fewer images."""
    order = np.argsort(results.truth, kind="stable")
    residual = (results.prediction - results.truth)[order]
    truth = results.truth[order]
    places = np.array_split(np.arange(len(order)), min(_TENTHS, len(order)))
    means = [(truth[k].mean(), residual[k].mean(), np.abs(residual[k]).mean()) for k in places]
    return Tenths(*np.array(means, np.float64).reshape(-1, 3).T)


def draw_residuals(rows: Sequence[HeadSummary]) -> "tuple[Figure, str]":
    """Return a figure with a panel for each row, and what it shows."""
    figure, grid = panels(len(rows), sharey=True)
    for axes, row in zip(grid, rows, strict=True):
        found = tenths_of(results_of(row))
        numbers = np.arange(1, len(found.truth) + 1)
        axes.bar(numbers, found.absolute, width=0.8, color=GREY, alpha=0.45, label="mean absolute residual")
        axes.plot(numbers, found.signed, "o-", color=BLUE, markersize=4, label="mean residual")
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_title(wrapped(row.name))
        axes.set_xticks(numbers, [f"{truth:.2f}" for truth in found.truth], rotation=60, fontsize=7)
    label_lowest(grid, "mean true score of the tenth")
    grid[0].set_ylabel("predicted - true")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    caption = (
        "Residuals, predicted minus true score, by tenths of the images by true score, those of lowest truth first."
    )
    return settled(figure), f"{caption} {scope(rows)}"
