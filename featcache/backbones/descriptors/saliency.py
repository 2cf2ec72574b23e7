"""Attention and structure, after Mancas and Le Meur: how salient regions are spread, and what a blur takes away."""

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter, uniform_filter

from featcache.backbones.descriptors.pixels import Pixels, check_pixels, luma

_SIDE = 64  # of the map, pixels
_BINS = 32  # of the map's entropy
_BLURS = (1, 2, 4, 8)  # standard deviations in pixels of an image of 256


def saliency(pixels: Pixels) -> NDArray[np.float32]:
    """Return (8,) numbers of an image (S, S, 3) uint8.

    Mean, standard deviation, entropy (bits, of 32 levels) and share above 0.5 of a saliency map in 0..1; then the
    energy that Gaussians of 1, 2, 4 and 8 pixels (in an image of 256; else in proportion) take away, as a share of the
    brightness' variance. An image of one colour has zeros.

    Mancas and Le Meur (ICIP 2013) describe images by how a saliency map is spread and what a low-pass filter changes;
    their exact numbers are not known to us, and the program of their map, RARE2012, is not free. These numbers are our
    choice, of another map, the spectral residual (Hou and Zhang, CVPR 2007): after their idea, not their features.
    """
    check_pixels(pixels)
    gray = luma(pixels).astype(np.float64)
    salient = saliency_map(gray)
    levels = np.bincount((salient * _BINS).astype(int).clip(0, _BINS - 1).ravel(), minlength=_BINS) / salient.size
    entropy = -np.sum(levels[levels > 0] * np.log2(levels[levels > 0]))
    variance = gray.var()
    lost = [
        ((gray - gaussian_filter(gray, width * len(gray) / 256)) ** 2).mean() / variance if variance else 0.0
        for width in _BLURS
    ]
    return np.array([salient.mean(), salient.std(), entropy, (salient > 0.5).mean(), *lost], np.float32)


def saliency_map(gray: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the spectral residual map (64, 64) of brightness (S, S), from 0 to 1.

    It is high where the image departs from the trend of its own amplitudes over frequencies. Amplitudes are raised by 1
    before the logarithm, so that frequencies an image lacks stay finite.
    """
    shrink = _areas(len(gray))
    small = np.einsum("ik,kj->ij", np.einsum("ij,jk->ik", shrink, gray), shrink.T)  # a BLAS has a last bit of its own
    if np.ptp(small) < 1e-9:
        return np.zeros((_SIDE, _SIDE))
    spectrum = fft.fft2(small)
    amplitude = np.log1p(np.abs(spectrum))
    residual = amplitude - uniform_filter(amplitude, 3, mode="wrap")
    energy = np.abs(fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    smooth = gaussian_filter(energy, 2.5)
    found: NDArray[np.float64] = (smooth - smooth.min()) / np.ptp(smooth)
    return found


def _areas(side: int) -> NDArray[np.float64]:
    """Return the share (64, side) that each pixel of a line has in each of 64 equal parts of it."""
    edges = np.arange(_SIDE + 1)[:, None] * side / _SIDE
    starts = np.arange(side)
    overlap = np.minimum(edges[1:], starts + 1) - np.maximum(edges[:-1], starts)
    return np.asarray(np.maximum(overlap, 0) * _SIDE / side, np.float64)
