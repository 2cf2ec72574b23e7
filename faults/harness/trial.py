"""What a campaign is: how large it runs, what it counts, and where it keeps what failed. Knows no fault."""

import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featcache.base.errors import FeatcacheError

MOST_FAILURES_KEPT, MOST_FAILURES_SHOWN = 20, 5


@dataclass(frozen=True)
class Size:
    """How many trials each campaign makes; a number of seconds is a limit."""

    name: str
    kills: int
    injected_kills: int
    repairs: int
    every_call: bool
    file_limits: int
    disk_sizes: int
    crash_states: int
    chunk_flips: int
    table_flips: int
    other_flips: int
    cuts: int
    moves: int
    fuzz_cases: int
    fuzz_seconds: int
    together_seconds: int
    repeats: int
    mutants: bool


SIZES = {
    "small": Size(
        name="small",
        kills=6,
        injected_kills=0,
        repairs=4,
        every_call=False,
        file_limits=4,
        disk_sizes=0,
        crash_states=40,
        chunk_flips=40,
        table_flips=20,
        other_flips=20,
        cuts=10,
        moves=4,
        fuzz_cases=100,
        fuzz_seconds=10,
        together_seconds=1,
        repeats=1,
        mutants=False,
    ),
    "quick": Size(
        name="quick",
        kills=60,
        injected_kills=0,
        repairs=30,
        every_call=True,
        file_limits=40,
        disk_sizes=6,
        crash_states=300,
        chunk_flips=500,
        table_flips=150,
        other_flips=400,
        cuts=120,
        moves=20,
        fuzz_cases=2_000,
        fuzz_seconds=30,
        together_seconds=20,
        repeats=1,
        mutants=True,
    ),
    "full": Size(
        name="full",
        kills=500,
        injected_kills=60,
        repairs=300,
        every_call=True,
        file_limits=200,
        disk_sizes=60,
        crash_states=2_000,
        chunk_flips=10_000,
        table_flips=1_000,
        other_flips=4_000,
        cuts=1_000,
        moves=200,
        fuzz_cases=20_000,
        fuzz_seconds=180,
        together_seconds=300,
        repeats=20,
        mutants=True,
    ),
}


@dataclass
class Tally:
    """What a campaign found. `silent` counts wrong data that came without an error; failures say all that went wrong.

    counts says how often each thing was done or came out; skipped maps what could not be done here to the reason.
    """

    campaign: str
    trials: int = 0
    silent: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every trial came out as it must."""
        return self.trials > 0 and not self.failures

    def as_json(self) -> dict[str, Any]:
        """Return the tally as a JSON object, with the first failures in full."""
        return {
            "passed": self.passed,
            "trials": self.trials,
            "silent": self.silent,
            "failed": len(self.failures),
            "counts": dict(sorted(self.counts.items())),
            "failures": self.failures[:MOST_FAILURES_KEPT],
            "skipped": self.skipped,
            "seconds": round(self.seconds, 1),
        }


class EnoughError(Exception):
    """A campaign that was to stop at its first failure has had one."""


@dataclass
class Campaign:
    """One campaign while it runs: its size, its randomness, a scratch folder, and the folder for what fails."""

    tally: Tally
    size: Size
    seed: int
    scratch: Path
    keep: Path
    stop_at_first: bool = False

    def random(self, *key: object) -> random.Random:
        """Return the randomness of one trial: a function of the seed, the campaign and key alone."""
        return random.Random(f"{self.seed}/{self.tally.campaign}/{'/'.join(map(str, key))}")

    def good(self, *outcomes: str) -> None:
        """Count a trial that came out as it must, under each of outcomes."""
        self.tally.trials += 1
        self.tally.counts.update(outcomes)

    def bad(self, what: str, *, silent: bool = False, keep: Mapping[str, bytes] | Path | None = None) -> None:
        """Count a trial that did not, and keep the bytes or the folder that show it."""
        self.tally.trials += 1
        self.tally.silent += silent
        place = ""
        if keep is not None and len(self.tally.failures) < MOST_FAILURES_KEPT:
            place = f"; kept in {self._keep(keep)}"
        self.tally.failures.append(f"{'SILENT: ' if silent else ''}{what} (seed {self.seed}{place})")
        if len(self.tally.failures) <= MOST_FAILURES_SHOWN:
            print(f"{self.tally.campaign}: {self.tally.failures[-1]}", file=sys.stderr, flush=True)
        if self.stop_at_first:
            raise EnoughError

    def judge(self, what: str, result: object, *, keep: Mapping[str, bytes] | Path | None = None) -> None:
        """Count a `Verdict`, or whatever ended the trial's process instead of one."""
        if isinstance(result, Verdict) and not result.problem:
            self.good(*result.outcomes)
        else:
            problem, silent = (result.problem, result.silent) if isinstance(result, Verdict) else (str(result), False)
            self.bad(f"{what}: {problem}", silent=silent, keep=keep)

    def folder(self, name: str) -> Path:
        """Return an empty scratch folder of that name."""
        path = self.scratch / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def _keep(self, what: Mapping[str, bytes] | Path) -> Path:
        place = self.keep / self.tally.campaign / f"{len(self.tally.failures):03d}"
        if isinstance(what, Path):
            shutil.copytree(what, place, dirs_exist_ok=True)
            return place
        for name, data in what.items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return place


@dataclass(frozen=True)
class Verdict:
    """How one trial came out: what to count, or the problem; silent if wrong data came without an error."""

    outcomes: tuple[str, ...] = ()
    problem: str = ""
    silent: bool = False


def exact_or(
    errors: Iterable[type[FeatcacheError]], error: BaseException | None, same: bool | None, *labels: str
) -> Verdict:
    """Judge a trial that must end in the exact result or in one of errors (the class itself, not a subclass)."""
    if error is None:
        return Verdict((*labels, "exact")) if same else Verdict(problem="wrong data without an error", silent=True)
    if type(error) in tuple(errors):
        return Verdict((*labels, type(error).__name__))
    return Verdict(problem=f"{type(error).__name__} is not an error for this: {error}")


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() - self._started
