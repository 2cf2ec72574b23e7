"""Which part of an image each view shows, and how it becomes pixels.

View 0 is the evaluation view, views 1..K are the paper's augmentation (section 3.5). Box and flip are a
function of (seed, image name, view) and the image's size alone, so they depend on no other image and on
no batch, worker, shard or restart. The code that the paper's authors published squashes an image to a square
before it augments it, and their models expect that.
"""

import hashlib
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featcache.settings import FLIP_PROBABILITY, ViewSettings

_CROP_ATTEMPTS = 10
_RESAMPLING = {"bilinear-antialias": Image.Resampling.BILINEAR, "bicubic-antialias": Image.Resampling.BICUBIC}


class Box(NamedTuple):
    """Pixels [left, right) x [top, bottom) of the image that a view is cut from: upright, or squashed as well."""

    left: int
    top: int
    right: int
    bottom: int


class View(NamedTuple):
    """The box that a view shows, and whether it is mirrored left to right."""

    box: Box
    flip: bool


def view_of(how: ViewSettings, name: str, view: int, *, width: int, height: int) -> View:
    """Return view number `view` of the image called name, width x height pixels when upright.

    The box is in pixels of what `sources_of` says the view is cut from.
    """
    if view == 0:
        return View(_eval_box(how, width, height), flip=False)
    if how.pre_squash:
        width = height = how.pre_squash
    draws = _Draws(f"{how.seed}\0{name}\0{view}")
    box = _random_box(draws, how, width, height)
    return View(box, flip=draws.uniform() < FLIP_PROBABILITY)


def sources_of(image: Image.Image, views: range, how: ViewSettings) -> list[Image.Image]:
    """Return what each of views is cut from: the upright image, or its squashed copy, which is made at most once."""
    side, squashed = how.pre_squash, image
    if side and views and views[-1] > 0:
        squashed = image.resize((side, side), _RESAMPLING[how.interpolation])
    return [squashed if view else image for view in views]


def render(image: Image.Image, view: View, how: ViewSettings) -> NDArray[np.uint8]:
    """Return the pixels (size, size, 3) of a view: cropped, resized (antialiased), mirrored."""
    size = how.image_size
    pixels = np.asarray(image.crop(view.box).resize((size, size), _RESAMPLING[how.interpolation]))
    return pixels[:, ::-1] if view.flip else pixels


def _eval_box(how: ViewSettings, width: int, height: int) -> Box:
    if how.eval_view == "squash":
        return Box(0, 0, width, height)
    w, h = (width, height) if how.eval_view == "squash-center" else (min(width, height),) * 2
    w, h = max(1, round(how.center_fraction * w)), max(1, round(how.center_fraction * h))
    left, top = (width - w) // 2, (height - h) // 2
    return Box(left, top, left + w, top + h)


def _random_box(draws: "_Draws", how: ViewSettings, width: int, height: int) -> Box:
    """Draw area and aspect until the box fits, as torchvision's RandomResizedCrop does; else the central box."""
    low, high = how.crop_ratio
    for _ in range(_CROP_ATTEMPTS):
        area = width * height * draws.uniform(*how.crop_scale)
        ratio = math.exp(draws.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = draws.below(width - w + 1), draws.below(height - h + 1)
            return Box(left, top, left + w, top + h)
    ratio = min(max(width / height, low), high)
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - w) // 2, (height - h) // 2
    return Box(left, top, left + max(1, w), top + max(1, h))


class _Draws:
    """Uniform numbers from SHA-256 of (key, counter): the same on every machine and library version."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._count = 0

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        digest = hashlib.sha256(f"{self._key}\0{self._count}".encode()).digest()
        self._count += 1
        return low + (high - low) * ((int.from_bytes(digest[:8], "big") >> 11) * 2.0**-53)

    def below(self, stop: int) -> int:
        return min(int(self.uniform(0, stop)), stop - 1)
