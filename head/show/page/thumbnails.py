"""Thumbnails of a cache's images, each from the very file that was extracted; of any other file there is none."""

import base64
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from PIL import Image

from featcache.base.commands import command
from featcache.base.cores import usable_threads
from featcache.base.errors import BadImage, InvalidSettings
from featcache.base.progress import OnProgress, Progress, silent
from featcache.datasets.dataset import images_of
from featcache.images.identity import ImageRow, original
from featcache.store.cache import FeatureCache

LARGEST_SIDE, SMALLEST_SIDE = 360, 48
SMALL_SIDE = 112  # of pictures beside a larger one
QUALITY = 78  # of WebP; 80 photographs at 320 pixels take 12 KB each


@dataclass(frozen=True)
class Thumbnail:
    """A small WebP of an image; or none, and the problem that left it without."""

    data: bytes = b""
    problem: str = ""

    def as_text(self) -> str:
        """Return the file in base64."""
        return base64.b64encode(self.data).decode()


def make_thumbnail(rgb: Image.Image, side: int) -> Thumbnail:
    """Return an image as WebP, its longer side at most so many pixels."""
    small = rgb.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    file = BytesIO()
    small.save(file, "WEBP", quality=QUALITY, method=4)
    return Thumbnail(file.getvalue())


def images_folder(cache: FeatureCache, root: Path | None) -> Path:
    """Return the folder of a cache's images: of a dataset that is now in root, or where they were extracted from.

    Raises `InvalidSettings` if root is given and has none; the folder of extraction may be gone since.
    """
    folder = images_of(cache.manifest.source, root)
    if root is not None and not folder.is_dir():
        raise InvalidSettings(f"{command('--root', root)}: {folder} is no folder; name the one that the dataset is in")
    return folder


def thumbnails_of(
    images: Sequence[ImageRow],
    folder: Path,
    *,
    budget: int,
    largest: int = LARGEST_SIDE,
    on_progress: OnProgress = silent,
) -> list[Thumbnail]:
    """Return the thumbnail of each image, at most budget bytes together if they can be: smaller where they are many.

    The longer side is at most so many pixels as largest says.

    An image that is not there, cannot be read, or is not the file that was extracted has a problem instead.
    """
    side = largest if budget > 0 else SMALLEST_SIDE
    while True:
        found = _all_of(images, folder, side, on_progress)
        taken = sum(len(one.data) for one in found)
        if taken <= budget or side == SMALLEST_SIDE:
            return found
        side = max(SMALLEST_SIDE, math.floor(side * 0.95 * math.sqrt(budget / taken)))


class Pictures:
    """Small pictures of a cache's images, each made when it is asked for first; '' where there is none."""

    def __init__(self, cache: FeatureCache, folder: Path) -> None:
        self._cache, self._folder = cache, folder
        self._made = lru_cache(maxsize=1024)(self._make)

    def of(self, row: int) -> str:
        """Return the picture of a row, in base64."""
        return self._made(row)

    def _make(self, row: int) -> str:
        return _thumbnail(self._cache.images[row], self._folder, SMALL_SIDE).as_text()


def _all_of(images: Sequence[ImageRow], folder: Path, side: int, on_progress: OnProgress) -> list[Thumbnail]:
    found: list[Thumbnail] = []
    with ThreadPoolExecutor(usable_threads(None), thread_name_prefix="thumbnail") as pool:
        for one in pool.map(lambda image: _thumbnail(image, folder, side), images):
            found.append(one)
            on_progress(Progress("thumbnails", len(found), len(images), "images"))
    return found


def _thumbnail(image: ImageRow, folder: Path, side: int) -> Thumbnail:
    try:
        return make_thumbnail(original(image, folder), side)
    except BadImage as error:
        return Thumbnail(problem=str(error))
