"""The attention's loops on tensors of a GPU, cut into tiles; Triton is imported when they run.

Keys and features are float32 or bfloat16, sums float32. Sums of features weighted by a map, and of their products with
a gradient, are PyTorch's, in the type of the features.
"""

import functools
import importlib.util
import subprocess
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from featcache.base.errors import first_line, ran_out_of_memory
from head.models.fused.attention import Loops
from head.models.fused.chunks import IN_CHUNKS

_ROWS, _COLUMNS = 8, 128  # of a tile: positions, channels
_IMAGES = 32  # that one program adds up for M': its parts are few beside the keys, and enough for all processors


@functools.cache
def works_on(device: torch.device) -> bool:
    """Whether the loops run on a GPU, tried once; if not, warn why.

    It takes Triton, which comes with PyTorch for CUDA, a GPU that Triton knows and, for what starts kernels, a C
    compiler with Python's headers.
    """
    if importlib.util.find_spec("triton") is None:
        return False
    from triton.errors import TritonError

    try:
        keys, one = torch.ones((1, 1, 1), device=device), torch.ones((1, 1), device=device)
        attend(keys, keys, one, one)
        of_m, _ = key_gradient_(keys, keys.clone(), one, keys.clone())  # with the state's gradient
        of_m.item()  # waits until all have run
    except (TritonError, ImportError, RuntimeError, OSError, subprocess.CalledProcessError) as error:
        if ran_out_of_memory(error):
            raise
        reason = f"the attention's loops cannot be compiled for {device} ({first_line(error)[:200]})"
        warnings.warn(f"{reason}; plain formulas, many times slower, take their place", stacklevel=2)
        return False
    return True


def attend(keys: Tensor, x: Tensor, state: Tensor, M: Tensor) -> tuple[Tensor, Tensor]:
    """Return the map (B, L) and z (B, D), in the type of M, from k and x (B, L, D), F (B, D) and M (L, D)."""
    alpha = torch.softmax(energies(keys, state, M), dim=1)
    return alpha, torch.bmm(alpha.to(x.dtype).unsqueeze(1), x).squeeze(1).to(M.dtype)


def energy_gradient(x: Tensor, alpha: Tensor, d_alpha: Tensor, dz: Tensor) -> Tensor:
    """Return e' (B, L) from x (B, L, D), the map and the gradients of the map alone (B, L) and of z (B, D)."""
    v = d_alpha + torch.bmm(x, dz.to(x.dtype).unsqueeze(2)).squeeze(2)
    return alpha * (v - (alpha * v).sum(dim=1, keepdim=True))


def energies(keys: Tensor, state: Tensor, M: Tensor) -> Tensor:
    """Return e (B, L) from k (B, L, D), F (B, D) and M (L, D)."""
    from head.models.fused.gpu import kernels

    B, L, D = keys.shape
    _check([keys, state, M])
    out = M.new_empty(B, L)
    with _on(keys):
        kernels.energies[B, _tiles(L, _ROWS)](keys, state, M, out, L, D, ROWS=_ROWS, COLUMNS=_COLUMNS)
    return out


def state_gradient(keys: Tensor, state: Tensor, M: Tensor, gradient: Tensor) -> Tensor:
    """Return s' (B, D) from k (B, L, D), F (B, D), M (L, D) and e' (B, L)."""
    from head.models.fused.gpu import kernels

    B, L, D = keys.shape
    _check([keys, state, M, gradient])
    out = torch.empty_like(state)
    grid = (B, _tiles(D, _COLUMNS))
    with _on(keys):
        kernels.state_gradient[grid](keys, state, M, gradient, out, L, D, ROWS=_ROWS, COLUMNS=_COLUMNS)
    return out


def key_gradient_(keys: Tensor, states: Tensor, M: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Replace k (B, L, D) by k', from F (T, B, D), M (L, D) and e' (T, B, L) of all steps.

    Returns M' (L, D), and s' (B, D) of the first step.
    """
    from head.models.fused.gpu import kernels

    T, B, D = states.shape
    L = len(M)
    _check([keys, states, M, gradients])
    first = state_gradient(keys, states[0], M, gradients[0])
    parts = M.new_empty((_tiles(B, _IMAGES), L, D))
    grid = (_tiles(L, _ROWS), _tiles(D, _COLUMNS), len(parts))
    with _on(keys):
        kernels.key_gradient[grid](keys, states, M, gradients, parts, T, B, L, D, _IMAGES, ROWS=_ROWS, COLUMNS=_COLUMNS)
    return parts.sum(dim=0), first


def _on(keys: Tensor) -> AbstractContextManager[object]:
    """Return what makes the keys' GPU the current one, on which Triton runs."""
    return torch.cuda.device(keys.device) if keys.is_cuda else nullcontext()


def _tiles(length: int, size: int) -> int:
    return -(-length // size)


def _check(tensors: Sequence[Tensor]) -> None:
    """Raise `ValueError` unless all lie in memory as their shapes say."""
    if not all(tensor.is_contiguous() for tensor in tensors):
        raise ValueError("the attention's loops take contiguous arrays")


TILED = Loops(IN_CHUNKS.standardise, attend, energy_gradient, state_gradient, key_gradient_)
