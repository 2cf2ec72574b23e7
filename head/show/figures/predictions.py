"""Predicted beside true scores, a panel for each head: as points, as histograms, and as residuals by tenths."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from head.evaluation.metrics import Scores, shown
from head.evaluation.summary import HeadSummary
from head.show.figures.results import Results, results_of, scope
from head.show.style import BLUE, GREY, INK, ORANGE, panels, settled, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_MOST_POINTS = 1000  # of more in any panel all are counted in hexagons, which an SVG can hold however many there are
_HEXAGONS, _BINS, _TENTHS = 36, 24, 10


@dataclass(frozen=True)
class Tenths:
    """Of each tenth (k <= 10) of images by true score: its mean truth, mean residual, and mean absolute residual."""

    truth: Scores
    signed: Scores
    absolute: Scores


def draw_scatter(summaries: Sequence[HeadSummary]) -> "tuple[Figure, str]":
    """Return a figure of images as points, with the identity and the line that fits best, and what it shows."""
    results = [results_of(summary) for summary in summaries]
    scores = _all_scores(results)
    low, high = float(scores.min()), float(scores.max())
    margin = 0.03 * (high - low) or 0.5
    low, high = low - margin, high + margin
    counted = any(len(one.truth) > _MOST_POINTS for one in results)
    figure, axes = panels(len(summaries), height=3.0, sharex=True, sharey=True)
    for ax, summary, one in zip(axes, summaries, results, strict=True):
        _points(ax, one, (low, high), counted=counted)
        ax.plot([low, high], [low, high], color=INK, linewidth=1, linestyle=":", label="identity")
        if (line := fitted_line(one)) is not None:
            ax.plot([low, high], np.polyval(line, [low, high]), color=ORANGE, linewidth=1.6, label="best fit")
        ax.set_title(f"{wrapped(summary.name)}\nrho {shown(summary.as_json()['rho_mean'])}")
        ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    caption = "Predicted against true scores, brighter where more images lie; rho is the mean over splits."
    return _finished(figure, axes, summaries, x="true score", y="predicted score", caption=caption)


def draw_distributions(summaries: Sequence[HeadSummary]) -> "tuple[Figure, str]":
    """Return a figure of histograms of scores, and what it shows.

    They tell how far predictions are drawn towards the mean (Fig. 4 of the paper).
    """
    results = [results_of(summary) for summary in summaries]
    edges = np.histogram_bin_edges(_all_scores(results), bins=_BINS)
    figure, axes = panels(len(summaries), sharex=True, sharey=True)
    for ax, summary, one in zip(axes, summaries, results, strict=True):
        truth, prediction = (np.histogram(values, edges)[0] / len(values) for values in (one.truth, one.prediction))
        ax.stairs(truth, edges, fill=True, color=GREY, alpha=0.55, label="truth")
        ax.stairs(prediction, edges, color=BLUE, linewidth=1.8, label="prediction")
        spread = f"sd {np.std(one.prediction):.3f}, truth {np.std(one.truth):.3f}"
        ax.set_title(f"{wrapped(summary.name)}\n{spread}")
    caption = "Share of images by true and by predicted score; sd is the deviation of each."
    return _finished(figure, axes, summaries, x="score", y="share of images", caption=caption)


def draw_residuals(summaries: Sequence[HeadSummary]) -> "tuple[Figure, str]":
    """Return a figure of where a head is wrong, and in which direction, and what it shows."""
    figure, axes = panels(len(summaries), sharey=True)
    for ax, summary in zip(axes, summaries, strict=True):
        found = tenths_of(results_of(summary))
        numbers = np.arange(1, len(found.truth) + 1)
        ax.bar(numbers, found.absolute, width=0.8, color=GREY, alpha=0.45, label="mean absolute residual")
        ax.plot(numbers, found.signed, "o-", color=BLUE, markersize=4, label="mean residual")
        ax.axhline(0, color=INK, linewidth=0.8)
        ax.set_title(wrapped(summary.name))
        ax.set_xticks(numbers, [f"{truth:.2f}" for truth in found.truth], rotation=60, fontsize=7)
    caption = (
        "Residuals, predicted minus true score, by tenths of the images by true score, those of lowest truth first."
    )
    return _finished(figure, axes, summaries, x="mean true score of the tenth", y="predicted - true", caption=caption)


def tenths_of(results: Results) -> Tenths:
    """Return the tenths of images by truth, the lowest first; equal truths in their order, fewer for fewer images."""
    order = np.argsort(results.truth, kind="stable")
    residual = (results.prediction - results.truth)[order]
    truth = results.truth[order]
    places = np.array_split(np.arange(len(order)), min(_TENTHS, len(order)))
    means = [(truth[k].mean(), residual[k].mean(), np.abs(residual[k]).mean()) for k in places]
    return Tenths(*np.array(means, np.float64).reshape(-1, 3).T)


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
    import matplotlib
    from matplotlib.colors import ListedColormap

    x, y = results.truth, results.prediction
    seen = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0.25, 0.88, 256)))  # on white and on black
    if counted:
        ax.hexbin(x, y, gridsize=_HEXAGONS, extent=(*span, *span), mincnt=1, cmap=seen, linewidths=0.2)
        return
    near = density(x, y)
    order = np.arange(len(x)) if near is None else np.argsort(near, kind="stable")
    colours = {"color": BLUE} if near is None else {"c": near[order], "cmap": seen}
    ax.scatter(x[order], y[order], s=9, linewidths=0, alpha=0.85, clip_on=False, **colours)


def _all_scores(results: Sequence[Results]) -> Scores:
    return np.concatenate([part for one in results for part in (one.truth, one.prediction)])


def _finished(
    figure: "Figure", axes: "list[Axes]", summaries: Sequence[HeadSummary], *, x: str, y: str, caption: str
) -> "tuple[Figure, str]":
    """Return a figure once it says what all its panels show, on the lowest x axis of each column, and its caption."""
    for lowest in axes[-3:]:
        lowest.set_xlabel(x)
    axes[0].set_ylabel(y)
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2)
    return settled(figure), f"{caption} {scope(summaries)}"
