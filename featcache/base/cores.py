"""How many cores this process may use."""

import multiprocessing
import os

from featcache.base.errors import InvalidSettings


def usable_threads(threads: int | None) -> int:
    """Return threads, or by default one for each core; one in a worker process, which has others beside it."""
    if threads is None:
        if multiprocessing.parent_process():
            return 1
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads < 1:
        raise InvalidSettings(f"threads must be at least 1, found {threads}")
    return threads
