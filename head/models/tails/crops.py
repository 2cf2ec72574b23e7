"""Parts of stored views, cut anew whenever they are read: at random to train on, central or ten of them to evaluate."""

import torch
from torch import Tensor


def random_crops(pixels: Tensor, side: int) -> Tensor:
    """Return for each view (B, S, S, 3) a square of side pixels, at a random place and mirrored half the time."""
    B, S = pixels.shape[:2]
    corners = torch.randint(0, S - side + 1, (B, 2)).tolist()
    mirrored = (torch.rand(B) < 0.5).tolist()
    cut = [view[y : y + side, x : x + side] for view, (y, x) in zip(pixels, corners, strict=True)]
    return torch.stack([one.flip(1) if flip else one for one, flip in zip(cut, mirrored, strict=True)])


def center_crop(pixels: Tensor, side: int) -> Tensor:
    """Return the central square (B, side, side, 3) of each view (B, S, S, 3)."""
    start = (pixels.shape[1] - side) // 2
    return pixels[:, start : start + side, start : start + side]


def ten_crops(pixels: Tensor, side: int) -> list[Tensor]:
    """Return four corners and centre of each view (B, S, S, 3), and their mirror images: ten of (B, side, side, 3)."""
    ends = (slice(0, side), slice(pixels.shape[1] - side, None))
    corners = [pixels[:, y, x] for y in ends for x in ends]
    five = [*corners, center_crop(pixels, side)]
    return [*five, *(one.flip(2) for one in five)]
