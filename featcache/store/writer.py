"""Sealing a cache: cache.h5, then the manifest, over shards that are all there."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from featcache.base.files import write_durably
from featcache.datasets.splits import Splits
from featcache.recipe import Recipe
from featcache.store.folder import FAILURES_NAME
from featcache.store.index import FILE_NAME as INDEX_NAME
from featcache.store.index import Tables, build_index, gather_tables
from featcache.store.manifest import Manifest, ShardEntry, write_manifest
from featcache.store.shards.shard import Shard


def seal(
    folder: Path,
    recipe: Recipe,
    shards: Sequence[Shard],
    *,
    rows: int,
    views: int,
    sha256: Mapping[str, str],
    splits: Splits,
    source: dict[str, str],
    versions: dict[str, str],
) -> tuple[Manifest, Tables]:
    """Write cache.h5 and the manifest over shards, in any order, that cover rows x views; return both.

    sha256 maps each shard's file name to that of its bytes. Images without features are listed in failures.csv.
    """
    ordered = sorted(shards, key=lambda shard: (shard.block.rows[0], shard.block.views[0]))
    entries = tuple(
        ShardEntry(shard.path.name, shard.block, shard.path.stat().st_size, sha256[shard.path.name])
        for shard in ordered
    )
    tables = gather_tables(ordered, rows=rows, views=views)
    index_sha256 = write_durably(folder / INDEX_NAME, build_index(recipe, tables, splits, ordered, versions))
    manifest = Manifest(recipe, rows, views, splits, entries, index_sha256, source, versions)
    write_manifest(folder, manifest)
    _write_failures(folder / FAILURES_NAME, tables)
    return manifest, tables


def _write_failures(path: Path, tables: Tables) -> None:
    """Write name and reason of each absent image, or remove the file when there is none."""
    absent = [(image.name, image.absent) for image in tables.images if image.absent]
    if not absent:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "reason"])
    writer.writerows(absent)
    write_durably(path, text.getvalue().encode())
