"""Batches read ahead are what `read` returns, in bounded memory; and every kind of process reads the same."""

import gc
import hashlib
import multiprocessing
import os
import pickle
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from featcache.base.errors import BadInput, CorruptFile, InvalidSettings, Mismatch
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.shards.format import Block
from featcache.store.shards.opening import open_shard
from tests.helpers.synthetic import ABSENT, BLOCKS, ROWS, VIEWS, Arrays, make_arrays, make_cache

PRESENT = [row for row in range(ROWS) if row != ABSENT]
PAIRS = [([0, 5, 12], 1), ([3], 0), ([11, 11, 2, 7], [0, 1, 1, 0]), ([8, 9], 0), ([1, 0, 1, 0, 1], 1), ([6], [1])]
PREFETCH = pytest.mark.parametrize("prefetch", [0, 1, 2, 5])
FORKS = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from Python 3.12 on; here it is meant


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return make_arrays()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, arrays: Arrays) -> Path:
    return make_cache(tmp_path_factory.mktemp("cache") / "made", arrays, BLOCKS)


@pytest.fixture
def cache(folder: Path) -> FeatureCache:
    return open_cache(folder, threads=2)


def expected(arrays: Arrays, rows: Any, views: Any, layer: str = "second.bn") -> NDArray[Any]:
    return arrays[f"features/{layer}"][rows, views]


class Source:
    """An iterable of batches that counts how many were taken."""

    def __init__(self, items: list[Any]) -> None:
        self.items, self.taken = items, 0

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            self.taken += 1
            yield item


@PREFETCH
def test_each_batch_is_what_read_returns(cache: FeatureCache, arrays: Arrays, prefetch: int) -> None:
    found = [batch.copy() for batch in cache.batches(PAIRS, prefetch=prefetch)]
    assert len(found) == len(PAIRS)
    for batch, (rows, views) in zip(found, PAIRS, strict=True):
        assert (batch.dtype, batch.flags.c_contiguous) == (np.dtype("<f2"), True)
        np.testing.assert_array_equal(batch, expected(arrays, rows, views))
        np.testing.assert_array_equal(batch, cache.read(rows, views))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(
        st.lists(st.tuples(st.sampled_from(PRESENT), st.integers(0, VIEWS - 1)), min_size=1, max_size=9), max_size=9
    ),
    prefetch=st.integers(0, 4),
    threads=st.integers(1, 3),
)
def test_batches_of_any_sizes(
    folder: Path, arrays: Arrays, batches: list[list[tuple[int, int]]], prefetch: int, threads: int
) -> None:
    wanted = [np.array(batch, int).reshape(-1, 2).T for batch in batches]
    opened = open_cache(folder, threads=threads)
    pairs = [(rows, views) for rows, views in wanted]
    for (rows, views), found in zip(pairs, opened.batches(pairs, "first", prefetch=prefetch), strict=True):
        assert (found.shape, found.dtype) == ((len(rows), 3, 5), np.dtype("<f2"))
        np.testing.assert_array_equal(found, expected(arrays, rows, views, "first"))


@PREFETCH
def test_a_batch_without_rows_is_what_read_returns(cache: FeatureCache, prefetch: int) -> None:
    wanted = cache.read([], 0)
    assert wanted.shape == (0, 7, 11)
    for found in cache.batches([([], 0), ([3], 0), ([], 1)], prefetch=prefetch):
        assert (found.dtype, found.shape[1:]) == (wanted.dtype, wanted.shape[1:])


def test_no_batches_give_none(cache: FeatureCache) -> None:
    assert list(cache.batches([])) == []


def address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


@PREFETCH
def test_memory_is_bounded_by_one_batch_more_than_prefetch(cache: FeatureCache, prefetch: int) -> None:
    pairs = [(PRESENT, number % 2) for number in range(17)] + [(PRESENT[:5], 1)]
    kept = list(cache.batches(pairs, prefetch=prefetch))
    assert len({address(batch) for batch in kept}) == prefetch + 1
    assert len(kept[-1]) == 5


