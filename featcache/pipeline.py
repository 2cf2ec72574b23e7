"""From image files to pixels: decode once, cut every view, a few images ahead in threads."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import BadImage
from .images import decode_file
from .layout import ImageRow
from .recipe import Recipe
from .views import View, render, view_of

DECODE_THREADS = 2
_DECODED_AHEAD = 8  # images; bounds memory


@dataclass(frozen=True)
class LoadedImage:
    """An image's identity, its views, and their pixels (v, S, S, 3) uint8; no views if the image is absent."""

    row: ImageRow
    views: list[View]
    pixels: NDArray[np.uint8]


def load_image(path: Path, name: str, views: tuple[int, int], recipe: Recipe) -> LoadedImage:
    """Decode an image once and cut views [start, stop); raise `BadImage`."""
    decoded = decode_file(path)
    width, height = decoded.rgb.size
    cut = [view_of(recipe.view_recipe, name, view, width=width, height=height) for view in range(*views)]
    pixels = np.stack([render(decoded.rgb, view, recipe.image_size) for view in cut])
    return LoadedImage(ImageRow(name, decoded.sha256, width, height), cut, pixels)


def _load_or_record(path: Path, name: str, views: tuple[int, int], recipe: Recipe) -> LoadedImage:
    try:
        return load_image(path, name, views, recipe)
    except BadImage as error:
        return LoadedImage(ImageRow(name, absent=str(error)), [], np.empty((0, 0, 0, 3), np.uint8))


def load_ahead(images: Path, work: Sequence[tuple[str, tuple[int, int]]], recipe: Recipe) -> Iterator[LoadedImage]:
    """Yield the image of each (name, views) in order, decoded in threads a few images ahead."""
    pool = ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="decode")
    waiting: deque[Future[LoadedImage]] = deque()
    try:
        for name, views in work:
            waiting.append(pool.submit(_load_or_record, images / name, name, views, recipe))
            if len(waiting) > _DECODED_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
