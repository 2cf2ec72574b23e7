"""The pixels that descriptors are computed from: what is taken, and their gray levels."""

import numpy as np
from numpy.typing import NDArray

from featcache.base.errors import InvalidSettings, refuse

SMALLEST_SIDE = 64
_LUMA = np.array([299, 587, 114], np.int64)  # thousandths of red, green and blue (ITU-R BT.601), as MATLAB's rgb2gray

Pixels = NDArray[np.uint8]


def check_pixels(pixels: Pixels, step: int = 1) -> None:
    """Raise `InvalidSettings` unless pixels are (S, S, 3) uint8, S at least 64, and a grid's step is positive."""
    problems = []
    if pixels.dtype != np.uint8:
        problems.append(f"dtype: expected uint8, found {pixels.dtype}")
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        problems.append(f"shape: expected (S, S, 3), found {pixels.shape}")
    elif pixels.shape[0] != pixels.shape[1] or pixels.shape[0] < SMALLEST_SIDE:
        problems.append(f"shape: expected a square of {SMALLEST_SIDE} pixels or more, found {pixels.shape[:2]}")
    if step < 1:
        problems.append(f"step: expected 1 pixel or more, found {step}")
    refuse(
        InvalidSettings,
        "this image cannot be described:",
        problems,
        "Give a square RGB image as uint8, and a step in whole pixels.",
    )


def mean_gray(pixels: Pixels) -> NDArray[np.float32]:
    """Return the mean of the three channels, (S, S) in 0..255, as the toolbox of GIST and dense SIFT takes it."""
    sums: NDArray[np.float32] = pixels.sum(axis=2, dtype=np.int32).astype(np.float32)
    return sums / np.float32(3)


def luma(pixels: Pixels) -> NDArray[np.uint8]:
    """Return the brightness of each pixel, (S, S) uint8, in whole numbers and so the same on every machine."""
    return ((pixels.astype(np.int64) @ _LUMA + 500) // 1000).astype(np.uint8)
