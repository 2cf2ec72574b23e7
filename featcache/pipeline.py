"""From image files to the bytes of one shard: decode ahead in threads, batch views, run the backbone, encode.

Batches never cross a shard, so a shard is the same bytes whenever and after whatever it is computed.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .backbones import Backbone
from .builder import ShardBuilder
from .errors import BadImage, BadInput, Mismatch
from .images import decode_file
from .layout import Block, ImageRow
from .recipe import Recipe
from .views import View, render, view_of

DECODE_THREADS = 2
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


def encode(features: torch.Tensor, encoding: str) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Return features (B, L, D) float32 as stored, and mean and deviation over L of what is stored, (B, 2, D).

    float16 rounds to nearest; what it cannot hold becomes infinite here, for the caller to refuse.
    """
    if encoding != "float16":
        raise Mismatch(f"encoding {encoding} is not one this version writes")
    stored = features.to(torch.float16)
    decoded = stored.float()
    deviation, mean = torch.std_mean(decoded, dim=1, correction=0)
    return stored.cpu().numpy(), torch.stack([mean, deviation], dim=1).cpu().numpy()


def build_shard(
    images: Iterator[LoadedImage],
    block: Block,
    backbone: Backbone,
    recipe: Recipe,
    *,
    on_image: Callable[[LoadedImage], None],
) -> bytes:
    """Return the bytes of the shard of block, whose images are taken in order from images.

    on_image is called with each image as its views enter the backbone. Raises `BadInput` that names image
    and view for a feature that is NaN, infinite, or too large for the encoding.
    """
    builder = ShardBuilder(recipe, block)
    batch: list[tuple[int, int, str, NDArray[np.uint8]]] = []

    def flush() -> None:
        pixels = torch.from_numpy(np.stack([pixels for *_, pixels in batch]))
        encoded = {layer: encode(features, recipe.encoding) for layer, features in backbone(pixels).items()}
        for k, (i, j, name, _) in enumerate(batch):  # in order of views, whatever the batch size
            for layer, (stored, pooled) in encoded.items():
                if not np.isfinite(stored[k]).all():
                    raise BadInput(_not_storable(name, block.views[0] + j, layer, recipe.encoding))
                builder.set_chunk(f"features/{layer}", i, j, stored[k])
                builder.set_chunk(f"pooled/{layer}", i, j, pooled[k])
        batch.clear()

    try:
        for i in range(block.shape[0]):
            image = next(images)
            builder.set_image(i, image.row, image.views)
            for j, pixels in enumerate(image.pixels):
                batch.append((i, j, image.row.name, pixels))
                if len(batch) == backbone.batch_size:
                    flush()
            on_image(image)
        if batch:
            flush()
        return builder.finish()
    finally:
        builder.close()


def _not_storable(name: str, view: int, layer: str, encoding: str) -> str:
    return (
        f"{name}, view {view}: layer {layer} gave a value that is NaN or that {encoding} cannot hold (its largest is "
        "65,504). Nothing of this shard was kept; use other --weights or another --layer."
    )
