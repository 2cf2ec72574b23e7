"""Where the attention's loops run on a GPU, and how they are cut into tiles; Triton is imported when they run."""

import functools
import importlib.util
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

_ROWS, _COLUMNS = 8, 128  # of a tile: positions, channels
_IMAGES = 32  # that one program adds up for M': its parts are few beside the keys, and enough for all processors


def applies(keys: Tensor, M: Tensor) -> bool:
    """Whether keys lie where Triton compiles for, in types that these loops have: float32 sums, narrow keys or not."""
    return keys.is_cuda and M.dtype == torch.float32 and keys.dtype in (M.dtype, torch.bfloat16) and has_triton()


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed, as it is with PyTorch for CUDA."""
    return importlib.util.find_spec("triton") is not None


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
