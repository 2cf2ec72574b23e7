"""Chunks that are not compressed are read into their place, side by side by one call, and checked as all others are."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.base.errors import CorruptFile
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.shards import plain
from featcache.store.shards.codec import CHECKSUM_BYTES, Codec
from featcache.store.shards.format import Block, codecs_of
from featcache.store.shards.plain import runs_of
from tests.helpers.synthetic import ABSENT, RECIPE, ROWS, Arrays, make_arrays, make_cache

LAYER = "second.bn"
PRESENT = np.array([row for row in range(ROWS) if row != ABSENT])


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return make_arrays()


@pytest.fixture
def folder(tmp_path: Path, arrays: Arrays) -> Path:
    """A cache in one shard of which nothing is compressed."""
    codecs = codecs_of(RECIPE, dict.fromkeys((f for f in RECIPE.layer_names), Codec("none")), RECIPE.layer_names)
    return make_cache(tmp_path / "c", arrays, [Block((0, ROWS), (0, 2))], codecs=codecs)


def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of chunks of each call that reads some."""
    found: list[int] = []
    plainly = os.preadv

    def noting(descriptor: int, pieces: Sequence[Any], offset: int) -> int:
        found.append(len(pieces) // 2)
        return plainly(descriptor, pieces, offset)

    monkeypatch.setattr(os, "preadv", noting)
    return found


def read(cache: FeatureCache) -> NDArray[Any]:
    return cache.read(np.repeat(PRESENT, 2), np.tile([0, 1], len(PRESENT)), LAYER)


def test_runs_end_where_a_gap_is_wide_or_chunks_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "NEAR", 5)
    monkeypatch.setattr(plain, "_MOST", 3)
    assert list(runs_of(np.array([7]), 10)) == [(0, 1)]
    assert list(runs_of(np.array([0, 10, 25, 41, 41, 51, 61, 71]), 10)) == [(0, 3), (3, 4), (4, 7), (7, 8)]


def test_chunks_side_by_side_are_one_call(folder: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    found = calls(monkeypatch)
    features = read(open_cache(folder, threads=1))
    np.testing.assert_array_equal(features.reshape(len(PRESENT), 2, 7, 11), arrays[f"features/{LAYER}"][PRESENT])
    assert found == [2 * len(PRESENT)]


def test_a_chunk_that_is_asked_for_twice_is_read_twice(folder: Path, arrays: Arrays) -> None:
    rows = [7, 3, 7, 7, 12]
    np.testing.assert_array_equal(open_cache(folder).read(rows, 1, LAYER), arrays[f"features/{LAYER}"][rows, 1])


@pytest.mark.parametrize("threads", [1, 3])
def test_a_short_read_is_gone_on_with(
    folder: Path, arrays: Arrays, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plainly = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, pieces, offset: plainly(fd, pieces[:3], offset))
    features = read(open_cache(folder, threads=threads))
    np.testing.assert_array_equal(features.reshape(len(PRESENT), 2, 7, 11), arrays[f"features/{LAYER}"][PRESENT])


def test_a_disk_that_fails_is_asked_again(folder: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", failing)
    features = read(open_cache(folder))
    np.testing.assert_array_equal(features.reshape(len(PRESENT), 2, 7, 11), arrays[f"features/{LAYER}"][PRESENT])


def test_a_flipped_bit_of_chunk_or_checksum_names_shard_image_and_view(folder: Path) -> None:
    cache = open_cache(folder)
    cache.read([3], 1, LAYER)
    [(file, shard)] = cache._opened.items()
    index = shard.arrays[f"features/{LAYER}"]
    for behind in (0, int(index.sizes[3, 1]) - 1, int(index.sizes[3, 1]) - CHECKSUM_BYTES):
        at = int(index.offsets[3, 1]) + behind
        data = bytearray((folder / "shards" / file).read_bytes())
        data[at] ^= 4
        (folder / "shards" / file).write_bytes(data)
        with pytest.raises(CorruptFile, match=rf"{file}: features/{LAYER} of dir/003 é.jpg, view 1: .* their digest"):
            read(cache)
        data[at] ^= 4
        (folder / "shards" / file).write_bytes(data)
    read(cache)


def test_a_file_that_was_cut_short_is_told(folder: Path) -> None:
    cache = open_cache(folder)
    cache.read([0], 0)
    [(file, shard)] = cache._opened.items()
    os.truncate(folder / "shards" / file, int(shard.arrays[f"features/{LAYER}"].offsets[11, 0]) + 3)
    with pytest.raises(CorruptFile):
        read(cache)
