"""Loops over pixels that are compiled for the CPU: how, and the one that several descriptors share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from featcache.base.loops.machine_code import kept

_SOURCES = tuple(sorted(Path(__file__).parent.glob("*.py")))


def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a loop that runs without Python's lock and fills its last arguments.

    The sums keep the order in which they are written, so that they are the same on every processor. The machine code is
    kept for the next process.
    """
    return kept(numba.njit(nogil=True, error_model="numpy")(function), *_SOURCES)


def window_sums(planes: NDArray[np.float32], taps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return planes (K, h, w) summed under taps (n,) down and across, at every place where a window lies inside.

    The result is (K, h - n + 1, w - n + 1); entry (k, y, x) belongs to rows y to y + n - 1, columns x to x + n - 1.
    """
    count, height, width = planes.shape
    down = np.zeros((count, height - len(taps) + 1, width), np.float32)
    both = np.zeros((count, height - len(taps) + 1, width - len(taps) + 1), np.float32)
    _window_sums(planes, taps, down, both)
    return both


@compiled
def _window_sums(planes: NDArray[Any], taps: NDArray[Any], down: NDArray[Any], both: NDArray[Any]) -> None:
    for k in range(both.shape[0]):
        for y in range(both.shape[1]):
            for t in range(len(taps)):
                tap = taps[t]
                for x in range(down.shape[2]):
                    down[k, y, x] += tap * planes[k, y + t, x]
            for t in range(len(taps)):
                tap = taps[t]
                for x in range(both.shape[2]):
                    both[k, y, x] += tap * down[k, y, x + t]
