"""Image files that are decoded and hashed before anyone asks for them, while the network is still being built.

Building takes seconds of one core. What was begun by the time it is asked for is not done again; the rest is dropped.
"""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

from featcache.base.cores import usable_threads
from featcache.base.errors import StorageError
from featcache.base.files import digest_of_file
from featcache.images.loading import MOST_WHOLE, LoadedImage, load_or_absent
from featcache.settings import ViewSettings

EARLY_BYTES = 128 << 20  # of pixels that wait
Result = TypeVar("Result")


class EarlyImages:
    """Files of a folder of images on which all cores but one are at work, from the first call to the end of `with`.

    Every answer is given once: it is not kept beyond that.
    """

    def __init__(self, images: Path) -> None:
        self._images = images
        self._pool = ThreadPoolExecutor(max(1, usable_threads(None) - 1), thread_name_prefix="early")
        self._loaded: dict[Any, Future[LoadedImage]] = {}
        self._digests: dict[str, Future[str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)  # those that run hold files open

    def load(self, names: Iterable[str], views: tuple[int, int], how: ViewSettings, *, cut: bool) -> None:
        """Begin to decode images and cut views [start, stop) of each, or to keep them whole: the first, as fit."""
        of_image = (views[1] - views[0]) * 3 * how.image_size**2
        fitting = max(1, EARLY_BYTES // of_image) if cut else MOST_WHOLE
        for name, _ in zip(names, range(fitting), strict=False):
            begun = self._pool.submit(load_or_absent, self._images / name, name, views, how, cut=cut)
            self._loaded[name, views, how, cut] = begun

    def hash(self, names: Iterable[str]) -> None:
        """Begin to take the digest of each file."""
        for name in names:
            self._digests[name] = self._pool.submit(digest_or_reason, self._images / name)

    def loaded(self, name: str, views: tuple[int, int], how: ViewSettings, *, cut: bool) -> LoadedImage:
        """Return what `load_or_absent` returns, as it was begun or computed now; for any thread."""
        begun = _begun(self._loaded.pop((name, views, how, cut), None))
        return begun or load_or_absent(self._images / name, name, views, how, cut=cut)

    def digest(self, name: str) -> str:
        """Return what `digest_or_reason` returns, as it was begun or computed now; for any thread."""
        return _begun(self._digests.pop(name, None)) or digest_or_reason(self._images / name)


def digest_or_reason(path: Path) -> str:
    """Return the sha256 of a file as 64 hex digits, or why it has none."""
    try:
        return digest_of_file(path) if path.is_file() else "not there, or not a file"
    except StorageError as error:
        return str(error).removeprefix(f"{path}: ")


def _begun(future: Future[Result] | None) -> Result | None:
    """Return what a future comes to, or None if nobody has begun with it."""
    return None if future is None or future.cancel() else future.result()
