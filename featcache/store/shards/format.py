"""What a shard consists of: its block, its rows, its chunked arrays, and the digests that bind them to their place."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from featcache.base.files import canonical_json
from featcache.images.identity import ImageRow
from featcache.recipe import Recipe
from featcache.settings import Encoding
from featcache.store.shards.codec import Codec
from featcache.store.shards.encoding import Constants
from featcache.store.shards.hdf5 import text_column

CONSTANTS_GROUP = "encoding"
_IMAGE_COLUMNS = ("name", "sha256", "width", "height", "absent")  # of an ImageRow, in its order
_TEXT_COLUMNS = ("name", "sha256", "absent")
POOLED_CODEC = Codec("none")
POOLED_ABOVE = (
    16  # positions: of smaller maps they take a fifth of the bytes or more, and 0.1 ms to compute (docs/storage.md)
)
NEWEST_VERSION = 2  # of shards and manifests: 1 has zstd and every pooled vector, 2 other codecs, and some not stored

Codecs = Mapping[str, Codec]  # of the arrays that a shard stores, features/LAYER and pooled/LAYER


@dataclass(frozen=True)
class Block:
    """Half-open ranges of rows and views."""

    rows: tuple[int, int]
    views: tuple[int, int]

    def __str__(self) -> str:
        return f"rows {self.rows[0]}-{self.rows[1] - 1}, views {self.views[0]}-{self.views[1] - 1}"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and views of the block."""
        return self.rows[1] - self.rows[0], self.views[1] - self.views[0]


def shard_name(block: Block, data: bytes) -> str:
    """Return the name of a shard's file: its first row, and the xxh3_64 of its bytes."""
    return f"{block.rows[0]:05d}-{xxhash.xxh3_64_hexdigest(data)}.h5"


def image_rows(tables: Mapping[str, NDArray[Any]]) -> list[ImageRow]:
    """Return the rows that the columns images/{name,sha256,width,height,absent} hold."""
    columns = {column: tables[f"images/{column}"].tolist() for column in _IMAGE_COLUMNS}
    for column in _TEXT_COLUMNS:
        columns[column] = [item.decode() for item in columns[column]]
    return [ImageRow(*fields) for fields in zip(*columns.values(), strict=True)]


def common_tables(
    rows: list[ImageRow], box: NDArray[np.int32], flip: NDArray[np.uint8], constants: Mapping[str, Constants]
) -> dict[str, NDArray[Any]]:
    """Return the tables of shards and cache.h5: columns of rows, text as fixed-length UTF-8, views and constants."""
    columns = {column: [getattr(row, column) for row in rows] for column in _IMAGE_COLUMNS}
    return {
        **{
            f"images/{name}": text_column(values) if name in _TEXT_COLUMNS else np.array(values, "<i4")
            for name, values in columns.items()
        },
        "views/box": box,
        "views/flip": flip,
        **{f"{CONSTANTS_GROUP}/{layer}": values for layer, values in constants.items()},
    }


def table_names(recipe: Recipe, arrays: Iterable[str]) -> list[str]:
    """Return the path of every table that a shard of this recipe and these arrays holds."""
    images = [f"images/{column}" for column in _IMAGE_COLUMNS]
    constants = [f"{CONSTANTS_GROUP}/{layer}" for layer in recipe.calibrated_layers]
    return [*images, "views/box", "views/flip", *constants, *(f"digests/{array}" for array in arrays)]


@dataclass(frozen=True)
class ArraySpec:
    """One array of chunks: a chunk is one view of one image."""

    chunk_shape: tuple[int, int]
    dtype: np.dtype[Any]


def array_specs(recipe: Recipe) -> dict[str, ArraySpec]:
    """Return the arrays that can be read of a shard of this recipe: features/LAYER (L, D) and pooled/LAYER (2, D)."""
    specs = {}
    for layer in recipe.layer_names:
        shape = recipe.layer_shape(layer)
        specs[f"features/{layer}"] = ArraySpec((shape.positions, shape.channels), recipe.dtype_of(layer))
        specs[f"pooled/{layer}"] = ArraySpec((2, shape.channels), np.dtype("<f4"))
    return specs


def codec_named(compression: str, encoding: Encoding) -> Codec:
    """Return the codec of a layer in an encoding that is to be compressed by 'none', 'lz4' or 'zstd'."""
    return Codec("zstd", encoding.zstd_level, encoding.shuffle) if compression == "zstd" else Codec(compression)


def codecs_of(recipe: Recipe, features: Mapping[str, Codec], pooled: Iterable[str] | None = None) -> Codecs:
    """Return the codec of each array of new shards: of each layer's features as given, and of what is pooled.

    pooled are the layers whose pooled vectors are stored; by default those of more than `POOLED_ABOVE` positions.
    """
    if pooled is None:
        pooled = [layer for layer in recipe.layer_names if recipe.layer_shape(layer).positions > POOLED_ABOVE]
    codecs = {f"features/{layer}": codec for layer, codec in features.items()}
    codecs |= {f"pooled/{layer}": POOLED_CODEC for layer in pooled}
    return {array: codecs[array] for array in array_specs(recipe) if array in codecs}


def codecs_of_version_1(recipe: Recipe) -> Codecs:
    """Return the codecs of a shard of version 1: zstd, and pooled vectors of every layer."""
    layers = recipe.layer_names
    return codecs_of(recipe, {layer: codec_named("zstd", recipe.encoding_of(layer)) for layer in layers}, layers)


def version_of(recipe: Recipe, codecs: Codecs) -> int:
    """Return the lowest format version that a shard with these codecs can have."""
    return 1 if codecs == codecs_of_version_1(recipe) else 2


def chunk_digest(stored: bytes, *, fingerprint: str, array: str, name: str, view: int) -> int:
    """Return the digest of a stored chunk: xxh3_64 seeded with its place, so that a moved chunk does not pass."""
    return xxhash.xxh3_64_intdigest(stored, seed=digest_seed(fingerprint, array=array, name=name, view=view))


def digest_seed(fingerprint: str, *, array: str, name: str, view: int) -> int:
    """Return the place of a chunk as a number, by which its digest is seeded."""
    return xxhash.xxh3_64_intdigest(f"{fingerprint}\0{array}\0{name}\0{view}".encode())


def tables_digest(attributes: dict[str, Any], tables: dict[str, NDArray[Any]]) -> str:
    """Return the xxh3_128 over the attributes as canonical JSON and every table's path, type, shape and bytes."""
    digest = xxhash.xxh3_128(canonical_json(attributes).encode())
    for path, values in sorted(tables.items()):
        digest.update(f"{path} {values.dtype.str} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Target:
    """What shards are made with: the recipe, the arrays they store, and constants (2, D) if its encoding is calibrated.

    codecs has a codec for each array that is stored; of pooled/LAYER that it lacks the vectors are computed on reading.
    """

    recipe: Recipe
    codecs: Codecs
    constants: Mapping[str, Constants] = field(default_factory=dict)
