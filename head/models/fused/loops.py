"""Which loops compute the attention on which kind of device."""

import torch

from head.models.fused.attention import Loops


def loops_for(device: torch.device, sums: torch.dtype) -> Loops:
    """Return the loops for a device, and for sums of a type: that of weights, float32 or, in tests, float64.

    They are compiled for a CPU, and for a GPU where Triton compiles for it; elsewhere they are the formulas on a few
    images at a time.
    """
    if device.type == "cpu":
        from head.models.fused.cpu.loops import COMPILED

        return COMPILED
    from head.models.fused.chunks import IN_CHUNKS

    if device.type == "cuda" and sums == torch.float32:
        from head.models.fused.gpu.loops import TILED, works_on

        return TILED if works_on(device) else IN_CHUNKS
    return IN_CHUNKS
