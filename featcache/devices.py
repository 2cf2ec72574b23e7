"""Which GPU a process computes on where several share several, and what it says when memory runs out."""

import contextlib
import fcntl
import functools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from .errors import ResourceError, ran_out_of_memory


def devices_for(device: torch.device) -> tuple[str, ...]:
    """Return the devices that worker processes share: every GPU if device is CUDA without a number."""
    if device.type != "cuda" or device.index is not None:
        return (str(device),)
    return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))


@functools.cache
def claimed(devices: tuple[str, ...], folder: Path | None = None) -> str:
    """Return one of devices that no other process of this user has claimed; if all are taken, share one.

    A claim is a kernel lock on a file in folder (the system's temporary one). It is this process's until it ends, so
    that it never loads its backbone a second time, to another device.
    """
    if len(devices) == 1:
        return devices[0]
    home = folder or Path(tempfile.gettempdir())
    for device in devices:
        name = f"amnet-{os.getuid()}-{device.replace(':', '-')}.lock"
        descriptor = os.open(home / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            return device  # the descriptor stays open
    return devices[os.getpid() % len(devices)]


@contextlib.contextmanager
def memory_errors(device: torch.device, hint: str) -> Iterator[None]:
    """Turn the block's running out of memory into a `ResourceError`; hint says at what size, and the way out."""
    try:
        yield
    except ResourceError:
        raise
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        raise ResourceError(f"{device} is out of memory {hint}") from error
