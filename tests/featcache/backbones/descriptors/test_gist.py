"""GIST against sums written out from its definition: Fourier transforms as matrices, filters and blocks in loops."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.backbones.descriptors.gist import gist
from tests.helpers.pictures import picture

Complex = NDArray[np.complex128]


def transformed(image: NDArray[np.float64] | Complex, sign: int) -> Complex:
    n = len(image)
    matrix = np.exp(sign * 2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n)
    result: Complex = matrix @ image @ matrix.T
    return result if sign < 0 else result / n**2


def mirrored(image: NDArray[np.float64], before: int, after: int) -> NDArray[np.float64]:
    n = len(image)
    places = [-1 - i if i < 0 else 2 * n - 1 - i if i >= n else i for i in range(-before, n + after)]
    return image[np.ix_(places, places)]


def signed(k: int, n: int) -> int:
    return k if k < n / 2 else k - n


def slow_gist(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    side = len(pixels)
    gray = pixels.astype(float).mean(axis=2)
    levels = np.log(1 + 255 * (gray - gray.min()) / (gray.max() - gray.min()))
    padded = mirrored(mirrored(levels, 5, 5), 0, side % 2)
    n = len(padded)
    low = np.array([[2 ** -((signed(a, n) ** 2 + signed(b, n) ** 2) / 16) for b in range(n)] for a in range(n)])
    detail = padded - transformed(transformed(padded, -1) * low, 1).real
    deviation = np.sqrt(np.abs(transformed(transformed(detail**2, -1) * low, 1)))
    even = (detail / (0.2 + deviation))[5 : 5 + side, 5 : 5 + side]
    spectrum = transformed(mirrored(even, 32, 32), -1)
    n = len(spectrum)
    numbers = []
    for scale in range(4):
        for direction in range(8):
            response = np.abs(transformed(spectrum * transfer(n, scale, direction), 1))[32 : 32 + side, 32 : 32 + side]
            edges = [int(side * i / 4) for i in range(5)]
            numbers += [
                response[edges[a] : edges[a + 1], edges[b] : edges[b + 1]].mean() for a in range(4) for b in range(4)
            ]
    return np.array(numbers)


def transfer(n: int, scale: int, direction: int) -> NDArray[np.float64]:
    found = np.empty((n, n))
    for a in range(n):
        for b in range(n):
            y, x = signed(a, n), signed(b, n)
            angle = math.atan2(y, x) + math.pi * direction / 8
            if angle > math.pi:
                angle -= 2 * math.pi
            radius = math.hypot(x, y) / n / (0.3 / 1.85**scale)
            found[a, b] = math.exp(-3.5 * (radius - 1) ** 2 - 2 * math.pi * angle**2)
    return found


@pytest.mark.parametrize("side", [64, 70, 77])
def test_gist_is_what_its_definition_gives(side: int) -> None:
    pixels = picture(side, seed=side)
    np.testing.assert_allclose(gist(pixels), slow_gist(pixels), rtol=2e-4, atol=2e-6)


def test_lines_answer_to_their_own_direction() -> None:
    waves = (127 + 100 * np.sin(np.arange(128) * 2 * np.pi * 0.25)).astype(np.uint8)
    upright = np.repeat(np.broadcast_to(waves, (128, 128))[..., None], 3, axis=2)
    strengths = {
        name: gist(pixels).reshape(4, 8, 16).mean(axis=(0, 2))
        for name, pixels in (("upright", upright), ("lying", upright.transpose(1, 0, 2)))
    }
    assert strengths["upright"].argmax() == 0
    assert strengths["lying"].argmax() == 4


def test_an_image_of_one_colour_has_no_lines() -> None:
    assert np.abs(gist(np.full((64, 64, 3), 70, np.uint8))).max() < 1e-6


def test_brightness_and_contrast_do_not_matter() -> None:
    pixels = picture(96) // 2
    np.testing.assert_allclose(gist(pixels + 100), gist(pixels), rtol=1e-4, atol=1e-6)
