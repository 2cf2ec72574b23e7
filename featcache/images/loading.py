"""From image files to pixels: each decoded once, its views cut from that, a few images ahead in threads.

Decoding is Pillow's, at full size: a JPEG's draft mode (decoding at a half, a quarter, an eighth) gives other
pixels, and torchvision's decoder, twice as fast (1.4 against 2.8 ms a photograph, so 0.1 ms for each of 11 views),
knows fewer kinds of file.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featcache.base.errors import BadImage
from featcache.images.decode import DecodedImage, decode_file
from featcache.images.identity import ImageRow
from featcache.images.views import View, render, sources_of, view_of
from featcache.recipe import Recipe
from featcache.settings import ViewSettings

_AHEAD_PER_THREAD = 4  # images that wait, their views cut; bounds memory
_NO_PIXELS = np.empty((0, 0, 0, 3), np.uint8)
MOST_WHOLE = 12  # images that wait whole, 36 MB each from a camera of 12 megapixels


@dataclass(frozen=True)
class LoadedImage:
    """An image's identity, its views, and their pixels (v, S, S, 3) uint8; no views if the image is absent.

    If the views are to be cut later, on a device, pixels is empty and sources holds what each view is cut from,
    (H, W, 3) uint8, one array for neighbours that share it. seconds is the time that decoding and cutting took, notes
    are what to know of the image.
    """

    row: ImageRow
    views: list[View]
    pixels: NDArray[np.uint8]
    sources: list[NDArray[np.uint8]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def source(self, j: int) -> NDArray[np.uint8]:
        """Return what its view j is to be cut from; raise `ValueError` if its views were cut already."""
        if not self.sources:
            raise ValueError(f"{self.row.name}: loaded as views")
        return self.sources[j]


def load_image(path: Path, name: str, views: tuple[int, int], recipe: Recipe, *, cut: bool = True) -> LoadedImage:
    """Decode an image once and cut views [start, stop), or keep it whole; raise `BadImage`.

    Where the recipe squashes images first, Pillow does that here in both cases: it is done once an image, and a device
    that cuts views later is then sent a small square.
    """
    return _load(path, name, views, recipe.view_settings, cut=cut)


def load_or_absent(path: Path, name: str, views: tuple[int, int], how: ViewSettings, *, cut: bool) -> LoadedImage:
    """Return what `load_image` returns for views that are cut so, or an absent image with the reason."""
    try:
        return _load(path, name, views, how, cut=cut)
    except BadImage as error:
        return LoadedImage(ImageRow(name, absent=str(error)), [], _NO_PIXELS)


def _load(path: Path, name: str, views: tuple[int, int], how: ViewSettings, *, cut: bool) -> LoadedImage:
    started = time.perf_counter()
    decoded = decode_file(path)
    loaded = _views_of(decoded, name, views, how, cut=cut)
    seconds = {"decode": time.perf_counter() - started - loaded.seconds["views"], **loaded.seconds}
    return replace(loaded, seconds=seconds)


def load_decoded(
    decoded: DecodedImage, name: str, views: tuple[int, int], recipe: Recipe, *, cut: bool = True
) -> LoadedImage:
    """Return what `load_image` returns, of an image that is decoded."""
    return _views_of(decoded, name, views, recipe.view_settings, cut=cut)


def _views_of(decoded: DecodedImage, name: str, views: tuple[int, int], how: ViewSettings, *, cut: bool) -> LoadedImage:
    started = time.perf_counter()
    width, height = decoded.rgb.size
    numbers = range(*views)
    places = [view_of(how, name, view, width=width, height=height) for view in numbers]
    sources = sources_of(decoded.rgb, numbers, how)
    of_views = zip(sources, places, strict=True)
    pixels = np.stack([render(*of_view, how) for of_view in of_views]) if cut else _NO_PIXELS
    arrays = [] if cut else _as_arrays(sources)
    seconds = {"views": time.perf_counter() - started}
    row = ImageRow(name, decoded.sha256, width, height)
    return LoadedImage(row, places, pixels, arrays, seconds, decoded.notes)


def _as_arrays(sources: list[Image.Image]) -> list[NDArray[np.uint8]]:
    """Return each image as an array (H, W, 3); neighbours that are one image become one array."""
    arrays: list[NDArray[np.uint8]] = []
    for k, source in enumerate(sources):
        arrays.append(arrays[-1] if k and source is sources[k - 1] else np.array(source))
    return arrays


Loader = Callable[..., LoadedImage]  # as `load_or_absent`, but for the path


def load_ahead(
    images: Path,
    work: Sequence[tuple[str, tuple[int, int]]],
    recipe: Recipe,
    *,
    cut: bool = True,
    threads: int = 2,
    load: Loader | None = None,
) -> Iterator[LoadedImage]:
    """Yield the image of each (name, views) in order, decoded in threads a few images ahead; absent if it is bad.

    load is what gives an image, by default from its file; it may have begun with some before.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    waiting: deque[Future[LoadedImage]] = deque()
    how = recipe.view_settings

    def load_file(name: str, *args: Any, **kwargs: Any) -> LoadedImage:
        return load_or_absent(images / name, name, *args, **kwargs)

    try:
        for name, views in work:
            waiting.append(pool.submit(load or load_file, name, views, how, cut=cut))
            if len(waiting) > (_AHEAD_PER_THREAD * threads if cut else max(MOST_WHOLE, threads)):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
