"""The figures of an evaluation: which there are, what each says, and their files."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.base.files import make_folder, write_durably
from featcache.store.cache import FeatureCache
from head.evaluation.evaluate import Evaluation
from head.evaluation.summary import HeadSummary
from head.show.figures.comparison import draw_comparison, draw_differences
from head.show.figures.curves import draw_curves, without_curves
from head.show.figures.paper_tables import table_of
from head.show.figures.predictions import draw_distributions, draw_residuals, draw_scatter
from head.show.figures.results import cut_note, listed, without_scores
from head.show.figures.steps import draw_steps, without_steps
from head.show.style import MOST_HEADS, as_png, as_svg, check_matplotlib, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawing:
    """A figure: name is the stem of its files, caption one to a few plain sentences that say what it shows.

    numbers are what is drawn, as a JSON object, where that is in no other file.
    """

    name: str
    title: str
    figure: "Figure"
    caption: str
    numbers: dict[str, Any] | None = None

    @property
    def suffixes(self) -> list[str]:
        """Those of its files, in order."""
        return [".png", ".svg", *([".json"] if self.numbers is not None else [])]


@dataclass(frozen=True)
class Drawings:
    """Figures, and for each one that was left out, or heads that were, why."""

    drawings: list[Drawing]
    left_out: list[str]


@dataclass(frozen=True)
class SavedDrawings:
    """The figures of an evaluation, the files of each as `save` returns them, and why others were left out."""

    drawings: Sequence[Drawing]
    files: Sequence[Path]
    left_out: Sequence[str]
    evaluation: Evaluation

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        files = iter(self.files)
        figures = [
            {
                "name": one.name,
                "title": one.title,
                "caption": one.caption,
                "files": [str(next(files)) for _ in one.suffixes],
            }
            for one in self.drawings
        ]
        problems = [str(error) for error in self.evaluation.errors]
        return {"figures": figures, "left_out": list(self.left_out), "problems": problems}

    def as_text(self) -> str:
        """Return each figure's files and caption as a line."""
        first = [path for path in self.files if path.suffix == ".png"]
        pairs = zip(self.drawings, first, strict=True)
        return "\n".join(f"{', '.join([str(png), *one.suffixes[1:]])}: {one.caption}" for one, png in pairs)

    def warnings(self) -> list[str]:
        """Return what to know of runs that were left out."""
        return self.evaluation.warnings()


@dataclass(frozen=True)
class _Family:
    """A figure with a panel for each head; without says why a head has none, '' if it has."""

    name: str
    title: str
    draw: "Callable[[Sequence[HeadSummary]], tuple[Figure, str]]"
    without: Callable[[HeadSummary], str]


_FAMILIES = (
    _Family("training-curves", "Training", draw_curves, without_curves),
    _Family("predicted-against-true", "Predicted against true scores", draw_scatter, without_scores),
    _Family("score-histograms", "Distribution of scores", draw_distributions, without_scores),
    _Family("residuals", "Residuals", draw_residuals, without_scores),
    _Family("step-gradients", "Step scores over the looks", draw_steps, without_steps),
)


def draw_all(cache: FeatureCache, evaluation: Evaluation) -> Drawings:
    """Return the figures of an evaluation, and why others were left out; none if nothing was scored.

    Of more than `MOST_HEADS` heads those with the highest validation rho are drawn, and captions say so. Raises
    `InvalidSettings` without matplotlib.
    """
    check_matplotlib()
    summaries = list(evaluation.summaries)
    if not summaries:
        return Drawings([], ["figures: no run could be scored"])
    source = cache.manifest.source
    dataset = "" if "images" in source else source.get("dataset", "")  # a table of one's own may be called lamem, too
    table = table_of(dataset, summaries[0].scored[0].part)
    found = Drawings([], [])
    with styled():
        found.drawings.append(Drawing("comparison", "Heads compared", *draw_comparison(summaries, table, dataset)))
        if evaluation.comparisons:
            differences = draw_differences(evaluation.comparisons)
            found.drawings.append(Drawing("differences", "Differences between heads", *differences))
        else:
            found.left_out.append("differences: there is one head alone")
        for family in _FAMILIES:
            _draw_family(family, summaries, found)
    return found


def svg_of(drawing: Drawing) -> str:
    """Return a drawing as an <svg> element for a page, light or dark: transparent, its ink the page's own colour."""
    return as_svg(drawing.figure, name=drawing.name, title=drawing.title)


def save(drawings: Sequence[Drawing], folder: Path) -> list[Path]:
    """Write NAME.png and NAME.svg of each drawing, both on white, and NAME.json of its numbers, if it has some.

    Returns their paths; raises `StorageError`.
    """
    make_folder(folder)
    paths = []
    for drawing in drawings:
        svg = as_svg(drawing.figure, name=drawing.name, title=drawing.title, opaque=True)
        numbers = json.dumps(drawing.numbers, indent=1, allow_nan=False) + "\n"
        data_of = {".png": as_png(drawing.figure), ".svg": svg.encode(), ".json": numbers.encode()}
        for suffix in drawing.suffixes:
            paths.append(folder / f"{drawing.name}{suffix}")
            write_durably(paths[-1], data_of[suffix])
    return paths


def _draw_family(family: _Family, summaries: Sequence[HeadSummary], found: Drawings) -> None:
    """Add a family's figure of the first heads that have one, and why others have none."""
    reasons: dict[str, list[str]] = {}
    able = []
    for summary in summaries:
        if reason := family.without(summary):
            reasons.setdefault(reason, []).append(summary.name)
        else:
            able.append(summary)
    found.left_out.extend(f"{family.name}: without {listed(names)}: {why}" for why, names in reasons.items())
    if not able:
        return
    shown = able[:MOST_HEADS]
    figure, caption = family.draw(shown)
    caption += cut_note(len(shown), len(able))
    found.drawings.append(Drawing(family.name, family.title, figure, caption))
