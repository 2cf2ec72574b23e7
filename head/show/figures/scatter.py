"""Predicted against true scores, one point an image, with the identity and the line that fits best."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from head.evaluation.metrics import Scores, shown
from head.evaluation.summary import HeadSummary
from head.show.figures.results import Results, results_of, scope
from head.show.style import BLUE, INK, ORANGE, density_colours, label_lowest, panels, settled, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_MOST_POINTS = 1000  # of more in any panel all are counted in hexagons, which an SVG can hold however many there are
_HEXAGONS = 36


def draw_scatter(summaries: Sequence[HeadSummary]) -> "tuple[Figure, str]":
    """Return a figure with a panel for each head, and what it shows."""
    results = [results_of(summary) for summary in summaries]
    low, high = shared_range(results)
    counted = any(len(one.truth) > _MOST_POINTS for one in results)
    figure, axes = panels(len(summaries), height=3.0, sharex=True, sharey=True)
    for ax, summary, one in zip(axes, summaries, results, strict=True):
        _points(ax, one, (low, high), counted=counted)
        ax.plot([low, high], [low, high], color=INK, linewidth=1, linestyle=":", label="identity")
        if (line := fitted_line(one)) is not None:
            ax.plot([low, high], np.polyval(line, [low, high]), color=ORANGE, linewidth=1.6, label="best fit")
        ax.set_title(f"{wrapped(summary.name)}\nrho {shown(summary.as_json()['rho_mean'])}")
        ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    label_lowest(axes, "true score")
    axes[0].set_ylabel("predicted score")
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2)
    caption = "Predicted against true scores, brighter where more images lie; rho is the mean over splits."
    return settled(figure), f"{caption} {scope(summaries)}"


def shared_range(results: Sequence[Results]) -> tuple[float, float]:
    """Return a range that holds all scores, true and predicted, with a margin."""
    values = np.concatenate([part for one in results for part in (one.truth, one.prediction)])
    low, high = float(values.min()), float(values.max())
    margin = 0.03 * (high - low) or 0.5
    return low - margin, high + margin


def fitted_line(results: Results) -> Scores | None:
    """Return slope and intercept of prediction over truth by least squares; None where the truth does not vary."""
    if len(results.truth) < 2 or np.ptp(results.truth) == 0:
        return None
    truth = results.truth - results.truth.mean()
    slope = truth @ results.prediction / (truth @ truth)
    return np.array([slope, results.prediction.mean() - slope * results.truth.mean()])


def density(x: Scores, y: Scores) -> Scores | None:
    """Return how densely points lie at each of them, by a Gaussian kernel; None where they lie on a line."""
    from scipy import stats

    if len(x) < 3:
        return None
    try:
        return np.asarray(stats.gaussian_kde(np.stack([x, y]))(np.stack([x, y])), np.float64)
    except np.linalg.LinAlgError:
        return None


def _points(ax: "Axes", results: Results, span: tuple[float, float], *, counted: bool) -> None:
    """Draw images as points coloured by how many are near, the densest on top; or counted in hexagons."""
    x, y = results.truth, results.prediction
    if counted:
        ax.hexbin(x, y, gridsize=_HEXAGONS, extent=(*span, *span), mincnt=1, cmap=density_colours(), linewidths=0.2)
        return
    near = density(x, y)
    order = np.arange(len(x)) if near is None else np.argsort(near, kind="stable")
    colours = {"color": BLUE} if near is None else {"c": near[order], "cmap": density_colours()}
    ax.scatter(x[order], y[order], s=9, linewidths=0, alpha=0.85, clip_on=False, **colours)
