"""Shards, put together in order: views go through the backbone, stored rows are copied as they are.

Decoding, the backbone, and encoding overlap, across the border between two shards as well. Batches never cross it,
so a shard is the same bytes whenever, wherever, after whatever and from whatever it is made.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.backbones.backbone import Backbone, loader_threads
from featcache.base.devices import to_device
from featcache.base.errors import BadInput
from featcache.extraction.timings import StageTimes
from featcache.images.identity import ImageRow
from featcache.images.loading import LoadedImage, Loader, load_ahead
from featcache.images.views_on_device import render_on_device
from featcache.recipe import Recipe
from featcache.store.shards.encoding import encode
from featcache.store.shards.format import Block, Target
from featcache.store.shards.shard import StoredRow
from featcache.store.shards.writer import ShardWriter

_QUEUED_BATCHES = 2  # beside those being computed; bounds memory


@dataclass(frozen=True)
class BuiltShard:
    """The bytes of a shard's file, whose rows it holds, where the time went that it took, and notes as (name, note)."""

    block: Block
    data: bytes
    rows: list[ImageRow]
    times: StageTimes
    notes: list[tuple[str, str]]


def build_shards(
    rows: Iterator[LoadedImage | StoredRow], blocks: Iterable[Block], backbone: Backbone, target: Target
) -> Iterator[BuiltShard]:
    """Yield the shard of each block, in order; their rows are taken in order from rows, some way ahead.

    Raises `BadInput` that names image and view for a feature that is NaN, infinite, or too large for the encoding.
    """
    codec_threads = backbone.execution.threads
    with backbone.pool() as compute, ThreadPoolExecutor(codec_threads, thread_name_prefix="codec") as codec:
        pipeline = _Pipeline(backbone, target, compute, codec)
        try:
            for block in blocks:
                pipeline.begin(block)
                for i in range(block.shape[0]):
                    pipeline.add(i, next(rows))
                    yield from pipeline.take_finished()
                pipeline.flush()
            yield from pipeline.take_all()
        finally:
            compute.shutdown(wait=False, cancel_futures=True)
            codec.shutdown(wait=False, cancel_futures=True)
            pipeline.close()


def load_for(
    backbone: Backbone,
    images: Path,
    work: Sequence[tuple[str, tuple[int, int]]],
    recipe: Recipe,
    *,
    load: Loader | None = None,
) -> Iterator[LoadedImage]:
    """Yield the image of each (name, views), loaded ahead as the backbone wants it: cut into views, or whole."""
    return load_ahead(images, work, recipe, cut=not backbone.cuts_views, threads=loader_threads(backbone), load=load)


_Chunks = list[tuple[str, Future[bytes]]]  # of one view: each array's name and stored bytes


@dataclass
class _PendingView:
    """View j of row i; batch and place in it are set when it is handed to the backbone."""

    i: int
    j: int
    image: LoadedImage
    batch: Future[list[_Chunks]] | None = None
    k: int = 0

    def done(self) -> bool:
        """Whether its chunks are there, so that nothing waits for them."""
        if self.batch is None or not self.batch.done():
            return False
        return self.batch.exception() is not None or all(stored.done() for _, stored in self.batch.result()[self.k])

    def chunks(self) -> list[tuple[str, bytes]]:
        """Return its chunks as (array, stored bytes), waiting for them; raise what computing them raised."""
        assert self.batch is not None  # it is handed over before anyone waits
        return [(array, stored.result()) for array, stored in self.batch.result()[self.k]]


class _OpenShard:
    """One shard while it is put together. Chunks are placed in the order of the file."""

    def __init__(self, block: Block, target: Target) -> None:
        self.block, self.times = block, StageTimes()
        self.notes: list[tuple[str, str]] = []
        self.writer = ShardWriter(target, block)
        self.batch: list[_PendingView] = []  # not handed to the backbone yet
        self._waiting: deque[_PendingView | tuple[int, StoredRow]] = deque()
        self._rows_left = block.shape[0]

    def add_image(self, i: int, image: LoadedImage) -> list[_PendingView]:
        """Take an image's row; return its views."""
        self.writer.set_image(i, image.row, image.views)
        self.times.add(image.seconds)
        self.notes += [(image.row.name, note) for note in image.notes]
        views = [_PendingView(i, j, image) for j in range(len(image.views))]
        self._waiting.extend(views)
        self._rows_left -= 1
        return views

    def add_stored(self, i: int, row: StoredRow) -> None:
        """Take a row that is copied."""
        self.writer.set_image(i, row.row, row.views)
        self._waiting.append((i, row))
        self._rows_left -= 1
        self.place()

    def place(self) -> None:
        """Put into the file what is at hand, up to the first view whose chunks are not there."""
        while self._waiting:
            first = self._waiting[0]
            if isinstance(first, _PendingView):
                if not first.done():
                    return
                for array, stored in first.chunks():
                    self.writer.set_stored(array, first.i, first.j, stored)
            else:
                for array, j, stored in first[1].chunks:
                    self.writer.set_stored(array, first[0], j, stored)
            self._waiting.popleft()

    def is_whole(self) -> bool:
        """Whether every row is in the file."""
        self.place()
        return not self._rows_left and not self._waiting

    def finish(self) -> BuiltShard:
        """Return the shard's file."""
        with self.times.timed("write"):
            data = self.writer.finish()
        return BuiltShard(self.block, data, self.writer.rows, self.times, self.notes)


