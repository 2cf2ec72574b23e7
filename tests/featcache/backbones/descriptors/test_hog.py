"""HOG2x2 against loops over pixels and cells from Felzenszwalb's definition."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.backbones.descriptors.hog import hog2x2
from featcache.base.errors import InvalidSettings
from tests.helpers.pictures import picture

# in four digits, as in Felzenszwalb's program: which of two directions a gradient between both belongs to rests on it
UNITS = [(round(math.cos(o * math.pi / 9), 4), round(math.sin(o * math.pi / 9), 4)) for o in range(18)]


def gradients(pixels: NDArray[np.uint8]) -> dict[tuple[int, int], tuple[float, int]]:
    """Return the length and the direction of 18 of the longest gradient of each inner pixel (row, column)."""
    levels = pixels.astype(float)
    found = {}
    for y in range(1, len(pixels) - 1):
        for x in range(1, len(pixels) - 1):
            right, down = levels[y, x + 1] - levels[y, x - 1], levels[y + 1, x] - levels[y - 1, x]
            channel = int((right**2 + down**2).argmax())
            along = [right[channel] * cosine + down[channel] * sine for cosine, sine in UNITS]
            found[y, x] = (math.hypot(right[channel], down[channel]), int(np.argmax(along)))
    return found


def slow_cell(found: dict[tuple[int, int], tuple[float, int]], row: int, column: int) -> NDArray[np.float64]:
    """Return the histogram of 18 directions around a pixel; others count less the farther they are, 8 away nothing."""
    cell = np.zeros(18)
    for (y, x), (length, direction) in found.items():
        weight = max(0, 1 - abs(y - row) / 8) * max(0, 1 - abs(x - column) / 8)
        cell[direction] += weight * length
    return cell


def slow_features(cells: dict[tuple[int, int], NDArray[np.float64]], row: int, column: int) -> NDArray[np.float64]:
    """Return the 31 numbers of the cell at (row, column), normalised by the four blocks that it belongs to."""
    signed = cells[row, column]
    unsigned = signed[:9] + signed[9:]
    by_block = []
    for top in (row - 8, row):
        for left in (column - 8, column):
            block = [cells[y, x] for y in (top, top + 8) for x in (left, left + 8)]
            energy = sum(float(((cell[:9] + cell[9:]) ** 2).sum()) for cell in block)
            scale = 1 / math.sqrt(energy + 0.0001)
            by_block.append(np.minimum(np.concatenate([signed, unsigned]) * scale, 0.2))
    cut = np.array(by_block)  # (4, 27)
    return np.concatenate([0.5 * cut.sum(axis=0), 0.2357 * cut[:, :18].sum(axis=1)])


def test_descriptors_are_what_the_definition_gives() -> None:
    pixels = picture(64, seed=3)
    found = hog2x2(pixels)
    assert found.shape == (24, 24, 124)
    lengths = gradients(pixels)
    for i, j in ((0, 0), (23, 23), (5, 17)):
        rows, columns = range(16 + i - 8, 16 + i + 17, 8), range(16 + j - 8, 16 + j + 17, 8)
        cells = {(y, x): slow_cell(lengths, y, x) for y in rows for x in columns}
        wanted = np.concatenate([slow_features(cells, 16 + i, 16 + j), *more(cells, lengths, 16 + i, 16 + j)])
        np.testing.assert_allclose(found[i, j], wanted, rtol=2e-4, atol=1e-5)


def more(cells: dict[tuple[int, int], NDArray[np.float64]], lengths: dict[tuple[int, int], tuple[float, int]],
         row: int, column: int) -> list[NDArray[np.float64]]:  # fmt: skip
    """Return the numbers of the other three stacked cells."""
    for y in range(row - 8, row + 17, 8):
        for x in range(column - 8, column + 17, 8):
            cells.setdefault((y, x), slow_cell(lengths, y, x))
    return [slow_features(cells, y, x) for y, x in ((row, column + 8), (row + 8, column), (row + 8, column + 8))]


@pytest.mark.parametrize("degrees", range(0, 360, 40))
def test_a_slope_is_in_the_bin_of_its_direction(degrees: int) -> None:
    rows, columns = np.mgrid[:64, :64] - 32
    along = columns * math.cos(math.radians(degrees)) + rows * math.sin(math.radians(degrees))
    pixels = np.repeat((128 + 2.7 * along).round().clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    first = hog2x2(pixels)[10, 10, :31]
    assert first[:18].argmax() == degrees // 20
    assert first[18:27].argmax() == degrees // 20 % 9


def test_a_coarser_step_takes_every_so_manieth_descriptor() -> None:
    pixels = picture(75)
    dense = hog2x2(pixels)
    for step in (3, 8):
        np.testing.assert_array_equal(hog2x2(pixels, step), dense[::step, ::step])


def test_plain_images_have_no_directions() -> None:
    assert (hog2x2(np.full((64, 64, 3), 9, np.uint8)) == 0).all()


def test_a_step_below_a_pixel_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="step: expected 1 pixel or more, found 0"):
        hog2x2(picture(64), 0)
