"""Crops of views lie within them, are drawn by torch's generator, and the ten are those of corners and centre."""

import pytest
import torch
from torch import Tensor

from head.models.tails.crops import center_crop, random_crops, ten_crops

B, S, SIDE = 40, 11, 7


@pytest.fixture
def pixels() -> Tensor:
    """Pictures (B, S, S, 3) uint8 whose pixels say which picture they are of, and in which row and column."""
    b, y, x = torch.meshgrid(torch.arange(B), torch.arange(S), torch.arange(S), indexing="ij")
    return torch.stack([b, y, x], dim=3).to(torch.uint8)


def test_random_crops_are_squares_within_their_own_view_half_of_them_mirrored(pixels: Tensor) -> None:
    torch.manual_seed(0)
    crops = random_crops(pixels, SIDE).long()
    assert crops.shape == (B, SIDE, SIDE, 3)
    along = torch.arange(SIDE)
    mirrored, corners = [], set()
    for b, crop in enumerate(crops):
        straight = crop.flip(1) if crop[0, 0, 2] > crop[0, 1, 2] else crop
        mirrored.append(straight is not crop)
        y, x = straight[0, 0, 1:].tolist()
        corners.add((y, x))
        assert (straight[..., 0] == b).all()
        assert (straight[..., 1] == y + along[:, None]).all()
        assert (straight[..., 2] == x + along).all()
    assert 0.2 * B < sum(mirrored) < 0.8 * B
    for places in zip(*corners, strict=True):
        assert set(places) == set(range(S - SIDE + 1))  # both ends, and all between


def test_random_crops_depend_on_the_generator_alone(pixels: Tensor) -> None:
    torch.manual_seed(5)
    first, second = random_crops(pixels, SIDE), random_crops(pixels, SIDE)
    torch.manual_seed(5)
    assert torch.equal(random_crops(pixels, SIDE), first)
    assert not torch.equal(first, second)


def test_a_random_crop_of_the_whole_side_is_the_view_or_its_mirror_image(pixels: Tensor) -> None:
    for crop, view in zip(random_crops(pixels, S), pixels, strict=True):
        assert torch.equal(crop, view) or torch.equal(crop, view.flip(1))


def test_ten_crops_are_corners_and_centre_and_their_mirror_images(pixels: Tensor) -> None:
    five = [
        pixels[:, 0:7, 0:7],
        pixels[:, 0:7, 4:11],
        pixels[:, 4:11, 0:7],
        pixels[:, 4:11, 4:11],
        pixels[:, 2:9, 2:9],
    ]
    wanted = [*five, *(torch.flip(one, [2]) for one in five)]
    found = ten_crops(pixels, SIDE)
    assert len(found) == 10
    for one, like in zip(found, wanted, strict=True):
        assert torch.equal(one, like)
    assert torch.equal(center_crop(pixels, SIDE), pixels[:, 2:9, 2:9])
