"""Many chunks at once: threads that read, check and decode straight into one batch. Knows nothing of whole caches.

Nothing is kept between calls, neither threads nor open files: safe in any thread, and after any fork.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import zstandard
from numpy.typing import NDArray

from featcache.store.shards.plain import Numbers, is_plain, read_plain
from featcache.store.shards.shard import Shard, opened

Item = TypeVar("Item")
Result = TypeVar("Result")
_END: Any = object()
_PIECES_PER_THREAD = 4  # so that no thread waits long for the last one
_QUICK = 100e-6  # seconds a chunk that one thread may take before others help, where zstd has no part (bench/read.py)
_HEAD_START = 1e-3  # and so many more


class Wanted(NamedTuple):
    """Chunks: for each the number of its shard, its place (i, j) there, and where it goes in a batch; (n) each."""

    shards: Sequence[Shard]
    number: Numbers
    i: Numbers
    j: Numbers
    position: Numbers

    def picked(self, which: Numbers | slice) -> "Wanted":
        """Return some of them, in that order."""
        return Wanted(self.shards, *(column[which] for column in self[1:]))

    def in_order(self, array: str) -> "Wanted":
        """Return them shard after shard, as they lie there."""
        offsets = np.empty(len(self.number), np.int64)
        for number in np.unique(self.number).tolist():
            shard, of_shard = self.shards[number], self.number == number
            offsets[of_shard] = shard.arrays[shard.stored_as(array)].offsets[self.i[of_shard], self.j[of_shard]]
        return self.picked(np.lexsort((offsets, self.number)))

    def by_shard(self) -> Iterator["Wanted"]:
        """Yield those of each shard, which lie side by side."""
        breaks = (np.flatnonzero(np.diff(self.number)) + 1).tolist()
        for start, stop in pairwise([0, *breaks, len(self.number)]):
            yield self.picked(slice(start, stop))


def read_chunks(wanted: Wanted, array: str, out: NDArray[Any], *, threads: int) -> None:
    """Fill out, C-contiguous, with the chunks wanted; every digest is checked. Opens at most `threads` files.

    Where zstd has nothing to do one thread reads as long as chunks come quickly, from the file cache: to hand Python's
    lock over would take longer. Others help where chunks are decompressed, or fetched from a disk.
    """
    ordered = wanted.in_order(array)
    if threads == 1 or not any(_needs_zstd(shard, array) for shard in wanted.shards):
        ordered = ordered.picked(slice(_read_while_quick(ordered, array, out, always=threads == 1), None))
    if not len(ordered.number):
        return
    size = -(-len(ordered.number) // (threads * _PIECES_PER_THREAD))
    pieces = [ordered.picked(slice(start, start + size)) for start in range(0, len(ordered.number), size)]
    with ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
        for done in [pool.submit(_read_piece, piece, array, out) for piece in pieces]:
            done.result()


def _needs_zstd(shard: Shard, array: str) -> bool:
    codec = shard.arrays[shard.stored_as(array)].codec
    return codec is not None and codec.compression == "zstd"


def _read_while_quick(wanted: Wanted, array: str, out: NDArray[Any], *, always: bool) -> int:
    """Read chunk after chunk, always or until they take long; return how many are read."""
    started, done = time.perf_counter(), 0
    with contextlib.closing(_read_each(wanted, array, out)) as reading:
        for more in reading:
            done += more
            if not always and time.perf_counter() - started > _HEAD_START + done * _QUICK:
                break
    return done


def _read_piece(wanted: Wanted, array: str, out: NDArray[Any]) -> None:
    for _ in _read_each(wanted, array, out):
        pass


def _read_each(wanted: Wanted, array: str, out: NDArray[Any]) -> Generator[int, None, None]:
    """Read chunks, one or a few side by side whenever the next are asked for; yield how many."""
    decompressor = zstandard.ZstdDecompressor()
    for some in wanted.by_shard() if len(wanted.number) else ():
        shard = wanted.shards[some.number[0]]
        with opened(shard) as descriptor:
            if is_plain(shard, array):
                yield from read_plain(shard, descriptor, array, (some.i, some.j), some.position, out, decompressor)
                continue
            for i, j, position in zip(some.i.tolist(), some.j.tolist(), some.position.tolist(), strict=True):
                shard.read_chunk(descriptor, array, i, j, out[position], decompressor)
                yield 1


def ahead(work: Iterable[Item], do: Callable[[int, Item], Result], *, prefetch: int) -> Iterator[Result]:
    """Yield do(slot, item) for each item, up to prefetch of them computed in a thread before they are asked for.

    slot counts round 0..prefetch: what was done in a slot is no longer in use when the slot comes round again,
    which is when the next result is asked for. So prefetch + 1 buffers are enough. work is iterated in the thread.
    """
    source = iter(work)
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")

    def step(slot: int) -> Any:
        item = next(source, _END)
        return _END if item is _END else do(slot, item)

    waiting = deque(pool.submit(step, slot) for slot in range(prefetch + 1))
    try:
        for slot in cycle(range(prefetch + 1)):
            result = waiting.popleft().result()
            if result is _END:
                return
            yield result
            waiting.append(pool.submit(step, slot))
    finally:
        pool.shutdown(cancel_futures=True)
