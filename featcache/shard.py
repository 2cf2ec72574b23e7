"""One shard: the features of rows [start, stop) and views [start, stop) in one immutable HDF5 file.

Owns the file's layout, its digests, and the reading of single chunks outside HDF5. Knows nothing of other
shards, of images or of when a shard is written.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from .codec import Codec, codec_of
from .errors import BadInput, CorruptFile, HostileFile, Mismatch, StorageError
from .files import canonical_json
from .recipe import FEATURE_DTYPES, FORMAT_VERSION, Recipe
from .views import View

NAME_PATTERN = re.compile(r"\d{5,}-[0-9a-f]{16}\.h5")
FEATURE_CODEC = Codec(zstd_level=3)
POOLED_CODEC = Codec(zstd_level=None)


@dataclass(frozen=True)
class Block:
    """Half-open ranges of rows and views."""

    rows: tuple[int, int]
    views: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and views of the block."""
        return self.rows[1] - self.rows[0], self.views[1] - self.views[0]


@dataclass(frozen=True)
class ImageRow:
    """An image's identity; absent is '' or the reason why it has no features. Sizes in pixels, upright."""

    name: str
    sha256: str = ""
    width: int = 0
    height: int = 0
    absent: str = ""


@dataclass(frozen=True)
class ArraySpec:
    """One chunked array of a shard: a chunk is one view of one image."""

    chunk_shape: tuple[int, int]
    dtype: np.dtype[Any]
    codec: Codec

    @property
    def nbytes(self) -> int:
        """Bytes of one decoded chunk."""
        return self.chunk_shape[0] * self.chunk_shape[1] * self.dtype.itemsize


def array_specs(recipe: Recipe) -> dict[str, ArraySpec]:
    """Return the arrays that a shard of this recipe holds: features/LAYER (L, D) and pooled/LAYER (2, D)."""
    specs = {}
    for layer in recipe.layer_names:
        shape = recipe.layer_shape(layer)
        dtype = FEATURE_DTYPES[recipe.encoding]
        specs[f"features/{layer}"] = ArraySpec((shape.positions, shape.channels), dtype, FEATURE_CODEC)
        specs[f"pooled/{layer}"] = ArraySpec((2, shape.channels), np.dtype("<f4"), POOLED_CODEC)
    return specs


def chunk_digest(stored: bytes, *, fingerprint: str, array: str, name: str, view: int) -> int:
    """Return the digest of a stored chunk: xxh3_64 seeded with its place, so that a moved chunk does not pass."""
    seed = xxhash.xxh3_64_intdigest(f"{fingerprint}\0{array}\0{name}\0{view}".encode())
    return xxhash.xxh3_64_intdigest(stored, seed=seed)


class ShardBuilder:
    """A shard in memory while it grows; `finish` returns the bytes of its file."""

    def __init__(self, recipe: Recipe, block: Block, *, planned_rows: int, versions: dict[str, str]) -> None:
        n, v = block.shape
        self._recipe, self._block = recipe, block
        self._fingerprint = recipe.fingerprint
        self._specs = array_specs(recipe)
        self._rows: list[ImageRow] = [ImageRow("")] * n
        self._box = np.zeros((n, v, 4), "<i4")
        self._flip = np.zeros((n, v), "u1")
        self._digests = {array: np.zeros((n, v), "<u8") for array in self._specs}
        self._attributes = {
            "format_version": FORMAT_VERSION,
            "fingerprint": self._fingerprint,
            "recipe": canonical_json(recipe.as_json()),
            "rows": list(block.rows),
            "views": list(block.views),
            "planned_rows": planned_rows,
            "versions": canonical_json(versions),
        }
        self._file = h5py.File("shard", "w", driver="core", backing_store=False, libver="latest")
        self._datasets = {
            array: create_chunked(self._file, array, (n, v, *spec.chunk_shape), spec.dtype, spec.codec)
            for array, spec in self._specs.items()
        }

    def set_image(self, i: int, image: ImageRow, views: list[View]) -> None:
        """Say which image row start + i is, and how its views are cut (none for an absent image)."""
        self._rows[i] = image
        for j, view in enumerate(views):
            self._box[i, j], self._flip[i, j] = view.box, view.flip

    def set_chunk(self, array: str, i: int, j: int, values: NDArray[np.generic]) -> None:
        """Store the chunk of row start + i and view start + j; `set_image` comes first."""
        stored = self._specs[array].codec.encode(values)
        self._digests[array][i, j] = chunk_digest(
            stored,
            fingerprint=self._fingerprint,
            array=array,
            name=self._rows[i].name,
            view=self._block.views[0] + j,
        )
        self._datasets[array].id.write_direct_chunk((i, j, 0, 0), stored, 0)

    def finish(self) -> bytes:
        """Write tables, attributes and their digest; return the HDF5 file's bytes and drop the file."""
        tables = self._tables()
        for path, values in tables.items():
            self._file.create_dataset(path, data=values)
        set_attributes(self._file, {**self._attributes, "tables_digest": _tables_digest(self._attributes, tables)})
        self._file.flush()
        image: bytes = self._file.id.get_file_image()
        self.close()
        return image

    def close(self) -> None:
        """Drop the shard in memory."""
        self._file.close()

    def _tables(self) -> dict[str, NDArray[Any]]:
        return {
            **image_tables(self._rows),
            "views/box": self._box,
            "views/flip": self._flip,
            **{f"digests/{array}": values for array, values in self._digests.items()},
        }


