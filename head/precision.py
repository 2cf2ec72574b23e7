"""In which type a head's large products of matrices are computed; sums, states and weights stay float32."""

import torch

from featcache.runtimes import resolve_precision


def resolve_products(precision: str, device: torch.device) -> str:
    """Return 'fp32' or 'bf16'; 'auto' is bf16 where the device multiplies it in hardware."""
    if precision == "auto" and device.type == "cuda":  # a backbone would take fp16, whose range gradients leave
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return resolve_precision(precision, device)


def autocast_type(device: str, otherwise: torch.dtype) -> torch.dtype:
    """Return the type of autocast on a kind of device if it is on there, else another."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else otherwise
