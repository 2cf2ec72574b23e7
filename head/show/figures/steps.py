"""How the step scores m_t change over the looks at an image, against its score (section 4.4, Fig. 6 of the paper)."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from head.evaluation.metrics import Scores, spearman
from head.evaluation.summary import HeadSummary
from head.settings import used_fields
from head.show.figures.results import results_of, scope, without_scores
from head.show.style import BLUE, GREY, INK, ORANGE, WIDTH, new_figure, settled, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_BINS, _DECILES, _MOST_POINTS = 30, 10, 500
_THIRDS = {"lowest third of scores": ORANGE, "middle": GREY, "highest": BLUE}


def without_steps(summary: HeadSummary) -> str:
    """Return why a head has no change over steps; '' if it has."""
    first = summary.scored[0]
    looks_on = first.step_scores.shape[1] > 1 and "steps" in used_fields(str(first.run.settings["head"]))
    return without_scores(summary) if looks_on else "looks once, so nothing changes over steps"


def slopes(step_scores: Scores) -> Scores:
    """Return the slope (n) over steps of step scores (n, T), T >= 2, by least squares, in score per step."""
    steps = np.arange(step_scores.shape[1]) - (step_scores.shape[1] - 1) / 2
    found: Scores = step_scores @ steps / (steps @ steps)
    return found


def thirds(prediction: Scores) -> list[np.ndarray[tuple[int], np.dtype[np.intp]]]:
    """Return the places of the lowest, the middle and the highest third of predictions; equal ones in their order."""
    return [np.sort(places) for places in np.array_split(np.argsort(prediction, kind="stable"), 3)]


def draw_steps(summaries: Sequence[HeadSummary]) -> "tuple[Figure, str]":
    """Return a figure with two panels for each head, images by slope and slope against score, and what it shows."""
    figure = new_figure(0.6 + 1.9 * len(summaries), width=WIDTH)
    axes = figure.subplots(len(summaries), 2, squeeze=False)
    for (left, right), summary in zip(axes, summaries, strict=True):
        found = results_of(summary)
        change = slopes(found.step_scores)
        _histogram(left, change, found.prediction)
        _against_score(right, change, found.prediction)
        left.set_ylabel(wrapped(summary.name, 22))
        right.set_ylabel("gradient of m_t")
        rho, true_rho = spearman(change, found.prediction), spearman(change, found.truth)
        right.set_title(f"rho with score {_shown(rho)}, with truth {_shown(true_rho)}")
    axes[0, 0].set_title("images by gradient")
    axes[-1, 0].set_xlabel("gradient of m_t (score per step)")
    axes[-1, 1].set_xlabel("predicted score")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    caption = (
        "Slope of the step scores m_t over the T looks: how many images have which, by thirds of the predicted score, "
        "and its mean in each tenth of the images by predicted score (line) over single images (points)."
    )
    return settled(figure), f"{caption} {scope(summaries)}"


def _histogram(ax: "Axes", change: Scores, prediction: Scores) -> None:
    """Draw the number of images by slope, those of the three thirds on top of each other."""
    edges = np.histogram_bin_edges(change, bins=_BINS)
    below = np.zeros(len(edges) - 1)
    for places, (label, colour) in zip(thirds(prediction), _THIRDS.items(), strict=True):
        counts = np.histogram(change[places], edges)[0]
        ax.stairs(below + counts, edges, baseline=below, fill=True, color=colour, alpha=0.85, label=label)
        below = below + counts
    ax.axvline(0, color=INK, linewidth=0.8, linestyle=":")


def _against_score(ax: "Axes", change: Scores, prediction: Scores) -> None:
    """Draw images as points, evenly thinned where there are many, and the mean of each tenth of all."""
    some = slice(None, None, max(1, math.ceil(len(change) / _MOST_POINTS)))
    ax.plot(prediction[some], change[some], ".", color=GREY, alpha=0.5, markersize=3, markeredgewidth=0, clip_on=False)
    tenths = np.array_split(np.argsort(prediction, kind="stable"), min(_DECILES, len(prediction)))
    means = [(prediction[places].mean(), change[places].mean()) for places in tenths]
    ax.plot(*np.array(means).reshape(-1, 2).T, "o-", color=BLUE, markersize=4)
    ax.axhline(0, color=INK, linewidth=0.8, linestyle=":")


def _shown(rho: float) -> str:
    return "undefined" if math.isnan(rho) else f"{rho:.2f}"