def image_tables(rows: list[ImageRow]) -> dict[str, NDArray[Any]]:
    """Return the columns images/{name,sha256,width,height,absent} of rows; text is fixed-length UTF-8."""
    return {
        "images/name": text_column([row.name for row in rows]),
        "images/sha256": text_column([row.sha256 for row in rows]),
        "images/width": np.array([row.width for row in rows], "<i4"),
        "images/height": np.array([row.height for row in rows], "<i4"),
        "images/absent": text_column([row.absent for row in rows]),
    }


def text_column(texts: list[str]) -> NDArray[Any]:
    """Return texts as fixed-length UTF-8, padded with NUL, of the HDF5 string type that says so."""
    encoded = [text.encode() for text in texts]
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(map(len, encoded), default=0) or 1))


def create_chunked(
    file: h5py.File, path: str, shape: tuple[int, ...], dtype: np.dtype[Any], codec: Codec
) -> h5py.Dataset:
    """Create an empty dataset of chunks (1, 1, *shape[2:]) with the codec's filters; what is not there reads as NaN."""
    group, _, name = path.rpartition("/")
    properties = codec.creation_properties((1, 1, *shape[2:]))
    if dtype.kind == "f":
        properties.set_fill_value(np.array(np.nan, dtype))
    return h5py.Dataset(
        h5py.h5d.create(
            file.require_group(group).id,
            name.encode(),
            h5py.h5t.py_create(dtype),
            h5py.h5s.create_simple(shape),
            properties,
        )
    )


def set_attributes(file: h5py.File, attributes: dict[str, Any]) -> None:
    """Set attributes; text as fixed-length UTF-8."""
    for name, value in attributes.items():
        file.attrs[name] = text_column([value])[0] if isinstance(value, str) else value


def _tables_digest(attributes: dict[str, Any], tables: dict[str, NDArray[Any]]) -> str:
    digest = xxhash.xxh3_128(canonical_json(attributes).encode())
    for path, values in sorted(tables.items()):
        digest.update(f"{path} {values.dtype.str} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


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
    planned_rows: int
    versions: str

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
            raise CorruptFile(f"{place}: the stored bytes do not have their digest; the file is damaged")
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
    except (KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
        if isinstance(error, CorruptFile | Mismatch | HostileFile):
            raise
        raise CorruptFile(f"{path}: not a complete shard: {error}") from error


def _read_shard(path: Path, file: h5py.File, recipe: Recipe | None) -> Shard:
    attributes = {name: _attribute(value) for name, value in file.attrs.items()}
    tables_digest = attributes.pop("tables_digest")
    if attributes["format_version"] > FORMAT_VERSION:
        raise Mismatch(f"{path}: format version {attributes['format_version']}, this program reads {FORMAT_VERSION}")
    tables = dict(_read_tables(path, file))
    if _tables_digest(attributes, tables) != tables_digest:
        raise CorruptFile(f"{path}: its tables do not have their digest; the file is damaged")
    if recipe is not None and attributes["fingerprint"] != recipe.fingerprint:
        raise Mismatch(f"{path}: fingerprint {attributes['fingerprint']}, expected {recipe.fingerprint}")
    block = Block(tuple(attributes["rows"]), tuple(attributes["views"]))
    text = {
        name: [item.decode() for item in tables[f"images/{name}"].tolist()] for name in ("name", "sha256", "absent")
    }
    images = [
        ImageRow(*fields)
        for fields in zip(
            text["name"],
            text["sha256"],
            tables["images/width"].tolist(),
            tables["images/height"].tolist(),
            text["absent"],
            strict=True,
        )
    ]
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
        planned_rows=attributes["planned_rows"],
        versions=attributes["versions"],
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