class _Pipeline:
    """The shards that are being put together, oldest first, and the batches on their way through the backbone."""

    def __init__(
        self, backbone: Backbone, target: Target, compute: ThreadPoolExecutor, codec: ThreadPoolExecutor
    ) -> None:
        self._backbone, self._target = backbone, target
        self._compute, self._codec = compute, codec
        self._open: deque[_OpenShard] = deque()  # that have not been given out
        self._in_flight: deque[Future[list[_Chunks]]] = deque()

    def begin(self, block: Block) -> None:
        """Start the shard of block; rows are added to it from now on."""
        self._newest = _OpenShard(block, self._target)
        self._open.append(self._newest)

    def add(self, i: int, row: LoadedImage | StoredRow) -> None:
        """Add row i of the newest shard."""
        shard = self._newest
        if isinstance(row, StoredRow):
            shard.add_stored(i, row)
            return
        for view in shard.add_image(i, row):
            shard.batch.append(view)
            if len(shard.batch) == self._backbone.batch_size:
                self.flush()

    def flush(self) -> None:
        """Hand the views that wait for a batch to the backbone; wait if too many batches are on their way."""
        shard = self._newest
        if not shard.batch:
            return
        while len(self._in_flight) >= self._backbone.streams + _QUEUED_BATCHES:
            self._wait_for(self._in_flight.popleft())
        self._open[0].place()
        views, shard.batch = shard.batch, []
        batch = self._compute.submit(self._through_backbone, shard, views)
        for k, view in enumerate(views):
            view.batch, view.k = batch, k
        self._in_flight.append(batch)

    def take_finished(self) -> Iterator[BuiltShard]:
        """Yield the oldest shards that are whole, without waiting."""
        while self._open and self._open[0].is_whole():
            yield self._open.popleft().finish()

    def take_all(self) -> Iterator[BuiltShard]:
        """Yield all shards; no more rows are coming."""
        while self._in_flight:
            self._wait_for(self._in_flight.popleft())
            yield from self.take_finished()
        yield from self.take_finished()

    def close(self) -> None:
        """Drop what is not finished."""
        for shard in self._open:
            shard.writer.close()

    def _wait_for(self, batch: Future[list[_Chunks]]) -> None:
        """Wait until a batch is computed and compressed; what it raises is raised where its shard's turn comes."""
        if not batch.exception():
            wait([stored for chunks in batch.result() for _, stored in chunks])

    def _through_backbone(self, shard: _OpenShard, views: list[_PendingView]) -> list[_Chunks]:
        """Compute and encode a batch; return each view's chunks, on their way through the codec."""
        times, constants = shard.times, self._target.constants
        with self._backbone.stream():
            with times.timed("views"):
                pixels = self._pixels(views)
            with times.timed("backbone"):
                maps = self._backbone.maps(pixels)
            with times.timed("encode"):
                encoded = {layer: encode(values[: len(views)], constants.get(layer)) for layer, values in maps.items()}
        chunks: list[_Chunks] = [[] for _ in views]
        for k, view in enumerate(views):
            for layer, values in encoded.items():
                if not values.storable[k]:
                    raise BadInput(self._not_storable(shard.block, view, layer))
                of_view = {f"features/{layer}": values.features[k], f"pooled/{layer}": values.pooled[k]}
                for array in filter(shard.writer.codecs.__contains__, of_view):
                    chunks[k].append((array, self._codec.submit(_compressed, shard, array, of_view[array])))
        return chunks

    def _pixels(self, views: list[_PendingView]) -> Tensor:
        """Return the pixels (batch_size, S, S, 3) uint8 of a batch, black behind its last view."""
        S, device = self._backbone.image_size, self._backbone.device
        if not self._backbone.cuts_views:
            pixels = np.zeros((self._backbone.batch_size, S, S, 3), np.uint8)
            for k, view in enumerate(views):
                pixels[k] = view.image.pixels[view.j]
            return to_device(pixels, device)
        on_device = torch.zeros((self._backbone.batch_size, S, S, 3), dtype=torch.uint8, device=device)
        k = 0
        for _, group in groupby(views, key=lambda view: id(view.image.source(view.j))):
            same = list(group)
            source = to_device(same[0].image.source(same[0].j), device)
            places = [view.image.views[view.j] for view in same]
            on_device[k : k + len(same)] = render_on_device(source, places, self._target.recipe.view_settings)
            k += len(same)
        return on_device

    def _not_storable(self, block: Block, view: _PendingView, layer: str) -> str:
        return (
            f"{view.image.row.name}, view {block.views[0] + view.j}: layer {layer} gave a value that is NaN or that "
            f"{self._target.recipe.encoding} cannot hold (float16's largest is 65,504). Nothing of this shard was "
            "kept; use other --weights or another --layer."
        )


def _compressed(shard: _OpenShard, array: str, chunk: NDArray[np.generic]) -> bytes:
    with shard.times.timed("encode"):
        return shard.writer.encode(array, chunk)
