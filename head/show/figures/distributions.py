"""Histograms of scores, true and predicted: how far predictions are drawn towards the mean (Fig. 4 of the paper)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from head.evaluation.metrics import Scores
from head.evaluation.summary import HeadSummary
from head.show.figures.results import Results, results_of, scope
from head.show.style import BLUE, GREY, label_lowest, panels, settled, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_BINS = 24


def draw_distributions(summaries: Sequence[HeadSummary]) -> "tuple[Figure, str]":
    """Return a figure with a panel for each head, and what it shows."""
    results = [results_of(summary) for summary in summaries]
    edges = shared_edges(results)
    figure, axes = panels(len(summaries), sharex=True, sharey=True)
    for ax, summary, one in zip(axes, summaries, results, strict=True):
        ax.stairs(shares(one.truth, edges), edges, fill=True, color=GREY, alpha=0.55, label="truth")
        ax.stairs(shares(one.prediction, edges), edges, color=BLUE, linewidth=1.8, label="prediction")
        spread = f"sd {np.std(one.prediction):.3f}, truth {np.std(one.truth):.3f}"
        ax.set_title(f"{wrapped(summary.name)}\n{spread}")
    label_lowest(axes, "score")
    axes[0].set_ylabel("share of images")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    caption = "Share of images by true and by predicted score; sd is the deviation of each."
    return settled(figure), f"{caption} {scope(summaries)}"


def shared_edges(results: Sequence[Results]) -> Scores:
    """Return the edges of bins that hold all finite scores, true and predicted."""
    values = np.concatenate([part for one in results for part in (one.truth, one.prediction)])
    return np.histogram_bin_edges(values, bins=_BINS).astype(np.float64)


def shares(values: Scores, edges: Scores) -> Scores:
    """Return the share of values in each bin; they sum to 1."""
    return np.histogram(values, edges)[0] / len(values)
