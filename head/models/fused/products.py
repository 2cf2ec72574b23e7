"""In which type a head's large products of matrices are computed; sums, states and weights stay float32."""

import torch
from torch import Tensor

from featcache.backbones.execution import resolve_precision


def resolve_products(precision: str, device: torch.device) -> str:
    """Return 'fp32' or 'bf16'; 'auto' is bf16 where the device multiplies it in hardware."""
    if precision == "auto" and device.type == "cuda":  # a backbone would take fp16, whose range gradients leave
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return resolve_precision(precision, device)


def autocast_type(device: str, otherwise: torch.dtype) -> torch.dtype:
    """Return the type of autocast on a kind of device if it is on there, else another."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else otherwise


def weighted_sum(start: Tensor, a: Tensor, weight: Tensor) -> Tensor:
    """Return start + a @ weight in the type of start, multiplied in that of weight."""
    if weight.dtype == start.dtype:
        return torch.addmm(start, a, weight)
    return start + product(a, weight)


def product(a: Tensor, weight: Tensor) -> Tensor:
    """Return a @ weight in the type of a, multiplied in that of weight."""
    return (a.to(weight.dtype) @ weight).to(a.dtype)


def sum_of_outer(gradient: Tensor, values: Tensor, products: torch.dtype) -> Tensor:
    """Return sum_n gradient_n values_n^T, a weight's gradient, from (N, out) and (N, in)."""
    return (gradient.to(products).t() @ values.to(products)).to(gradient.dtype)
