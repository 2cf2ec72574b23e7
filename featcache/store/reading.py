"""Many chunks at once: threads that read, check and decode straight into one batch. Knows nothing of whole caches.

Nothing is kept between calls, neither threads nor open files: safe in any thread, and after any fork.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
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


@dataclass(frozen=True)
class ChunkPlace:
    """Chunk (i, j) of a shard, and the position in the batch where it goes."""

    shard: Shard
    i: int
    j: int
    position: int


def read_chunks(places: Sequence[ChunkPlace], array: str, out: NDArray[Any], *, threads: int) -> None:
    """Fill out[position] with the chunk of each place; every digest is checked. Opens at most `threads` files."""
    ordered = sorted(places, key=lambda place: (place.shard.path, place.shard.arrays[array].offsets[place.i, place.j]))
    if threads == 1 or len(ordered) <= 1:
        _read_piece(ordered, array, out)
        return
    size = -(-len(ordered) // (threads * _PIECES_PER_THREAD))
    pieces = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    with ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
        for done in [pool.submit(_read_piece, piece, array, out) for piece in pieces]:
            done.result()


def _read_piece(places: Sequence[ChunkPlace], array: str, out: NDArray[Any]) -> None:
    decompressor = zstandard.ZstdDecompressor()
    for _, group in groupby(places, key=lambda place: place.shard.path):
        in_one_file = list(group)
        with opened(in_one_file[0].shard) as descriptor:
            for place in in_one_file:
                place.shard.read_chunk(descriptor, array, place.i, place.j, out[place.position], decompressor)


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
