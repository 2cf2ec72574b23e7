"""Writing a cache: shards are committed one by one, then sealed by cache.h5 and the manifest over all of them."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from featcache.base.files import csv_bytes, make_folder, remove_temporaries, write_durably
from featcache.base.lock import writer_lock
from featcache.datasets.reliability import Raters, Reliability
from featcache.datasets.splits import Others, Ratings
from featcache.recipe import Recipe
from featcache.store.folder import FAILURES_NAME, INDEX_NAME, shard_path, shards_folder
from featcache.store.index import Tables, build_index, gather_tables, newest_version
from featcache.store.manifest import Groups, Manifest, ShardEntry, write_manifest
from featcache.store.shards.format import Block, Codecs, shard_name
from featcache.store.shards.opening import open_shard
from featcache.store.shards.shard import Shard


class Committed(NamedTuple):
    """A shard that is on disk: the name of its file, and the sha256 of its bytes."""

    file: str
    sha256: str


def commit(folder: Path, block: Block, data: bytes) -> Committed:
    """Write the bytes of one shard into a cache, durably; for workers, who hold no lock. Raises `StorageError`."""
    file = shard_name(block, data)
    return Committed(file, write_durably(shard_path(folder, file), data))


class CacheWriter:
    """The one writer of the cache in folder, from `with` to the end of its block.

    listed holds the sha256 of each shard's file by name: of those committed here, and of others that the caller adds.
    stale counts the temporaries of killed writers that were removed. Entering raises `Locked` if another process is
    writing there, and `StorageError`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.listed: dict[str, str] = {}
        self.stale = 0
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        make_folder(self.folder)
        with contextlib.ExitStack() as held:
            held.enter_context(writer_lock(self.folder))
            make_folder(shards_folder(self.folder))
            self.remove_stale()
            self._held = held.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._held.close()

    def remove_stale(self) -> None:
        """Remove temporaries that nobody writes any more, of workers that died say, and count them."""
        self.stale += remove_temporaries(shards_folder(self.folder)) + remove_temporaries(self.folder)

    def commit(self, block: Block, data: bytes) -> Committed:
        """Write the bytes of one shard, durably, and list it. Raises `StorageError`."""
        done = commit(self.folder, block, data)
        self.listed[done.file] = done.sha256
        return done

    def listed_shards(self, recipe: Recipe, opened: Sequence[Shard] = ()) -> list[Shard]:
        """Return the listed shards in order of rows and views; those that are `opened` already are not opened again."""
        there = {shard.path.name: shard for shard in opened}
        shards = [there.get(file) or open_shard(shard_path(self.folder, file), recipe) for file in self.listed]
        return sorted(shards, key=lambda shard: (shard.block.rows[0], shard.block.views[0]))

    def seal_like(
        self, manifest: Manifest, recipe: Recipe, *, source: dict[str, str] | None = None
    ) -> tuple[Manifest, Tables]:
        """Do what `seal` does, for the same rows and views with all that a manifest says of them; source instead of its
        own if it is given.
        """
        return self.seal(
            recipe,
            rows=manifest.rows,
            views=manifest.views,
            ratings=manifest.ratings,
            source=manifest.source if source is None else source,
            versions=manifest.versions,
            groups=manifest.groups,
            near_duplicates=manifest.near_duplicates,
            others=manifest.others,
            raters=manifest.raters,
            reliability=manifest.reliability,
        )

    def seal(
        self,
        recipe: Recipe,
        *,
        rows: int,
        views: int,
        ratings: Ratings,
        source: dict[str, str],
        versions: dict[str, str],
        groups: Groups = (),
        near_duplicates: Groups | None = None,
        others: Others | None = None,
        raters: Mapping[str, Raters] | None = None,
        reliability: Mapping[str, Reliability] | None = None,
        opened: Sequence[Shard] = (),
    ) -> tuple[Manifest, Tables]:
        """Write cache.h5 and the manifest over the listed shards, which cover rows x views; return both.

        Shards that are `opened` already are not opened again. Images without features are listed in failures.csv.
        Raises `CorruptFile` for shards that are damaged or cover rows x views otherwise than once.
        """
        shards = self.listed_shards(recipe, opened)
        entries = tuple(
            ShardEntry(shard.path.name, shard.block, shard.path.stat().st_size, self.listed[shard.path.name])
            for shard in shards
        )
        tables = gather_tables(shards, rows=rows, views=views)
        index = build_index(recipe, tables, ratings, shards, versions)
        index_sha256 = write_durably(self.folder / INDEX_NAME, index)
        manifest = Manifest(
            recipe,
            rows,
            views,
            ratings,
            entries,
            index_sha256,
            source,
            versions,
            groups,
            near_duplicates,
            others or {},
            raters or {},
            reliability or {},
            format_version=newest_version(shards),
            codecs=_codecs_of(shards),
        )
        write_manifest(self.folder, manifest)
        _write_failures(self.folder / FAILURES_NAME, tables)
        return manifest, tables


def _codecs_of(shards: Sequence[Shard]) -> tuple[Codecs, ...]:
    """Return each set of codecs that some shard has; none where all are of version 1, whose codecs are known."""
    if newest_version(shards) == 1:
        return ()
    known = [shard.codecs for shard in shards if all(index.codec for index in shard.arrays.values())]
    return tuple(codecs for number, codecs in enumerate(known) if codecs not in known[:number])


def _write_failures(path: Path, tables: Tables) -> None:
    """Write name and reason of each absent image, or remove the file when there is none."""
    absent = [(image.name, image.absent) for image in tables.images if image.absent]
    if absent:
        write_durably(path, csv_bytes([("name", "reason"), *absent]))
    else:
        path.unlink(missing_ok=True)
