"""One writer at a time, what it finds and leaves in the folder, and what it seals."""

from pathlib import Path

import numpy as np
import pytest

from featcache.base.errors import CorruptFile, Locked
from featcache.base.files import make_folder
from featcache.base.lock import writer_lock
from featcache.store import writer as module
from featcache.store.cache import open_cache
from featcache.store.folder import FAILURES_NAME, MANIFEST_NAME, OWN_NAMES, shard_path, shards_folder
from featcache.store.shards.opening import open_shard
from featcache.store.shards.shard import Shard
from featcache.store.writer import CacheWriter, commit
from tests.helpers.synthetic import BLOCKS, RECIPE, ROWS, VIEWS, Arrays, build_shard_bytes, make_arrays

SOURCE = {"root": "nowhere", "weights": "random", "batch_size": "16"}


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return make_arrays()


def seal(writer: CacheWriter, opened: list[Shard] | None = None) -> None:
    writer.seal(RECIPE, rows=ROWS, views=VIEWS, ratings={"": {}}, source=SOURCE, versions={}, opened=opened or [])


def test_what_is_committed_and_sealed_is_read_back(arrays: Arrays, tmp_path: Path) -> None:
    with CacheWriter(tmp_path / "new" / "cache") as writer:
        done = [writer.commit(block, build_shard_bytes(arrays, block)) for block in reversed(BLOCKS)]
        seal(writer)
    cache = open_cache(tmp_path / "new" / "cache")
    assert {entry.file: entry.sha256 for entry in cache.manifest.shards} == dict(done) == writer.listed
    assert [entry.block for entry in cache.manifest.shards] == list(BLOCKS)
    np.testing.assert_array_equal(cache.read([3], 1, "first")[0], arrays["features/first"][3, 1])
    not_there = {"timings.csv", "dictionary.safetensors", "projection.safetensors"}
    assert {path.name for path in cache.path.iterdir()} == OWN_NAMES - not_there
    assert (cache.path / FAILURES_NAME).read_text() == "name,reason\ndir/004 é.jpg,truncated: cut short\n"


def test_what_workers_committed_is_sealed_and_what_is_open_is_not_opened_again(
    arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(shards_folder(tmp_path))
    listed = dict(commit(tmp_path, block, build_shard_bytes(arrays, block)) for block in BLOCKS)
    shards = [open_shard(shard_path(tmp_path, file)) for file in listed]
    asked = []
    monkeypatch.setattr(module, "open_shard", lambda path, recipe: asked.append(path) or open_shard(path, recipe))
    with CacheWriter(tmp_path) as writer:
        writer.listed |= listed
        seal(writer, shards[1:])
    assert asked == [shards[0].path]
    assert len(open_cache(tmp_path).manifest.shards) == len(BLOCKS)


def test_nothing_is_sealed_while_a_block_is_missing(arrays: Arrays, tmp_path: Path) -> None:
    with CacheWriter(tmp_path) as writer:
        writer.commit(BLOCKS[0], build_shard_bytes(arrays, BLOCKS[0]))
        with pytest.raises(CorruptFile, match="row 5, view 0 is in no shard"):
            seal(writer)
    assert not (tmp_path / MANIFEST_NAME).exists()


def test_a_writer_removes_and_counts_what_killed_ones_left(tmp_path: Path) -> None:
    make_folder(shards_folder(tmp_path))
    for folder in (tmp_path, shards_folder(tmp_path)):
        (folder / ".tmp-x").write_bytes(b"half")
    with CacheWriter(tmp_path) as writer:
        assert writer.stale == 2
        (shards_folder(tmp_path) / ".tmp-y").write_bytes(b"half")
        writer.remove_stale()
    assert writer.stale == 3
    assert [path.name for path in tmp_path.rglob(".tmp-*")] == []


def test_the_lock_is_held_to_the_end_of_the_block_however_it_ends(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), CacheWriter(tmp_path):
        with pytest.raises(Locked, match="being written by"), CacheWriter(tmp_path):
            raise AssertionError
        _ = 1 / 0
    with writer_lock(tmp_path):
        pass


def test_the_lock_is_given_back_where_entering_fails(tmp_path: Path) -> None:
    shards_folder(tmp_path).write_bytes(b"a file in the way")
    with pytest.raises(Exception, match="cannot write"), CacheWriter(tmp_path):
        raise AssertionError
    with writer_lock(tmp_path):
        pass
