"""Which loops compute the attention on which kind of device."""

import torch

from head.models.fused.attention import Loops


def loops_for(device: torch.device) -> Loops:
    """Return the loops for a device: compiled for a CPU, the formulas on a few images at a time elsewhere."""
    if device.type == "cpu":
        from head.models.fused.cpu.loops import COMPILED

        return COMPILED
    from head.models.fused.chunks import IN_CHUNKS

    return IN_CHUNKS
