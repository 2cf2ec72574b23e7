"""How much memory this process has, and how much more there is."""

import os
import resource
from pathlib import Path

_GROUP = Path("/sys/fs/cgroup")  # the container's own, where there is one


def resident_bytes() -> int:
    """Return the bytes of memory that this process has; elsewhere than on Linux those that it had at most."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * os.sysconf("SC_PAGE_SIZE")


def free_bytes() -> int:
    """Return the bytes of memory that are free on this machine, or in its container; not on Linux, all it has."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = int(lines["MemAvailable"].split()[0]) * 1024
    left = _left_in_group()
    return free if left is None else min(free, left)


def _left_in_group() -> int | None:
    """Return how many bytes a container's limit leaves, None without one."""
    try:
        most = (_GROUP / "memory.max").read_text().strip()
        stat = dict(line.split() for line in (_GROUP / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    return None if most == "max" else max(0, int(most) - int(stat["anon"]))
