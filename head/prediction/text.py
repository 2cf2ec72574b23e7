"""The predictions of many images together: as a CSV file, as JSON and as lines of text."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featcache.base.errors import list_problems, printable
from featcache.base.files import csv_bytes, write_output
from featcache.images.notes import describe, some_of
from head.evaluation.marks import ScoreRange, mark_narrow, mark_outside
from head.evaluation.text import aligned
from head.prediction.folders import Folder
from head.prediction.map_files import is_occlusion
from head.prediction.nearest import FAR_QUANTILE
from head.prediction.predictor import Prediction


@dataclass(frozen=True)
class Predictions:
    """One prediction an image, in order, what was found in each folder that they are from, and of how many members.

    score_range is that of the scores that the members were trained on, None where they do not tell it. tokens are in
    words what attention can go to that has no place in maps.
    """

    of_images: Sequence[Prediction]
    folders: Sequence[Folder] = ()
    members: int = 1
    score_range: ScoreRange | None = None
    tokens: str = ""

    @property
    def unread(self) -> int:
        """How many images have a problem instead of a score."""
        return sum(bool(one.problem) for one in self.of_images)

    def as_json(self) -> list[dict[str, Any]]:
        """Return them as JSON objects, each with its folder's numbers of files as found_in, None for a file named."""
        found_in = {path: self._counted(folder) for folder in self.folders for path in folder.images}
        return [{**one.as_json(), "found_in": found_in.get(one.path) if one.path else None} for one in self.of_images]

    def as_text(self) -> str:
        """Return them as a text table."""
        return aligned(self._lines())

    def write_csv(self, path: Path) -> None:
        """Write path,score,m_1..m_T,in_training,outside_range,problem as CSV, one line an image.

        Of several members also deviation, which stands behind score, and with intervals lower and upper behind that;
        all are empty where there is no score. Where images have neighbours, far stands behind outside_range.
        """
        write_output(path, csv_bytes(self._lines()))

    def warnings(self, *, every: bool = False) -> list[str]:
        """Return how many images the head was trained on, marks, which could not be read, what folders have, and notes.

        Of files left out and images with notes the first few are named, or every one.
        """
        notes = [(str(one.path), note) for one in self.of_images for note in one.notes]
        return [
            *self._trained_on(),
            *self._marks(),
            *([self._unread()] if self.unread else []),
            *(self._count(folder, every=every) for folder in self.folders),
            *describe(notes, every=every),
        ]

    def written(self, *, table: Path | None, maps: Path | None) -> list[str]:
        """Return where the table of all images and the maps of those that were scored are, where they were written."""
        lines = f"{table}: the table, {len(self.of_images):,} lines, the last column the problem of what was not scored"
        mapped = [one.maps for one in self.of_images if one.maps is not None]
        what = "occlusion maps" if any(map(is_occlusion, mapped)) else "maps"
        told = f"{maps}{os.sep}: {what} of {len(mapped):,} images{self._on_tokens()}"
        return [*([lines] if table else []), *([told] if maps else [])]

    def _on_tokens(self) -> str:
        """Return how much of the attention is on tokens, as the mean over images and steps; '' where there are none."""
        shares = [share for one in self.of_images for share in one.on_tokens]
        return f"; {np.mean(shares):.0%} of attention, which they lack, is on {self.tokens}" if shares else ""

    def _trained_on(self) -> list[str]:
        """Return on how many images the head was trained, and how many of its members on how many of them."""
        seen = [one.trained_members for one in self.of_images if one.in_training]
        by_members = sorted(Counter(seen).items(), reverse=True)
        counts = ", ".join(f"{count} by {trained} of {self.members} members" for trained, count in by_members)
        of_each = f" ({counts})" if self.members > 1 else ""
        told = f"warning: the head was trained on {len(seen)} of these images{of_each}; its scores of them say nothing"
        return [told] if seen else []

    def _marks(self) -> list[str]:
        """Return how many scores are outside the range of training, and whether all are close together."""
        scores = [one.score for one in self.of_images if one.score is not None]
        marks = (mark_outside(scores, self.score_range), mark_narrow(scores, self.score_range), self._far_away())
        return [f"warning: {mark}" for mark in marks if mark]

    def _far_away(self) -> str:
        """Return how many images are far from all that the head was trained on, '' if none is, or it is not known."""
        known = [one.neighbours.far for one in self.of_images if one.neighbours]
        count = "the image is" if len(known) == 1 else f"{sum(known):,} of {len(known):,} images are"
        beyond = (
            f"farther than {FAR_QUANTILE:.0%} of those are from each other: the head may know nothing of their kind"
        )
        return f"{count} far from all images that the head was trained on, {beyond}" if any(known) else ""

    def _unread(self) -> str:
        problems = [printable(f"{one.path}: {one.problem}") for one in self.of_images if one.problem]
        title = f"{self.unread} of {len(self.of_images)} images could not be read:"
        return list_problems(title, problems, "Mend them or leave them out; the others are scored.")

    def _counted(self, folder: Folder) -> dict[str, Any]:
        """Return a folder's numbers of files, as JSON: found = scored + unread + those left out, by reason."""
        unread = len(self._unread_in(folder))
        return {
            "folder": str(folder.path),
            "found": folder.found,
            "scored": len(folder.images) - unread,
            "unread": unread,
            "left_out": folder.reasons(),
        }

    def _count(self, folder: Folder, *, every: bool) -> str:
        unread = [folder.shown(path) for path in self._unread_in(folder)]
        title = f"{printable(str(folder.path)).rstrip(os.sep)}{os.sep}: {folder.found:,} files"
        parts = [f"{len(folder.images) - len(unread):,} scored"]
        parts += [f"{len(unread):,} could not be read ({some_of(unread, every=every)})"] if unread else []
        parts += [folder.describe_left_out(every=every)] if folder.left_out else []
        return f"{title}: {', '.join(parts)}"

    def _unread_in(self, folder: Folder) -> list[Path]:
        problems = {one.path for one in self.of_images if one.problem}
        return [path for path in folder.images if path in problems]

    def _lines(self) -> list[list[str]]:
        steps = max((len(one.step_scores) for one in self.of_images), default=0)
        bounds = ["lower", "upper"] if any(one.lower is not None for one in self.of_images) else []
        deviations = ["deviation"] if self.members > 1 else []
        names = ["score", *deviations, *bounds, *(f"m_{t}" for t in range(1, steps + 1))]
        said = {None: "unknown", False: "no", True: "yes"}
        near = any(one.neighbours for one in self.of_images)
        lines = [["path", *names, "in_training", "outside_range", *(["far"] if near else []), "problem"]]
        for one in self.of_images:
            optional = [value for value in (one.deviation, one.lower, one.upper) if value is not None]
            numbers = [] if one.score is None else [one.score, *optional, *one.step_scores]
            cells = [f"{number:.6f}" for number in numbers] or [""] * len(names)
            outside = "" if one.score is None else said[one.outside_range]
            far = [said[one.neighbours.far] if one.neighbours else ""] if near else []
            lines.append([str(one.path), *cells, said[one.in_training], outside, *far, one.problem])
        return lines
