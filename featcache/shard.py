"""A shard on disk, opened: identity of its rows, places of its chunks, and the reading of one chunk outside HDF5.

Checks all there is to check before it hands anything out. Knows nothing of other shards, of images or of writing.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from .codec import codec_of
from .errors import BadInput, CorruptFile, FeatcacheError, HostileFile, Mismatch, StorageError
from .layout import ArraySpec, Block, ImageRow, chunk_digest, image_rows, tables_digest
from .recipe import FORMAT_VERSION, Recipe

WAY_OUT = "Delete this file and run the same extract command again to compute it anew."


@dataclass(frozen=True)
class ChunkIndex:
    """Where the chunks of one array lie in the file, (n, v) each: offset -1 where there is none."""

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    digests: NDArray[np.uint64]
    spec: ArraySpec


@dataclass(frozen=True)
class Shard:
    """An opened shard: identity of its rows and places of its chunks, in memory. Holds no file descriptor.

    box (n, v, 4) int32 and flip (n, v) uint8 are the views; arrays maps 'features/LAYER' and 'pooled/LAYER'.
    """

    path: Path
    block: Block
    images: list[ImageRow]
    box: NDArray[np.int32]
    flip: NDArray[np.uint8]
    arrays: dict[str, ChunkIndex]
    fingerprint: str
    recipe_json: str

    def read_chunk(self, descriptor: int, array: str, i: int, j: int, out: NDArray[np.generic]) -> None:
        """Fill out (chunk shape, C-contiguous) with row start + i, view start + j, its digest checked.

        descriptor is an open file of `path`. Raises `BadInput` for an absent image, `CorruptFile` for damage.
        """
        index, image, view = self.arrays[array], self.images[i], self.block.views[0] + j
        if image.absent:
            raise BadInput(f"{image.name}: has no features in this cache ({image.absent})")
        place = f"{self.path}: {array} of {image.name}, view {view}"
        stored = read_exactly(descriptor, int(index.sizes[i, j]), int(index.offsets[i, j]), place)
        digest = chunk_digest(stored, fingerprint=self.fingerprint, array=array, name=image.name, view=view)
        if digest != index.digests[i, j]:
            raise CorruptFile(f"{place}: the stored bytes do not have their digest; the file is damaged. {WAY_OUT}")
        try:
            index.spec.codec.decode_into(stored, out)
        except CorruptFile as error:
            raise CorruptFile(f"{place}: {error}") from error


def read_exactly(descriptor: int, size: int, offset: int, place: str) -> bytes:
    """Return size bytes at offset of an open file; raise `CorruptFile` at its end, `StorageError` from the disk."""
    parts = []
    while size > 0:
        try:
            part = os.pread(descriptor, size, offset)
        except OSError as error:
            raise StorageError(f"{place}: cannot read: {error.strerror or error}") from error
        if not part:
            raise CorruptFile(f"{place}: the file ends before byte {offset + size:,}; it was cut short")
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def open_shard(path: Path, recipe: Recipe | None = None) -> Shard:
    """Read a shard's tables and chunk index and check all there is to check without reading the chunks.

    With a recipe, raise `Mismatch` if the shard has another fingerprint. Raises `CorruptFile` for damage,
    `HostileFile` for anything a shard never holds (links to other files, other types), before reading data.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            return _read_shard(path, file, recipe)
    except FileNotFoundError as error:
        raise CorruptFile(f"{path}: the shard is missing; run extract again to make it anew") from error
    except (LookupError, TypeError, ValueError, OSError, RuntimeError) as error:
        if isinstance(error, FeatcacheError):
            raise
        if isinstance(error, OSError) and error.errno:
            raise StorageError(f"{path}: cannot read: {error.strerror or error}") from error
        raise CorruptFile(f"{path}: not a complete shard: {error}. {WAY_OUT}") from error


