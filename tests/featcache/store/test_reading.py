"""Threads, filters and failing disks: what a cache reads is what plain HDF5 reads from its shards, or an error."""

import contextlib
import errno
import hashlib
import io
import math
import os
import re
import resource
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import featcache.store.reading
from featcache.base.cores import usable_threads
from featcache.base.errors import BadInput, CorruptFile, InvalidSettings, Mismatch, StorageError
from featcache.images.views import Box, View
from featcache.recipe import Recipe
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.shards.codec import Codec
from featcache.store.shards.encoding import digest_of_constants, encode
from featcache.store.shards.format import (
    Block,
    Target,
    array_specs,
    chunk_digest,
    codec_named,
    codecs_of,
    codecs_of_version_1,
    tables_digest,
)
from featcache.store.shards.hdf5 import set_attributes
from featcache.store.shards.opening import open_shard
from featcache.store.shards.shard import Shard, read_exactly
from featcache.store.shards.writer import ShardWriter
from featcache.store.writer import CacheWriter
from tests.helpers.processes import run_forked
from tests.helpers.synthetic import ABSENT, BLOCKS, RECIPE, ROWS, VIEWS, Arrays, image, make_arrays, make_cache

SOURCE = {"dataset": "made", "root": "nowhere", "weights": "random", "batch_size": "16"}
ZSTD = dict(hdf5plugin.Zstd(3))
FILTERS: dict[str, dict[str, Any]] = {
    "shuffle, zstd, checksum": {"shuffle": True, "fletcher32": True, **ZSTD},
    "zstd, checksum": {"fletcher32": True, **ZSTD},
    "checksum": {"fletcher32": True},
    "none": {},
    "zstd": ZSTD,
    "shuffle, checksum": {"shuffle": True, "fletcher32": True},
    "shuffle, gzip, checksum": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "gzip": {"compression": "gzip"},
    "bitshuffle, checksum": {"fletcher32": True, **hdf5plugin.Bitshuffle()},
    "lz4": dict(hdf5plugin.LZ4()),
    "lz4, checksum": {"fletcher32": True, **hdf5plugin.LZ4()},
}
OUTSIDE_HDF5 = {
    "shuffle, zstd, checksum": Codec("zstd", 3, shuffle=True),
    "zstd, checksum": Codec("zstd", 3),
    "checksum": Codec("none"),
    "lz4, checksum": Codec("lz4"),
}
UNKNOWN_FILTER = {"compression": 40_000, "allow_unknown_filter": True}


def shard_bytes(recipe: Recipe, arrays: Arrays, block: Block) -> bytes:
    """Return the shard of a block, none of whose images is absent."""
    constants = {name: constants_of(recipe, name) for name in recipe.layer_names if recipe.calibration}
    writer = ShardWriter(Target(recipe, codecs_of_version_1(recipe), constants), block)
    for i, row in enumerate(range(*block.rows)):
        views = [View(Box(0, 0, 3 + view, 5), False) for view in range(*block.views)]
        writer.set_image(i, replace(image(row), name=f"{row}.jpg", sha256=f"{row:064x}", absent=""), views)
        for j, view in enumerate(range(*block.views)):
            for array in array_specs(recipe):
                writer.set_stored(array, i, j, writer.encode(array, arrays[array][row, view]))
    return writer.finish()


