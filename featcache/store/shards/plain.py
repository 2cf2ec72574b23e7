"""Chunks that are stored as they are, read straight into their place: those that lie side by side by one call.

Whatever does not go as usual, a short read say, is left to `Shard.read_chunk`, which says what is wrong.
"""

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from zstandard import ZstdDecompressor

from featcache.store.shards.codec import CHECKSUM_BYTES, Codec
from featcache.store.shards.format import digest_seed
from featcache.store.shards.shard import Shard

NEAR = 64 << 10  # bytes between two chunks that are read and dropped, as pooled vectors are between maps
_MOST = 64  # chunks that one call reads; each takes two of the 1,024 pieces that a call can fill
_PLAIN = Codec("none")
Numbers = NDArray[np.int64]


def is_plain(shard: Shard, array: str) -> bool:
    """Whether an array's chunks are stored as they are, and this system reads into several places at once."""
    return array in shard.arrays and shard.arrays[array].codec == _PLAIN and hasattr(os, "preadv")


def runs_of(offsets: Numbers, size: int) -> Iterator[tuple[int, int]]:
    """Yield [first, stop) of each run of chunks of that size, at offsets (n) in order, that one call is to read."""
    gaps = np.diff(offsets) - size
    breaks = np.flatnonzero((gaps < 0) | (gaps > NEAR)) + 1
    for start, stop in zip([0, *breaks.tolist()], [*breaks.tolist(), len(offsets)], strict=True):
        for first in range(start, stop, _MOST):
            yield first, min(first + _MOST, stop)


def read_plain(
    shard: Shard,
    descriptor: int,
    array: str,
    cells: tuple[Numbers, Numbers],
    positions: Numbers,
    out: NDArray[Any],
    decompressor: ZstdDecompressor,
) -> Iterator[int]:
    """Fill out[position] with chunk (i, j) of cells, in order of offsets, every digest checked; yield how many at once.

    Raises as `Shard.read_chunk` does.
    """
    index, size = shard.arrays[array], out[0].nbytes
    data, offsets = out.reshape(-1).view(np.uint8).data, index.offsets[cells]
    chunks = [data[start : start + size] for start in (positions * size).tolist()]
    places = list(zip(*(axis.tolist() for axis in (*cells, positions)), strict=True))
    fits = bool((index.sizes[cells] == size + CHECKSUM_BYTES).all())  # of an absent image it is 0
    digests = index.digests[cells].tolist()
    for first, stop in runs_of(offsets, size + CHECKSUM_BYTES):
        tails = _read_run(descriptor, offsets[first:stop].tolist(), chunks[first:stop]) if fits else None
        for k in range(first, stop):
            i, j, position = places[k]
            if tails is None or _digest(shard, array, i, j, chunks[k], tails[k - first]) != digests[k]:
                shard.read_chunk(descriptor, array, i, j, out[position], decompressor)
        yield stop - first


def _read_run(descriptor: int, offsets: Sequence[int], chunks: Sequence[memoryview]) -> list[bytearray] | None:
    """Fill chunks that lie at offsets; return what is behind each, its checksum first, or None for a short read."""
    size = len(chunks[0])
    tails: list[bytearray] = []
    pieces: list[Any] = []
    for chunk, gap in zip(chunks, [*(b - a - size for a, b in pairwise(offsets)), CHECKSUM_BYTES], strict=True):
        tails.append(bytearray(gap))
        pieces += [chunk, tails[-1]]
    try:
        read = os.preadv(descriptor, pieces, offsets[0])
    except OSError:
        return None
    return tails if read == offsets[-1] - offsets[0] + size + CHECKSUM_BYTES else None


def _digest(shard: Shard, array: str, i: int, j: int, chunk: memoryview, tail: bytearray) -> int:
    """Return the digest of a chunk and its checksum, which its tail begins with."""
    name, view = shard.images[i].name, shard.block.views[0] + j
    digest = xxhash.xxh3_64(chunk, digest_seed(shard.fingerprint, array=array, name=name, view=view))
    digest.update(tail if len(tail) == CHECKSUM_BYTES else tail[:CHECKSUM_BYTES])
    return digest.intdigest()
