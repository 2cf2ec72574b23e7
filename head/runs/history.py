"""What training tells of each epoch: history.csv in the run's folder.

It holds what settings, data and machine decide, to the byte; how long epochs took only `head.runs.events` tells.
"""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

from featcache.base.files import csv_bytes, write_durably

HISTORY_NAME = "history.csv"
_TIMES = ("seconds", "images_per_second", "waiting_seconds")
History = Sequence[dict[str, float]]  # one an epoch, from the first; each has its number as 'epoch'
OnHistory = Callable[[History], None]


def write_history(folder: Path, history: History) -> None:
    """Write history.csv: one line an epoch."""
    fields = [field for field in history[0] if field not in _TIMES]
    lines = [[epoch.get(field, "") for field in fields] for epoch in history]
    write_durably(folder / HISTORY_NAME, csv_bytes([fields, *lines]))


def read_history(folder: Path) -> list[dict[str, float]]:
    """Return the history of a finished run; empty for a head that was fitted in one go."""
    path = folder / HISTORY_NAME
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{field: float(value) for field, value in line.items()} for line in csv.DictReader(file)]
