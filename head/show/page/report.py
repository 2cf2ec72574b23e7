"""The report: everything a page shows of a cache and its runs, and the one file that it becomes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featcache.base.errors import InvalidSettings, join_errors, list_problems, printable
from featcache.base.files import write_durably, write_output
from featcache.base.progress import OnProgress, silent
from featcache.store.cache import FeatureCache
from head.data.batches import EVAL_VIEW, present_part
from head.evaluation.evaluate import Evaluation, evaluate
from head.evaluation.score import attention_of, predictions_csv
from head.evaluation.summary import named_groups
from head.explain.faithfulness import Faithfulness
from head.explain.occlusion import occludes, occlusion_of
from head.prediction.map_files import write_maps
from head.runs.find import find_runs_of
from head.show.figures.faithfulness import draw_faithfulness, faithful_heads
from head.show.figures.figures import draw_all, svg_of
from head.show.page.document import json_block, page_of
from head.show.page.facts import cache_facts, score_facts
from head.show.page.gallery import Gallery, find_summary, gallery_of, shown_summary
from head.show.page.thumbnails import SMALL_SIDE, Thumbnail, images_folder, thumbnails_of

LARGEST_PAGE = 40_000_000  # bytes, unless maps and figures alone take more
_PAGE_ITSELF = 100_000  # bytes of style and script, and of what is said of pictures that are missing
_SMALL_PICTURE = 1500  # bytes of one at 48 pixels
_FEW = 8


@dataclass(frozen=True)
class ReportSettings:
    """What a report shows: root is the dataset's folder if it has moved, head the one whose maps are shown, most the
    number of images in the gallery. maps is the folder that takes the maps as they are, if they are asked for.
    """

    root: Path | None = None
    head: str | None = None
    most: int = 2000
    maps: Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.most <= 10_000:
            raise InvalidSettings(f"--images must be 1 to 10,000, found {self.most}")


@dataclass(frozen=True)
class Report:
    """What a page shows, as a JSON object, the head whose maps it has, how many images, and which have no picture."""

    data: dict[str, Any]
    head: str
    images: int
    problems: Sequence[tuple[str, str]]

    def warnings(self) -> list[str]:
        """Return what to know of images that are shown without a picture."""
        if not self.problems:
            return []
        lines = [f"{printable(name)}: {problem}" for name, problem in self.problems[:_FEW]]
        lines += [f"and {len(self.problems) - _FEW:,} more"] if len(self.problems) > _FEW else []
        title = f"warning: {len(self.problems):,} of {self.images:,} images have no picture:"
        return [list_problems(title, lines, "Pass the dataset's folder as --root DIR if it has moved.")]


@dataclass(frozen=True)
class WrittenReport:
    """The file of a report and its size in bytes; whose maps it has, of how many images, how many without a picture.

    maps are the files of maps as they are, if they were asked for.
    """

    path: Path
    bytes: int
    head: str
    images: int
    without_picture: int
    maps: Sequence[Path] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {**asdict(self), "path": str(self.path), "maps": [str(path) for path in self.maps]}

    def as_text(self) -> str:
        """Return the page and the files of maps, one a line."""
        page = f"{self.path}: {self.images:,} images, as {self.head} sees them, {self.bytes / 1e6:.1f} MB"
        return "\n".join([page, *map(str, self.maps)])

    def warnings(self) -> list[str]:
        """Return what to know of its size."""
        if self.bytes <= LARGEST_PAGE:
            return []
        return [f"warning: {self.path} has {self.bytes / 1e6:.1f} MB, which opens slowly; --images takes fewer"]


def evaluate_for(
    cache: FeatureCache,
    runs: Path,
    settings: ReportSettings,
    *,
    splits: str = "all",
    part: str = "test",
    against: str | None = None,
    weights: str | None = None,
) -> Evaluation:
    """Return what `head.evaluate` does, having checked first that root and head name something.

    Raises `InvalidSettings` if they do not, and what `evaluate` raises; of runs none of which can be scored, their
    errors.
    """
    images_folder(cache, settings.root)
    if settings.head is not None or settings.maps is not None:
        _check_head(cache, runs, splits, settings)
    found = evaluate(cache, runs, splits=splits, part=part, against=against, weights=weights)
    if not found.scored:
        raise join_errors(found.errors, "no run could be scored:", "Train one, or name others with --runs.")
    return found


def _check_head(cache: FeatureCache, runs: Path, splits: str, settings: ReportSettings) -> None:
    """Raise `InvalidSettings` unless the head that is named exists, and has maps if they are asked for."""
    finished = [run for run in find_runs_of(cache, runs, splits).runs if run.finished]
    runs_of = {name: [finished[place] for place in places] for name, places in named_groups(finished)}
    meant = finished if settings.head is None else list(runs_of.values())[find_summary(runs_of, settings.head)]
    if settings.maps is not None and meant and not any(run.attends or occludes(run) for run in meant):
        who = f"{settings.head} has no attention, nor" if settings.head else "no head here has attention, or"
        raise InvalidSettings(f"--maps: {who} features with places; leave --maps out")


def build_report(
    cache: FeatureCache, evaluation: Evaluation, settings: ReportSettings, *, on_progress: OnProgress = silent
) -> Report:
    """Return the report of an evaluation, equal for equal files.

    Raises `InvalidSettings` if root or head names nothing.
    """
    folder = images_folder(cache, settings.root)
    gallery = gallery_of(cache, evaluation, shown=shown_summary(evaluation, settings.head), most=settings.most)
    images = [cache.images[row] for row in gallery.rows]
    told = faithful_heads(cache, evaluation)
    data: dict[str, Any] = {
        "cache": cache_facts(cache),
        "scores": score_facts(evaluation, cache),
        "maps": {one.name: {"says": one.says, "verdict": one.verdict()} for one in told},
        "figures": _figures(cache, evaluation, told),
        "gallery": _gallery_data(cache, gallery, [Thumbnail()] * len(images)),
    }
    room = (LARGEST_PAGE - _PAGE_ITSELF - len(json_block(data))) * 3 // 4  # base64 makes 4 bytes of 3
    near = _near_pictures(cache, gallery, folder, budget=room // 5)
    room -= sum(len(one.data) for one in near)
    thumbnails = thumbnails_of(images, folder, budget=room - 2 * len(images), on_progress=on_progress)
    data["gallery"] = _gallery_data(cache, gallery, thumbnails, near)
    problems = [(image.name, one.problem) for image, one in zip(images, thumbnails, strict=True) if one.problem]
    return Report(data, evaluation.summaries[gallery.shown].name, len(images), problems)


def page_text(report: Report) -> str:
    """Return the page of a report."""
    return page_of(report.data, title=f"{report.data['cache']['name']}: {report.head}")


def write_report(path: Path, report: Report, *, maps: Sequence[Path] = ()) -> WrittenReport:
    """Write the page at once, durably; maps are what `write_raw_maps` wrote for it."""
    page = page_text(report).encode()
    write_output(path, page)
    return WrittenReport(path, len(page), report.head, report.images, len(report.problems), maps)


def write_raw_maps(cache: FeatureCache, evaluation: Evaluation, settings: ReportSettings) -> list[Path]:
    """Write the maps of the head that is shown, if asked for: split-K.npy (n, T, H, W) of each split's first seed.

    Of occlusion it is split-K.occlusion.npy. Image k of it is line k of split-K.csv, which has its prediction. Raises
    `InvalidSettings` of a head that has neither.
    """
    if settings.maps is None:
        return []
    shown = evaluation.summaries[shown_summary(evaluation, settings.head)]
    found = []
    for split, scored in shown.first_seeds().items():
        run, rows = scored.run, present_part(cache, cache.splits[split][scored.part]).rows
        if not run.attends and not occludes(run):
            raise InvalidSettings(f"--maps: {shown.name} has no attention; name a row that has by --head")
        path = settings.maps / f"split-{split}{'' if run.attends else '.occlusion'}.npy"
        write_maps(path, np.concatenate(list(attention_of(cache, run, rows) or occlusion_of(cache, run, rows))))
        write_durably(settings.maps / f"split-{split}.csv", predictions_csv(scored))
        found.append(path)
    return found


def _near_pictures(cache: FeatureCache, gallery: Gallery, folder: Path, *, budget: int) -> list[Thumbnail]:
    """Return small pictures of the images that are near some of the gallery, without any if they would not fit."""
    rows = gallery.near_rows
    if budget < _SMALL_PICTURE * len(rows):
        return [Thumbnail()] * len(rows)
    return thumbnails_of([cache.images[row] for row in rows], folder, budget=budget, largest=SMALL_SIDE)


def _gallery_data(
    cache: FeatureCache, gallery: Gallery, thumbnails: Sequence[Thumbnail], near: Sequence[Thumbnail] = ()
) -> dict[str, Any]:
    near = near or [Thumbnail()] * len(gallery.near_rows)
    return {
        "shown": gallery.shown,
        "of": gallery.images,
        "ratings": [round(rating, 6) for rating in gallery.ratings],
        "images": {
            row: {
                "name": cache.images[row].name,
                "size": [cache.images[row].width, cache.images[row].height],
                "box": cache.box[row, EVAL_VIEW].tolist(),
                "picture": thumbnail.as_text(),
                "problem": thumbnail.problem,
            }
            for row, thumbnail in zip(gallery.rows, thumbnails, strict=True)
        },
        "near": {
            row: {"name": cache.images[row].name, "picture": thumbnail.as_text()}
            for row, thumbnail in zip(gallery.near_rows, near, strict=True)
        },
        "entries": [entry.as_json() for entry in gallery.entries],
    }


def _figures(cache: FeatureCache, evaluation: Evaluation, told: Sequence[Faithfulness]) -> dict[str, Any]:
    """Return the figures as SVG, and why others were left out: all of them, where matplotlib is not installed."""
    try:
        found = [draw_all(cache, evaluation), draw_faithfulness(told, evaluation)]
    except InvalidSettings as error:
        return {"drawings": [], "left_out": [str(error)]}
    drawings = [
        {"title": one.title, "caption": one.caption, "svg": svg_of(one)} for part in found for one in part.drawings
    ]
    return {"drawings": drawings, "left_out": [reason for part in found for reason in part.left_out]}
