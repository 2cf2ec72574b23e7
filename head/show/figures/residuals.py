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


def draw_residuals(summaries: Sequence[HeadSummary]) -> "tuple[Figure, str]":
    """Return a figure with a panel for each head, and what it shows."""
    figure, axes = panels(len(summaries), sharey=True)
    for ax, summary in zip(axes, summaries, strict=True):
        found = tenths_of(results_of(summary))
        numbers = np.arange(1, len(found.truth) + 1)
        ax.bar(numbers, found.absolute, width=0.8, color=GREY, alpha=0.45, label="mean absolute residual")
        ax.plot(numbers, found.signed, "o-", color=BLUE, markersize=4, label="mean residual")
        ax.axhline(0, color=INK, linewidth=0.8)
        ax.set_title(wrapped(summary.name))
        ax.set_xticks(numbers, [f"{truth:.2f}" for truth in found.truth], rotation=60, fontsize=7)
    label_lowest(axes, "mean true score of the tenth")
    axes[0].set_ylabel("predicted - true")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    caption = (
        "Residuals, predicted minus true score, by tenths of the images by true score, those of lowest truth first."
    )
    return settled(figure), f"{caption} {scope(summaries)}"
