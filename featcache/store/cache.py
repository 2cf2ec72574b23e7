"""A sealed cache, opened for reading: rows, views, splits, and features by row and view.

Readers take no lock and hold no file open between calls. Every chunk's digest is checked on every read;
an absent row is an error, never zeros.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.base.cores import usable_threads
from featcache.base.errors import BadInput, CorruptFile, InvalidSettings, Mismatch
from featcache.datasets.reliability import Raters, Reliability, published_reliability
from featcache.datasets.splits import Others, Splits
from featcache.images.identity import ImageRow, is_same_image
from featcache.recipe import Recipe
from featcache.store.folder import INDEX_NAME, SHARDS_NAME, shard_path
from featcache.store.index import Tables, gather_tables, read_tables
from featcache.store.manifest import Manifest, ShardEntry, read_manifest, refuse_changed
from featcache.store.projection import Projection, read_projections
from featcache.store.reading import Wanted, ahead, read_chunks
from featcache.store.shards.encoding import Constants
from featcache.store.shards.format import array_specs
from featcache.store.shards.opening import open_shard
from featcache.store.shards.shard import Shard, way_out


class FeatureCache:
    """Features of N images, V views each; made by `open_cache`. For any thread and process: it holds no open file.

    rows is N, views V: the evaluation view and K augmented ones. splits[split][part] are rows and scores of its target,
    which `of_target` chooses where targets has several. recipe is what the features depend on, fingerprint its sha256,
    and name that of the cache's folder, under which its runs are kept. Pickled, it is its path and target alone, and is
    opened again on the other side.
    """

    def __init__(
        self, path: Path, manifest: Manifest, tables: Tables, opened: dict[str, Shard], threads: int | None
    ) -> None:
        self.path = path.absolute()  # wherever the process goes
        self.name = self.path.resolve().name
        self.manifest, self.recipe, self.fingerprint = manifest, manifest.recipe, manifest.recipe.fingerprint
        self.rows, self.views = manifest.rows, manifest.views
        self.targets = manifest.targets
        self.target = self.targets[0] if len(self.targets) == 1 else ""
        self.images: list[ImageRow] = tables.images
        self.box, self.flip = tables.box, tables.flip
        self.present: NDArray[np.bool_] = np.array([not image.absent for image in tables.images], bool)
        self.threads = threads
        self._constants = tables.constants
        self._specs = array_specs(manifest.recipe)
        self._opened = opened
        self._shard_of = np.full((self.rows, self.views), -1, np.int32)  # the number of the shard of each row and view
        for number, entry in enumerate(manifest.shards):
            (r0, r1), (v0, v1) = entry.block.rows, entry.block.views
            self._shard_of[r0:r1, v0:v1] = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_the_same, (self.path, self.manifest.digest, self.threads, self.target)

    @property
    def splits(self) -> Splits:
        """Rows and scores of each part of each split; raise `InvalidSettings` where a target has to be chosen first."""
        if self.target not in self.manifest.ratings:
            raise InvalidSettings(
                f"{self.path} has several ratings: choose one of {', '.join(self.targets)} (--target)"
            )
        return self.manifest.ratings[self.target]

    @property
    def others(self) -> Others:
        """Rows of test parts with their scores by other people, by split: none but for such datasets of one rating."""
        return self.manifest.others

    @property
    def raters(self) -> Raters | None:
        """Rows with the numbers of ratings of its target's scores and their standard errors; None if unknown."""
        return self.manifest.raters.get(self.target)

    @property
    def reliability(self) -> Reliability | None:
        """How far the raters of its target agree: as the dataset says, else as was published of it; None if unknown."""
        return self.manifest.reliability.get(self.target) or published_reliability(self.manifest.source)

    def of_target(self, target: str | None = None) -> "FeatureCache":
        """Return the same cache with the splits of one target; the only one if there is but one.

        Raises `InvalidSettings` if there is no such target, or if none is named where there are several.
        """
        if target and target not in self.targets:
            there = f"it has {', '.join(self.targets)}" if self.targets else "its one rating has no name"
            raise InvalidSettings(f"{self.path} has no target {target}; {there}")
        chosen = object.__new__(FeatureCache)
        vars(chosen).update(vars(self), target=target or self.target)
        chosen.splits  # noqa: B018  raises where one has to be chosen
        return chosen

    @property
    def same_files(self) -> list[list[int]]:
        """The rows of each file that several images are."""
        rows = defaultdict[str, list[int]](list)
        for row, image in enumerate(self.images):
            if image.sha256:
                rows[image.sha256].append(row)
        return [same for same in rows.values() if len(same) > 1]

    def layer(self, layer: str | None = None) -> str:
        """Return the layer's name; default the last. Raise `InvalidSettings` if the cache has none of that name."""
        names = self.recipe.layer_names
        if layer is not None and layer not in names:
            raise InvalidSettings(f"{self.path} has no layer {layer}; it has {', '.join(names)}")
        return layer or names[-1]

    def read(
        self, rows: ArrayLike, views: ArrayLike, layer: str | None = None, out: NDArray[np.generic] | None = None
    ) -> NDArray[Any]:
        """Return features (B, L, D) in the cache's encoding, one for each of rows (B) and views (B) or one view.

        With out, C-contiguous and of that shape and type, fill and return it; after an error it may be filled in
        part. Raises `InvalidSettings` for rows or views that do not exist, `BadInput` for an absent image,
        `CorruptFile` for damage, `Mismatch` if the cache was changed since it was opened.
        """
        return self._read(f"features/{self.layer(layer)}", rows, views, out)

    def read_pooled(self, rows: ArrayLike, views: ArrayLike, layer: str | None = None) -> NDArray[np.float32]:
        """Return mean and standard deviation over positions, (B, 2, D) float32; as `read` otherwise."""
        return self._read(f"pooled/{self.layer(layer)}", rows, views, None)

    def batches(
        self,
        batches: Iterable[tuple[ArrayLike, ArrayLike]],
        layer: str | None = None,
        *,
        prefetch: int = 2,
        allocate: Callable[[tuple[int, ...], np.dtype[Any]], NDArray[Any]] = np.empty,
    ) -> Iterator[NDArray[Any]]:
        """Yield what `read` returns for each (rows, views), up to prefetch of them read before they are asked for.

        An array is valid until the next one is asked for, then it is filled anew: memory is bounded by
        prefetch + 1 batches, which allocate(shape, dtype) makes: in pinned memory, say, for copies to a GPU. Raises
        as `read` does, when the batch in question is asked for.
        """
        if prefetch < 0:
            raise InvalidSettings(f"prefetch must be 0 or more, found {prefetch}")
        array = f"features/{self.layer(layer)}"
        buffers: list[NDArray[Any] | None] = [None] * (prefetch + 1)

        def fill(slot: int, batch: tuple[ArrayLike, ArrayLike]) -> NDArray[Any]:
            wanted = self._checked(*batch)
            spec = self._specs[array]
            buffer = buffers[slot]
            if buffer is None or len(buffer) < len(wanted[0]):
                buffer = buffers[slot] = allocate((len(wanted[0]), *spec.chunk_shape), spec.dtype)
            return self._fill(array, wanted, buffer[: len(wanted[0])])

        return ahead(batches, fill, prefetch=prefetch)

    def shards_of(self, rows: NDArray[np.int64], views: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the number (B), in the manifest, of the shard that holds each of rows and views, which exist."""
        found: NDArray[np.int32] = self._shard_of[rows, views]
        return found

    @functools.cached_property
    def projections(self) -> dict[str, Projection]:
        """What each layer was projected on before it was stored; empty where features are as the backbone gave them.

        Raises `CorruptFile` if that is lost; features can be read all the same.
        """
        return read_projections(self.path, self.recipe.projection)[0] if self.recipe.projection else {}

    def constants(self, layer: str | None = None) -> Constants | None:
        """Return the constants (2, D) with which uint8 features are decoded, None for float16."""
        return self._constants.get(self.layer(layer))

    def _read(self, array: str, rows: ArrayLike, views: ArrayLike, out: NDArray[Any] | None) -> NDArray[Any]:
        wanted = self._checked(rows, views)
        spec = self._specs[array]
        shape = (len(wanted[0]), *spec.chunk_shape)
        if out is None:
            out = np.empty(shape, spec.dtype)
        if out.shape != shape or out.dtype != spec.dtype or not (out.flags.c_contiguous and out.flags.writeable):
            raise InvalidSettings(
                f"out must be C-contiguous {spec.dtype} {shape} and writeable, found {out.dtype} {out.shape}"
            )
        return self._fill(array, wanted, out)

    def _checked(self, rows: ArrayLike, views: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return rows and views as arrays (B), all of which exist and have features."""
        try:
            given = np.atleast_1d(rows), np.atleast_1d(views)
        except ValueError as error:
            raise InvalidSettings(f"{self.path}: rows and views must be lists of one length: {error}") from error
        if any(axis.ndim != 1 for axis in given) or len({len(axis) for axis in given} - {1}) > 1:
            shapes = " and ".join(str(axis.shape) for axis in given)
            raise InvalidSettings(f"{self.path}: rows and views must be lists of one length, found shapes {shapes}")
        wanted_rows, wanted_views = np.broadcast_arrays(*given)
        self._check_range(wanted_rows, self.rows, "row")
        self._check_range(wanted_views, self.views, "view")
        for row in wanted_rows[~self.present[wanted_rows.astype(np.intp)]][:1].tolist():
            image = self.images[row]
            raise BadInput(f"{image.name}: has no features in this cache ({image.absent})")
        return wanted_rows, wanted_views

    def _check_range(self, values: NDArray[Any], stop: int, what: str) -> None:
        if len(values) and (values.dtype.kind not in "iu" or not 0 <= values.min() <= values.max() < stop):
            raise InvalidSettings(f"{self.path}: {what}s must be whole numbers in [0, {stop}), found {values}")

    def _fill(self, array: str, wanted: tuple[NDArray[Any], NDArray[Any]], out: NDArray[Any]) -> NDArray[Any]:
        try:
            rows, views = (axis.astype(np.int64) for axis in wanted)
            numbers, number = np.unique(self.shards_of(rows, views), return_inverse=True)
            shards = [self._shard(self.manifest.shards[k]) for k in numbers.tolist()]
            first = np.array([(shard.block.rows[0], shard.block.views[0]) for shard in shards], np.int64).reshape(-1, 2)
            i, j = rows - first[number, 0], views - first[number, 1]
            chunks = Wanted(shards, number, i, j, np.arange(len(rows)))
            read_chunks(chunks, array, out, threads=usable_threads(self.threads))
        except CorruptFile:
            refuse_changed(self.path, self.manifest)
            raise
        return out

    def _shard(self, entry: ShardEntry) -> Shard:
        if entry.file not in self._opened:
            shard = open_listed_shard(self.path, entry, self.recipe)
            r0, r1 = shard.block.rows
            if not all(map(is_same_image, shard.images, self.images[r0:r1])):
                raise CorruptFile(
                    f"{shard.path}: it holds other images than rows {r0}-{r1} of the cache. {way_out(self.path)}"
                )
            self._opened[entry.file] = shard
        return self._opened[entry.file]


def open_cache(path: str | Path, *, threads: int | None = None) -> FeatureCache:
    """Open a sealed cache. Raises `CacheIncomplete`, `CorruptFile`, `Mismatch` or `HostileFile`.

    The tables come from cache.h5 if it has the digest that the manifest says, else from the shards. A read uses
    so many threads: by default one for each core, and one alone in a worker process.
    """
    folder = Path(path)
    usable_threads(threads)
    manifest = read_manifest(folder)
    missing = [entry.file for entry in manifest.shards if _size(shard_path(folder, entry.file)) != entry.bytes]
    if missing:
        raise CorruptFile(
            f"{folder}: {len(missing)} of {len(manifest.shards)} shards are missing or not as long as they were, "
            f"first {missing[0]}. {way_out(folder)}"
        )
    tables = read_tables(folder / INDEX_NAME, manifest.index_sha256)
    if tables is not None:
        return FeatureCache(folder, manifest, tables, {}, threads)
    shards = {entry.file: open_listed_shard(folder, entry, manifest.recipe) for entry in manifest.shards}
    tables = gather_tables(shards.values(), rows=manifest.rows, views=manifest.views)
    return FeatureCache(folder, manifest, tables, shards, threads)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _open_the_same(path: Path, digest: str, threads: int | None, target: str) -> FeatureCache:
    cache = open_cache(path, threads=threads)
    if cache.manifest.digest != digest:
        raise Mismatch(f"{path}: the cache was changed since it was handed to this process; open it again")
    return cache.of_target(target) if target else cache


def open_listed_shard(folder: Path, entry: ShardEntry, recipe: Recipe) -> Shard:
    """Open a shard that a manifest lists; raise `CorruptFile` if it is not the one that was committed."""
    path = shard_path(folder, entry.file)
    shard = open_shard(path, recipe)
    if path.stat().st_size != entry.bytes or shard.block != entry.block:
        found = f"{path.stat().st_size:,} bytes of {shard.block}"
        raise CorruptFile(f"{path}: {found}, the manifest says {entry.bytes:,} of {entry.block}. {way_out(folder)}")
    return shard


def find_cache(path: str | Path | None, home: Path = Path("cache")) -> Path:
    """Return path, or the only cache in home; raise `InvalidSettings` if there is none or more than one."""
    if path is not None:
        return Path(path)
    found: Sequence[Path] = sorted(p.parent for p in home.glob(f"*/{SHARDS_NAME}")) if home.is_dir() else []
    if len(found) != 1:
        listed = ", ".join(str(p) for p in found) or "none"
        raise InvalidSettings(f"--cache DIR is needed unless {home}/ holds exactly one cache; found {listed}")
    return found[0]
