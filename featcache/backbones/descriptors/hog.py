"""HOG2x2: Felzenszwalb's histograms of gradient directions at every pixel, four neighbouring ones stacked.

Felzenszwalb, Girshick, McAllester and Ramanan, IEEE PAMI 32(9), 1627-1645, 2010, in the form with one cell around every
pixel and 2 x 2 cells stacked, by Xiao, that Isola and others (CVPR 2011) used.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.backbones.descriptors.compiled import compiled, window_sums
from featcache.backbones.descriptors.pixels import Pixels, check_pixels

CELL = 8  # pixels between neighbouring cells, and half the width of one
CHANNELS = 31  # 18 signed directions, 9 unsigned ones, 4 sums
_WEIGHTS = (1 - np.abs(np.arange(1 - CELL, CELL)) / CELL).astype(np.float32)  # of a cell's pixels, down and across
_ANGLES = np.arange(9) * np.pi / 9
# (2, 9); in four digits as in the original, so that a gradient straight down, between two, is always in the first
_DIRECTIONS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)]).round(4).astype(np.float32)


def hog2x2(pixels: Pixels, step: int = 1) -> NDArray[np.float32]:
    """Return descriptors (h, w, 124) of an image (S, S, 3) uint8, one every step pixels, h = w = ceil((S - 40)/step).

    Descriptor (0, 0) stacks the cells around pixels (16, 16), (16, 24), (24, 16) and (24, 24). Only cells whose four
    neighbourhoods lie in the image are described, as in the original.
    """
    check_pixels(pixels, step)
    features = _cell_features(np.ascontiguousarray(pixels))  # (31, S - 32, S - 32)
    size = features.shape[1] - CELL
    count = -(-size // step)
    stacked = np.empty((count, count, 4 * CHANNELS), np.float32)
    _stack(features, step, stacked)
    return stacked


def _cell_features(pixels: Pixels) -> NDArray[np.float32]:
    """Return the 31 numbers of the cell around every pixel (y, x), at (y - 16, x - 16)."""
    side = len(pixels)
    planes = np.zeros((18, side, side), np.float32)
    _gradients(pixels, _DIRECTIONS, planes)
    cells = window_sums(planes, _WEIGHTS)[:, 1:-1, 1:-1]  # around pixels 8 to S - 9
    unsigned = cells[:9] + cells[9:]
    energy = np.zeros(cells.shape[1:], np.float32)
    for plane in unsigned:
        energy += plane * plane
    features = np.empty((CHANNELS, side - 4 * CELL, side - 4 * CELL), np.float32)
    scales = 1 / np.sqrt(_block_sums(energy) + np.float32(1e-4))
    inner = slice(CELL, -CELL)
    _normalise(cells[:, inner, inner], unsigned[:, inner, inner], scales, features)
    return features


def _block_sums(energy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sum of energy over the 2 x 2 cells whose first is at each place."""
    rows = energy[:-CELL] + energy[CELL:]
    sums: NDArray[np.float32] = rows[:, :-CELL] + rows[:, CELL:]
    return sums


@compiled
def _gradients(pixels: NDArray[Any], directions: NDArray[Any], planes: NDArray[Any]) -> None:
    """Put the length of each pixel's longest gradient of red, green and blue into the plane of its direction."""
    side = pixels.shape[0]
    for y in range(1, side - 1):
        for x in range(1, side - 1):
            dx, dy, longest = np.int32(0), np.int32(0), np.int32(-1)
            for c in range(3):
                right = np.int32(pixels[y, x + 1, c]) - np.int32(pixels[y, x - 1, c])
                down = np.int32(pixels[y + 1, x, c]) - np.int32(pixels[y - 1, x, c])
                if right * right + down * down > longest:
                    dx, dy, longest = right, down, right * right + down * down
            best, most = 0, np.float32(0)
            for o in range(9):
                along = directions[0, o] * np.float32(dx) + directions[1, o] * np.float32(dy)
                if along > most:
                    best, most = o, along
                elif -along > most:
                    best, most = o + 9, -along
            planes[best, y, x] = np.sqrt(np.float32(longest))


@compiled
def _normalise(signed: NDArray[Any], unsigned: NDArray[Any], scales: NDArray[Any], features: NDArray[Any]) -> None:
    """Fill features (31, n, n) from directions divided by the energy of the four blocks around, cut off at 0.2.

    scales (n + 8, n + 8) belong to blocks by their first cell, 8 pixels before the cell itself in row, column or both.
    """
    size = features.shape[1]
    half, limit, share = np.float32(0.5), np.float32(0.2), np.float32(0.2357)
    for y in range(size):
        for b in range(4):
            top, left = y + (b // 2) * CELL, (b % 2) * CELL
            for o in range(31 - 4):
                source = signed[o, y] if o < 18 else unsigned[o - 18, y]
                for x in range(size):
                    cut = min(source[x] * scales[top, left + x], limit)
                    before = features[o, y, x] if b else np.float32(0)
                    features[o, y, x] = before + half * cut
                    if o < 18:
                        total = features[27 + b, y, x] if o else np.float32(0)
                        features[27 + b, y, x] = total + share * cut


@compiled
def _stack(features: NDArray[Any], step: int, stacked: NDArray[Any]) -> None:
    for i in range(stacked.shape[0]):
        for n in range(4):
            y, x = i * step + (n // 2) * CELL, (n % 2) * CELL
            for o in range(31):
                for j in range(stacked.shape[1]):
                    stacked[i, j, 31 * n + o] = features[o, y, x + j * step]
