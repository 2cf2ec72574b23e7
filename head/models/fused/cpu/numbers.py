"""Numbers within compiled loops: the exponential, and float16 and bfloat16, which come as uint16.

LLVM makes vectors of all of them. Arithmetic is that of the other numbers in a formula: float32, or float64 in tests.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.extending import overload
from numpy.polynomial import Chebyshev, Polynomial
from numpy.typing import NDArray

from featcache.base.loops.machine_code import kept
from head.models.fused.attention import LARGEST

Array = NDArray[Any]
_SOURCES = (*sorted(Path(__file__).parent.glob("*.py")), Path(__file__).parents[1] / "attention.py")
_FASTER_SUMS = {"reassoc", "contract", "arcp", "nsz", "afn"}  # infinity keeps its meaning: an overflowing exp is 1
_AS_WRITTEN: Any = {"fastmath": {"contract"}}


def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Return a loop that is compiled for the types it is called with, and runs without Python's lock.

    Its machine code is kept for the next process.
    """
    return kept(numba.njit(nogil=True, fastmath=_FASTER_SUMS, error_model="numpy")(function), *_SOURCES)


def exponential(k: Any) -> Any:
    """Return exp(2k), k held to +-`LARGEST`.

    In float32 2k = n log 2 + 2r with a whole n and |2r| <= log(2) / 2, so exp(2k) is a polynomial of r with n added to
    its exponent; off by 4e-7 of the result at most, which is what rounding 2k costs. Adding 1.5 * 2^23 rounds to a
    whole number, and leaves it in the last bits.
    """


@overload(exponential, strict=False, jit_options=_AS_WRITTEN)
def _exponential_of(k: Any) -> Any:
    if k == numba.float64:
        return lambda k: np.exp(2 * min(max(k, -LARGEST), LARGEST))
    limit, whole, digits = np.float32(LARGEST), np.float32(1.5 * 2**23), np.int32(23)
    each, in_twos = np.float32(np.log(2) / 2), np.float32(2 / np.log(2))
    c0, c1, c2, c3, c4, c5 = _POLYNOMIAL

    def in_float32(k: Any) -> Any:
        k = min(max(k, -limit), limit)
        rounded = np.float32(k * in_twos + whole)
        r = k - (rounded - whole) * each
        power = np.float32(c0 + r * (c1 + r * (c2 + r * (c3 + r * (c4 + r * c5)))))
        return np.int32(power.view(np.int32) + np.int32(rounded.view(np.int32) << digits)).view(np.float32)

    return in_float32


def _polynomial() -> tuple[np.float32, ...]:
    """Return coefficients of exp(2r) for |r| <= log(2) / 4, from the constant one on."""
    edge = np.log(2) / 4
    fitted = Chebyshev.interpolate(lambda r: np.exp(2 * r), 5, domain=[-edge, edge]).convert(kind=Polynomial)
    return tuple(map(np.float32, fitted.coef))


_POLYNOMIAL = _polynomial()


def widened(value: Any) -> Any:
    """Return a number as it is computed with: bfloat16, the upper half of a float32, as float32, others as they are."""


@overload(widened, strict=False)
def _widened_of(value: Any) -> Any:
    if value == numba.uint16:
        return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return lambda value: value


def rounded(value: Any, like: Any) -> Any:
    """Return a number as an array stores it: of bfloat16 the nearest, of two the even one."""


@overload(rounded, strict=False)
def _rounded_to(value: Any, like: Any) -> Any:
    if like.dtype != numba.uint16:
        return lambda value, like: value
    half, last, digits = np.uint32(0x7FFF), np.uint32(1), np.uint32(16)

    def to_bfloat16(value: Any, like: Any) -> Any:
        bits = np.float32(value).view(np.uint32)
        return np.uint16((bits + half + ((bits >> digits) & last)) >> digits)

    return to_bfloat16


def loaded(value: Any) -> Any:
    """Return a feature as it is computed with: float16 as float32, others as they are."""


@overload(loaded, strict=False)
def _loaded_of(value: Any) -> Any:
    if value != numba.uint16:
        return lambda value: value
    size, largest, sign = np.uint32(0x7FFF), np.uint32(0x7C00), np.uint32(0x8000)
    digits, half, infinite, scale = np.uint32(13), np.uint32(16), np.uint32(0x7F800000), np.float32(2.0**112)

    def from_float16(value: Any) -> Any:
        bits = np.uint32(value)
        magnitude = np.float32(np.uint32((bits & size) << digits).view(np.float32) * scale)
        special = infinite if (bits & largest) == largest else np.uint32(0)  # infinity, or no number
        return np.uint32(magnitude.view(np.uint32) | special | np.uint32((bits & sign) << half)).view(np.float32)

    return from_float16
