"""A shard on disk, opened: identity of its rows, places of its chunks, and the reading of one chunk outside HDF5.

Checks all there is to check before it hands anything out. Knows nothing of other shards, of images or of writing.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zstandard
from numpy.typing import NDArray

from .codec import Codec, codec_of
from .encoding import Constants, digest_of_constants
from .errors import BadInput, CorruptFile, FeatcacheError, HostileFile, Mismatch, StorageError
from .hdf5 import open_hdf5
from .layout import (
    ArraySpec,
    Block,
    ImageRow,
    array_specs,
    chunk_digest,
    constants_in,
    image_rows,
    table_names,
    tables_digest,
)
from .recipe import FORMAT_VERSION, Recipe, recipe_from_json

WAY_OUT = "Run verify-cache --repair on the cache: it computes what is damaged anew, and nothing else."


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
class Shard:
    """An opened shard: identity of its rows and places of its chunks, in memory. Holds no file descriptor.

    box (n, v, 4) int32 and flip (n, v) uint8 are the views; arrays maps 'features/LAYER' and 'pooled/LAYER';
    constants (2, D) of each layer are those of encoding uint8.
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

    def read_chunk(
        self,
        descriptor: int,
        array: str,
        i: int,
        j: int,
        out: NDArray[np.generic],
        decompressor: zstandard.ZstdDecompressor | None = None,
    ) -> None:
        """Fill out (chunk shape, C-contiguous) with row start + i, view start + j, its digest checked.

        descriptor is an open file of `path`. Raises `BadInput` for an absent image, `CorruptFile` for damage.
        """
        stored = self.read_stored(descriptor, array, i, j)
        codec = self.arrays[array].codec
        try:
            if codec is None:
                self._read_through_hdf5(array, i, j, out)
            else:
                codec.decode_into(stored, out, decompressor)
        except CorruptFile as error:
            raise CorruptFile(f"{self.place(array, i, j)}: {error}") from error

    def read_stored(self, descriptor: int, array: str, i: int, j: int) -> bytes:
        """Return the stored bytes of a chunk, as HDF5's filters left them, digest checked; raises as `read_chunk`."""
        index, image = self.arrays[array], self.images[i]
        if image.absent:
            raise BadInput(f"{image.name}: has no features in this cache ({image.absent})")
        stored = read_exactly(
            descriptor, int(index.sizes[i, j]), int(index.offsets[i, j]), lambda: self.place(array, i, j)
        )
        view = self.block.views[0] + j
        digest = chunk_digest(stored, fingerprint=self.fingerprint, array=array, name=image.name, view=view)
        if digest != index.digests[i, j]:
            raise CorruptFile(f"{self.place(array, i, j)}: the stored bytes do not have their digest. {WAY_OUT}")
        return stored

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
        raise CorruptFile(f"{shard.path}: the shard is missing. {WAY_OUT}") from error
    except OSError as error:
        raise StorageError(f"{shard.path}: cannot read: {error.strerror or error}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_exactly(descriptor: int, size: int, offset: int, place: Callable[[], str]) -> bytes:
    """Return size bytes at offset of an open file; raise `CorruptFile` at its end, or when the disk fails twice."""
    parts = []
    while size > 0:
        part = _read_twice(descriptor, size, offset, place)
        if not part:
            raise CorruptFile(f"{place()}: the file ends before byte {offset + size:,}; it was cut short. {WAY_OUT}")
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _read_twice(descriptor: int, size: int, offset: int, place: Callable[[], str]) -> bytes:
    """Read what one call gives; a disk that fails once may succeed when asked again."""
    try:
        return os.pread(descriptor, size, offset)
    except OSError:
        try:
            return os.pread(descriptor, size, offset)
        except OSError as error:
            raise CorruptFile(f"{place()}: cannot be read: {error.strerror or error}. {WAY_OUT}") from error


def open_shard(path: Path, recipe: Recipe | None = None) -> Shard:
    """Read a shard's tables and chunk index and check all there is to check without reading the chunks.

    With a recipe, raise `Mismatch` if the shard has another fingerprint. Raises `CorruptFile` for damage,
    `HostileFile` for anything a shard never holds (links to other files, other types), before reading data.
    """
    try:
        with open_hdf5(path) as file:
            return _read_shard(path, file, recipe)
    except FileNotFoundError as error:
        raise CorruptFile(f"{path}: the shard is missing. {WAY_OUT}") from error
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError, OSError, RuntimeError) as error:
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
    own_recipe = recipe_from_json(json.loads(attributes["recipe"]), str(path))
    tables = dict(_read_tables(path, file, own_recipe))
    if tables_digest(attributes, tables) != stored_digest:
        raise CorruptFile(f"{path}: its tables do not have their digest; the file is damaged. {WAY_OUT}")
    if recipe is not None and attributes["fingerprint"] != recipe.fingerprint:
        raise Mismatch(f"{path}: fingerprint {attributes['fingerprint']}, expected {recipe.fingerprint}")
    constants = constants_in(tables)
    if digest_of_constants(constants) != own_recipe.calibration:
        raise CorruptFile(f"{path}: its constants are not those of its recipe. {WAY_OUT}")
    images = image_rows(tables)
    present = np.array([not image.absent for image in images])
    return Shard(
        path=path,
        block=Block(tuple(attributes["rows"]), tuple(attributes["views"])),
        images=images,
        box=tables["views/box"],
        flip=tables["views/flip"],
        arrays={
            array: _read_index(path, file, array, spec, digests=tables[f"digests/{array}"], present=present)
            for array, spec in array_specs(own_recipe).items()
        },
        constants=constants,
        fingerprint=attributes["fingerprint"],
        recipe=own_recipe,
    )


