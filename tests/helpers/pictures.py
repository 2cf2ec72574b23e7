"""Drawn RGB images for tests: smooth coloured noise with edges, and the plain ones that break formulas."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Picture = NDArray[np.uint8]


def picture(side: int, seed: int = 0) -> Picture:
    """Return (side, side, 3) uint8: soft blobs of colour, fine noise, and a bright disc with a sharp edge."""
    rng = np.random.default_rng(seed)
    soft = gaussian_filter(rng.standard_normal((side, side, 3)), (side / 20, side / 20, 0))
    fine = gaussian_filter(rng.standard_normal((side, side, 3)), (1, 1, 0))
    levels = 110 + 40 * soft / soft.std() + 12 * fine / fine.std()
    rows, columns = np.ogrid[:side, :side]
    levels[(rows - 0.4 * side) ** 2 + (columns - 0.6 * side) ** 2 < (0.2 * side) ** 2] += [90, 30, -40]
    return levels.clip(0, 255).astype(np.uint8)


def plain_pictures(side: int) -> dict[str, Picture]:
    """Return pictures of one colour, of two, of stripes, and of noise."""
    stripes = np.zeros((side, side, 3), np.uint8)
    stripes[:, ::2] = 255
    halves = np.zeros((side, side, 3), np.uint8)
    halves[:, side // 2 :] = (255, 0, 0)
    return {
        "black": np.zeros((side, side, 3), np.uint8),
        "white": np.full((side, side, 3), 255, np.uint8),
        "one colour": np.full((side, side, 3), (200, 30, 90), np.uint8),
        "two colours": halves,
        "stripes": stripes,
        "noise": np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8),
    }