def with_filters(data: bytes, filters: dict[str, Any]) -> bytes:
    """Return a shard of the same contents whose features went through other HDF5 filters, with the right digests."""
    with (
        h5py.File(io.BytesIO(data)) as old,
        h5py.File("new", "w", driver="core", backing_store=False, libver="latest") as new,
    ):
        tables: dict[str, Any] = {}
        chunked: list[str] = []
        old.visititems(
            lambda path, item: (
                chunked.append(path)
                if path.startswith(("features/", "pooled/")) and isinstance(item, h5py.Dataset)
                else tables.update({path: item[()]})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
        attributes = {
            name: value.decode() if isinstance(value, bytes) else value.tolist() if hasattr(value, "tolist") else value
            for name, value in old.attrs.items()
            if name != "tables_digest"
        }
        for array in chunked:
            chosen = filters if array.startswith("features/") else {"fletcher32": True}
            shape = old[array].shape
            made = new.create_dataset(array, shape, old[array].dtype, chunks=(1, 1, *shape[2:]), **chosen)
            for i, j in np.argwhere(tables[f"digests/{array}"]).tolist():
                if chosen is UNKNOWN_FILTER:
                    made.id.write_direct_chunk((i, j, 0, 0), old[array][i, j].tobytes())
                else:
                    made[i, j] = old[array][i, j]
                made.flush()
                tables[f"digests/{array}"][i, j] = chunk_digest(
                    made.id.read_direct_chunk((i, j, 0, 0))[1],
                    fingerprint=attributes["fingerprint"],
                    array=array,
                    name=tables["images/name"][i].decode(),
                    view=attributes["views"][0] + j,
                )
        for path, values in tables.items():
            new.create_dataset(path, data=values, dtype=old[path].dtype)
        set_attributes(new, {**attributes, "tables_digest": tables_digest(attributes, tables)})
        new.flush()
        return bytes(new.id.get_file_image())


def constants_of(recipe: Recipe, layer: str) -> NDArray[np.float32]:
    channels = recipe.layer_shape(layer).channels
    return np.stack([np.linspace(0.25, 1, channels), np.arange(channels) % 256]).astype("<f4")


def made_recipe(encoding: str, layers: tuple[tuple[str, int, int, int], ...]) -> Recipe:
    recipe = replace(RECIPE, layers=layers, encoding=encoding)
    if encoding == "float16":
        return recipe
    digest = digest_of_constants({name: constants_of(recipe, name) for name in recipe.layer_names})
    return replace(recipe, calibration=digest)


def random_arrays(recipe: Recipe, rows: int, views: int, seed: int = 0) -> Arrays:
    """Return any bytes at all for every array, NaN among them."""
    rng = np.random.default_rng(seed)
    return {
        array: np.frombuffer(
            rng.bytes(rows * views * math.prod(spec.chunk_shape) * spec.dtype.itemsize), spec.dtype
        ).reshape(rows, views, *spec.chunk_shape)
        for array, spec in array_specs(recipe).items()
    }


def write_cache(
    folder: Path, recipe: Recipe, arrays: Arrays, blocks: Sequence[Block], filters: dict[str, Any] | None = None
) -> Path:
    """Write and seal a cache of blocks; their shards as the writer makes them, or with other filters."""
    rows, views = arrays[f"features/{recipe.layer_names[0]}"].shape[:2]
    with CacheWriter(folder) as writer:
        for block in blocks:
            data = shard_bytes(recipe, arrays, block)
            writer.commit(block, data if filters is None else with_filters(data, filters))
        writer.seal(recipe, rows=rows, views=views, ratings={"": {}}, source=SOURCE, versions={})
    return folder


def read_by_h5py(folder: Path, array: str, rows: Sequence[int], views: Sequence[int]) -> bytes:
    """Return the bytes that plain h5py reads from the shards."""
    found: dict[tuple[int, int], bytes] = {}
    for path in (folder / "shards").glob("*.h5"):
        with h5py.File(path) as file:
            (r0, r1), (v0, v1) = file.attrs["rows"].tolist(), file.attrs["views"].tolist()
            values = file[array][()]
            found |= {(r, v): values[r - r0, v - v0].tobytes() for r in range(r0, r1) for v in range(v0, v1)}
    return b"".join(found[row, view] for row, view in zip(rows, views, strict=True))


def cut(stop: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, stop)) for start in range(0, stop, size)]


