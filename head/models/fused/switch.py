"""The one switch between what this folder computes and a head's plain formulas, which an exporter can follow."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_FUSED = ContextVar("fused", default=True)


def fused_is_on() -> bool:
    """Whether heads are to compute by this folder, as they do unless told otherwise."""
    return _FUSED.get()


@contextmanager
def fused_off() -> Iterator[None]:
    """Let heads compute by plain formulas, one operation of PyTorch after another; in this thread alone."""
    before = _FUSED.set(False)
    try:
        yield
    finally:
        _FUSED.reset(before)
