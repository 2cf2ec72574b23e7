"""GIST: how strongly an image is built of lines of 8 directions at 4 scales, in each of 4 x 4 blocks.

Oliva and Torralba, International Journal of Computer Vision 42(3), 145-175, 2001; parameters of the authors' LMgist and
createGabor (LabelMe toolbox), which Isola and others (CVPR 2011) used.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from featcache.backbones.descriptors.pixels import Pixels, check_pixels, mean_gray

SCALES, DIRECTIONS, BLOCKS = 4, 8, 4
_BORDER = 32  # pixels that the image is continued by, mirrored, before it is filtered
_PREFILTER_BORDER, _PREFILTER_CYCLES = 5, 4.0  # pixels; cycles an image


def gist(pixels: Pixels) -> NDArray[np.float32]:
    """Return the (512,) mean filter strengths of an image (S, S, 3) uint8, at its own size.

    Number (32 filters, 16 blocks): filters from fine to coarse, directions within, blocks row by row. An image of one
    colour has zeros.
    """
    check_pixels(pixels)
    even = _even_contrast(mean_gray(pixels))  # (S, S)
    spectrum = fft.fft2(np.pad(even, _BORDER, mode="symmetric"))
    edges = np.linspace(0, len(even), BLOCKS + 1).astype(int)
    blocks = np.outer(np.diff(edges), np.diff(edges)).astype(np.float32)
    strengths = np.empty((SCALES * DIRECTIONS, BLOCKS, BLOCKS), np.float32)
    for one, transfer in zip(strengths, _transfer_functions(len(spectrum)), strict=True):
        response = np.abs(fft.ifft2(spectrum * transfer, overwrite_x=True))[_BORDER:-_BORDER, _BORDER:-_BORDER]
        one[:] = np.add.reduceat(np.add.reduceat(response, edges[:-1], axis=0), edges[:-1], axis=1) / blocks
    return strengths.reshape(-1)


def _even_contrast(gray: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return gray levels (S, S) less their local mean, divided by their local deviation: contrast alike everywhere."""
    span = gray.max() - gray.min()
    levels = np.log1p((gray - gray.min()) * (np.float32(255) / (span if span else np.float32(1))))
    padded = np.pad(levels, _PREFILTER_BORDER, mode="symmetric")
    odd = len(padded) % 2
    padded = np.pad(padded, ((0, odd), (0, odd)), mode="symmetric")
    low = _low_pass(len(padded))
    detail = padded - fft.ifft2(fft.fft2(padded) * low).real
    deviation = np.sqrt(np.abs(fft.ifft2(fft.fft2(detail * detail) * low)))
    inside = slice(_PREFILTER_BORDER, _PREFILTER_BORDER + len(gray))
    even: NDArray[np.float32] = (detail / (np.float32(0.2) + deviation))[inside, inside]
    return even


@lru_cache(maxsize=4)
def _low_pass(side: int) -> NDArray[np.float32]:
    """Return a Gaussian (side, side) in the frequency domain that is one half at 4 cycles."""
    cycles = fft.fftfreq(side, 1 / side)
    squares = cycles[:, None] ** 2 + cycles**2
    return np.asarray(np.exp(-squares * np.log(2) / _PREFILTER_CYCLES**2), np.float32)


@lru_cache(maxsize=4)
def _transfer_functions(side: int) -> NDArray[np.float32]:
    """Return the (32, side, side) Gabor filters in the frequency domain, made once for each size of image.

    Scale s is centred at 0.3/1.85^s cycles a pixel; direction j at -pi j/8, where frequencies of both signs differ.
    """
    frequencies = fft.fftfreq(side)
    radius = np.hypot(frequencies[:, None], frequencies)
    angle = np.arctan2(frequencies[:, None], frequencies)
    sharpness = 16 * DIRECTIONS**2 / 32**2
    filters = []
    for scale in range(SCALES):
        along = 10 * 0.35 * (radius / (0.3 / 1.85**scale) - 1) ** 2
        for direction in range(DIRECTIONS):
            turned = angle + np.pi / DIRECTIONS * direction
            turned -= 2 * np.pi * (turned > np.pi)
            filters.append(np.exp(-along - 2 * sharpness * np.pi * turned**2))
    return np.array(filters, np.float32)
