"""Open a shard: its attributes, tables and chunk index, each checked. Features themselves are read by `shard`."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featcache.base.errors import CorruptFile, FeatcacheError, HostileFile, Mismatch, StorageError
from featcache.recipe import Recipe, recipe_from_json
from featcache.store.shards.codec import codec_of
from featcache.store.shards.encoding import digest_of_constants
from featcache.store.shards.format import (
    CONSTANTS_GROUP,
    NEWEST_VERSION,
    ArraySpec,
    Block,
    array_specs,
    image_rows,
    table_names,
    tables_digest,
)
from featcache.store.shards.hdf5 import open_hdf5
from featcache.store.shards.shard import ChunkIndex, Shard, cache_of, way_out


def open_shard(path: Path, recipe: Recipe | None = None) -> Shard:
    """Read a shard's tables and chunk index and check all there is to check without reading the chunks.

    With a recipe, raise `Mismatch` if the shard has another fingerprint. Raises `CorruptFile` for damage,
    `HostileFile` for anything a shard never holds (links to other files, other types), before reading data.
    """
    try:
        with open_hdf5(path) as file:
            return _read_shard(path, file, recipe)
    except FileNotFoundError as error:
        raise CorruptFile(f"{path}: the shard is missing. {way_out(cache_of(path))}") from error
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError, OSError, RuntimeError) as error:
        if isinstance(error, FeatcacheError):
            raise
        if isinstance(error, OSError) and error.errno:
            raise StorageError(f"{path}: cannot read: {error.strerror or error}") from error
        raise CorruptFile(f"{path}: not a complete shard: {error}. {way_out(cache_of(path))}") from error


def _read_shard(path: Path, file: h5py.File, recipe: Recipe | None) -> Shard:
    attributes = {name: _attribute(value) for name, value in file.attrs.items()}
    stored_digest = attributes.pop("tables_digest")
    version = attributes["format_version"]
    if version > NEWEST_VERSION:
        raise Mismatch(f"{path}: format version {version}, this program reads up to {NEWEST_VERSION}; upgrade it")
    own_recipe = recipe_from_json(json.loads(attributes["recipe"]), str(path))
    specs = {name: spec for name, spec in array_specs(own_recipe).items() if version == 1 or _is_stored(file, name)}
    tables = dict(_read_tables(path, file, table_names(own_recipe, specs)))
    if tables_digest(attributes, tables) != stored_digest:
        raise CorruptFile(
            f"{path}: its tables do not have their digest; the file is damaged. {way_out(cache_of(path))}"
        )
    if recipe is not None and attributes["fingerprint"] != recipe.fingerprint:
        raise Mismatch(f"{path}: fingerprint {attributes['fingerprint']}, expected {recipe.fingerprint}")
    constants = {layer: tables[f"{CONSTANTS_GROUP}/{layer}"] for layer in own_recipe.calibrated_layers}
    if digest_of_constants(constants) != own_recipe.calibration:
        raise CorruptFile(f"{path}: its constants are not those of its recipe. {way_out(cache_of(path))}")
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
            for array, spec in specs.items()
        },
        constants=constants,
        fingerprint=attributes["fingerprint"],
        recipe=own_recipe,
        format_version=version,
    )


def _attribute(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value.tolist() if hasattr(value, "tolist") else value


def _is_stored(file: h5py.File, array: str) -> bool:
    """Whether a shard says that it has an array: features always; of pooled vectors it has the digests, or not."""
    group, _, layer = array.partition("/")
    for name in ("digests", f"digests/{group}", f"digests/{group}/{layer}"):
        link = file.get(name, getlink=True)
        if link is None or not isinstance(link, h5py.HardLink):  # what is no hard link is refused when it is read
            return group == "features" or link is not None
    return True


def _read_tables(path: Path, file: h5py.File, names: Sequence[str]) -> Iterator[tuple[str, NDArray[Any]]]:
    for name in names:
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
    path: Path, file: h5py.File, array: str, spec: ArraySpec, *, digests: NDArray[np.uint64], present: NDArray[np.bool_]
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
