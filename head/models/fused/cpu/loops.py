"""The attention's loops on tensors: their results allocated, their work shared out among threads.

The loops themselves are imported, and with them Numba, when the first of them is called.
"""

import torch
from torch import Tensor

from head.models.fused.attention import Loops
from head.models.fused.cpu.threads import array, in_threads

_FLOATS = (torch.float16, torch.float32, torch.float64)


def standardise(features: Tensor, mean: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    means = mean.new_empty(x.shape[0], x.shape[2])
    _run(
        "standardise", len(x), features if features.dtype in _FLOATS else features.to(mean.dtype), mean, scale, x, means
    )
    return means


def attend(keys: Tensor, x: Tensor, state: Tensor, M: Tensor) -> tuple[Tensor, Tensor]:
    alpha, z = M.new_empty(keys.shape[:2]), torch.empty_like(state)
    _run("attend", len(keys), keys, x, state, M, alpha, z)
    return alpha, z


def energy_gradient(x: Tensor, alpha: Tensor, d_alpha: Tensor, dz: Tensor) -> Tensor:
    out = torch.empty_like(alpha)
    _run("energy_gradient", len(x), x, alpha, d_alpha, dz, out)
    return out


def state_gradient(keys: Tensor, state: Tensor, M: Tensor, gradient: Tensor) -> Tensor:
    out = torch.empty_like(state)
    _run("state_gradient", len(keys), keys, state, M, gradient, out)
    return out


def key_gradient_(keys: Tensor, states: Tensor, M: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    from head.models.fused.cpu.attention import GROUP

    groups = -(-len(keys) // GROUP)
    of_M, first = M.new_empty(groups, *M.shape), torch.empty_like(states[0])
    _run("key_gradient", groups, keys, states, M, gradients, first, of_M)
    return of_M.sum(dim=0), first


def _run(name: str, count: int, *tensors: Tensor) -> None:
    """Call a loop on [0, count), in threads."""
    from head.models.fused.cpu import attention

    in_threads(getattr(attention, name), count, *map(array, tensors))


COMPILED = Loops(standardise, attend, energy_gradient, state_gradient, key_gradient_)