@settings(max_examples=17, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    rows=st.integers(1, 7),
    views=st.integers(1, 3),
    rows_per_shard=st.integers(1, 7),
    views_per_shard=st.integers(1, 3),
    encoding=st.sampled_from(["float16", "uint8"]),
    filters=st.sampled_from([None, *FILTERS.values()]),
    threads=st.integers(1, 4),
    data=st.data(),
)
def test_what_is_read_is_what_plain_hdf5_reads(
    shape: tuple[int, int, int],
    rows: int,
    views: int,
    rows_per_shard: int,
    views_per_shard: int,
    encoding: str,
    filters: dict[str, Any] | None,
    threads: int,
    data: st.DataObject,
) -> None:
    recipe = made_recipe(encoding, (("other", 1, 2, 3), ("it", *shape)))
    arrays = random_arrays(recipe, rows, views, seed=rows + 7 * views)
    blocks = [Block(r, v) for r in cut(rows, rows_per_shard) for v in cut(views, views_per_shard)]
    pair = st.tuples(st.integers(0, rows - 1), st.integers(0, views - 1))
    with tempfile.TemporaryDirectory() as folder:
        cache = open_cache(write_cache(Path(folder) / "c", recipe, arrays, blocks, filters), threads=threads)
        for _ in range(3):
            wanted = data.draw(st.lists(pair, min_size=1, max_size=40))
            picked = [list(axis) for axis in zip(*wanted, strict=True)]
            out = np.empty((len(wanted), shape[0] * shape[1], shape[2]), array_specs(recipe)["features/it"].dtype)
            assert cache.read(*picked, "it", out) is out
            assert out.tobytes() == read_by_h5py(cache.path, "features/it", *picked)
            assert cache.read_pooled(*picked, "it").tobytes() == read_by_h5py(cache.path, "pooled/it", *picked)


@pytest.mark.parametrize("encoding", ["float16", "uint8"])
@pytest.mark.parametrize("filters", FILTERS)
def test_filters_written_here_are_decoded_outside_hdf5_and_all_others_by_it(
    tmp_path: Path, filters: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = made_recipe(encoding, (("it", 3, 5, 11),))
    arrays = random_arrays(recipe, 3, 2)
    folder = write_cache(tmp_path / "c", recipe, arrays, [Block((0, 3), (0, 2))], FILTERS[filters])
    shard = open_shard(next((folder / "shards").iterdir()))
    assert shard.arrays["features/it"].codec == OUTSIDE_HDF5.get(filters)
    cache = open_cache(folder, threads=3)
    cache.read([0], 0)
    if filters in OUTSIDE_HDF5:
        monkeypatch.setattr(h5py, "File", None)
    assert cache.read([2, 0, 1], 1).tobytes() == arrays["features/it"][[2, 0, 1], 1].tobytes()


def test_the_filters_of_new_shards_are_decoded_outside_hdf5(tmp_path: Path) -> None:
    for encoding in ("float16", "uint8"):
        recipe = made_recipe(encoding, (("it", 3, 5, 11),))
        block = Block((0, 3), (0, 2))
        folder = write_cache(tmp_path / encoding, recipe, random_arrays(recipe, 3, 2), [block])
        assert open_shard(next((folder / "shards").iterdir())).arrays["features/it"].codec is not None


def test_lzf_is_read_through_hdf5(tmp_path: Path) -> None:
    recipe = made_recipe("float16", (("it", 7, 11, 13),))
    arrays = random_arrays(recipe, 3, 2)
    arrays["features/it"] = np.repeat(arrays["features/it"][:, :, :1], 77, axis=2)  # lzf skips what it cannot compress
    folder = write_cache(tmp_path / "c", recipe, arrays, [Block((0, 3), (0, 2))], {"compression": "lzf"})
    assert open_cache(folder, threads=2).read([2, 0], 1).tobytes() == arrays["features/it"][[2, 0], 1].tobytes()


def test_a_flipped_bit_is_noticed_whatever_the_filters(tmp_path: Path) -> None:
    recipe = made_recipe("float16", (("it", 3, 5, 11),))
    for filters, chosen in FILTERS.items():
        folder = write_cache(tmp_path / filters, recipe, random_arrays(recipe, 3, 2), [Block((0, 3), (0, 2))], chosen)
        path = next((folder / "shards").iterdir())
        data = bytearray(path.read_bytes())
        data[int(open_shard(path).arrays["features/it"].offsets[1, 1]) + 9] ^= 4
        path.write_bytes(data)
        cache = open_cache(folder, threads=2)
        cache.read([0, 1, 2], 0)
        with pytest.raises(CorruptFile, match=r"features/it of 1\.jpg, view 1: the stored bytes do not have their di"):
            cache.read([0, 1, 2], 1)


def test_a_filter_that_is_not_installed_is_a_mismatch(tmp_path: Path) -> None:
    recipe = made_recipe("float16", (("it", 3, 5, 11),))
    blocks = [Block((0, 3), (0, 2))]
    folder = write_cache(tmp_path / "c", recipe, random_arrays(recipe, 3, 2), blocks, UNKNOWN_FILTER)
    cache = open_cache(folder, threads=2)
    cache.read_pooled([1], 0)
    with pytest.raises(Mismatch, match=r"00000-.*features/it.*filters that are not installed") as caught:
        cache.read([1, 2, 0], 0)
    assert caught.value.exit_code == 6


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return make_arrays()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, arrays: Arrays) -> Path:
    return make_cache(tmp_path_factory.mktemp("cache") / "made", arrays, BLOCKS)


