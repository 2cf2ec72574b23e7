"""The energies of Eq. 8 and their gradients, without arrays of the keys' size: compiled on a CPU, by image elsewhere.

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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

LARGEST = 40.0


def exponential_(doubled: Tensor) -> Tensor:
    """Replace values 2k by exp(2k), k held to +-40."""
    return doubled.clamp_(-2 * LARGEST, 2 * LARGEST).exp_()


def energies(keys: Tensor, state: Tensor, M: Tensor) -> Tensor:
    """Return e (B, L) from E (B, L, D), F (B, D) and M (L, D)."""
    out = M.new_empty(keys.shape[:2])
    if keys.is_cpu:
        _in_threads("energies", len(keys), keys, state, M, out)
    else:
        energies_by_image(keys, state, M, out)
    return out


def state_gradient(keys: Tensor, state: Tensor, M: Tensor, gradient: Tensor) -> Tensor:
    """Return s' (B, D) from E (B, L, D), F (B, D), M (L, D) and e' (B, L)."""
    out = torch.empty_like(state)
    if keys.is_cpu:
        _in_threads("state_gradient", len(keys), keys, state, M, gradient, out)
    else:
        state_gradient_by_image(keys, state, M, gradient, out)
    return out


def key_gradient_(keys: Tensor, states: Tensor, M: Tensor, gradients: Tensor) -> Tensor:
    """Replace E (B, L, D) by k' and return M' (L, D), from F (T, B, D), M (L, D) and e' (T, B, L)."""
    out = torch.zeros_like(M)
    if keys.is_cpu:
        _in_threads("key_gradient", len(M), keys, states, M, gradients, out)
    else:
        key_gradient_by_image_(keys, states, M, gradients, out)
    return out


def energies_by_image(keys: Tensor, state: Tensor, M: Tensor, out: Tensor) -> None:
    """Fill out with what `energies` returns, on any device, one image at a time to need little memory."""
    for b in range(len(keys)):
        out[b] = (M * (1 - 2 / (1 + keys[b] * state[b]))).sum(dim=1)


def state_gradient_by_image(keys: Tensor, state: Tensor, M: Tensor, gradient: Tensor, out: Tensor) -> None:
    """Fill out with what `state_gradient` returns, likewise."""
    for b in range(len(keys)):
        r = 1 / (1 + keys[b] * state[b])
        out[b] = (gradient[b].unsqueeze(1) * M * (4 * (r - r * r))).sum(dim=0)


def key_gradient_by_image_(keys: Tensor, states: Tensor, M: Tensor, gradients: Tensor, out: Tensor) -> None:
    """Do what `key_gradient_` does, adding M' to out, likewise."""
    for b in range(len(keys)):
        r = 1 / (1 + keys[b] * states[:, b].unsqueeze(1))  # (T, L, D)
        weight = gradients[:, b].unsqueeze(2)  # (T, L, 1)
        out += (weight * (1 - 2 * r)).sum(dim=0)
        keys[b] = M * (weight * (4 * (r - r * r))).sum(dim=0)


def _in_threads(name: str, count: int, *tensors: Tensor) -> None:
    """Call the compiled loop on ranges of [0, count), one for each thread that torch may use."""
    from . import cpu_kernels

    loop: Callable[..., None] = getattr(cpu_kernels, name)
    arrays = [tensor.detach().numpy() for tensor in tensors]
    threads = min(torch.get_num_threads(), count)
    edges = [count * n // threads for n in range(threads + 1)]
    if threads == 1:
        loop(*arrays, 0, count)
        return
    for done in [_pool(threads).submit(loop, *arrays, a, b) for a, b in itertools.pairwise(edges)]:
        done.result()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="attention")
