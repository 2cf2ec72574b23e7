"""The loops of the attention as Triton kernels; their formulas are in `head.models.fused.attention`.

Each program owns a tile of the result, goes over what it is summed from in one order, and writes it once: nothing is
added atomically, so the same inputs give the same bits. Sums are in float32, whatever the keys are stored in. Sizes
need not be multiples of a tile's: what lies outside is masked. Whether they are compiled or interpreted is decided by
Triton when this module is imported, which takes Triton.
"""

from collections.abc import Callable
from typing import Any, cast

import triton
import triton.language as tl

from head.models.fused import attention

Kernel = Any  # what Triton makes of a function: kernel[grid](*arguments)
_compiled = cast(Callable[[Callable[..., Any]], Kernel], triton.jit)
LARGEST = tl.constexpr(attention.LARGEST)


@_compiled
def _exponential(k: tl.tensor) -> tl.tensor:
    """Return exp(2k) in float32, k held to +-`LARGEST`."""
    return tl.exp(2.0 * tl.minimum(tl.maximum(k.to(tl.float32), -LARGEST), LARGEST))


@_compiled
def energies(
    keys: tl.tensor, state: tl.tensor, M: tl.tensor, out: tl.tensor,
    L: tl.tensor, D: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    """Fill out (B, L) from k (B, L, D), F (B, D) and M (L, D); grid (B, tiles of L)."""
    b = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, D, COLUMNS):
        d = start + tl.arange(0, COLUMNS)
        tile = i[:, None] * D + d[None, :]
        inside = (i[:, None] < L) & (d[None, :] < D)
        E = _exponential(tl.load(keys + b * L * D + tile, mask=inside, other=0.0))
        F = tl.load(state + b * D + d, mask=d < D, other=0.0)
        m = tl.load(M + tile, mask=inside, other=0.0)  # 0 outside, so that nothing is added
        total += m * (1.0 - 2.0 / (1.0 + E * F[None, :]))
    tl.store(out + b * L + i, tl.sum(total, axis=1), mask=i < L)


@_compiled
def state_gradient(
    keys: tl.tensor, state: tl.tensor, M: tl.tensor, gradient: tl.tensor, out: tl.tensor,
    L: tl.tensor, D: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    """Fill out (B, D) from k (B, L, D), F (B, D), M (L, D) and e' (B, L); grid (B, tiles of D)."""
    b = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    F = tl.load(state + b * D + d, mask=d < D, other=0.0)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, L, ROWS):
        i = start + tl.arange(0, ROWS)
        tile = i[:, None] * D + d[None, :]
        inside = (i[:, None] < L) & (d[None, :] < D)
        E = _exponential(tl.load(keys + b * L * D + tile, mask=inside, other=0.0))
        m = tl.load(M + tile, mask=inside, other=0.0)
        e = tl.load(gradient + b * L + i, mask=i < L, other=0.0)
        r = 1.0 / (1.0 + E * F[None, :])
        total += e[:, None] * m * (r - r * r)
    tl.store(out + b * D + d, 4.0 * tl.sum(total, axis=0), mask=d < D)


@_compiled
def key_gradient(
    keys: tl.tensor, states: tl.tensor, M: tl.tensor, gradients: tl.tensor, parts: tl.tensor,
    T: tl.tensor, B: tl.tensor, L: tl.tensor, D: tl.tensor, IMAGES: tl.tensor,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    """Replace k (B, L, D) by k', and fill parts (P, L, D): M' of the images [p IMAGES, (p + 1) IMAGES) of each p.

    states F (T, B, D) and gradients e' (T, B, L) are those of all steps; grid (tiles of L, tiles of D, P).
    """
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    p = tl.program_id(2)
    tile = i[:, None] * D + d[None, :]
    inside = (i[:, None] < L) & (d[None, :] < D)
    m = tl.load(M + tile, mask=inside, other=0.0)
    of_m = tl.zeros((ROWS, COLUMNS), tl.float32)
    for image in range(p * IMAGES, tl.minimum((p + 1) * IMAGES, B)):
        b = tl.cast(image, tl.int64)
        E = _exponential(tl.load(keys + b * L * D + tile, mask=inside, other=0.0))
        slope = tl.zeros((ROWS, COLUMNS), tl.float32)
        for t in range(T):
            F = tl.load(states + (t * B + b) * D + d, mask=d < D, other=0.0)
            e = tl.load(gradients + (t * B + b) * L + i, mask=i < L, other=0.0)
            r = 1.0 / (1.0 + E * F[None, :])
            slope += e[:, None] * (r - r * r)
            of_m += e[:, None] * (1.0 - 2.0 * r)
        tl.store(keys + b * L * D + tile, (4.0 * slope * m).to(keys.dtype.element_ty), mask=inside)
    tl.store(parts + tl.cast(p, tl.int64) * L * D + tile, of_m, mask=inside)