@PREFETCH
def test_batches_are_read_into_the_memory_that_is_given(cache: FeatureCache, arrays: Arrays, prefetch: int) -> None:
    given: list[NDArray[Any]] = []

    def allocate(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        given.append(torch.empty(shape, dtype=torch.float16).numpy())
        assert dtype == given[-1].dtype
        return given[-1]

    pairs = [(PRESENT[number:], number % 2) for number in range(9)]
    for number, found in enumerate(cache.batches(pairs, prefetch=prefetch, allocate=allocate)):
        assert any(np.shares_memory(found, memory) for memory in given)
        np.testing.assert_array_equal(found, expected(arrays, *pairs[number]))
    assert len(given) == prefetch + 1  # the first ones are the largest


@PREFETCH
def test_an_array_is_valid_until_the_next_is_asked_for(cache: FeatureCache, arrays: Arrays, prefetch: int) -> None:
    pairs = [(PRESENT[start:] + PRESENT[:start], start % 2) for start in range(10)]
    before = None
    for number, found in enumerate(cache.batches(pairs, prefetch=prefetch)):
        time.sleep(0.01)  # a slow consumer: all that can be read ahead has been
        np.testing.assert_array_equal(found, expected(arrays, *pairs[number]))
        assert before is None or prefetch == 0 or not np.shares_memory(before, found)
        before = found


@PREFETCH
def test_no_more_is_taken_from_the_source_than_is_read_ahead(cache: FeatureCache, prefetch: int) -> None:
    source = Source(PAIRS * 3)
    batches = cache.batches(source, prefetch=prefetch)
    assert source.taken == 0
    for delivered, _ in enumerate(batches, start=1):
        assert source.taken <= min(delivered + prefetch, len(source.items))
    assert source.taken == len(source.items)


@PREFETCH
def test_the_batches_before_a_bad_one_are_delivered(cache: FeatureCache, arrays: Arrays, prefetch: int) -> None:
    batches = cache.batches([*PAIRS[:3], ([0, ABSENT], 0), PAIRS[4]], prefetch=prefetch)
    for rows, views in PAIRS[:3]:
        np.testing.assert_array_equal(next(batches), expected(arrays, rows, views))
    with pytest.raises(BadInput, match=r"004 é\.jpg: has no features"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)


@PREFETCH
def test_rows_that_do_not_exist_are_refused_when_their_batch_is_asked_for(cache: FeatureCache, prefetch: int) -> None:
    batches = cache.batches([([0], 0), ([ROWS], 0)], prefetch=prefetch)
    assert next(batches).shape == (1, 7, 11)
    with pytest.raises(InvalidSettings, match=r"rows must be whole numbers in \[0, 13\)"):
        next(batches)


@PREFETCH
def test_damage_is_raised_when_its_batch_is_asked_for(tmp_path: Path, arrays: Arrays, prefetch: int) -> None:
    own = make_cache(tmp_path / "own", arrays, BLOCKS)
    path = next((own / "shards").glob("00012-*"))
    data = bytearray(path.read_bytes())
    data[int(open_shard(path).arrays["features/second.bn"].offsets[0, 1])] ^= 1
    path.write_bytes(data)
    batches = open_cache(own).batches([([0], 0), ([12], 0), ([12], 1), ([0], 0)], prefetch=prefetch)
    np.testing.assert_array_equal(next(batches), expected(arrays, [0], 0))
    np.testing.assert_array_equal(next(batches), expected(arrays, [12], 0))
    with pytest.raises(CorruptFile, match=rf"{path.name}.*012 é\.jpg, view 1"):
        next(batches)


@PREFETCH
def test_an_error_of_the_source_comes_after_the_batches_it_gave(
    cache: FeatureCache, arrays: Arrays, prefetch: int
) -> None:
    def failing() -> Iterator[Any]:
        yield from PAIRS[:3]
        raise LookupError("no more")

    batches = cache.batches(failing(), prefetch=prefetch)
    for rows, views in PAIRS[:3]:
        np.testing.assert_array_equal(next(batches), expected(arrays, rows, views))
    with pytest.raises(LookupError, match="no more"):
        next(batches)


def test_an_unknown_layer_is_refused_at_once(cache: FeatureCache) -> None:
    with pytest.raises(InvalidSettings, match="has no layer third"):
        cache.batches(PAIRS, "third")


def test_less_than_no_prefetch_is_refused(cache: FeatureCache) -> None:
    with pytest.raises(InvalidSettings, match="prefetch"):
        list(cache.batches(PAIRS, prefetch=-1))


@PREFETCH
def test_an_iterator_left_early_leaves_no_thread(cache: FeatureCache, prefetch: int) -> None:
    before = set(threading.enumerate())
    for _ in cache.batches(PAIRS * 5, prefetch=prefetch):
        break
    gc.collect()
    assert set(threading.enumerate()) == before
    closed = cache.batches(PAIRS * 5, prefetch=prefetch)
    next(closed)
    closed.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) == before
    cache.batches(PAIRS, prefetch=prefetch)  # never asked for anything
    list(cache.batches(PAIRS, prefetch=prefetch))
    assert set(threading.enumerate()) == before


