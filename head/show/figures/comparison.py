"""Heads beside each other: rho and MSE of each head, beside the paper's where it has the dataset, and differences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from head.evaluation.compare import Comparison
from head.evaluation.metrics import or_nan
from head.evaluation.people import Ceiling
from head.evaluation.statistics import CORRECTION, OF_MEAN_RHO
from head.evaluation.summary import HeadSummary
from head.show.figures.paper_tables import SOURCE, TABLES, PublishedTable
from head.show.figures.results import cut_note, scope
from head.show.style import BLUE, GREY, INK, RED, WIDTH, new_figure, settled, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MOST_LINES = 40  # more are cut, and the caption says so
_LINE = 0.21  # inches


@dataclass(frozen=True)
class Line:
    """One line of the comparison: a mean rho with interval and single splits', and MSE; NaN where there is none."""

    name: str
    rho: float
    low: float
    high: float
    mse: float
    of_splits: tuple[float, ...]
    colour: str
    published: bool


def lines_of(summaries: Sequence[HeadSummary], table: PublishedTable | None) -> list[Line]:
    """Return the lines of summaries and of the paper's table, the highest rho first, undefined ones last."""
    lines = [_own(summary) for summary in summaries]
    for result in table.results if table else ():
        name, mse, colour = f"{result.method} [paper]", or_nan(result.mse), RED if result.deep else GREY
        lines.append(Line(name, result.rho, math.nan, math.nan, mse, (), colour, True))
    return sorted(lines, key=lambda line: (math.isnan(line.rho), -line.rho, line.name))


def draw_comparison(
    summaries: Sequence[HeadSummary], table: PublishedTable | None, dataset: str
) -> "tuple[Figure, str]":
    """Return a figure of each head's rho and MSE, beside the paper's if there is a table, and what it shows."""
    lines = lines_of(summaries[:MOST_LINES], table)
    figure = new_figure(1.2 + _LINE * len(lines), width=WIDTH)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for place, line in enumerate(lines):
        marker = "D" if line.published else "o"
        left.plot(line.of_splits, [place] * len(line.of_splits), "|", color=GREY, markersize=6)
        left.plot([line.low, line.high], [place, place], color=line.colour, linewidth=1.4)
        left.plot([line.rho], [place], marker, color=line.colour, markersize=5)
        right.plot([line.mse], [place], marker, color=line.colour, markersize=5)
    if table and table.human is not None:
        left.axvline(table.human, color=INK, linewidth=1, linestyle=":")
        left.annotate("people", (table.human, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom")
    shown = summaries[:MOST_LINES]
    ceiling = _ceiling_of(shown)
    if ceiling is not None:
        if ceiling.low is not None and ceiling.high is not None:
            left.axvspan(ceiling.low, ceiling.high, color=GREY, alpha=0.25, linewidth=0)
        left.axvline(ceiling.rho, color=INK, linewidth=1, linestyle="--")
        left.annotate("ceiling", (ceiling.rho, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom")
    names = [shortened(line.name) + (" (undefined)" if math.isnan(line.rho) else "") for line in lines]
    _name_lines(left, names)
    left.set_xlabel(f"{summaries[0].scored[0].part} rho")
    right.tick_params(axis="y", length=0)
    right.set_xlabel("MSE")
    right.locator_params(axis="x", nbins=5)
    people = f" Dashed: {ceiling.as_text()}." if ceiling else ""
    caption = f"{_comparison_caption(table, dataset)}{people} {scope(shown)}{cut_note(len(shown), len(summaries))}"
    return settled(figure), caption


def draw_differences(comparisons: Sequence[Comparison]) -> "tuple[Figure, str]":
    """Return a figure of each head's difference in rho from the one compared with, and what it shows."""
    shown = comparisons[:MOST_LINES]
    figure = new_figure(1.0 + _LINE * len(shown), width=WIDTH * 0.8)
    axes = figure.subplots()
    for place, one in enumerate(shown):
        sure = one.p_holm < 0.05  # False for NaN
        axes.plot([one.low, one.high], [place, place], color=BLUE, linewidth=1.4)
        axes.plot([one.difference], [place], "o", color=BLUE, markersize=5.5, fillstyle="full" if sure else "none")
    axes.axvline(0, color=INK, linewidth=1, linestyle=":")
    _name_lines(axes, [shortened(one.name) for one in shown])
    axes.set_xlabel(f"difference in rho from {shortened(comparisons[0].against)}")
    caption = (
        f"Mean difference in rho from {shortened(comparisons[0].against, 80)}, paired by split, with its 95% interval; "
        f"filled where Holm's p over all comparisons is below 0.05. Intervals and p: {CORRECTION}."
    )
    return settled(figure), caption + cut_note(len(shown), len(comparisons))


def _ceiling_of(summaries: Sequence[HeadSummary]) -> Ceiling | None:
    """Return the ceiling that all heads have; None where they have several, being of other splits, or none."""
    first, *others = [summary.ceiling for summary in summaries]
    return first if all(other == first for other in others) else None


def _own(summary: HeadSummary) -> Line:
    found = summary.as_json()
    rho, low, high, mse = (or_nan(found[key]) for key in ("rho_mean", "rho_low", "rho_high", "mse_mean"))
    return Line(summary.name, rho, low, high, mse, tuple(summary.rho().tolist()), BLUE, False)


def _name_lines(axes: "Axes", names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _comparison_caption(table: PublishedTable | None, dataset: str) -> str:
    own = f"Mean over splits (dot), its 95% interval (line) and single splits (ticks). Intervals: {OF_MEAN_RHO}."
    if table is not None:
        return f"{own} Diamonds: {table.title} of {SOURCE}; red ones are deep networks, as in its Fig. 7."
    if dataset in TABLES:
        return f"{own} The paper's numbers are of test parts, so none are shown."
    return (
        f"{own} The paper has no numbers for {shortened(dataset, 60) or 'this dataset'}: heads beside each other alone."
    )
