"""Many chunks at once: threads that read, check and decode straight into one batch. Knows nothing of whole caches.

Nothing is kept between calls, neither threads nor open files: safe in any thread, and after any fork.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, groupby
from typing import Any, TypeVar

import zstandard
from numpy.typing import NDArray

from featcache.store.shards.shard import Shard, opened

Item = TypeVar("Item")
Result = TypeVar("Result")
_END: Any = object()
_PIECES_PER_THREAD = 4  # so that no thread waits long for the last one
_QUICK = 100e-6  # seconds a chunk that one thread may take before others help, where zstd has no part (bench/read.py)
_HEAD_START = 1e-3  # and so many more


@dataclass(frozen=True)
class ChunkPlace:
    """Chunk (i, j) of a shard, and the position in the batch where it goes."""

    shard: Shard
    i: int
    j: int
    position: int


def read_chunks(places: Sequence[ChunkPlace], array: str, out: NDArray[Any], *, threads: int) -> None:
    """Fill out[position] with the chunk of each place; every digest is checked. Opens at most `threads` files.

    Where zstd has nothing to do one thread reads as long as chunks come quickly, from the file cache: to hand Python's
    lock over would take longer. Others help where chunks are decompressed, or fetched from a disk.
    """
    ordered = sorted(places, key=lambda place: (place.shard.path, _offset(place, array)))
    shards = {place.shard.path: place.shard for place in places}.values()
    if threads == 1 or not any(_needs_zstd(shard, array) for shard in shards):
        ordered = ordered[_read_while_quick(ordered, array, out, always=threads == 1) :]
    if not ordered:
        return
    size = -(-len(ordered) // (threads * _PIECES_PER_THREAD))
    pieces = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    with ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
        for done in [pool.submit(_read_piece, piece, array, out) for piece in pieces]:
            done.result()


def _needs_zstd(shard: Shard, array: str) -> bool:
    codec = shard.arrays[shard.stored_as(array)].codec
    return codec is not None and codec.compression == "zstd"


def _offset(place: ChunkPlace, array: str) -> int:
    return int(place.shard.arrays[place.shard.stored_as(array)].offsets[place.i, place.j])


def _read_while_quick(places: Sequence[ChunkPlace], array: str, out: NDArray[Any], *, always: bool) -> int:
    """Read chunk after chunk, always or until they take long; return how many are read."""
    started, done = time.perf_counter(), 0
    with contextlib.closing(_read_each(places, array, out)) as reading:
        for done, _ in enumerate(reading, start=1):
            if not always and time.perf_counter() - started > _HEAD_START + done * _QUICK:
                break
    return done


def _read_piece(places: Sequence[ChunkPlace], array: str, out: NDArray[Any]) -> None:
    for _ in _read_each(places, array, out):
        pass


def _read_each(places: Sequence[ChunkPlace], array: str, out: NDArray[Any]) -> Generator[None, None, None]:
    """Read the chunk of each place, one whenever the next is asked for."""
    decompressor = zstandard.ZstdDecompressor()
    for _, group in groupby(places, key=lambda place: place.shard.path):
        in_one_file = list(group)
        with opened(in_one_file[0].shard) as descriptor:
            for place in in_one_file:
                place.shard.read_chunk(descriptor, array, place.i, place.j, out[place.position], decompressor)
                yield


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