@PREFETCH
def test_an_error_leaves_neither_thread_nor_descriptor(cache: FeatureCache, prefetch: int) -> None:
    cache.read(PRESENT, 0)
    before, threads = sorted(os.listdir("/proc/self/fd")), set(threading.enumerate())  # noqa: PTH208
    with pytest.raises(BadInput):
        list(cache.batches([PAIRS[0], ([ABSENT], 0), PAIRS[1]], prefetch=prefetch))
    assert set(threading.enumerate()) == threads
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_two_iterators_of_one_cache_do_not_share_buffers(cache: FeatureCache, arrays: Arrays) -> None:
    other = list(reversed(PAIRS))
    for number, (a, b) in enumerate(zip(cache.batches(PAIRS), cache.batches(other), strict=True)):
        assert not np.shares_memory(a, b)
        np.testing.assert_array_equal(a, expected(arrays, *PAIRS[number]))
        np.testing.assert_array_equal(b, expected(arrays, *other[number]))


def digest(cache: FeatureCache) -> str:
    """Return the sha256 of every present feature, read at once and in batches."""
    whole = hashlib.sha256()
    for view in range(cache.views):
        whole.update(cache.read(PRESENT, view).tobytes())
    for found in cache.batches(PAIRS):
        whole.update(found.tobytes())
    return whole.hexdigest()


def send_digest(cache: FeatureCache, queue: Any) -> None:
    """Read in another process; errors come back as text."""
    try:
        queue.put(digest(cache))
    except Exception as error:  # noqa: BLE001 -- the parent judges
        queue.put(repr(error))


@FORKS
@pytest.mark.parametrize("threads", [None, 1, 3])
def test_a_fork_reads_the_same(folder: Path, threads: int | None) -> None:
    cache = open_cache(folder, threads=threads)
    wanted = digest(cache)
    batches = cache.batches(PAIRS * 2)  # a thread is at work while the process forks
    next(batches)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, digest(cache).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read().decode() == wanted
    os.waitpid(child, 0)
    assert len(list(batches)) == 2 * len(PAIRS) - 1


@FORKS
def test_forks_of_a_process_whose_threads_read_see_the_same(folder: Path) -> None:
    cache = open_cache(folder, threads=2)
    wanted, stop = digest(cache), threading.Event()

    def keep_reading() -> None:
        while not stop.is_set():
            open_cache(folder).read(PRESENT, 0)

    busy = [threading.Thread(target=keep_reading) for _ in range(2)]
    for thread in busy:
        thread.start()
    try:
        context = multiprocessing.get_context("fork")
        for _ in range(7):
            queue = context.SimpleQueue()
            process = context.Process(target=send_digest, args=(cache, queue))
            process.start()
            assert queue.get() == wanted
            process.join()
            assert process.exitcode == 0
    finally:
        stop.set()
        for thread in busy:
            thread.join()


