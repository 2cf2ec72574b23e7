"""Saliency and structure: where the map is high, and what a blur takes away."""

import numpy as np
import pytest

from featcache.backbones.descriptors.saliency import saliency, saliency_map
from tests.helpers.pictures import picture


def test_what_stands_out_is_salient() -> None:
    rng = np.random.default_rng(0)
    gray = 100 + 5.0 * rng.standard_normal((128, 128))
    gray[40:48, 88:96] = 250
    found = saliency_map(gray)
    assert (found.min(), found.max()) == (0, 1)
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert abs(row - 22) <= 2
    assert abs(column - 46) <= 2


def test_the_map_of_64_pixels_follows_the_published_formula() -> None:
    from scipy.ndimage import gaussian_filter

    gray = picture(64).mean(axis=2)
    spectrum = np.fft.fft2(gray)
    logarithm = np.log(np.abs(spectrum) + 1)
    mean = sum(np.roll(logarithm, (a, b), (0, 1)) for a in (-1, 0, 1) for b in (-1, 0, 1)) / 9
    phase = spectrum / np.abs(spectrum)
    wanted = gaussian_filter(np.abs(np.fft.ifft2(np.exp(logarithm - mean) * phase)) ** 2, 2.5)
    wanted = (wanted - wanted.min()) / (wanted.max() - wanted.min())
    np.testing.assert_allclose(saliency_map(gray), wanted, atol=1e-9)


def test_numbers_are_those_of_the_map_and_of_the_blur() -> None:
    pixels = picture(130)
    found = saliency(pixels)
    gray = (pixels @ np.array([0.299, 0.587, 0.114]) + 0.5).astype(np.uint8).astype(float)
    salient = saliency_map(gray)
    assert found[0] == pytest.approx(salient.mean(), abs=1e-3)
    assert found[1] == pytest.approx(salient.std(), abs=1e-3)
    assert 0 < found[2] < 5
    assert found[3] == pytest.approx((salient > 0.5).mean(), abs=1e-3)


def test_a_blur_takes_fine_structure_first_and_the_same_share_at_any_size() -> None:
    lost = []
    for side in (128, 256):
        waves = (127 + 100 * np.sin(np.arange(side) * 2 * np.pi * 16 / side)).astype(np.uint8)
        lost.append(saliency(np.repeat(np.broadcast_to(waves, (side, side))[..., None], 3, axis=2))[4:])
    assert (np.diff(lost[1]) > 0).all()
    # a wave of 16 pixels keeps exp(-(2 pi s / 16)^2 / 2) of its height under a Gaussian of s
    wanted = [(1 - np.exp(-((2 * np.pi * s / 16) ** 2) / 2)) ** 2 for s in (1, 2, 4, 8)]
    np.testing.assert_allclose(lost[1], wanted, atol=0.03)
    np.testing.assert_allclose(lost[0], lost[1], atol=0.05)


def test_an_image_of_one_colour_has_zeros() -> None:
    assert (saliency(np.full((70, 70, 3), 33, np.uint8)) == 0).all()