@pytest.fixture
def cache(folder: Path) -> FeatureCache:
    return open_cache(folder, threads=3)


PRESENT = [row for row in range(ROWS) if row != ABSENT]


def test_many_threads_share_one_cache(cache: FeatureCache, arrays: Arrays) -> None:
    rng = np.random.default_rng(0)
    wanted = [(rng.choice(PRESENT, 31), rng.integers(0, VIEWS, 31)) for _ in range(20)]
    start = threading.Barrier(8)

    def read(number: int) -> bool:
        start.wait()
        return all(
            np.array_equal(cache.read(rows, views, "first"), arrays["features/first"][rows, views])
            for rows, views in wanted[number:] + wanted[:number]
        )

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(8))) == [True] * 8


def test_threads_that_read_through_hdf5_do_not_disturb_each_other(tmp_path: Path) -> None:
    recipe = made_recipe("float16", (("it", 3, 5, 11),))
    arrays = random_arrays(recipe, 5, 3)
    blocks = [Block(rows, (0, 3)) for rows in cut(5, 2)]
    cache = open_cache(write_cache(tmp_path / "c", recipe, arrays, blocks, FILTERS["gzip"]), threads=2)
    rows, views = np.arange(30) % 5, np.arange(30) % 3

    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda _: cache.read(rows, views).tobytes(), range(20)))
    assert set(found) == {arrays["features/it"][rows, views].tobytes()}


def test_no_thread_is_left_behind(cache: FeatureCache) -> None:
    before = threading.active_count()
    cache.read(PRESENT * 3, 1)
    with pytest.raises(BadInput):
        cache.read([0, ABSENT], 0)
    assert threading.active_count() == before


@pytest.mark.parametrize("threads", [0, -1])
def test_fewer_than_one_thread_is_refused(folder: Path, threads: int) -> None:
    with pytest.raises(InvalidSettings, match=f"threads must be at least 1, found {threads}"):
        open_cache(folder, threads=threads)


def test_by_default_there_is_one_thread_for_each_core() -> None:
    assert usable_threads(None) == len(os.sched_getaffinity(0))
    assert usable_threads(5) == 5


