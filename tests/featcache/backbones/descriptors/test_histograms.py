"""Histograms against counts by hand and against scikit-image."""

import warnings

import numpy as np
import pytest
from skimage.color import rgb2lab
from skimage.feature import local_binary_pattern

from featcache.backbones.descriptors.histograms import (
    colour_histogram,
    local_binary_patterns,
    pattern_labels,
    pixel_histogram,
)
from featcache.backbones.descriptors.pixels import luma
from tests.helpers.pictures import picture


def test_pixel_bins_are_centred_at_twentieths() -> None:
    pixels = picture(70)
    found = pixel_histogram(pixels).reshape(3, 21)
    edges = np.arange(-0.025, 1.05, 0.05) * 255
    for channel in range(3):
        wanted = np.histogram(pixels[..., channel], edges)[0]
        np.testing.assert_allclose(found[channel], wanted / pixels.size, rtol=1e-6)
    assert found.sum() == pytest.approx(1)


def test_patterns_are_scikit_images_but_where_pixels_tie() -> None:
    gray = luma(picture(128, seed=2))
    theirs = local_binary_pattern(gray, 8, 1, method="nri_uniform")[1:-1, 1:-1]
    own = pattern_labels(gray)
    with warnings.catch_warnings():
        differ = own != theirs
    ties = np.zeros_like(differ)
    for dy in (-1, 1):
        for dx in (-1, 1):  # a corner that is exactly as bright as the middle: scikit-image rounds it either way
            middle, corner = (gray[1 + a : 127 + a, 1 + b : 127 + b].astype(int) for a, b in ((0, 0), (dy, dx)))
            beside = [gray[1 + a : 127 + a, 1 + b : 127 + b].astype(int) for a, b in ((dy, 0), (0, dx))]
            value = 29_289**2 * middle + 29_289 * 70_711 * (beside[0] + beside[1]) + 70_711**2 * corner
            ties |= value == 10**10 * middle
    assert not (differ & ~ties).any()
    assert differ.mean() < 0.01
    assert set(np.unique(own)) == set(range(59))


def test_flat_areas_have_one_pattern() -> None:
    for level in range(256):
        assert (pattern_labels(np.full((5, 5), level, np.uint8)) == 57).all()


def test_patterns_are_counted_in_cells_and_levels_weigh_1_4_32() -> None:
    pixels = picture(66)
    labels = pattern_labels(luma(pixels))  # (64, 64)
    found = local_binary_patterns(pixels) * 37
    wanted = np.bincount(labels.ravel(), minlength=59) / 4096
    np.testing.assert_allclose(found[:59], wanted, rtol=1e-4, atol=1e-7)
    wanted = 4 * np.bincount(labels[:32, 32:].ravel(), minlength=59) / 4096
    np.testing.assert_allclose(found[59:].reshape(-1, 59)[1], wanted, rtol=1e-4, atol=1e-7)
    wanted = 32 * np.bincount(labels[16:32, :16].ravel(), minlength=59) / 4096
    np.testing.assert_allclose(found[5 * 59 :].reshape(16, 59)[4], wanted, rtol=1e-4, atol=1e-7)
    assert found.sum() == pytest.approx(37)


def test_colours_are_counted_in_cielab() -> None:
    pixels = picture(64, seed=4)
    lightness, red, blue = np.moveaxis(rgb2lab(pixels), -1, 0)
    edges = [np.array([-1, 25, 50, 75, 101]), *[np.array([-200, -30, -10, 10, 30, 200])] * 2]
    found = colour_histogram(pixels).reshape(5, 4, 5, 5)
    cells = ((slice(64), slice(64)), (slice(32), slice(32)), (slice(32), slice(32, 64)))
    for number, cell in enumerate(cells):
        points = np.stack([part[cell].ravel() for part in (lightness, red, blue)], axis=1)
        wanted = np.histogramdd(points, edges)[0] / 4096 / 2
        np.testing.assert_allclose(found[number], wanted, atol=3 / 4096)  # pixels at an edge may fall to either side
    assert found.sum() == pytest.approx(1)
    assert (found[0].reshape(-1) > 0).sum() > 20


def test_grays_have_the_middle_colour() -> None:
    for level in (0, 40, 128, 255):
        found = colour_histogram(np.full((64, 64, 3), level, np.uint8)).reshape(5, 4, 5, 5)
        assert found[0, :, 2, 2].sum() == pytest.approx(0.5)
