"""Where the attention's loops run on a GPU, and how they are cut into tiles; Triton is imported when they run."""

import functools
import importlib.util
import subprocess
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from featcache.base.errors import first_line, ran_out_of_memory

_ROWS, _COLUMNS = 8, 128  # of a tile: positions, channels
_IMAGES = 32  # that one program adds up for M': its parts are few beside the keys, and enough for all processors


def applies(keys: Tensor, M: Tensor) -> bool:
    """Whether keys lie where Triton compiles for, in types that these loops have: float32 sums, narrow keys or not."""
    kinds = M.dtype == torch.float32 and keys.dtype in (M.dtype, torch.bfloat16)
    return keys.is_cuda and kinds and works_on(keys.device)


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
        keys, out = torch.ones((1, 1, 1), device=device), torch.ones((1, 1), device=device)
        energies(keys, keys[0], keys[0], out)
        state_gradient(keys, keys[0], keys[0], keys[0], out)
        key_gradient_(keys, keys.clone(), keys[0].clone(), keys.clone(), out)
        out.item()  # waits until all have run
    except (TritonError, ImportError, RuntimeError, OSError, subprocess.CalledProcessError) as error:
        if ran_out_of_memory(error):
            raise
        reason = f"the attention's loops cannot be compiled for {device} ({first_line(error)[:200]})"
        warnings.warn(f"{reason}; plain formulas, many times slower, take their place", stacklevel=2)
        return False
    return True


def energies(keys: Tensor, state: Tensor, M: Tensor, out: Tensor) -> None:
    """Fill out (B, L) from E (B, L, D), F (B, D) and M (L, D)."""
    from head.models.fused.gpu import kernels

    B, L, D = keys.shape
    _check([keys, state, M, out])
    with _on(keys):
        kernels.energies[B, _tiles(L, _ROWS)](keys, state, M, out, L, D, ROWS=_ROWS, COLUMNS=_COLUMNS)


def state_gradient(keys: Tensor, state: Tensor, M: Tensor, gradient: Tensor, out: Tensor) -> None:
    """Fill out (B, D) from E (B, L, D), F (B, D), M (L, D) and e' (B, L)."""
    from head.models.fused.gpu import kernels

    B, L, D = keys.shape
    _check([keys, state, M, gradient, out])
    grid = (B, _tiles(D, _COLUMNS))
    with _on(keys):
        kernels.state_gradient[grid](keys, state, M, gradient, out, L, D, ROWS=_ROWS, COLUMNS=_COLUMNS)


def key_gradient_(keys: Tensor, states: Tensor, M: Tensor, gradients: Tensor, out: Tensor) -> None:
    """Replace E (B, L, D) by k' and fill out (L, D) with M', from F (T, B, D), M (L, D) and e' (T, B, L)."""
    from head.models.fused.gpu import kernels

    T, B, D = states.shape
    L = len(M)
    _check([keys, states, M, gradients, out])
    parts = M.new_empty((_tiles(B, _IMAGES), L, D))
    grid = (_tiles(L, _ROWS), _tiles(D, _COLUMNS), len(parts))
    with _on(keys):
        kernels.key_gradient[grid](keys, states, M, gradients, parts, T, B, L, D, _IMAGES, ROWS=_ROWS, COLUMNS=_COLUMNS)
    torch.sum(parts, dim=0, out=out)


def _on(keys: Tensor) -> AbstractContextManager[object]:
    """Return what makes the keys' GPU the current one, on which Triton runs."""
    return torch.cuda.device(keys.device) if keys.is_cuda else nullcontext()


def _tiles(length: int, size: int) -> int:
    return -(-length // size)


def _check(tensors: Sequence[Tensor]) -> None:
    """Raise `ValueError` unless all lie in memory as their shapes say."""
    if not all(tensor.is_contiguous() for tensor in tensors):
        raise ValueError("the attention's loops take contiguous arrays")
