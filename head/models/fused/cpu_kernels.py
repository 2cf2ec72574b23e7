"""The loops over (image, position, channel) of the attention, compiled for the CPU by Numba, in two seconds together.

Each goes over the keys once, a row of channels at a time, and makes no array of their size: eager PyTorch
makes several, and torch.compile, which needs a C++ compiler and seven seconds, goes over them once for each sum
(`bench.loops`: a batch of 256 takes 0.13 s here, 0.28 s by torch.compile, 5.7 s by eager formulas). No result
depends on how the work is cut into ranges, so it does not depend on the number of threads. What they compute is
written as plain formulas in `head.models.fused.attention`.
"""

from collections.abc import Callable
from typing import Any

import numba
from numpy.typing import NDArray

_FASTER_SUMS = {"reassoc", "contract", "arcp", "nsz", "afn"}  # infinity keeps its meaning: an overflowing exp is 1
Floats = NDArray[Any]


def compiled(function: Callable[..., None]) -> Callable[..., None]:
    loop: Callable[..., None] = numba.njit(nogil=True, fastmath=_FASTER_SUMS, error_model="numpy")(function)
    return loop


@compiled
def energies(keys: Floats, state: Floats, M: Floats, out: Floats, start: int, stop: int) -> None:
    """Fill out (B, L) for images [start, stop) from keys (B, L, D), state (B, D) and M (L, D)."""
    L, D = M.shape
    one, two = M.dtype.type(1), M.dtype.type(2)
    for i in range(L):
        for b in range(start, stop):
            total = M.dtype.type(0)
            for d in range(D):
                total += M[i, d] * (one - two / (one + keys[b, i, d] * state[b, d]))
            out[b, i] = total


@compiled
def state_gradient(
    keys: Floats, state: Floats, M: Floats, gradient: Floats, out: Floats, start: int, stop: int
) -> None:
    """Fill out (B, D) for images [start, stop) from the gradient (B, L) of their energies."""
    L, D = M.shape
    one, four = M.dtype.type(1), M.dtype.type(4)
    for b in range(start, stop):
        out[b, :] = 0
        for i in range(L):
            weight = four * gradient[b, i]
            for d in range(D):
                r = one / (one + keys[b, i, d] * state[b, d])
                out[b, d] += weight * M[i, d] * (r - r * r)


@compiled
def key_gradient(
    keys: Floats, states: Floats, M: Floats, gradients: Floats, out: Floats, start: int, stop: int
) -> None:
    """Replace keys (B, L, D) by their gradient and fill out (L, D) with that of M, for positions [start, stop).

    states (T, B, D) and gradients (T, B, L) are those of all steps.
    """
    T, B, D = states.shape
    one, two, four = M.dtype.type(1), M.dtype.type(2), M.dtype.type(4)
    slope = M[0].copy()
    for i in range(start, stop):
        out[i, :] = 0
        for b in range(B):
            slope[:] = 0
            for t in range(T):
                weight = gradients[t, b, i]
                for d in range(D):
                    r = one / (one + keys[b, i, d] * states[t, b, d])
                    slope[d] += weight * (r - r * r)
                    out[i, d] += weight * (one - two * r)
            for d in range(D):
                keys[b, i, d] = four * slope[d] * M[i, d]
