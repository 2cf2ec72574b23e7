"""Where the time of an extraction goes: seconds that threads were busy, by stage."""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping

from featcache.backbones.backbone import Backbone, loader_threads

STAGES = ("decode", "views", "backbone", "encode", "write")


class StageTimes:
    """Busy seconds of each stage, added up over threads; any thread may add.

    decode is reading and decoding files, views cutting and resizing, encode rounding, pooling and compressing.
    """

    def __init__(self, seconds: Mapping[str, float] | None = None) -> None:
        self._seconds = dict.fromkeys(STAGES, 0.0) | dict(seconds or {})
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds that the block takes."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add({stage: time.perf_counter() - started})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add seconds to stages."""
        with self._lock:
            for stage, value in seconds.items():
                self._seconds[stage] += value

    @property
    def seconds(self) -> dict[str, float]:
        """Busy seconds by stage."""
        with self._lock:
            return dict(self._seconds)

    @property
    def shares(self) -> dict[str, float]:
        """The part of all busy seconds that each stage took, 0 to 1."""
        seconds = self.seconds
        total = sum(seconds.values()) or 1.0
        return {stage: value / total for stage, value in seconds.items()}


def describe_shares(shares: Mapping[str, float]) -> str:
    """Return 'backbone 91%, encode 5%, views 3%', largest first; what is under half a percent is left out."""
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return ", ".join(f"{stage} {share:.0%}" for stage, share in ordered if share > 0.005)


def bottleneck(times: StageTimes, backbone: Backbone) -> str:
    """Return the stage whose threads were busy for the largest part of the time."""
    seconds, cores = times.seconds, backbone.execution.threads
    busy = {
        "backbone": seconds["backbone"] / backbone.streams,
        "encode": seconds["encode"] / cores,
        "write": seconds["write"],
    }
    if backbone.cuts_views:
        busy["decode"] = seconds["decode"] / loader_threads(backbone)
        busy["views"] = seconds["views"] / backbone.streams
    else:  # the same threads decode and cut
        larger = max("decode", "views", key=lambda stage: seconds[stage])
        busy[larger] = (seconds["decode"] + seconds["views"]) / loader_threads(backbone)
    return max(busy, key=lambda stage: busy[stage])