def _read_shard(path: Path, file: h5py.File, recipe: Recipe | None) -> Shard:
    attributes = {name: _attribute(value) for name, value in file.attrs.items()}
    stored_digest = attributes.pop("tables_digest")
    if attributes["format_version"] > FORMAT_VERSION:
        raise Mismatch(f"{path}: format version {attributes['format_version']}, this program reads {FORMAT_VERSION}")
    tables = dict(_read_tables(path, file))
    if tables_digest(attributes, tables) != stored_digest:
        raise CorruptFile(f"{path}: its tables do not have their digest; the file is damaged. {WAY_OUT}")
    if recipe is not None and attributes["fingerprint"] != recipe.fingerprint:
        raise Mismatch(f"{path}: fingerprint {attributes['fingerprint']}, expected {recipe.fingerprint}")
    block = Block(tuple(attributes["rows"]), tuple(attributes["views"]))
    images = image_rows(tables)
    present = np.array([not image.absent for image in images])
    return Shard(
        path=path,
        block=block,
        images=images,
        box=tables["views/box"],
        flip=tables["views/flip"],
        arrays={
            table.removeprefix("digests/"): _read_index(path, file, table.removeprefix("digests/"), digests, present)
            for table, digests in tables.items()
            if table.startswith("digests/")
        },
        fingerprint=attributes["fingerprint"],
        recipe_json=attributes["recipe"],
    )


def _attribute(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value.tolist() if hasattr(value, "tolist") else value


def _read_tables(path: Path, file: h5py.File) -> Iterator[tuple[str, NDArray[Any]]]:
    for group in ("images", "views", "digests/features", "digests/pooled"):
        for name in file[group]:
            dataset = _plain_dataset(path, file, f"{group}/{name}")
            if dataset.dtype.kind not in "fiuS" or dataset.nbytes > path.stat().st_size:
                raise HostileFile(f"{path}: {group}/{name} claims type {dataset.dtype} and shape {dataset.shape}")
            yield f"{group}/{name}", dataset[()]


def _plain_dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """Return the dataset of that name; raise `HostileFile` if it lies, wholly or in part, in another file."""
    group, _, base = name.rpartition("/")
    if not isinstance(file[group].get(base, getlink=True), h5py.HardLink):
        raise HostileFile(f"{path}: {name} is a link to elsewhere; a shard never holds that")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise CorruptFile(f"{path}: {name} is not a dataset")
    if dataset.external or dataset.is_virtual:
        raise HostileFile(f"{path}: {name} keeps its data in another file; a shard never does that")
    return dataset


def _read_index(
    path: Path, file: h5py.File, array: str, digests: NDArray[np.uint64], present: NDArray[np.bool_]
) -> ChunkIndex:
    dataset = _plain_dataset(path, file, array)
    n, v, *chunk = dataset.shape
    if digests.shape != (n, v) or len(present) != n or dataset.chunks != (1, 1, *chunk):
        raise CorruptFile(f"{path}: {array} of shape {dataset.shape} does not fit its tables")
    spec = ArraySpec((chunk[0], chunk[1]), dataset.dtype, codec_of(dataset.id.get_create_plist()))
    offsets, sizes = np.full((n, v), -1, np.int64), np.zeros((n, v), np.int64)

    def note(stored: Any) -> None:
        if stored.filter_mask:
            raise Mismatch(f"{path}: {array} skips a filter for chunk {stored.chunk_offset}, which is not read here")
        i, j = stored.chunk_offset[:2]
        offsets[i, j], sizes[i, j] = stored.byte_offset, stored.size

    dataset.id.chunk_iter(note)
    ends = offsets + sizes
    if not ((offsets >= 0).all(axis=1) == present).all() or (offsets[~present] >= 0).any():
        raise CorruptFile(f"{path}: {array} lacks chunks of images that are there")
    if ends.max(initial=0) > path.stat().st_size:
        raise CorruptFile(f"{path}: {array} has chunks beyond the end of the file")
    return ChunkIndex(offsets, sizes, digests, spec)
