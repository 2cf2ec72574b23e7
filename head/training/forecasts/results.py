"""What was found of trainings that are not started yet, as text and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from featcache.base.errors import counted
from featcache.base.progress import duration


@dataclass(frozen=True)
class Runs:
    """How many runs a training has, and how many of them are finished already and would be kept."""

    name: str
    runs: int
    finished: int

    def as_text(self) -> str:
        """Return the runs as a line for a person."""
        there = f", of which {self.finished} {'is' if self.finished == 1 else 'are'} finished" if self.finished else ""
        return f"{self.name}: {counted(self.runs, 'run')}{there}"


@dataclass(frozen=True)
class GradientForecast:
    """memory is that of a process, a part a name, bytes its sum; free_bytes are what all processes may take.

    heads are in memory at once, and processes side by side. at_most_epochs and at_most_seconds are of a run, and of all
    runs that are not finished, one after another.
    """

    of: Runs
    device: str
    parameters: int
    trained: int
    heads: int
    memory: dict[str, int]
    bytes: int
    free_bytes: int
    processes: int
    batch_size: int
    steps_timed: int
    images_per_second: float
    epoch_seconds: float
    start_seconds: float
    at_most_epochs: int
    at_most_seconds: float
    ends_early: bool
    way_out: str

    def as_json(self) -> dict[str, Any]:
        """Return the forecast as a JSON object."""
        found = asdict(self)
        return {**found.pop("of"), **found}

    def as_text(self) -> str:
        """Return the forecast as lines for a person."""
        parts = ", ".join(f"{name} {_gigabytes(size)}" for name, size in self.memory.items())
        each = f" for each of {self.processes} processes" if self.processes > 1 else ""
        early = "; early stopping ends most sooner" if self.ends_early else ""
        epochs = counted(self.at_most_epochs, "epoch")
        lines = [
            self.of.as_text(),
            f"weights  {self.parameters:,}, of which {self.trained:,} are trained",
            f"memory   about {_gigabytes(self.bytes)} GB{each}, {_gigabytes(self.free_bytes)} GB are free:",
            f"         {parts}",
            *([f"         {self.heads} heads at once, as train is cross-validated"] if self.heads > 1 else []),
            f"epoch    {duration(self.epoch_seconds)} at {self.images_per_second:,.1f} images/s, timed here just now "
            f"on {self.steps_timed} batches of {self.batch_size} ({self.device})",
            f"start    {self.start_seconds:.1f} s",
            self._time(epochs, early),
        ]
        return "\n".join(lines)

    def _time(self, epochs: str, early: str) -> str:
        if self.of.finished == self.of.runs:
            return "time     none, as all are finished"
        return (
            f"time     about {duration(self.at_most_seconds)} at most for the runs that are left, one after another, "
            f"each of at most {epochs}{early}"
        )

    def warnings(self) -> list[str]:
        """Return that the memory will not do, and what would take less."""
        needed = self.processes * self.bytes
        if needed <= self.free_bytes:
            return []
        return [
            f"warning: {self.of.name}: takes about {_gigabytes(needed)} GB of memory, and "
            f"{_gigabytes(self.free_bytes)} GB are free; {self.way_out}"
        ]


@dataclass(frozen=True)
class BaselineForecast:
    """So many vectors are read of so many images, as bytes of memory, to fit so many candidates to each run.

    heads are how many sets of vectors are in memory at once.
    """

    of: Runs
    images: int
    vectors: int
    channels: int
    heads: int
    bytes: int
    candidates: int
    at_most_epochs: int

    def as_json(self) -> dict[str, Any]:
        """Return the forecast as a JSON object."""
        found = asdict(self)
        return {**found.pop("of"), **found}

    def as_text(self) -> str:
        """Return the forecast as lines for a person."""
        folds = f", {self.heads} times as train is cross-validated" if self.heads > 1 else ""
        epochs = f", each of at most {self.at_most_epochs} epochs" if self.at_most_epochs > 1 else ""
        count = counted(self.candidates, "candidate")
        return "\n".join(
            [
                self.of.as_text(),
                f"reads    {self.vectors:,} vectors of {self.channels:,} numbers, of {self.images:,} images: "
                f"{self.bytes:,} bytes in memory{folds}",
                f"fits     {count}{epochs}, by scikit-learn, which is not timed",
            ]
        )

    def warnings(self) -> list[str]:
        """Return nothing: what is read is bounded."""
        return []


@dataclass(frozen=True)
class MembersForecast:
    """Of a head of others: how many members it has, and without how many folds each is fitted again, 0 for none."""

    of: Runs
    members: int
    folds: int

    def as_json(self) -> dict[str, Any]:
        """Return the forecast as a JSON object."""
        found = asdict(self)
        return {**found.pop("of"), **found}

    def as_text(self) -> str:
        """Return the forecast as lines for a person."""
        again = f"each fitted {self.folds} times more a run, which is not timed" if self.folds else "as they are"
        return f"{self.of.as_text()}\ntakes    {self.members} heads, {again}"

    def warnings(self) -> list[str]:
        """Return nothing: members that could be trained can be fitted to less."""
        return []


@dataclass(frozen=True)
class Forecasts:
    """What each training of a grid will take."""

    trainings: Sequence[GradientForecast | BaselineForecast | MembersForecast]

    def as_json(self) -> list[dict[str, Any]]:
        """Return the forecasts as JSON objects."""
        return [one.as_json() for one in self.trainings]

    def as_text(self) -> str:
        """Return the forecasts as lines for a person."""
        return "\n\n".join(one.as_text() for one in self.trainings)

    def warnings(self) -> list[str]:
        """Return which trainings need more memory than is free."""
        return [warning for one in self.trainings for warning in one.warnings()]


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.3g}"
