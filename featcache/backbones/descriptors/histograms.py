"""Histograms: of channels, of colours, and of the patterns that each pixel makes with its eight neighbours."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.backbones.descriptors.compiled import compiled
from featcache.backbones.descriptors.pixels import Pixels, check_pixels, luma

PATTERNS = 59
_LBP_WEIGHTS = {1: 1, 2: 4, 4: 32}  # cells a side: weight of the level
_LIGHTNESS_EDGES = (25.0, 50.0, 75.0)
_OPPONENT_EDGES = (-30.0, -10.0, 10.0, 30.0)  # green to red, and blue to yellow: strong, weak, gray, weak, strong
COLOURS = (len(_LIGHTNESS_EDGES) + 1) * (len(_OPPONENT_EDGES) + 1) ** 2
_FAR, _NEAR, _ALL = (
    70_711,
    29_289,
    100_000,
)  # where a diagonal neighbour at distance 1 lies between pixels, by sqrt(1/2)


def pixel_histogram(pixels: Pixels) -> NDArray[np.float32]:
    """Return the (63,) histogram of red, green and blue of an image (S, S, 3) uint8; it sums to 1.

    21 bins a channel, centred at 0, 0.05, ..., 1 of its range, as in Isola and others (CVPR 2011).
    """
    check_pixels(pixels)
    bins = ((40 * np.arange(256) + 255) // 510)[pixels] + np.array([0, 21, 42])  # (S, S, 3)
    counts = np.bincount(bins.ravel(), minlength=63)
    return np.asarray(counts / bins.size, np.float32)


def local_binary_patterns(pixels: Pixels) -> NDArray[np.float32]:
    """Return the (1239,) histograms of uniform patterns of an image (S, S, 3) uint8; they sum to 1.

    59 patterns of 8 neighbours at distance 1 (Ojala and others, PAMI 24(7), 2002), in the brightness: of the whole
    image, of 2 x 2 and of 4 x 4 cells, row by row; levels weigh 1, 4 and 32 as in Khosla's feature-extraction. The
    outermost pixels have no pattern.
    """
    check_pixels(pixels)
    labels = pattern_labels(luma(pixels))
    levels = [weight * _cell_histograms(labels, PATTERNS, side) for side, weight in _LBP_WEIGHTS.items()]
    return (np.concatenate(levels) / sum(_LBP_WEIGHTS.values())).astype(np.float32)


def pattern_labels(gray: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the pattern 0..58 of each inner pixel of (S, S) uint8, (S - 2, S - 2); 58 is any that is not uniform."""
    labels = np.empty((gray.shape[0] - 2, gray.shape[1] - 2), np.int64)
    _pattern_labels(gray.astype(np.int64), _uniform_labels(), labels)
    return labels


def colour_histogram(pixels: Pixels) -> NDArray[np.float32]:
    """Return the (500,) joint histograms of lightness, red-green and blue-yellow of an image (S, S, 3) uint8; sum 1.

    4 x 5 x 5 colours of CIELAB (sRGB, D65), of the whole image and of 2 x 2 cells, row by row; each level weighs half.
    Ours, in the place of Khosla's 50 colour names, whose table has no free source.
    """
    check_pixels(pixels)
    labels = _colours(pixels)
    levels = [0.5 * _cell_histograms(labels, COLOURS, side) for side in (1, 2)]
    return np.concatenate(levels).astype(np.float32)


def _cell_histograms(labels: NDArray[np.int64], kinds: int, side: int) -> NDArray[np.float64]:
    """Return the shares (side * side * kinds,) of each kind of label in each of side x side cells, all summing to 1."""
    rows, columns = (np.arange(length) * side // length for length in labels.shape)
    cells = rows[:, None] * side + columns
    counts = np.bincount((cells * kinds + labels).ravel(), minlength=side * side * kinds)
    return counts / labels.size


def _uniform_labels() -> NDArray[np.int64]:
    """Return the label of each of 256 patterns: by how many ones it has and where they begin, if all lie together."""
    labels = np.full(256, PATTERNS - 1)
    labels[0], labels[255] = 0, PATTERNS - 2
    for ones in range(1, 8):
        for turn in range(8):
            pattern = sum(1 << (place - turn) % 8 for place in range(ones))
            labels[pattern] = 1 + (ones - 1) * 8 + turn
    return labels


@compiled
def _pattern_labels(gray: NDArray[Any], table: NDArray[Any], labels: NDArray[Any]) -> None:
    """Compare each pixel with its neighbours, the diagonal ones interpolated; whole numbers, so that equal is equal."""
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            middle = gray[y + 1, x + 1]
            pattern = 0
            for k in range(8):  # from the right against the clock
                dy, dx = (0, -1, -1, -1, 0, 1, 1, 1)[k], (1, 1, 0, -1, -1, -1, 0, 1)[k]
                neighbour = gray[y + 1 + dy, x + 1 + dx]
                if k % 2 == 0:
                    higher = neighbour >= middle
                else:
                    sides = gray[y + 1 + dy, x + 1] + gray[y + 1, x + 1 + dx]
                    value = _NEAR * _NEAR * middle + _NEAR * _FAR * sides + _FAR * _FAR * neighbour
                    higher = value >= _ALL * _ALL * middle
                if higher:
                    pattern |= 1 << k
            labels[y, x] = table[pattern]


def _colours(pixels: Pixels) -> NDArray[np.int64]:
    """Return the colour 0..99 of each pixel, (S, S)."""
    levels = np.arange(256) / 255
    linear = np.where(levels > 0.04045, ((levels + 0.055) / 1.055) ** 2.4, levels / 12.92)
    # sRGB's primaries in XYZ, divided by the white point D65
    to_xyz = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    scaled = to_xyz / np.array([[0.95047], [1.0], [1.08883]])
    x, y, z = (_cube_root(sum(linear[pixels[..., c]] * row[c] for c in range(3))) for row in scaled)
    lightness = np.digitize(116 * y - 16, _LIGHTNESS_EDGES)
    red_green = np.digitize(500 * (x - y), _OPPONENT_EDGES)
    blue_yellow = np.digitize(200 * (y - z), _OPPONENT_EDGES)
    each = len(_OPPONENT_EDGES) + 1
    return np.asarray((lightness * each + red_green) * each + blue_yellow, np.int64)


def _cube_root(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return CIELAB's root of shares of the white point, which is a line close to black."""
    return np.where(share > (6 / 29) ** 3, np.cbrt(share), share * (29 / 6) ** 2 / 3 + 4 / 29)
