"""Which device computes, which GPU where processes share several, copies to and from it, and memory that runs out."""

import contextlib
import fcntl
import functools
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.base.errors import InvalidSettings, ResourceError, ran_out_of_memory


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
        except OSError:  # taken, or a file system without locks, where devices are shared as if all were
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


def resolve_device(device: str) -> torch.device:
    """Return the device that 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps' means here; raise `ResourceError` if absent."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError:
        raise InvalidSettings(f"--device must be auto, cpu, cuda, cuda:N or mps, found {device!r}") from None
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(target.type, False) or (target.index or 0) >= max(1, torch.cuda.device_count()):
        raise ResourceError(f"--device {device}: no such device here; use --device auto")
    return target


def has_float64(device: torch.device) -> bool:
    """Whether device computes in float64, which Apple's GPUs do not."""
    return device.type != "mps"


def keep_float32(device: torch.device) -> None:
    """Let a GPU compute float32 in float32, and add up products in bfloat16 in it, for the rest of this process.

    cuDNN would compute convolutions in TF32, which keeps 10 of a factor's 23 bits, and cuBLAS may add parts of a long
    sum in bfloat16. Products of matrices in float32 are that by PyTorch's own default.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def keep_order(device: torch.device) -> None:
    """Let cuDNN add in the same order each time, for the rest of this process: some of its gradients do not."""
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False


def to_device(values: NDArray[Any], device: torch.device) -> Tensor:
    """Return values as a tensor on device; on the CPU it shares their memory."""
    tensor = torch.from_numpy(values)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_host(tensors: Sequence[Tensor]) -> list[NDArray[Any]]:
    """Return tensors as arrays; on CUDA all copies are under way at once, and the current stream is waited for."""
    if not any(tensor.is_cuda for tensor in tensors):
        return [tensor.cpu().numpy() for tensor in tensors]
    host = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for target, tensor in zip(host, tensors, strict=True):
        target.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return [target.numpy() for target in host]
