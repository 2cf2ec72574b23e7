"""The energies of Eq. 8 and their gradients, without arrays of the keys' size: compiled on CPU and GPU, else in chunks.

tanh(k + s) = 1 - 2 / (1 + exp(2k) exp(2s)), so the exponential of the keys is taken once for all T steps, and each
step costs one division an element. With E = exp(2k) and F = exp(2s), both stored in place of k and s,

    e_i  = sum_d M_id (1 - 2r),  r = 1 / (1 + E_id F_d)      energies, Eq. 8
    s'_d = sum_i e'_i M_id 4 (r - r^2)                        gradient with respect to the state's share s = U h
    k'_id = M_id sum_t e'_ti 4 (r_t - r_t^2)                  gradient with respect to the keys k = K x + b
    M'_id = sum_b sum_t e'_ti (1 - 2 r_t)                     gradient with respect to M

k and s are held to +-40 before: exp stays finite, and a tanh whose share is beyond that is 1 to the last bit unless
the other share is as large with the opposite sign.
"""

import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from head.models.fused.gpu import attention as gpu

LARGEST = 40.0
CHUNK = 16


def exponential_(doubled: Tensor) -> Tensor:
    """Replace values 2k by exp(2k), k held to +-40."""
    return doubled.clamp_(-2 * LARGEST, 2 * LARGEST).exp_()


def energies(keys: Tensor, state: Tensor, M: Tensor) -> Tensor:
    """Return e (B, L) from E (B, L, D), F (B, D) and M (L, D)."""
    return _by_image("energies", energies_formula, M.new_empty(keys.shape[:2]), keys, state, M)


def state_gradient(keys: Tensor, state: Tensor, M: Tensor, gradient: Tensor) -> Tensor:
    """Return s' (B, D) from E (B, L, D), F (B, D), M (L, D) and e' (B, L)."""
    return _by_image("state_gradient", state_gradient_formula, torch.empty_like(state), keys, state, M, gradient)


def _by_image(
    name: str, formula: Callable[..., Tensor], out: Tensor, keys: Tensor, state: Tensor, M: Tensor, *more: Tensor
) -> Tensor:
    """Fill out, a row for each image, and return it; M alone is the same for all images."""
    if keys.is_cpu:
        _in_threads(name, len(keys), keys, state, M, *more, out)
    elif gpu.applies(keys, M):
        getattr(gpu, name)(keys, state, M, *more, out)
    else:
        for some in _chunks(len(keys)):
            out[some] = formula(keys[some], state[some], M, *(one[some] for one in more))
    return out


def key_gradient_(keys: Tensor, states: Tensor, M: Tensor, gradients: Tensor) -> Tensor:
    """Replace E (B, L, D) by k' and return M' (L, D), from F (T, B, D), M (L, D) and e' (T, B, L)."""
    out = torch.zeros_like(M)
    if keys.is_cpu:
        _in_threads("key_gradient", len(M), keys, states, M, gradients, out)
    elif gpu.applies(keys, M):
        gpu.key_gradient_(keys, states, M, gradients, out)
    else:
        for some in _chunks(len(keys)):
            keys[some], own = key_gradient_formula(keys[some], states[:, some], M, gradients[:, some])
            out += own
    return out


def energies_formula(keys: Tensor, state: Tensor, M: Tensor) -> Tensor:
    """Return what `energies` does, with arrays of the keys' size in between."""
    return (M * (1 - 2 / (1 + keys * state.unsqueeze(1)))).sum(dim=2)


def state_gradient_formula(keys: Tensor, state: Tensor, M: Tensor, gradient: Tensor) -> Tensor:
    """Return what `state_gradient` does, likewise."""
    r = 1 / (1 + keys * state.unsqueeze(1))
    return (gradient.unsqueeze(2) * M * (4 * (r - r * r))).sum(dim=1)


def key_gradient_formula(keys: Tensor, states: Tensor, M: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Return k' and M' as `key_gradient_` does, likewise."""
    slopes, values = torch.zeros_like(keys), torch.zeros_like(keys)
    for state, gradient in zip(states, gradients, strict=True):
        r = 1 / (1 + keys * state.unsqueeze(1))
        slopes = slopes + gradient.unsqueeze(2) * (r - r * r)
        values = values + gradient.unsqueeze(2) * (1 - 2 * r)
    return 4 * slopes * M, values.sum(dim=0)


def _chunks(count: int) -> list[slice]:
    """Return few images at a time, so that arrays of their keys' size are small."""
    return [slice(start, start + CHUNK) for start in range(0, count, CHUNK)]


def _in_threads(name: str, count: int, *tensors: Tensor) -> None:
    """Call the compiled loop on ranges of [0, count), one for each thread that torch may use."""
    from head.models.fused import cpu_kernels

    in_threads(getattr(cpu_kernels, name), count, *(tensor.detach().numpy() for tensor in tensors))


def in_threads(loop: Callable[..., None], count: int, *arguments: Any) -> None:
    """Call a compiled loop, which takes a start and a stop last, on ranges of [0, count), one for each thread."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        loop(*arguments, 0, count)
        return
    edges = [count * n // threads for n in range(threads + 1)]
    pool = _pool(threads, os.getpid())
    for done in [pool.submit(loop, *arguments, a, b) for a, b in itertools.pairwise(edges)]:
        done.result()


@functools.cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return this process's threads; those of the process that it was forked from did not come with it."""
    return ThreadPoolExecutor(threads, thread_name_prefix="loops")
