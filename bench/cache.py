"""A cache made from arrays of features, without images or a backbone, for measurements of reading."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.datasets.splits import Splits
from featcache.images.identity import ImageRow
from featcache.images.views import Box, View
from featcache.recipe import Recipe
from featcache.store.shards.encoding import digest_of_constants, encode
from featcache.store.shards.format import Block, Target, codec_named, codecs_of
from featcache.store.shards.writer import ShardWriter
from featcache.store.writer import CacheWriter

LAYER = "layer3"


def make_cache(
    folder: Path,
    features: NDArray[np.float16],
    *,
    views: int,
    rows_per_shard: int = 64,
    constants: Any = None,
    compression: str = "zstd",
    splits: Splits | None = None,
) -> Path:
    """Write and seal a cache of features (N * views, L, D), compressed as asked; uint8 if constants are given."""
    target = _target(features.shape[1:], constants, compression)
    rows = len(features) // views
    with CacheWriter(folder) as writer:
        for start in range(0, rows, rows_per_shard):
            block = Block((start, min(start + rows_per_shard, rows)), (0, views))
            writer.commit(block, _shard(features, block, views, target))
        source = {"dataset": "drawn", "root": "", "weights": "random", "batch_size": "16"}
        writer.seal(target.recipe, rows=rows, views=views, ratings={"": splits or {}}, source=source, versions={})
    return folder


def _target(shape: tuple[int, ...], constants: Any, compression: str) -> Target:
    side = int(shape[0] ** 0.5)
    by_layer = {} if constants is None else {LAYER: constants}
    recipe = Recipe(
        backbone="drawn",
        weights="0" * 64,
        layers=((LAYER, side, shape[0] // side, shape[1]),),
        precision="fp32",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        image_size=224,
        eval_view="center",
        crop_scale=(0.08, 1.0),
        crop_ratio=(0.75, 4 / 3),
        seed=0,
        encoding="float16" if constants is None else "uint8",
        calibration=digest_of_constants(by_layer),
    )
    codec = codec_named(compression, recipe.encoding_of(LAYER))
    return Target(recipe, codecs_of(recipe, {LAYER: codec}), by_layer)


def _shard(features: NDArray[np.float16], block: Block, views: int, target: Target) -> bytes:
    writer = ShardWriter(target, block)
    for i, row in enumerate(range(*block.rows)):
        writer.set_image(i, ImageRow(f"{row:06d}.jpg", f"{row:064x}", 640, 480), [View(Box(0, 0, 1, 1), False)] * views)
        own = torch.from_numpy(features[row * views : (row + 1) * views]).float()
        encoded = encode(own, target.constants.get(LAYER))
        for j in range(views):
            of_view = {f"features/{LAYER}": encoded.features[j], f"pooled/{LAYER}": encoded.pooled[j]}
            for array in writer.codecs:
                writer.set_stored(array, i, j, writer.encode(array, of_view[array]))
    return writer.finish()