def test_a_spawned_process_reads_the_same(cache: FeatureCache) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=send_digest, args=(cache, queue))
    process.start()
    assert queue.get() == digest(cache)
    process.join()
    assert process.exitcode == 0


class Views(Dataset[tuple[int, torch.Tensor]]):
    """Item n is one feature map of a cache."""

    def __init__(self, cache: FeatureCache) -> None:
        self.cache = cache

    def __len__(self) -> int:
        return len(PRESENT) * VIEWS

    def __getitem__(self, n: int) -> tuple[int, torch.Tensor]:
        return n, torch.from_numpy(self.cache.read([PRESENT[n % len(PRESENT)]], n // len(PRESENT))[0])


@FORKS
@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_delivers_the_same(cache: FeatureCache, arrays: Arrays, workers: int) -> None:
    loader = DataLoader(Views(cache), batch_size=5, shuffle=True, num_workers=workers)
    seen: list[int] = []
    for _ in range(2):
        for numbers, features in loader:
            rows = [PRESENT[n % len(PRESENT)] for n in numbers.tolist()]
            views = [n // len(PRESENT) for n in numbers.tolist()]
            np.testing.assert_array_equal(features.numpy(), expected(arrays, rows, views))
            seen += numbers.tolist()
    assert sorted(seen) == sorted([*range(24)] * 2)


def test_a_pickled_cache_is_small_and_keeps_its_threads(cache: FeatureCache) -> None:
    cache.read(PRESENT, 0)  # with every shard opened
    pickled = pickle.dumps(cache)
    assert len(pickled) < 2000
    copy = pickle.loads(pickled)
    assert (copy.threads, copy.fingerprint, copy.rows, copy.views) == (2, cache.fingerprint, ROWS, VIEWS)
    assert digest(copy) == digest(cache)
    assert len(pickle.dumps(copy)) < 2000


def test_a_pickled_relative_path_is_found_from_elsewhere(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    cache = open_cache(folder.name)
    wanted, pickled = digest(cache), pickle.dumps(cache)
    monkeypatch.chdir(tmp_path)
    assert digest(pickle.loads(pickled)) == wanted


def test_a_cache_sealed_anew_meanwhile_is_a_mismatch(tmp_path: Path, arrays: Arrays) -> None:
    own = make_cache(tmp_path / "own", arrays, BLOCKS)
    opened, unread = open_cache(own), open_cache(own)
    opened.read(PRESENT, 0)
    pickled = pickle.dumps(opened)
    shutil.rmtree(own / "shards")
    make_cache(own, make_arrays(seed=1), [Block((0, 13), (0, 2))])
    for use in (lambda: pickle.loads(pickled), lambda: opened.read([0], 0), lambda: unread.read([0], 0)):
        with pytest.raises(Mismatch, match=r"the cache was changed .*; open it again"):
            use()
    with pytest.raises(Mismatch, match="the cache was changed"):
        list(opened.batches(PAIRS))


def test_a_pickled_cache_that_only_grew_is_a_mismatch_too(tmp_path: Path, arrays: Arrays) -> None:
    blocks = [Block((0, 13), (0, 1)), Block((0, 13), (1, 2))]
    one_view = {name: values[:, :1] for name, values in arrays.items()}
    own = make_cache(tmp_path / "own", one_view, blocks[:1])
    opened = open_cache(own)
    pickled = pickle.dumps(opened)
    make_cache(own, arrays, blocks)
    with pytest.raises(Mismatch, match="the cache was changed since it was handed to this process"):
        pickle.loads(pickled)
    np.testing.assert_array_equal(opened.read([7, 0], 0), expected(arrays, [7, 0], 0))