def _attribute(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value.tolist() if hasattr(value, "tolist") else value


def _read_tables(path: Path, file: h5py.File, recipe: Recipe) -> Iterator[tuple[str, NDArray[Any]]]:
    for name in table_names(recipe):
        dataset = _plain_dataset(path, file, name)
        if dataset.dtype.kind not in "fiuS" or dataset.nbytes > path.stat().st_size:
            raise HostileFile(f"{path}: {name} claims type {dataset.dtype} and shape {dataset.shape}")
        yield name, dataset[()]


def _plain_dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """Return the dataset of that name; raise `HostileFile` if it lies, wholly or in part, in another file."""
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        if not isinstance(file.get("/".join(parts[:depth]), getlink=True), h5py.HardLink):
            raise HostileFile(f"{path}: {name} is a link to elsewhere; a shard never holds that")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise CorruptFile(f"{path}: {name} is not a dataset")
    if dataset.external or dataset.is_virtual:
        raise HostileFile(f"{path}: {name} keeps its data in another file; a shard never does that")
    return dataset


def _read_index(
    path: Path,
    file: h5py.File,
    array: str,
    spec: ArraySpec,
    *,
    digests: NDArray[np.uint64],
    present: NDArray[np.bool_],
) -> ChunkIndex:
    dataset = _plain_dataset(path, file, array)
    n, v, *chunk = dataset.shape
    if digests.shape != (n, v) or len(present) != n or dataset.chunks != (1, 1, *chunk):
        raise CorruptFile(f"{path}: {array} of shape {dataset.shape} does not fit its tables")
    if (spec.chunk_shape, spec.dtype) != (tuple(chunk), dataset.dtype):
        raise CorruptFile(
            f"{path}: {array} is {dataset.dtype} {tuple(chunk)}, its recipe says {spec.dtype} {spec.chunk_shape}"
        )
    codec = codec_of(dataset.id.get_create_plist())
    offsets, sizes = np.full((n, v), -1, np.int64), np.zeros((n, v), np.int64)

    def note(stored: Any) -> None:
        if stored.filter_mask and codec is not None:  # HDF5 itself heeds the mask
            raise Mismatch(f"{path}: {array} skips a filter for chunk {stored.chunk_offset}, which is not read here")
        i, j = stored.chunk_offset[:2]
        offsets[i, j], sizes[i, j] = stored.byte_offset, stored.size

    dataset.id.chunk_iter(note)
    ends = offsets + sizes
    if not ((offsets >= 0).all(axis=1) == present).all() or (offsets[~present] >= 0).any():
        raise CorruptFile(f"{path}: {array} lacks chunks of images that are there")
    if ends.max(initial=0) > path.stat().st_size:
        raise CorruptFile(f"{path}: {array} has chunks beyond the end of the file")
    return ChunkIndex(offsets, sizes, digests, codec)
