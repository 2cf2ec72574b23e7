"""A row copied from shard to shard: chunks as they are stored, digests checked, and not decoded.

The same rows in the same block give the same file, byte for byte.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from featcache.images.identity import ImageRow
from featcache.images.views import Box, View
from featcache.store.shards.format import Block, Target
from featcache.store.shards.shard import Shard
from featcache.store.shards.writer import ShardWriter


@dataclass(frozen=True)
class StoredRow:
    """A row that is there already: how its views are cut, and its chunks as (array, j, stored bytes) in their order."""

    row: ImageRow
    views: list[View]
    chunks: list[tuple[str, int, bytes]]


def stored_row(shard: Shard, k: int, descriptor: int) -> StoredRow:
    """Return row k of a shard that is open as descriptor; raise `CorruptFile` for a damaged chunk."""
    if shard.images[k].absent:
        return StoredRow(shard.images[k], [], [])
    chunks = [
        (array, j, shard.read_stored(descriptor, array, k, j))
        for j in range(shard.block.shape[1])
        for array in shard.arrays
    ]
    places = zip(shard.box[k].tolist(), shard.flip[k].tolist(), strict=True)
    return StoredRow(shard.images[k], [View(Box(*box), bool(flip)) for box, flip in places], chunks)


def copied_shard(target: Target, block: Block, rows: Iterable[StoredRow]) -> bytes:
    """Return the bytes of a shard of stored rows alone."""
    with contextlib.closing(ShardWriter(target.recipe, block, target.constants)) as writer:
        for i, row in enumerate(rows):
            writer.set_image(i, row.row, row.views)
            for array, j, stored in row.chunks:
                writer.set_stored(array, i, j, stored)
        return writer.finish()
