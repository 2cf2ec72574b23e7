"""Dense SIFT against loops over pixels from its definition, and against OpenCV's SIFT at the same places."""

import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from featcache.backbones.descriptors.sift import dense_sift
from featcache.base.errors import InvalidSettings
from tests.helpers.pictures import picture


def gauss_slopes(levels: NDArray[np.float64], y: int, x: int) -> tuple[float, float]:
    """Return the slopes right and down at a pixel under a Gaussian of 1 pixel, cut to 5 x 5, mirrored outside."""
    n = len(levels)
    g = [math.exp(-(t**2) / 2) for t in range(-2, 3)]
    falls = [g[0] - g[1], (g[0] - g[2]) / 2, (g[1] - g[3]) / 2, (g[2] - g[4]) / 2, g[3] - g[4]]
    size = sum(abs(a * b) for a in g for b in falls) / 2
    right = down = 0.0
    for a in range(5):
        for b in range(5):
            v, u = (t if 0 <= t < n else -1 - t if t < 0 else 2 * n - 1 - t for t in (y + a - 2, x + b - 2))
            right += g[a] * falls[b] * levels[v, u] / size
            down += falls[a] * g[b] * levels[v, u] / size
    return right, down


def slow_descriptor(pixels: NDArray[np.uint8], top: int, left: int) -> NDArray[np.float64]:
    gray = pixels.astype(float).mean(axis=2)
    levels = gray / gray.max()
    numbers = np.zeros((4, 4, 8))
    for y in range(max(0, top - 2), min(len(levels), top + 18)):
        for x in range(max(0, left - 2), min(len(levels), left + 18)):
            right, down = gauss_slopes(levels, y, x)
            angle, length = math.atan2(down, right), math.hypot(right, down)
            for row in range(4):
                for column in range(4):
                    far_y, far_x = abs(y - top - 1.5 - 4 * row), abs(x - left - 1.5 - 4 * column)
                    weight = max(0, 1 - far_y / 4) * max(0, 1 - far_x / 4)
                    for o in range(8):
                        numbers[row, column, o] += weight * length * max(0, math.cos(angle - o * math.pi / 4)) ** 9
    flat = numbers.reshape(-1)
    if np.linalg.norm(flat) > 1:
        flat = np.minimum(flat / np.linalg.norm(flat), 0.2)
        flat = flat / np.linalg.norm(flat)
    return flat


def test_descriptors_are_what_the_definition_gives() -> None:
    pixels = picture(64, seed=5)
    found = dense_sift(pixels)
    assert found.shape == (49, 49, 128)
    for i, j in ((0, 0), (48, 48), (20, 3)):
        np.testing.assert_allclose(found[i, j], slow_descriptor(pixels, i, j), rtol=1e-3, atol=1e-5)


def test_weak_patches_stay_weak() -> None:
    pixels = np.full((64, 64, 3), 100, np.uint8)
    pixels[32:] = 101
    pixels[0, 0] = 255
    found = dense_sift(pixels)
    assert (found[20:30, 40] == 0).any()
    assert 0 < np.linalg.norm(found[24, 24]) < 1
    np.testing.assert_allclose(found[24, 24], slow_descriptor(pixels, 24, 24), rtol=1e-3, atol=1e-5)


def test_on_a_photograph_descriptors_are_close_to_opencvs() -> None:
    gray = data.camera()[100:356, 100:356]
    found = dense_sift(np.repeat(gray[..., None], 3, axis=2), 8)[3:-3, 3:-3]  # (25, 25, 128)
    first = 3 * 8 + 7.5
    points = [cv2.KeyPoint(first + 8 * j, first + 8 * i, 16 / 6, 0) for i in range(25) for j in range(25)]
    # OpenCV blurs by 1.6 pixels and weighs the patch's middle most; its angles run from rightwards to upwards
    _, theirs = cv2.SIFT_create().compute(gray, points)
    own = found.reshape(-1, 16, 8)[:, :, [0, 7, 6, 5, 4, 3, 2, 1]].reshape(-1, 128)
    strong = np.linalg.norm(own, axis=1) > 0.99
    assert strong.mean() > 0.5
    cosine = (
        (own * theirs).sum(axis=1) / np.linalg.norm(own, axis=1).clip(1e-9) / np.linalg.norm(theirs, axis=1).clip(1e-9)
    )
    assert np.median(cosine[strong]) > 0.9
    assert np.quantile(cosine[strong], 0.1) > 0.8


def test_a_coarser_step_takes_every_so_manieth_descriptor() -> None:
    pixels = picture(75)
    np.testing.assert_array_equal(dense_sift(pixels, 7), dense_sift(pixels)[::7, ::7])


def test_a_step_below_a_pixel_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="step: expected 1 pixel or more, found -2"):
        dense_sift(picture(64), -2)
