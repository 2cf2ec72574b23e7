"""In which type a head's large products of matrices are computed; sums, states and weights stay float32."""

import torch

from featcache.runtimes import has_bfloat16


def resolve_products(precision: str, device: torch.device) -> str:
    """Return 'fp32' or 'bf16'; 'auto' is bf16 where the device multiplies it in hardware."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and has_bfloat16() else "fp32"
