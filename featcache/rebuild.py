"""A shard made anew from what is stored already: chunks are copied as they are, digests checked, and not decoded.

The same rows in the same block give the same file, byte for byte.
"""

import contextlib
import os
from collections.abc import Iterator

from .builder import ShardBuilder
from .shard import Shard
from .views import Box, View


@contextlib.contextmanager
def opened(shard: Shard) -> Iterator[int]:
    """Give a file descriptor of a shard."""
    descriptor = os.open(shard.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def copy_row(builder: ShardBuilder, i: int, shard: Shard, k: int, descriptor: int) -> None:
    """Copy row k of a shard into row i of another of the same views; raise `CorruptFile` for a damaged chunk."""
    builder.set_image(i, shard.images[k], views_in(shard, k))
    if shard.images[k].absent:
        return
    for j in range(shard.block.shape[1]):
        for array in shard.arrays:
            builder.set_stored(array, i, j, shard.read_stored(descriptor, array, k, j))


def views_in(shard: Shard, k: int) -> list[View]:
    """Return how the views of a row were cut; none for an absent image."""
    if shard.images[k].absent:
        return []
    return [
        View(Box(*box), bool(flip)) for box, flip in zip(shard.box[k].tolist(), shard.flip[k].tolist(), strict=True)
    ]
