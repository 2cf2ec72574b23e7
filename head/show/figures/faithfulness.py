"""Whether attention maps tell what scores hang on: curves of scores as places are emptied, a line of panels a head."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from featcache.store.cache import FeatureCache
from head.data.several import SeveralInputs
from head.evaluation.evaluate import Evaluation
from head.explain.faithfulness import RANDOM_ORDERS, SHARES, TESTS, Faithfulness, faithfulness
from head.runs.run import Run
from head.show.figures.figures import Drawing, Drawings
from head.show.figures.results import cut_note, without_scores
from head.show.style import (
    BLUE,
    GREY,
    ORANGE,
    WIDTH,
    check_matplotlib,
    new_figure,
    settled,
    styled,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


COLOURS = {"random": GREY, "centre": ORANGE, "attention": BLUE}
_MOST = 3  # heads: each place of each image is emptied, which takes most of the time of the figures
_TITLES = {"deletion": "places emptied: change of the score", "insertion": "places put back: change undone"}


def faithful_heads(cache: FeatureCache, evaluation: Evaluation) -> list[Faithfulness]:
    """Return what the maps tell of the heads that attend, of the first three by validation rho."""
    able = [one for one in evaluation.summaries if _looks_itself(one.scored[0].run) and not without_scores(one)]
    return [faithfulness(cache, one) for one in able[:_MOST]]


def _looks_itself(run: Run) -> bool:
    """Whether a run's head attends, and is not made of others, each of which has its own maps."""
    return run.attends and not isinstance(run.input, SeveralInputs)


def draw_faithfulness(found: Sequence[Faithfulness], evaluation: Evaluation) -> Drawings:
    """Return the figure of what `faithful_heads` found, its numbers beside it, or why there is none.

    Raises `InvalidSettings` without matplotlib.
    """
    check_matplotlib()
    if not found:
        return Drawings([], ["faithfulness: no head here has attention"])
    with styled():
        figure = _figure(found)
    attending = sum(_looks_itself(one.scored[0].run) for one in evaluation.summaries)
    caption = (
        "Mean change of the score when places are emptied, their features replaced by the mean training feature, "
        "highest attention first, and how much of it is undone when they are put back in that order; against "
        f"{RANDOM_ORDERS} random orders and that from the centre outwards. Titles: area under attention less that "
        "under random, with its 95% interval over images; above 0 the score hangs on places of high attention. "
        f"{found[0].part.capitalize()} part, evaluation view, first seed, n = {max(one.images for one in found)}."
        f"{cut_note(len(found), attending)} {verdicts(found)}"
    )
    numbers = {"heads": [one.as_json() for one in found]}
    return Drawings([Drawing("faithfulness", "Faithfulness of attention maps", figure, caption, numbers)], [])


def verdicts(found: Sequence[Faithfulness]) -> str:
    """Return what the maps of each head tell, each named where there are several."""
    return " ".join(f"{one.name}: {one.verdict()}" if len(found) > 1 else one.verdict() for one in found)


def _figure(found: Sequence[Faithfulness]) -> "Figure":
    figure = new_figure(0.7 + 2.2 * len(found), width=WIDTH)
    axes = figure.subplots(len(found), 2, squeeze=False, sharex=True, sharey="row")
    for line, one in zip(axes, found, strict=True):
        for ax, test in zip(line, TESTS, strict=True):
            _curves(ax, one, test)
        line[0].set_ylabel(f"{wrapped(one.name, 22)}\nscore")
    for ax, test in zip(axes[0], TESTS, strict=True):
        ax.set_title(f"{_TITLES[test]}\n{ax.get_title()}")
    for ax in axes[-1]:
        ax.set_xlabel("share of places")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(COLOURS))
    return settled(figure)


def _curves(ax: "Axes", one: Faithfulness, test: str) -> None:
    for order, colour in COLOURS.items():
        ax.plot(SHARES, one.curves[test][order], "o-", color=colour, markersize=3, label=f"{order} order")
    difference = next(found for found in one.against("random") if found.test == test)
    ax.set_title(f"attention \u2212 random {difference}")
