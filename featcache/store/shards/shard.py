"""A shard on disk, opened: identity of its rows, places of its chunks, and the reading of one chunk outside HDF5.

Checks all there is to check before it hands anything out. Knows nothing of other shards, of images or of writing.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from zstandard import ZstdDecompressor

from featcache.base.commands import amnet
from featcache.base.errors import BadInput, CorruptFile, Mismatch, StorageError
from featcache.images.identity import ImageRow
from featcache.images.views import Box, View
from featcache.recipe import Recipe
from featcache.store.shards.codec import Codec
from featcache.store.shards.encoding import Constants, pool
from featcache.store.shards.format import Block, Codecs, array_specs, chunk_digest
from featcache.store.shards.hdf5 import open_hdf5

_POOLED_AT_ONCE = 1024  # channels, less than twice as many at the end: of more, torch would start threads of its own


def cache_of(shard: Path) -> Path:
    """Return the folder of the cache that a shard's file is in."""
    return shard.parent.parent


def way_out(cache: Path) -> str:
    """Return what to do about damage in a cache's folder."""
    repair = amnet("verify-cache", "--repair", "--cache", cache)
    return f"Run {repair}: it computes what is damaged anew, and nothing else."


@dataclass(frozen=True)
class ChunkIndex:
    """Where the chunks of one array lie in the file, (n, v) each: offset -1 where there is none.

    codec is None if the chunks have filters that only HDF5 can undo.
    """

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    digests: NDArray[np.uint64]
    codec: Codec | None


@dataclass(frozen=True)
class StoredRow:
    """A row as it is stored: how its views are cut, and its chunks as (array, j, stored bytes) in their order."""

    row: ImageRow
    views: list[View]
    chunks: list[tuple[str, int, bytes]]


