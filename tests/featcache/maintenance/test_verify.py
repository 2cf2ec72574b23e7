"""Checking finds every damaged byte, says where it is, and calls nothing else damaged."""

import re
from pathlib import Path

import numpy as np
import pytest

from featcache.base.errors import CacheIncomplete
from featcache.maintenance.verify import verify_cache
from featcache.store.shards.opening import open_shard
from tests.helpers.synthetic import ABSENT, BLOCKS, RECIPE, ROWS, make_arrays, make_cache


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return make_cache(tmp_path / "c", make_arrays(), BLOCKS)


def first_shard(cache: Path) -> Path:
    return min((cache / "shards").iterdir())


def flip(path: Path, offset: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def test_a_sound_cache_has_no_problems(cache: Path) -> None:
    report = verify_cache(cache)
    assert report.ok
    assert report.complete
    assert (report.shards, report.problems, report.warnings()) == (len(BLOCKS), [], [])
    assert report.chunks == (ROWS - 1) * 2 * len(RECIPE.layers) * 2  # views; features and pooled
    assert report.bytes == sum(path.stat().st_size for path in (cache / "shards").iterdir())
    assert report.as_text().endswith("complete: sound")


def test_a_damaged_chunk_names_its_row(cache: Path) -> None:
    shard = open_shard(first_shard(cache))
    flip(shard.path, int(shard.arrays["features/first"].offsets[2, 1]) + 5)
    (problem,) = verify_cache(cache).problems
    assert problem.file == f"shards/{shard.path.name}"
    assert problem.rows == [2]
    assert "1 of 5 rows have damaged chunks" in problem.what


def test_every_flip_in_chunks_and_digests_is_found(cache: Path) -> None:
    path = first_shard(cache)
    shard, whole = open_shard(path), path.read_bytes()
    places = [
        offset + k
        for index in shard.arrays.values()
        for offset, size in zip(index.offsets.ravel().tolist(), index.sizes.ravel().tolist(), strict=True)
        for k in range(0, size, 7)
        if offset >= 0
    ]
    digests = [whole.index(int(value).to_bytes(8, "little")) for value in shard.arrays["pooled/first"].digests[0]]
    rng = np.random.default_rng(0)
    for offset in [*rng.choice(places, 40).tolist(), *digests]:
        flip(path, offset, int(rng.integers(8)))
        assert not verify_cache(cache, threads=1).ok
        path.write_bytes(whole)
    assert verify_cache(cache).ok


def test_a_byte_that_nothing_reads_is_found_too(cache: Path) -> None:
    path = first_shard(cache)
    path.write_bytes(path.read_bytes() + b"\0")
    (problem,) = verify_cache(cache).problems
    assert re.match(r"[\d,]+ bytes of rows 0-4, views 0-1, the manifest says [\d,]+ of", problem.what)


def test_a_missing_shard_takes_all_its_rows(cache: Path) -> None:
    first_shard(cache).unlink()
    (problem,) = verify_cache(cache).problems
    assert problem.rows == list(range(*BLOCKS[0].rows))
    assert "missing" in problem.what


def test_a_shard_in_the_place_of_another_is_found(cache: Path) -> None:
    paths = sorted((cache / "shards").iterdir())
    paths[0].write_bytes(paths[-1].read_bytes())
    assert [problem.file for problem in verify_cache(cache).problems] == [f"shards/{paths[0].name}"]


def test_a_damaged_index_and_a_damaged_manifest_are_named(cache: Path) -> None:
    flip(cache / "cache.h5", 100)
    assert [problem.file for problem in verify_cache(cache).problems] == ["cache.h5"]
    flip(cache / "manifest.json", 100)
    report = verify_cache(cache)
    assert [problem.file for problem in report.problems] == ["manifest.json"]
    assert not report.complete


def test_a_cache_without_a_manifest_is_checked_by_the_names_of_its_shards(cache: Path) -> None:
    (cache / "manifest.json").unlink()
    report = verify_cache(cache)
    assert report.ok
    assert not report.complete
    path = first_shard(cache)
    flip(path, path.stat().st_size // 2)
    assert [problem.file for problem in verify_cache(cache).problems] == [f"shards/{path.name}"]


def test_files_that_belong_to_nobody_are_warnings(cache: Path) -> None:
    (cache / "notes.txt").write_text("mine")
    (cache / "shards" / "00099-0123456789abcdef.h5").write_bytes(b"")
    (cache / "shards" / ".tmp-x").write_bytes(b"")
    report = verify_cache(cache)
    assert report.ok
    assert [warning.partition(":")[0] for warning in report.unknown] == [
        "notes.txt",
        "shards/.tmp-x",
        "shards/00099-0123456789abcdef.h5",
    ]


def test_nothing_to_check_is_incomplete(tmp_path: Path) -> None:
    with pytest.raises(CacheIncomplete, match="no cache there"):
        verify_cache(tmp_path / "nowhere")


def test_an_absent_image_is_no_damage(cache: Path) -> None:
    shard = open_shard(first_shard(cache))
    assert shard.images[ABSENT].absent
    assert verify_cache(cache).ok