def test_no_more_threads_are_started_than_asked_for(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, seen = os.pread, set[int]()

    def noting(descriptor: int, size: int, offset: int) -> bytes:
        seen.add(threading.get_ident())
        return plain(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", noting)
    cache.read(PRESENT * 20, 1)
    assert 1 <= len(seen) <= 3
    seen.clear()
    open_cache(cache.path, threads=1).read(PRESENT * 20, 1)
    assert seen == {threading.get_ident()}


@pytest.mark.parametrize("threads", [1, 3])
def test_a_disk_that_fails_once_is_asked_again(
    folder: Path, arrays: Arrays, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, failed, lock = os.pread, set[tuple[int, int]](), threading.Lock()

    def failing_once(descriptor: int, size: int, offset: int) -> bytes:
        with lock:
            first = (offset, size) not in failed
            failed.add((offset, size))
        if first:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return plain(descriptor, size, offset)

    cache = open_cache(folder, threads=threads)
    monkeypatch.setattr(os, "pread", failing_once)
    np.testing.assert_array_equal(cache.read(PRESENT, 1, "first"), arrays["features/first"][PRESENT, 1])
    assert failed


@pytest.mark.parametrize("threads", [1, 3])
def test_a_disk_that_fails_twice_names_shard_and_image(
    folder: Path, arrays: Arrays, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = os.pread
    shard = open_shard(next((folder / "shards").glob("00012-*")))
    bad = int(shard.arrays["features/first"].offsets[0, 1])

    def failing(descriptor: int, size: int, offset: int) -> bytes:
        if offset == bad and Path(f"/proc/self/fd/{descriptor}").readlink() == shard.path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return plain(descriptor, size, offset)

    cache = open_cache(folder, threads=threads)
    monkeypatch.setattr(os, "pread", failing)
    message = rf"{shard.path.name}: features/first of dir/012 é\.jpg, view 1: cannot be read: Input/output error"
    with pytest.raises(CorruptFile, match=message):
        cache.read(PRESENT, 1, "first")
    np.testing.assert_array_equal(cache.read(PRESENT, 0, "first"), arrays["features/first"][PRESENT, 0])


@pytest.mark.parametrize("most", [1, 7])
def test_short_reads_are_continued(
    cache: FeatureCache, arrays: Arrays, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: plain(fd, min(size, most), offset))
    np.testing.assert_array_equal(cache.read(PRESENT, 0), arrays["features/second.bn"][PRESENT, 0])


def test_a_file_that_ends_early_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(b"0123456789")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert read_exactly(descriptor, 7, 3, lambda: "here", cache=tmp_path) == b"3456789"
        with pytest.raises(CorruptFile, match=r"^here: the file ends before byte 11; it was cut short"):
            read_exactly(descriptor, 8, 3, lambda: "here", cache=tmp_path)
    finally:
        os.close(descriptor)


def test_a_shard_that_may_not_be_opened_is_a_storage_error(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.read([0], 0)

    def refusing(path: Path, *args: Any, **kwargs: Any) -> int:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(StorageError, match=r"00000-.*: cannot read: Permission denied"):
        cache.read([0], 0)


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_no_descriptor_is_left_open(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.read([0, 1], 0)
    before = descriptors()
    for view in (0, 1) * 5:
        cache.read(PRESENT, view)
        cache.read_pooled(PRESENT, view)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", lambda *_: b"")
        with pytest.raises(CorruptFile, match="cut short"):
            cache.read(PRESENT, 0)
    open_cache(cache.path)
    assert descriptors() == before


FEW_DESCRIPTORS = """
import hashlib, resource, sys
import numpy as np
from featcache.store.cache import open_cache
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
cache = open_cache(sys.argv[1], threads=4)
rows, views = np.arange(71 * 2) // 2, np.arange(71 * 2) % 2
print(hashlib.sha256(cache.read(rows, views).tobytes()).hexdigest())
for found in cache.batches([(rows, views)] * 2):
    print(hashlib.sha256(found.tobytes()).hexdigest())
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (64, 64)
"""


def test_many_shards_are_read_with_few_descriptors(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 64
    recipe = made_recipe("float16", (("it", 1, 3, 5),))
    arrays = random_arrays(recipe, 71, 2)
    folder = write_cache(tmp_path / "c", recipe, arrays, [Block(rows, (0, 2)) for rows in cut(71, 1)])
    (folder / "cache.h5").unlink()  # then the tables come from the shards
    done = run_forked(FEW_DESCRIPTORS, folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [hashlib.sha256(arrays["features/it"].tobytes()).hexdigest()] * 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.empty((2, 3, 5), "<f4"),
        lambda: np.empty((2, 5, 3), "<f2"),
        lambda: np.empty((3, 3, 5), "<f2"),
        lambda: np.empty((2, 3, 10), "<f2")[:, :, ::2],
        lambda: np.empty((2, 5, 3), "<f2").transpose(0, 2, 1),
        lambda: np.empty((2, 3, 5), ">f2"),
    ],
    ids=["float32", "swapped", "too many", "strided", "transposed", "big-endian"],
)
def test_a_buffer_that_does_not_fit_is_refused(cache: FeatureCache, make: Callable[[], NDArray[Any]]) -> None:
    with pytest.raises(
        InvalidSettings, match=re.escape("out must be C-contiguous float16 (2, 3, 5) and writeable, found")
    ):
        cache.read([0, 1], 0, "first", make())


def test_a_part_of_a_larger_buffer_is_filled_and_the_rest_is_left(cache: FeatureCache, arrays: Arrays) -> None:
    buffer = np.full((5, 3, 5), 7, "<f2")
    cache.read([11, 0, 3], [1, 0, 1], "first", buffer[1:4])
    np.testing.assert_array_equal(buffer[1:4], arrays["features/first"][[11, 0, 3], [1, 0, 1]])
    assert (buffer[[0, 4]] == 7).all()


def test_rows_and_views_of_different_lengths_are_refused(cache: FeatureCache) -> None:
    with pytest.raises(InvalidSettings, match="rows and views"):
        cache.read([0, 1, 2], [0, 1])


def test_a_buffer_that_cannot_be_written_is_refused(cache: FeatureCache) -> None:
    out = np.zeros((1, 3, 5), "<f2")
    out.flags.writeable = False
    with pytest.raises(InvalidSettings, match="out must be"):
        cache.read([0], 0, "first", out)
    assert not out.any()


@pytest.mark.parametrize("encoding", ["float16", "uint8"])
@pytest.mark.parametrize("positions", [1, 7, 16])
@pytest.mark.parametrize("channels", [1_031, 2_049, 2_500])  # a few more than are pooled at once
def test_vectors_that_are_not_stored_are_the_bits_that_are_stored_otherwise(
    tmp_path: Path, encoding: str, positions: int, channels: int
) -> None:
    recipe = made_recipe(encoding, (("it", positions, 1, channels),))
    constants = {"it": constants_of(recipe, "it")} if recipe.calibration else {}
    features = torch.from_numpy(np.random.default_rng(3).normal(size=(4, positions, channels)).astype("f4"))
    expected = encode(features, constants.get("it"))
    codecs = codecs_of(recipe, {"it": Codec("none")})
    assert list(codecs) == ["features/it"]
    with (
        CacheWriter(tmp_path / "c") as cache,
        contextlib.closing(ShardWriter(Target(recipe, codecs, constants), Block((0, 4), (0, 1)))) as writer,
    ):
        for i in range(4):
            writer.set_image(i, replace(image(i), name=f"{i}.jpg", absent=""), [View(Box(0, 0, 3, 5), False)])
            writer.set_stored("features/it", i, 0, writer.encode("features/it", expected.features[i]))
        cache.commit(Block((0, 4), (0, 1)), writer.finish())
        cache.seal(recipe, rows=4, views=1, ratings={"": {}}, source=SOURCE, versions={})
    for threads in (1, 3):
        found = open_cache(tmp_path / "c", threads=threads).read_pooled([3, 0, 2], 0)
        assert found.tobytes() == expected.pooled[[3, 0, 2]].tobytes()


@pytest.mark.parametrize(
    ("compression", "quick", "alone"), [("none", 1.0, True), ("none", -1.0, False), ("zstd", 1.0, False)]
)
def test_other_threads_help_where_chunks_take_long_or_are_decompressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str, quick: float, alone: bool
) -> None:
    features = {layer: codec_named(compression, RECIPE.encoding_of(layer)) for layer in RECIPE.layer_names}
    codecs = codecs_of(RECIPE, features, RECIPE.layer_names)
    cache = open_cache(make_cache(tmp_path / "c", make_arrays(), BLOCKS, codecs=codecs), threads=3)
    seen: set[str] = set()
    opened = featcache.store.reading.opened

    def noting(shard: Shard) -> contextlib.AbstractContextManager[int]:
        seen.add(threading.current_thread().name.partition("_")[0])
        return opened(shard)

    monkeypatch.setattr(featcache.store.reading, "opened", noting)
    monkeypatch.setattr(featcache.store.reading, "_QUICK", quick)
    cache.read(np.flatnonzero(cache.present), 0)
    assert ("read" not in seen) == alone
