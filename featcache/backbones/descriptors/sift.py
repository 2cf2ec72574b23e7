"""Dense SIFT: gradient directions in 4 x 4 parts of a patch, at every pixel.

Lowe, International Journal of Computer Vision 60(2), 91-110, 2004, in the dense form of Lazebnik, Schmid and Ponce
(CVPR 2006) and of the LabelMe toolbox (LMdenseSift), which Isola and others (CVPR 2011) used.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from featcache.backbones.descriptors.compiled import compiled, window_sums
from featcache.backbones.descriptors.pixels import Pixels, check_pixels, mean_gray

PATCH, PART = 16, 4  # pixels
DIRECTIONS = 8
_WEIGHTS = (1 - np.abs(np.arange(2 * PART) - PART + 0.5) / PART).astype(np.float32)  # of a part's pixels
_GAUSS = np.exp(-(np.arange(-2, 3) ** 2) / 2)  # standard deviation 1 pixel
_SLOPE = -np.gradient(_GAUSS)
_SLOPE *= 2 / np.abs(np.outer(_GAUSS, _SLOPE)).sum()  # with _GAUSS across, a step from 0 to 1 has a gradient of 1


def dense_sift(pixels: Pixels, step: int = 1) -> NDArray[np.float32]:
    """Return descriptors (h, w, 128) of an image (S, S, 3) uint8, one every step pixels, h = w = (S - 16)//step + 1.

    Descriptor (i, j) is of the patch of 16 x 16 pixels whose first is (i step, j step); number (part row, part column,
    direction), directions every 45 degrees from rightwards to downwards. One that is longer than 1, with gray levels
    from 0 to 1, is made 1 long, cut off at 0.2 and made 1 long again; weaker ones stay as they are, so that plain sky
    is not blown up to texture (as in Lazebnik's code).
    """
    check_pixels(pixels, step)
    planes = np.pad(_direction_planes(mean_gray(pixels)), ((0, 0), (PART // 2,) * 2, (PART // 2,) * 2))
    parts = window_sums(planes, _WEIGHTS)  # (8, S - 3, S - 3)
    count = (len(pixels) - PATCH) // step + 1
    descriptors = np.empty((count, count, 4 * 4 * DIRECTIONS), np.float32)
    _descriptors(parts, step, descriptors)
    return descriptors


def _direction_planes(gray: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the gradient's length in each of 8 directions, (8, S, S): its cosine to the ninth power, if positive."""
    levels = gray / max(gray.max(), np.float32(1))
    right = correlate1d(correlate1d(levels, _GAUSS, axis=0), _SLOPE, axis=1)
    down = correlate1d(correlate1d(levels, _GAUSS, axis=1), _SLOPE, axis=0)
    length = np.sqrt(right * right + down * down)
    inverse = 1 / np.maximum(length, np.float32(1e-12))
    planes = np.empty((DIRECTIONS, *gray.shape), np.float32)
    for plane, angle in zip(planes, np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS, strict=True):
        cosine = np.maximum(np.float32(np.cos(angle)) * right + np.float32(np.sin(angle)) * down, 0) * inverse
        cube = cosine * cosine * cosine
        plane[:] = cube * cube * cube * length
    return planes


@compiled
def _descriptors(parts: NDArray[Any], step: int, descriptors: NDArray[Any]) -> None:
    limit, one = np.float32(0.2), np.float32(1)
    for i in range(descriptors.shape[0]):
        squares = np.zeros(descriptors.shape[1], np.float32)
        for row in range(4):
            for column in range(4):
                for o in range(8):
                    line = parts[o, i * step + 4 * row]
                    n = 32 * row + 8 * column + o
                    for j in range(descriptors.shape[1]):
                        value = line[j * step + 4 * column]
                        descriptors[i, j, n] = value
                        squares[j] += value * value
        for j in range(descriptors.shape[1]):
            if squares[j] > one:
                scale, total = one / np.sqrt(squares[j]), np.float32(0)
                for n in range(128):
                    value = min(descriptors[i, j, n] * scale, limit)
                    descriptors[i, j, n] = value
                    total += value * value
                scale = one / np.sqrt(total)
                for n in range(128):
                    descriptors[i, j, n] *= scale
