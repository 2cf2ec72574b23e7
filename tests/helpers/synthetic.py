"""Small caches made from arrays, without images or a backbone. Sizes are different primes: a swapped axis shows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache.base.files import make_folder
from featcache.datasets.splits import Part
from featcache.images.identity import ImageRow
from featcache.images.views import Box, View
from featcache.recipe import Recipe
from featcache.store.folder import shard_path, shards_folder
from featcache.store.shards.format import Block, Codecs, Target, array_specs, codecs_of_version_1
from featcache.store.shards.writer import ShardWriter
from featcache.store.writer import CacheWriter, commit

RECIPE = Recipe(
    backbone="synthetic",
    weights="0" * 64,
    layers=(("first", 1, 3, 5), ("second.bn", 7, 1, 11)),
    precision="fp32",
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    image_size=32,
    eval_view="center",
    crop_scale=(0.08, 1.0),
    crop_ratio=(0.75, 4 / 3),
    seed=0,
)
ROWS, VIEWS = 13, 2
ABSENT = 4
VERSIONS = {"torch": "0"}

Arrays = dict[str, NDArray[np.generic]]


def make_arrays(rows: int = ROWS, views: int = VIEWS, seed: int = 0) -> Arrays:
    """Return random contents (rows, views, ...) for every array of RECIPE."""
    rng = np.random.default_rng(seed)
    return {
        array: rng.normal(size=(rows, views, *spec.chunk_shape)).astype(spec.dtype)
        for array, spec in array_specs(RECIPE).items()
    }


def image(row: int) -> ImageRow:
    """Return the identity of a row; row ABSENT has no features."""
    if row == ABSENT:
        return ImageRow(f"dir/{row:03d} é.jpg", absent="truncated: cut short")
    return ImageRow(f"dir/{row:03d} é.jpg", f"{row:064x}", 100 + row, 200 + row)


def build_shard_bytes(arrays: Arrays, block: Block, *, recipe: Recipe = RECIPE, codecs: Codecs | None = None) -> bytes:
    """Return the file of one block of arrays; of version 1 unless codecs are given."""
    writer = ShardWriter(Target(recipe, codecs or codecs_of_version_1(recipe)), block)
    for i, row in enumerate(range(*block.rows)):
        present = row != ABSENT
        views = [View(Box(v, row, v + 3, row + 7), bool(v % 2)) for v in range(*block.views)]
        writer.set_image(i, image(row), views if present else [])
        for j, view in enumerate(range(*block.views)) if present else ():
            for array in writer.codecs:
                writer.set_stored(array, i, j, writer.encode(array, arrays[array][row, view]))
    return writer.finish()


def write_shard(folder: Path, arrays: Arrays, block: Block) -> Path:
    """Write one block of arrays into folder/shards."""
    make_folder(shards_folder(folder))
    return shard_path(folder, commit(folder, block, build_shard_bytes(arrays, block)).file)


def make_cache(folder: Path, arrays: Arrays, blocks: Sequence[Block], *, codecs: Codecs | None = None) -> Path:
    """Write and seal a cache of ROWS x VIEWS in the given blocks; of version 1 unless codecs are given."""
    rows, views = arrays["features/first"].shape[:2]
    part = Part(np.arange(3), np.array([0.1, 0.5, 0.25]))
    splits = {"1": {"train": part, "test": Part(np.array([5, 4]), np.array([1.0, 0.0]))}}
    source = {"dataset": "synthetic", "root": "nowhere", "weights": "random", "batch_size": "16"}
    with CacheWriter(folder) as writer:
        for block in blocks:
            writer.commit(block, build_shard_bytes(arrays, block, codecs=codecs))
        writer.seal(RECIPE, rows=rows, views=views, ratings={"": splits}, source=source, versions=VERSIONS)
    return folder


BLOCKS = (Block((0, 5), (0, 2)), Block((5, 12), (0, 1)), Block((5, 12), (1, 2)), Block((12, 13), (0, 2)))
