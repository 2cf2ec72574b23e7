"""Crops lie within the view, everywhere in it, and are mirrored half the time."""

import torch
from torch import Tensor

from head.models.tails.crops import center_crop, random_crops, ten_crops


def numbered(side: int, count: int) -> Tensor:
    """Return views (count, side, side, 1) in which every pixel has a number of its own."""
    return torch.arange(side * side).reshape(1, side, side, 1).expand(count, -1, -1, -1)


def test_random_crops_are_squares_of_the_view_at_every_place_both_ways_round() -> None:
    views, side = numbered(7, 2000), 4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = random_crops(views, side)
    assert found.shape == (2000, 4, 4, 1)
    square = numbered(7, 1)[0]
    known = {}
    for y in range(4):
        for x in range(4):
            crop = square[y : y + 4, x : x + 4]
            known[tuple(crop.flatten().tolist())] = (y, x, False)
            known[tuple(crop.flip(1).flatten().tolist())] = (y, x, True)
    seen = [known[tuple(one.flatten().tolist())] for one in found]
    assert set(seen) == set(known.values())
    assert abs(sum(mirrored for _, _, mirrored in seen) / 2000 - 0.5) < 0.05
    assert len({seen[k] for k in range(20)}) > 10  # each view has a place of its own


def test_the_whole_view_is_its_only_crop() -> None:
    views = numbered(5, 3)
    assert torch.equal(center_crop(views, 5), views)
    for found, view in zip(random_crops(views, 5), views, strict=True):
        assert torch.equal(found, view) or torch.equal(found, view.flip(1))


def test_ten_crops_are_corners_and_centre_then_their_mirror_images() -> None:
    found = ten_crops(numbered(9, 2), 3)
    assert len(found) == 10
    corners = [int(one[1, 0, 0, 0]) for one in found[:5]]
    assert corners == [0, 6, 54, 60, 30]
    for crop, mirrored in zip(found[:5], found[5:], strict=True):
        assert torch.equal(mirrored, crop.flip(2)) and crop.shape == (2, 3, 3, 1)
