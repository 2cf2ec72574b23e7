"""The tables of a whole cache, and cache.h5, the file that shows tables and features to other programs.

Everything here is derived from the shards and the manifest. This project reads features from the shards
alone, because HDF5 answers a virtual dataset whose source is missing with fill values.
"""

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from featcache.base.errors import CorruptFile, Mismatch
from featcache.base.files import canonical_json, reading_errors
from featcache.datasets.splits import Ratings
from featcache.images.identity import ImageRow, is_same_image
from featcache.recipe import Recipe
from featcache.store.folder import shard_place
from featcache.store.shards.encoding import Constants
from featcache.store.shards.format import CONSTANTS_GROUP, array_specs, common_tables, image_rows
from featcache.store.shards.hdf5 import create_virtual, set_attributes
from featcache.store.shards.shard import Shard


@dataclass(frozen=True)
class Tables:
    """images[row] is a row's identity; box (N, V, 4) int32 and flip (N, V) uint8 are its views (docs/format.md).

    constants (2, D) of each layer are those of encoding uint8.
    """

    images: list[ImageRow]
    box: NDArray[np.int32]
    flip: NDArray[np.uint8]
    constants: dict[str, Constants]


def gather_tables(shards: Iterable[Shard], *, rows: int, views: int) -> Tables:
    """Return the tables of shards that together cover rows x views exactly once; raise `CorruptFile` otherwise.

    An image absent from one shard is absent from the cache. Raises `Mismatch` if an image is not the same
    file in two shards.
    """
    images: list[ImageRow | None] = [None] * rows
    box, flip = np.zeros((rows, views, 4), np.int32), np.zeros((rows, views), np.uint8)
    covered = np.zeros((rows, views), bool)
    constants: dict[str, Constants] = {}
    for shard in shards:
        constants = shard.constants  # the same in all, being in the fingerprint
        (r0, r1), (v0, v1) = shard.block.rows, shard.block.views
        if covered[r0:r1, v0:v1].any() or r1 > rows or v1 > views:
            raise CorruptFile(f"{shard.path}: rows {r0}-{r1}, views {v0}-{v1} are covered twice or not of this cache")
        covered[r0:r1, v0:v1] = True
        box[r0:r1, v0:v1], flip[r0:r1, v0:v1] = shard.box, shard.flip
        for row, image in enumerate(shard.images, start=r0):
            images[row] = _same_image(images[row], image, shard.path)
    if not covered.all():
        row, view = (int(axis[0]) for axis in np.nonzero(~covered))
        raise CorruptFile(f"row {row}, view {view} is in no shard; run extract again to make it anew")
    return Tables([image for image in images if image is not None], box, flip, constants)


def _same_image(known: ImageRow | None, image: ImageRow, place: Path) -> ImageRow:
    if known is None or known == image:
        return image
    if not is_same_image(known, image):
        raise Mismatch(f"{place}: {image.name} is not the image that the cache's other shards hold; it was changed")
    return known if known.absent else image


def build_index(
    recipe: Recipe, tables: Tables, ratings: Ratings, shards: Sequence[Shard], versions: dict[str, str]
) -> bytes:
    """Return the bytes of cache.h5: tables, ratings, and each layer as one virtual array over the shards."""
    rows, views = tables.flip.shape
    with h5py.File("index", "w", driver="core", backing_store=False, libver="latest") as file:
        for path, values in common_tables(tables.images, tables.box, tables.flip, tables.constants).items():
            file.create_dataset(path, data=values)
        for target, splits in ratings.items():
            home = f"targets/{target}" if target else "splits"
            for split, parts in splits.items():
                for name, part in parts.items():
                    file.create_dataset(f"{home}/{split}/{name}/row", data=part.rows)
                    file.create_dataset(f"{home}/{split}/{name}/score", data=part.scores)
        for array, spec in array_specs(recipe).items():
            if not all(array in shard.arrays for shard in shards):  # where a source lacks it, HDF5 would read NaN
                continue
            sources = [(shard_place(shard.path.name), (*shard.block.rows, *shard.block.views)) for shard in shards]
            create_virtual(file, array, (rows, views, *spec.chunk_shape), spec.dtype, sources)
        set_attributes(
            file,
            {
                "format_version": newest_version(shards),
                "fingerprint": recipe.fingerprint,
                "recipe": canonical_json(recipe.as_json()),
                "versions": canonical_json(versions),
            },
        )
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def newest_version(shards: Iterable[Shard]) -> int:
    """Return the format version of a cache of shards: a program that reads it reads each of them."""
    return max((shard.format_version for shard in shards), default=1)


def read_tables(path: Path, sha256: str) -> Tables | None:
    """Return the tables in cache.h5, or None if it is not there or does not have the sha256. Reads the file once."""
    if not path.is_file():
        return None
    with reading_errors(path):
        data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        return None
    with h5py.File(io.BytesIO(data), "r") as file:
        images = image_rows({f"images/{name}": dataset[()] for name, dataset in file["images"].items()})
        constants = {layer: dataset[()] for layer, dataset in file.get(CONSTANTS_GROUP, {}).items()}
        return Tables(images, file["views/box"][()], file["views/flip"][()], constants)
