"""Training curves: rho and MSE on the part that picks the epoch, the training loss, and the epoch that was picked.

As Fig. 3 of the paper, but in panels of their own instead of on several axes.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from featcache.base.errors import printable
from head.evaluation.score import Scored
from head.evaluation.summary import HeadSummary
from head.runs.history import HISTORY_NAME, read_history
from head.settings import used_fields
from head.show.figures.results import runs_named
from head.show.style import BLUE, PALETTE, WIDTH, new_figure, settled, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


QUANTITIES = {"val_rho": "validation rho", "train_loss": "training loss", "val_mse": "validation MSE"}
_MOST_BOLD = 10  # runs in a panel


def without_curves(summary: HeadSummary) -> str:
    """Return why a head has no training curves; '' if it has."""
    run = summary.scored[0].run
    if run.imported:
        return "imported, so its training is not known"
    if "lr" not in used_fields(run.settings["head"]):
        return "fitted in one go, without epochs"
    if bad := [one.run.folder.name for one in summary.scored if not _history(one)]:
        return f"{HISTORY_NAME} of {', '.join(bad)} is missing or damaged"
    return ""


def draw_curves(summaries: Sequence[HeadSummary]) -> "tuple[Figure, str]":
    """Return a figure with a line of panels for each head, a curve for each run, and what it shows."""
    from matplotlib.lines import Line2D

    figure = new_figure(0.5 + 1.75 * len(summaries), width=WIDTH)
    axes = figure.subplots(len(summaries), len(QUANTITIES), squeeze=False)
    splits = list(dict.fromkeys(split for summary in summaries for split in summary.splits))
    colours = dict(zip(splits, PALETTE, strict=False)) if len(splits) <= len(PALETTE) else dict.fromkeys(splits, BLUE)
    for line, summary in zip(axes, summaries, strict=True):
        for ax, (field, title) in zip(line, QUANTITIES.items(), strict=True):
            for one in summary.scored:
                _curve(ax, one, field, colours[one.run.split], faint=len(summary.scored) > _MOST_BOLD)
            _frame(ax, summary, field)
            ax.set_title(title if summary is summaries[0] else "")
        line[0].set_ylabel(wrapped(summary.name, 22))
    for ax in axes[-1]:
        ax.set_xlabel("epoch")
    if 1 < len(splits) <= len(PALETTE):
        handles = [Line2D([], [], color=colours[split], label=f"split {printable(split)}") for split in splits]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(splits))
    optimistic = any(summary.optimistic for summary in summaries)
    caption = (
        "Each curve is a run; the dot is the epoch whose head was kept, the ring the one of lowest MSE; "
        f"panels of loss and MSE cut off what is far above later epochs. Runs of {runs_named(summaries)}."
        f"{' Some picked their epoch on the test part.' if optimistic else ''}"
    )
    return settled(figure), caption


def _curve(ax: "Axes", one: Scored, field: str, colour: str, *, faint: bool) -> None:
    """Draw one run's curve, its kept epoch and, of the MSE, its lowest."""
    history, result = _history(one), one.run.result
    values = {epoch["epoch"]: epoch.get(field, math.nan) for epoch in history}
    style: dict[str, Any] = {"color": colour, "alpha": 0.5 if faint else 0.9}
    ax.plot(list(values), list(values.values()), linewidth=0.8 if faint else 1.2, **style)
    best = result.best_epoch or math.nan
    ax.plot([best], [values.get(best, math.nan)], "o", markersize=3 if faint else 5, **style)
    if field == "val_mse":
        low = result.lowest_mse_epoch or math.nan
        point = [low], [values.get(low, math.nan)]
        ax.plot(*point, "o", markersize=5 if faint else 8, fillstyle="none", **style)


def _frame(ax: "Axes", summary: HeadSummary, field: str) -> None:
    """Cut off what the first epochs add to the range of a loss, where later ones would be flat below it."""
    from matplotlib.ticker import MaxNLocator

    ax.margins(x=0.03)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    later = [epoch.get(field, math.nan) for one in summary.scored for epoch in _history(one)[2:]]
    finite = [value for value in later if math.isfinite(value)]
    if field != "val_rho" and finite and max(finite) > 0:
        ax.set_ylim(0, max(ax.get_ylim()[0], min(ax.get_ylim()[1], 1.3 * max(finite))))


def _history(one: Scored) -> list[dict[str, float]]:
    """Return a run's epochs; none if its history is damaged."""
    try:
        epochs = read_history(one.run.folder)
    except (OSError, ValueError, TypeError):
        return []
    return epochs if all("epoch" in epoch for epoch in epochs) else []
