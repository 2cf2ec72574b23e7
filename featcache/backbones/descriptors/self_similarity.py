"""Self-similarity: where around a pixel the image looks like the patch at that pixel, whatever its colours.

Shechtman and Irani (CVPR 2007), with the parameters of SUN's scene classification and of Isola and others (CVPR 2011).
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.backbones.descriptors.compiled import compiled
from featcache.backbones.descriptors.pixels import Pixels, check_pixels

RADIUS, PATCH, STEP = 40, 5, 4  # pixels
ANGLES, RADII = 10, 3
_NOISE = 150.0  # sums of squared differences below this one are noise; levels 0 to 255, all channels
_MIDDLE = PATCH // 2


def self_similarity(pixels: Pixels) -> NDArray[np.float32]:
    """Return descriptors (h, w, 30) in 0..1 of an image (S, S, 3) uint8, one every 4 pixels where all lies inside.

    Number (angle, radius), radii from within: how similar the most similar patch is, exp(-d/max(150, d')), d its sum of
    squared differences in RGB and d' the largest one to the four patches a pixel away. Bins that hold no pixel, which
    small images have, are 0. In an image of one colour all is similar: ones. Every position is kept, and none is
    stretched to 0..1, as in the program that Khosla and others used: its saliency threshold of 1 has no effect.
    """
    check_pixels(pixels)
    radius = radius_for(len(pixels))
    shifts, bins, adjacent = _surround(radius)
    margin = radius + _MIDDLE
    count = -(-(len(pixels) - 2 * margin) // STEP)
    least = np.full((ANGLES * RADII, count, count), np.iinfo(np.int32).max, np.int32)  # which is similar by 0
    most = np.zeros((count, count), np.int32)
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.int32)
    _differences(planes, shifts, bins, adjacent, margin, least, most)
    similar = np.exp(-least.transpose(1, 2, 0) / np.maximum(most, _NOISE)[:, :, None])
    return np.ascontiguousarray(similar, np.float32)


def radius_for(side: int) -> int:
    """Return the surround's radius in an image: 40 pixels, in small ones a quarter of the side."""
    return min(RADIUS, side // 4)


@lru_cache(maxsize=4)
def _surround(radius: int) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
    """Return the shifts (n, 2) down and right within a radius, the bin (n,) of each, and which are a pixel long.

    Radii are equal steps of log(1 + r); angles run from downwards to rightwards.
    """
    offsets = np.arange(-radius, radius + 1)
    down, right = (grid.ravel() for grid in np.meshgrid(offsets, offsets, indexing="ij"))
    squares = down**2 + right**2
    kept = (squares > 0) & (squares <= radius**2)
    down, right, squares = down[kept], right[kept], squares[kept]
    limits = np.expm1(np.log1p(radius) * np.arange(1, RADII) / RADII) ** 2
    ring = np.searchsorted(limits, squares)
    sector = (np.arctan2(right, down) % (2 * np.pi) / (2 * np.pi / ANGLES)).astype(int)
    return np.stack([down, right], axis=1).astype(np.int32), (sector * RADII + ring).astype(np.int32), squares == 1


@compiled
def _differences(
    planes: NDArray[Any], shifts: NDArray[Any], bins: NDArray[Any], adjacent: NDArray[Any], margin: int,
    least: NDArray[Any], most: NDArray[Any],
) -> None:  # fmt: skip
    """Fill the least sum of squared differences of each bin, and the most to an adjacent patch; whole numbers."""
    count = most.shape[0]
    width = STEP * (count - 1) + PATCH
    left = margin - _MIDDLE
    columns = np.empty(width, np.int32)
    for k in range(len(shifts)):
        dy, dx = shifts[k]
        for i in range(count):
            top = margin + STEP * i - _MIDDLE
            columns[:] = 0
            for c in range(3):
                for y in range(top, top + PATCH):
                    here, there = planes[c, y, left : left + width], planes[c, y + dy, left + dx : left + dx + width]
                    for x in range(width):
                        difference = here[x] - there[x]
                        columns[x] += difference * difference
            for j in range(count):
                total = np.int32(0)
                for x in range(STEP * j, STEP * j + PATCH):
                    total += columns[x]
                least[bins[k], i, j] = min(least[bins[k], i, j], total)
                if adjacent[k]:
                    most[i, j] = max(most[i, j], total)
