"""How long-running library calls report progress. They call back; only `TerminalProgress` prints, on stderr."""

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class Progress:
    """done of total units of a stage are finished, `skipped` of them before this run; note is shown beside them."""

    stage: str
    done: int
    total: int
    unit: str
    note: str = ""
    skipped: int = 0


OnProgress = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Report nothing."""


class TerminalProgress:
    """A bar with rate and time left on a terminal, a plain line every ten seconds elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bar: Any = None
        self._stage = ""
        self._started = self._printed = 0.0

    def __call__(self, progress: Progress) -> None:
        with contextlib.suppress(OSError):  # a full or closed terminal must not end the work
            if progress.stage != self._stage:
                self.close()
                self._stage, self._started, self._printed = progress.stage, time.monotonic(), time.monotonic()
            if self._stream.isatty():
                self._update_bar(progress)
            elif progress.done == progress.total or time.monotonic() - self._printed > _SECONDS_BETWEEN_LINES:
                self._print_line(progress)

    def close(self) -> None:
        """End the bar, so that other output starts on a line of its own."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._stage = None, ""

    def _update_bar(self, progress: Progress) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(
                desc=progress.stage,
                total=progress.total,
                unit=f" {progress.unit}",
                initial=progress.skipped,
                file=self._stream,
                dynamic_ncols=True,
            )
        self._bar.set_postfix_str(progress.note, refresh=False)
        self._bar.update(progress.done - self._bar.n)

    def _print_line(self, progress: Progress) -> None:
        self._printed = time.monotonic()
        rate = (progress.done - progress.skipped) / max(1e-9, self._printed - self._started)
        left = (progress.total - progress.done) / rate if rate else 0.0
        parts = [f"{progress.stage}: {progress.done:,} of {progress.total:,} {progress.unit}"]
        parts += [f"{rate:,.1f} a second", f"{duration(left)} left"] if left and rate else []
        parts += [progress.note] if progress.note else []
        print(", ".join(parts), file=self._stream, flush=True)


def duration(seconds: float) -> str:
    """Return seconds as '1 h 05 min', '3 min 10 s' or '7.1 s'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
