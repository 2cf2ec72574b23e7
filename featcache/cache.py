"""A sealed cache, opened for reading: rows, views, splits, and features by row and view.

Readers take no lock and hold no file open between calls. Every chunk's digest is checked on every read;
an absent row is an error, never zeros.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .dataset import Part
from .errors import BadInput, CorruptFile, InvalidSettings, StorageError
from .files import digest_of_file
from .layout import ImageRow, array_specs
from .manifest import Manifest, ShardEntry, read_manifest
from .recipe import Recipe
from .shard import Shard, open_shard
from .tables import FILE_NAME as INDEX_NAME
from .tables import Tables, gather_tables, read_tables


class FeatureCache:
    """Features of N images, V views each; made by `open_cache`. Picklable: holds paths and tables only."""

    def __init__(self, path: Path, manifest: Manifest, tables: Tables, opened: dict[str, Shard]) -> None:
        self.path = path
        self.manifest = manifest
        self.images: list[ImageRow] = tables.images
        self.box, self.flip = tables.box, tables.flip
        self.present: NDArray[np.bool_] = np.array([not image.absent for image in tables.images], bool)
        self._opened = opened
        self._shard_of = _shard_map(manifest)

    @property
    def recipe(self) -> Recipe:
        """What the features depend on."""
        return self.manifest.recipe

    @property
    def fingerprint(self) -> str:
        """The recipe's sha256."""
        return self.manifest.recipe.fingerprint

    @property
    def name(self) -> str:
        """The cache's folder name, under which its runs are kept."""
        return self.path.resolve().name

    @property
    def rows(self) -> int:
        """N."""
        return self.manifest.rows

    @property
    def views(self) -> int:
        """V: the evaluation view and K augmented views."""
        return self.manifest.views

    @property
    def splits(self) -> dict[str, dict[str, Part]]:
        """Rows and scores per (split, part)."""
        return self.manifest.splits

    def layer(self, layer: str | None = None) -> str:
        """Return the layer's name; default the last. Raise `InvalidSettings` if the cache has none of that name."""
        names = self.recipe.layer_names
        if layer is not None and layer not in names:
            raise InvalidSettings(f"{self.path} has no layer {layer}; it has {', '.join(names)}")
        return layer or names[-1]

    def read(
        self,
        rows: ArrayLike,
        views: ArrayLike,
        layer: str | None = None,
        out: NDArray[np.generic] | None = None,
    ) -> NDArray[Any]:
        """Return features (B, L, D) in the cache's encoding, one for each of rows (B) and views (B) or one view.

        With out, C-contiguous and of that shape and type, fill and return it. Raises `InvalidSettings` for
        rows or views that do not exist, `BadInput` for an absent image, `CorruptFile` for damage.
        """
        return self._read(f"features/{self.layer(layer)}", rows, views, out)

    def read_pooled(self, rows: ArrayLike, views: ArrayLike, layer: str | None = None) -> NDArray[np.float32]:
        """Return mean and standard deviation over positions, (B, 2, D) float32; as `read` otherwise."""
        return self._read(f"pooled/{self.layer(layer)}", rows, views, None)

    def _read(self, array: str, rows: ArrayLike, views: ArrayLike, out: NDArray[Any] | None) -> NDArray[Any]:
        wanted_rows, wanted_views = np.broadcast_arrays(np.atleast_1d(rows), np.atleast_1d(views))
        if wanted_rows.ndim != 1:
            raise InvalidSettings(
                f"{self.path}: rows and views must be lists of numbers, found shape {wanted_rows.shape}"
            )
        self._check_range(wanted_rows, self.rows, "row")
        self._check_range(wanted_views, self.views, "view")
        for row in wanted_rows[~self.present[wanted_rows.astype(np.intp)]][:1].tolist():
            image = self.images[row]
            raise BadInput(f"{image.name}: has no features in this cache ({image.absent})")
        spec = array_specs(self.recipe)[array]
        shape = (len(wanted_rows), *spec.chunk_shape)
        if out is None:
            out = np.empty(shape, spec.dtype)
        if out.shape != shape or out.dtype != spec.dtype or not out.flags.c_contiguous:
            raise InvalidSettings(f"out must be C-contiguous {spec.dtype} {shape}, found {out.dtype} {out.shape}")
        for number, places in self._by_shard(wanted_rows, wanted_views).items():
            self._read_from(number, array, places, out)
        return out

    def _check_range(self, values: NDArray[Any], stop: int, what: str) -> None:
        if len(values) and (values.dtype.kind not in "iu" or not 0 <= values.min() <= values.max() < stop):
            raise InvalidSettings(f"{self.path}: {what}s must be whole numbers in [0, {stop}), found {values}")

    def _by_shard(self, rows: NDArray[Any], views: NDArray[Any]) -> dict[int, list[tuple[int, int, int]]]:
        """Group (position in the batch, row, view) by number of the shard that holds them."""
        places: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for position, (row, view) in enumerate(zip(rows.tolist(), views.tolist(), strict=True)):
            places[self._shard_of[row, view]].append((position, row, view))
        return places

    def _read_from(self, number: int, array: str, places: list[tuple[int, int, int]], out: NDArray[Any]) -> None:
        shard = self._shard(self.manifest.shards[number])
        try:
            descriptor = os.open(shard.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise CorruptFile(f"{shard.path}: the shard is missing; run extract again to make it anew") from error
        except OSError as error:
            raise StorageError(f"{shard.path}: cannot read: {error.strerror or error}") from error
        try:
            for position, row, view in places:
                i, j = row - shard.block.rows[0], view - shard.block.views[0]
                shard.read_chunk(descriptor, array, i, j, out[position])
        finally:
            os.close(descriptor)

    def _shard(self, entry: ShardEntry) -> Shard:
        if entry.file not in self._opened:
            shard = open_listed_shard(self.path, entry, self.recipe)
            r0, r1 = shard.block.rows
            names = [image.name for image in shard.images]
            if names != [image.name for image in self.images[r0:r1]]:
                raise CorruptFile(f"{shard.path}: it holds other images than rows {r0}-{r1} of the cache")
            self._opened[entry.file] = shard
        return self._opened[entry.file]


def open_cache(path: str | Path) -> FeatureCache:
    """Open a sealed cache. Raises `CacheIncomplete`, `CorruptFile`, `Mismatch` or `HostileFile`.

    The tables come from cache.h5 if it has the digest that the manifest says, else from the shards.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    missing = [entry.file for entry in manifest.shards if not (folder / "shards" / entry.file).is_file()]
    if missing:
        raise CorruptFile(
            f"{folder}: {len(missing)} of {len(manifest.shards)} shards are missing, first {missing[0]}; "
            "run extract again to make them anew"
        )
    index = folder / INDEX_NAME
    if index.is_file() and digest_of_file(index) == manifest.index_sha256:
        return FeatureCache(folder, manifest, read_tables(index), {})
    shards = {entry.file: open_listed_shard(folder, entry, manifest.recipe) for entry in manifest.shards}
    tables = gather_tables(shards.values(), rows=manifest.rows, views=manifest.views)
    return FeatureCache(folder, manifest, tables, shards)


def open_listed_shard(folder: Path, entry: ShardEntry, recipe: Recipe) -> Shard:
    """Open a shard that a manifest lists; raise `CorruptFile` if it is not the one that was committed."""
    path = folder / "shards" / entry.file
    shard = open_shard(path, recipe)
    if path.stat().st_size != entry.bytes or shard.block != entry.block:
        found = f"{path.stat().st_size:,} bytes for {shard.block}"
        raise CorruptFile(f"{path}: {found}, the manifest says {entry.bytes:,} for {entry.block}")
    return shard


def find_cache(path: str | Path | None, home: Path = Path("cache")) -> Path:
    """Return path, or the only cache in home; raise `InvalidSettings` if there is none or more than one."""
    if path is not None:
        return Path(path)
    found: Sequence[Path] = sorted(p.parent for p in home.glob("*/shards")) if home.is_dir() else []
    if len(found) != 1:
        listed = ", ".join(str(p) for p in found) or "none"
        raise InvalidSettings(f"--cache DIR is needed unless {home}/ holds exactly one cache; found {listed}")
    return found[0]


def _shard_map(manifest: Manifest) -> NDArray[np.int32]:
    """Return the number of the shard that holds each (row, view): (N, V)."""
    numbers = np.full((manifest.rows, manifest.views), -1, np.int32)
    for number, entry in enumerate(manifest.shards):
        (r0, r1), (v0, v1) = entry.block.rows, entry.block.views
        numbers[r0:r1, v0:v1] = number
    if (numbers < 0).any():
        raise CorruptFile("the manifest's shards do not cover every row and view")
    return numbers
