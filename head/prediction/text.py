"""The predictions of many images together: as a CSV file, as JSON and as lines of text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.base.files import csv_bytes, write_output
from head.evaluation.text import aligned
from head.prediction.predictor import Prediction


@dataclass(frozen=True)
class Predictions:
    """One prediction an image, in order."""

    of_images: Sequence[Prediction]

    @property
    def unread(self) -> int:
        """How many images have a problem instead of a score."""
        return sum(bool(one.problem) for one in self.of_images)

    def as_json(self) -> list[dict[str, Any]]:
        """Return them as JSON objects."""
        return [one.as_json() for one in self.of_images]

    def as_text(self) -> str:
        """Return them as a text table."""
        return aligned(self._lines())

    def write_csv(self, path: Path) -> None:
        """Write path,score,m_1..m_T,in_training,problem as CSV, one line an image."""
        write_output(path, csv_bytes(self._lines()))

    def warnings(self) -> list[str]:
        """Return how many images the head was trained on, and how many could not be read, where there are any."""
        seen = sum(bool(one.in_training) for one in self.of_images)
        trained_on = f"warning: the head was trained on {seen} of these images; its scores of them say nothing"
        unread = f"{self.unread} of {len(self.of_images)} images could not be read"
        return [*([trained_on] if seen else []), *([unread] if self.unread else [])]

    def _lines(self) -> list[list[str]]:
        steps = max((len(one.step_scores) for one in self.of_images), default=0)
        lines = [["path", "score", *(f"m_{t}" for t in range(1, steps + 1)), "in_training", "problem"]]
        for one in self.of_images:
            numbers = [] if one.score is None else [one.score, *one.step_scores]
            cells = [f"{number:.6f}" for number in numbers] or [""] * (1 + steps)
            seen = {None: "unknown", False: "no", True: "yes"}[one.in_training]
            lines.append([str(one.path), *cells, seen, one.problem])
        return lines