@dataclass(frozen=True)
class Shard:
    """An opened shard: identity of its rows and places of its chunks, in memory. Holds no file descriptor.

    box (n, v, 4) int32 and flip (n, v) uint8 are the views; arrays maps 'features/LAYER' and, where it is stored,
    'pooled/LAYER'; constants (2, D) of each layer are those of encoding uint8.
    """

    path: Path
    block: Block
    images: list[ImageRow]
    box: NDArray[np.int32]
    flip: NDArray[np.uint8]
    arrays: dict[str, ChunkIndex]
    constants: dict[str, Constants]
    fingerprint: str
    recipe: Recipe
    format_version: int

    @property
    def codecs(self) -> Codecs:
        """The codec of each stored array; raise `Mismatch` for filters that only HDF5 knows."""
        found = {array: index.codec for array, index in self.arrays.items()}
        if unknown := [array for array, codec in found.items() if codec is None]:
            raise Mismatch(
                f"{self.path}: {unknown[0]} has filters that this program reads but does not write; upgrade it"
            )
        return {array: codec for array, codec in found.items() if codec is not None}

    def stored_as(self, array: str) -> str:
        """Return the array whose chunks are read for array: itself, or the features that are pooled on reading."""
        return array if array in self.arrays else array.replace("pooled/", "features/", 1)

    def read_chunk(
        self, descriptor: int, array: str, i: int, j: int, out: NDArray[np.generic], decompressor: ZstdDecompressor
    ) -> None:
        """Fill out (chunk shape, C-contiguous) with row start + i, view start + j, its digest checked.

        Pooled vectors that are not stored are computed from the features. descriptor is an open file of `path`. Raises
        `BadInput` for an absent image, `CorruptFile` for damage.
        """
        if array not in self.arrays:
            self._pool_into(descriptor, self.stored_as(array), i, j, out, decompressor)
            return
        stored = self.read_stored(descriptor, array, i, j)
        codec = self.arrays[array].codec
        try:
            if codec is None:
                self._read_through_hdf5(array, i, j, out)
            else:
                codec.decode_into(stored, out, decompressor)
        except CorruptFile as error:
            raise CorruptFile(f"{self.place(array, i, j)}: {error}") from error

    def _pool_into(
        self, descriptor: int, array: str, i: int, j: int, out: NDArray[np.generic], decompressor: ZstdDecompressor
    ) -> None:
        """Fill out (2, D) with mean and deviation of a chunk of features.

        Few channels are never left for the end: torch sums them in another order than among many.
        """
        spec = array_specs(self.recipe)[array]
        features = np.empty(spec.chunk_shape, spec.dtype)
        self.read_chunk(descriptor, array, i, j, features, decompressor)
        constants = self.constants.get(array.partition("/")[2])
        starts = range(0, max(1, out.shape[1] - _POOLED_AT_ONCE + 1), _POOLED_AT_ONCE)
        for start, stop in pairwise([*starts, out.shape[1]]):
            some = np.s_[:, start:stop]
            out[some] = pool(torch.from_numpy(features[some]), None if constants is None else constants[some]).numpy()

    def read_stored(self, descriptor: int, array: str, i: int, j: int) -> bytes:
        """Return the stored bytes of a chunk, as HDF5's filters left them, digest checked; raises as `read_chunk`."""
        index, image = self.arrays[array], self.images[i]
        if image.absent:
            raise BadInput(f"{image.name}: has no features in this cache ({image.absent})")
        stored = read_exactly(
            descriptor,
            int(index.sizes[i, j]),
            int(index.offsets[i, j]),
            lambda: self.place(array, i, j),
            cache=self.cache,
        )
        view = self.block.views[0] + j
        digest = chunk_digest(stored, fingerprint=self.fingerprint, array=array, name=image.name, view=view)
        if digest != index.digests[i, j]:
            raise CorruptFile(
                f"{self.place(array, i, j)}: the stored bytes do not have their digest. {way_out(self.cache)}"
            )
        return stored

    def read_row(self, descriptor: int, i: int) -> StoredRow:
        """Return row start + i with its chunks not decoded, each digest checked; raise `CorruptFile` for damage."""
        if self.images[i].absent:
            return StoredRow(self.images[i], [], [])
        chunks = []
        for j in range(self.block.shape[1]):
            chunks += [(array, j, self.read_stored(descriptor, array, i, j)) for array in self.arrays]
        cut = zip(self.box[i].tolist(), self.flip[i].tolist(), strict=True)
        return StoredRow(self.images[i], [View(Box(*box), bool(flip)) for box, flip in cut], chunks)

    @property
    def cache(self) -> Path:
        """The folder of the cache that the shard is in."""
        return cache_of(self.path)

    def place(self, array: str, i: int, j: int) -> str:
        """Return where a chunk is, in words."""
        return f"{self.path}: {array} of {self.images[i].name}, view {self.block.views[0] + j}"

    def _read_through_hdf5(self, array: str, i: int, j: int, out: NDArray[np.generic]) -> None:
        """Decode a chunk of filters that only HDF5 knows, one caller at a time; its digest was checked before."""
        try:
            with open_hdf5(self.path) as file:
                file[array].read_direct(out, np.s_[i, j])
        except OSError as error:
            if error.errno:
                raise StorageError(f"{self.path}: cannot read: {error.strerror}") from error
            raise Mismatch(
                f"{self.path}: {array} is stored with filters that are not installed ({error}); "
                "install their HDF5 plugin, or upgrade this program"
            ) from error


@contextlib.contextmanager
def opened(shard: Shard) -> Iterator[int]:
    """Give a file descriptor of a shard; raise `CorruptFile` if it is gone, `StorageError` if it cannot be opened."""
    try:
        descriptor = os.open(shard.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise CorruptFile(f"{shard.path}: the shard is missing. {way_out(shard.cache)}") from error
    except OSError as error:
        raise StorageError(f"{shard.path}: cannot read: {error.strerror or error}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_exactly(descriptor: int, size: int, offset: int, place: Callable[[], str], *, cache: Path) -> bytes:
    """Return size bytes at offset of an open file of a cache.

    Raises `CorruptFile` at its end, or when the disk fails twice.
    """
    parts = []
    while size > 0:
        part = _read_twice(descriptor, size, offset, place, cache)
        if not part:
            end = offset + size
            raise CorruptFile(f"{place()}: the file ends before byte {end:,}; it was cut short. {way_out(cache)}")
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _read_twice(descriptor: int, size: int, offset: int, place: Callable[[], str], cache: Path) -> bytes:
    """Read what one call gives; a disk that fails once may succeed when asked again."""
    with contextlib.suppress(OSError):
        return os.pread(descriptor, size, offset)
    try:
        return os.pread(descriptor, size, offset)
    except OSError as error:
        raise CorruptFile(f"{place()}: cannot be read: {error.strerror or error}. {way_out(cache)}") from error
