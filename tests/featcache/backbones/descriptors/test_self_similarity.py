"""Self-similarity against loops over patches from its definition."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.backbones.descriptors.self_similarity import radius_for, self_similarity
from tests.helpers.pictures import picture


def slow_descriptor(pixels: NDArray[np.uint8], y: int, x: int, radius: int) -> NDArray[np.float64]:
    levels = pixels.astype(float)

    def difference(dy: int, dx: int) -> float:
        here = levels[y - 2 : y + 3, x - 2 : x + 3]
        there = levels[y + dy - 2 : y + dy + 3, x + dx - 2 : x + dx + 3]
        return float(((here - there) ** 2).sum())

    noise = max(150, *(difference(*shift) for shift in ((0, 1), (1, 0), (0, -1), (-1, 0))))
    numbers = np.zeros((10, 3))
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            distance = math.hypot(dy, dx)
            if 0 < distance <= radius:
                angle = int(math.degrees(math.atan2(dx, dy)) % 360 // 36)
                ring = min(2, int(3 * math.log(1 + distance) / math.log(1 + radius) - 1e-12))
                numbers[angle, ring] = max(numbers[angle, ring], math.exp(-difference(dy, dx) / noise))
    return numbers.reshape(-1)


@pytest.mark.parametrize(("side", "radius"), [(64, 16), (97, 24), (163, 40)])
def test_descriptors_are_what_the_definition_gives(side: int, radius: int) -> None:
    pixels = picture(side, seed=side)
    pixels[: side // 2, : side // 2] = pixels[0, 0]  # a flat quarter, where noise decides
    found = self_similarity(pixels)
    count = math.ceil((side - 2 * (radius + 2)) / 4)
    assert radius_for(side) == radius
    assert found.shape == (count, count, 30)
    for i, j in ((0, 0), (count - 1, count - 1), (count // 2, 1)):
        wanted = slow_descriptor(pixels, radius + 2 + 4 * i, radius + 2 + 4 * j, radius)
        np.testing.assert_allclose(found[i, j], wanted, rtol=1e-5, atol=1e-7)


def test_every_bin_of_the_full_radius_holds_pixels() -> None:
    assert (self_similarity(np.zeros((160, 160, 3), np.uint8)) == 1).all()


def test_stripes_are_similar_along_themselves() -> None:
    pixels = np.zeros((192, 192, 3), np.uint8)
    pixels[:, ::6] = pixels[:, 1::6] = 255  # upright lines
    outer = self_similarity(pixels)[..., 0::3].min(axis=(0, 1))  # the inner ring: 2 pixels around
    assert outer[0] == outer[5] == 1  # downwards, upwards
    assert outer.min() < 0.5
