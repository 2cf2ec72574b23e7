"""Arrays between the host and a device. On CUDA through pinned memory, without waiting."""

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(values: NDArray[Any], device: torch.device) -> Tensor:
    """Return values as a tensor on device; on the CPU it shares their memory."""
    tensor = torch.from_numpy(values)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_host(tensors: Sequence[Tensor]) -> list[NDArray[Any]]:
    """Return tensors as arrays; on CUDA all copies are under way at once, and the current stream is waited for."""
    on_cuda = any(tensor.is_cuda for tensor in tensors)
    if not on_cuda:
        return [tensor.cpu().numpy() for tensor in tensors]
    host = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for target, tensor in zip(host, tensors, strict=True):
        target.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return [target.numpy() for target in host]
