"""Compiled loops: their results where machine code is kept and where no folder takes it, and sums under windows."""

import errno
import os
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from numba.core.caching import IndexDataCacheFile

from featcache.backbones.descriptors.compiled import compiled, window_sums


def loop_without_a_file() -> Callable[..., None]:
    """Return a function that Numba finds no folder for, as where neither the module's nor the user's takes files."""
    names: dict[str, Any] = {}
    exec("def fill(out):\n    for i in range(len(out)):\n        out[i] = 2 * i\n", names)
    fill: Callable[..., None] = names["fill"]
    return fill


def doubled(out: Any) -> None:
    for i in range(len(out)):
        out[i] = 2 * i


def test_a_loop_runs_where_no_folder_takes_its_machine_code() -> None:
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(loop_without_a_file())
    out = np.zeros(5)
    compiled(loop_without_a_file())(out)
    assert out.tolist() == [0, 2, 4, 6, 8]


def test_a_loop_runs_where_the_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def save(*_: object) -> None:
        tried.append(1)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(IndexDataCacheFile, "save", save)
    monkeypatch.setattr(IndexDataCacheFile, "load", lambda *_: None)
    out = np.zeros(5)
    compiled(doubled)(out)
    assert out.tolist() == [0, 2, 4, 6, 8]
    assert tried


def test_windows_are_summed_under_their_taps() -> None:
    rng = np.random.default_rng(0)
    planes, taps = rng.random((2, 7, 11), np.float32), np.array([0.5, 2, 1], np.float32)
    found = window_sums(planes, taps)
    assert found.shape == (2, 5, 9)
    for k, y, x in ((0, 0, 0), (1, 4, 8), (1, 2, 5)):
        window = planes[k, y : y + 3, x : x + 3]
        assert found[k, y, x] == pytest.approx(taps @ window @ taps, rel=1e-5)
