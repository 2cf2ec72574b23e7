"""From image files to the bytes of one shard: decode ahead in threads, batch views, run the backbone, encode.

Batches never cross a shard, so a shard is the same bytes whenever and after whatever it is computed.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .backbones import Backbone
from .builder import ShardBuilder
from .encoding import encode
from .errors import BadImage, BadInput
from .images import decode_file
from .layout import Block, ImageRow
from .recipe import Recipe, Target
from .views import View, render, view_of

DECODE_THREADS = 2
CODEC_THREADS = 2  # zstd compresses about 250 MB/s of float16 a thread
_DECODED_AHEAD = 8  # images; bounds memory


@dataclass(frozen=True)
class LoadedImage:
    """An image's identity, its views, and their pixels (v, S, S, 3) uint8; no views if the image is absent."""

    row: ImageRow
    views: list[View]
    pixels: NDArray[np.uint8]


def load_image(path: Path, name: str, views: tuple[int, int], recipe: Recipe) -> LoadedImage:
    """Decode an image once and cut views [start, stop); raise `BadImage`."""
    decoded = decode_file(path)
    width, height = decoded.rgb.size
    cut = [view_of(recipe.view_recipe, name, view, width=width, height=height) for view in range(*views)]
    pixels = np.stack([render(decoded.rgb, view, recipe.image_size) for view in cut])
    return LoadedImage(ImageRow(name, decoded.sha256, width, height), cut, pixels)


def _load_or_record(path: Path, name: str, views: tuple[int, int], recipe: Recipe) -> LoadedImage:
    try:
        return load_image(path, name, views, recipe)
    except BadImage as error:
        return LoadedImage(ImageRow(name, absent=str(error)), [], np.empty((0, 0, 0, 3), np.uint8))


def load_ahead(images: Path, work: Sequence[tuple[str, tuple[int, int]]], recipe: Recipe) -> Iterator[LoadedImage]:
    """Yield the image of each (name, views) in order, decoded in threads a few images ahead."""
    pool = ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="decode")
    waiting: deque[Future[LoadedImage]] = deque()
    try:
        for name, views in work:
            waiting.append(pool.submit(_load_or_record, images / name, name, views, recipe))
            if len(waiting) > _DECODED_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def build_shard(
    images: Iterator[LoadedImage],
    block: Block,
    backbone: Backbone,
    target: Target,
    *,
    on_image: Callable[[LoadedImage], None],
) -> bytes:
    """Return the bytes of the shard of block, whose images are taken in order from images.

    on_image is called with each image as its views enter the backbone. Chunks are compressed in threads while the
    backbone computes the next batch. Raises `BadInput` that names image and view for a feature that is NaN,
    infinite, or too large for the encoding.
    """
    builder = ShardBuilder(target.recipe, block, target.constants)
    pool = ThreadPoolExecutor(CODEC_THREADS, thread_name_prefix="codec")
    batch: list[_View] = []
    encoding: list[_Chunk] = []

    def store() -> None:
        for chunk in encoding:  # in order of views, whatever the batch size
            builder.set_stored(chunk.array, chunk.i, chunk.j, chunk.stored.result())
        encoding.clear()

    def flush() -> None:
        features = backbone(torch.from_numpy(np.stack([view.pixels for view in batch])))
        store()  # of the batch before
        encoding.extend(_encode_batch(batch, features, block, target, builder, pool))
        batch.clear()

    try:
        for i in range(block.shape[0]):
            image = next(images)
            builder.set_image(i, image.row, image.views)
            for j, pixels in enumerate(image.pixels):
                batch.append(_View(i, j, image.row.name, pixels))
                if len(batch) == backbone.batch_size:
                    flush()
            on_image(image)
        if batch:
            flush()
        store()
        return builder.finish()
    finally:
        pool.shutdown(cancel_futures=True)
        builder.close()


@dataclass(frozen=True)
class _View:
    """A view (i, j) of a block, of the image called name, its pixels (S, S, 3) uint8."""

    i: int
    j: int
    name: str
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class _Chunk:
    """A chunk (i, j) of a block, which a thread is encoding."""

    array: str
    i: int
    j: int
    stored: Future[bytes]


def _encode_batch(
    batch: Sequence[_View],
    features: Mapping[str, torch.Tensor],
    block: Block,
    target: Target,
    builder: ShardBuilder,
    pool: ThreadPoolExecutor,
) -> Iterator[_Chunk]:
    """Hand the chunks of a batch to the pool, in the order in which they are to be stored."""
    encoded = {layer: encode(values, target.constants.get(layer)) for layer, values in features.items()}
    for k, view in enumerate(batch):
        for layer, values in encoded.items():
            if not values.storable[k]:
                raise BadInput(_not_storable(view.name, block.views[0] + view.j, layer, target.recipe.encoding))
            for kind, chunk in (("features", values.features[k]), ("pooled", values.pooled[k])):
                array = f"{kind}/{layer}"
                yield _Chunk(array, view.i, view.j, pool.submit(builder.encode, array, chunk))


def _not_storable(name: str, view: int, layer: str, encoding: str) -> str:
    return (
        f"{name}, view {view}: layer {layer} gave a value that is NaN or that {encoding} cannot hold (float16's "
        "largest is 65,504). Nothing of this shard was kept; use other --weights or another --layer."
    )
