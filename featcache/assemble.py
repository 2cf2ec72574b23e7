"""The bytes of one shard, put together in order: views go through the backbone, stored rows are copied as they are.

Batches never cross a shard, so a shard is the same bytes whenever, after whatever and from whatever it is made.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from .backbones import Backbone
from .builder import ShardBuilder
from .encoding import encode
from .errors import BadInput
from .layout import Block, ImageRow
from .pipeline import LoadedImage
from .recipe import Target
from .views import View

CODEC_THREADS = 2  # zstd compresses about 250 MB/s of float16 a thread


@dataclass(frozen=True)
class StoredRow:
    """A row that is there already: how its views are cut, and its chunks as (array, j, stored bytes) in their order."""

    row: ImageRow
    views: list[View]
    chunks: list[tuple[str, int, bytes]]


def build_shard(
    rows: Iterator[LoadedImage | StoredRow],
    block: Block,
    backbone: Backbone,
    target: Target,
    *,
    on_image: Callable[[LoadedImage], None],
) -> bytes:
    """Return the bytes of the shard of block, whose rows are taken in order from rows.

    on_image is called with each image as its views enter the backbone. Chunks are compressed in threads while the
    backbone computes the next batch. Raises `BadInput` that names image and view for a feature that is NaN,
    infinite, or too large for the encoding.
    """
    assembly = _Assembly(block, backbone, target)
    try:
        for i in range(block.shape[0]):
            row = next(rows)
            if isinstance(row, StoredRow):
                assembly.add_stored(i, row)
            else:
                assembly.add_image(i, row)
                on_image(row)
        return assembly.finish()
    finally:
        assembly.close()


@dataclass(frozen=True)
class _ViewOfRow:
    """View j of row i, of the image called name: pixels (S, S, 3) uint8; chunks fills when they are encoded."""

    i: int
    j: int
    name: str
    pixels: NDArray[np.uint8]
    chunks: list[tuple[str, Future[bytes]]] = field(default_factory=list)


@dataclass(frozen=True)
class _StoredChunk:
    i: int
    j: int
    array: str
    stored: bytes


class _Assembly:
    """A shard while it is put together. What waits is bounded by two batches, and by a shard where rows are copied."""

    def __init__(self, block: Block, backbone: Backbone, target: Target) -> None:
        self._block, self._backbone, self._target = block, backbone, target
        self._builder = ShardBuilder(target.recipe, block, target.constants)
        self._pool = ThreadPoolExecutor(CODEC_THREADS, thread_name_prefix="codec")
        self._batch: list[_ViewOfRow] = []
        self._waiting: deque[_ViewOfRow | _StoredChunk] = deque()  # in the order of the file

    def add_image(self, i: int, image: LoadedImage) -> None:
        self._builder.set_image(i, image.row, image.views)
        for j, pixels in enumerate(image.pixels):
            view = _ViewOfRow(i, j, image.row.name, pixels)
            self._batch.append(view)
            self._waiting.append(view)
            if len(self._batch) == self._backbone.batch_size:
                self._flush()

    def add_stored(self, i: int, row: StoredRow) -> None:
        self._builder.set_image(i, row.row, row.views)
        self._waiting.extend(_StoredChunk(i, j, array, stored) for array, j, stored in row.chunks)
        self._store()

    def finish(self) -> bytes:
        if self._batch:
            self._flush()
        self._store()
        return self._builder.finish()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._builder.close()

    def _flush(self) -> None:
        features = self._backbone(torch.from_numpy(np.stack([view.pixels for view in self._batch])))
        self._store()  # the batch before, compressed meanwhile
        self._encode(features)
        self._batch.clear()

    def _encode(self, features: Mapping[str, torch.Tensor]) -> None:
        """Hand the chunks of the batch to the pool."""
        constants = self._target.constants
        encoded = {layer: encode(values, constants.get(layer)) for layer, values in features.items()}
        for k, view in enumerate(self._batch):
            for layer, values in encoded.items():
                if not values.storable[k]:
                    raise BadInput(self._not_storable(view, layer))
                for kind, chunk in (("features", values.features[k]), ("pooled", values.pooled[k])):
                    array = f"{kind}/{layer}"
                    view.chunks.append((array, self._pool.submit(self._builder.encode, array, chunk)))

    def _store(self) -> None:
        """Put what is at hand into the file, up to the first view that has not been through the backbone."""
        while self._waiting:
            first = self._waiting[0]
            if isinstance(first, _StoredChunk):
                self._builder.set_stored(first.array, first.i, first.j, first.stored)
            elif first.chunks:
                for array, stored in first.chunks:
                    self._builder.set_stored(array, first.i, first.j, stored.result())
            else:
                return
            self._waiting.popleft()

    def _not_storable(self, view: _ViewOfRow, layer: str) -> str:
        return (
            f"{view.name}, view {self._block.views[0] + view.j}: layer {layer} gave a value that is NaN or that "
            f"{self._target.recipe.encoding} cannot hold (float16's largest is 65,504). Nothing of this shard was "
            "kept; use other --weights or another --layer."
        )
