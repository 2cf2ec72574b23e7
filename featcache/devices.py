"""Which GPU a process computes on, where several processes share several GPUs."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch


def devices_for(device: torch.device) -> tuple[str, ...]:
    """Return the devices that worker processes share: every GPU if device is CUDA without a number."""
    if device.type != "cuda" or device.index is not None:
        return (str(device),)
    return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))


@contextlib.contextmanager
def claimed(devices: Sequence[str], *, folder: Path | None = None) -> Iterator[str]:
    """Give one of devices that no other process of this user has claimed; if all are taken, share one.

    A claim is a kernel lock on a file in folder (the system's temporary one), which dies with its process.
    """
    if len(devices) == 1:
        yield devices[0]
        return
    home = folder or Path(tempfile.gettempdir())
    for device in devices:
        name = f"amnet-{os.getuid()}-{device.replace(':', '-')}.lock"
        descriptor = os.open(home / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        try:
            yield device
        finally:
            os.close(descriptor)
        return
    yield devices[os.getpid() % len(devices)]
