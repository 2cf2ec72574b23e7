"""Images that look like others of the same cache: copies encoded anew, resized, or cropped a little.

Found by the cosine of pooled features. Each channel's mean over positions is first brought to mean 0 and deviation 1
over the images of the cache, so that what all of them share makes no two alike.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from featcache.base.cores import usable_threads
from featcache.base.progress import OnProgress, Progress, silent
from featcache.images.identity import ImageRow
from featcache.store.manifest import Groups
from featcache.store.reading import ChunkPlace, read_chunks
from featcache.store.shards.format import array_specs
from featcache.store.shards.shard import Shard

ALIKE = 0.77  # cosine; docs/datasets.md says what it finds and what it takes for a copy that is none
_FEW = 4096  # images that are compared in all channels; of more, in the directions that these differ most in
_DIRECTIONS = 256
_BLOCK = 512  # images that are compared with all others, and that are read, at a time


def find_near_duplicates(shards: Sequence[Shard], *, weights: str, on_progress: OnProgress = silent) -> Groups | None:
    """Return groups of rows whose images look alike, each row in one at most; a group of one file alone is left out.

    In a group every image has a cosine of at least `ALIKE` with another, in the evaluation view of the last layer.
    shards are all of a cache. None where weights are 'random': to such a network all images look alike.
    Raises `CorruptFile` for damage.
    """
    if weights == "random":
        return None
    images = _images(shards)
    rows = np.array([row for row in sorted(images) if not images[row].absent], np.int64)
    if len(rows) < 2:
        return ()
    vectors = comparable(_pooled_means(shards, rows, on_progress))
    pairs = _alike(vectors, on_progress)
    links = coo_array((np.ones(len(pairs), bool), pairs.T), shape=(len(rows), len(rows)))
    _, group_of = connected_components(links, directed=False)
    groups = defaultdict[int, list[int]](list)
    for row, group in zip(rows.tolist(), group_of.tolist(), strict=True):
        groups[group].append(row)
    return tuple(tuple(group) for group in groups.values() if len({images[row].sha256 for row in group}) > 1)


def _images(shards: Sequence[Shard]) -> dict[int, ImageRow]:
    """Return the image of each row; one that a shard does not have is absent."""
    images: dict[int, ImageRow] = {}
    for shard in shards:
        for row, image in enumerate(shard.images, start=shard.block.rows[0]):
            if row not in images or image.absent:
                images[row] = image
    return images


def _pooled_means(shards: Sequence[Shard], rows: NDArray[np.int64], on_progress: OnProgress) -> NDArray[np.float32]:
    """Return the mean of each channel over positions (N, D), in view 0 of the last layer."""
    first = [shard for shard in shards if shard.block.views[0] == 0]
    array = f"pooled/{first[0].recipe.layer_names[-1]}"
    shard_of = {row: shard for shard in first for row in range(*shard.block.rows)}
    chunk_shape = array_specs(first[0].recipe)[array].chunk_shape  # mean and deviation: (2, D)
    means = np.empty((len(rows), chunk_shape[1]), np.float32)
    for start in range(0, len(rows), _BLOCK):
        some = rows[start : start + _BLOCK].tolist()
        places = [ChunkPlace(shard_of[row], row - shard_of[row].block.rows[0], 0, k) for k, row in enumerate(some)]
        pooled = np.empty((len(some), *chunk_shape), np.float32)
        read_chunks(places, array, pooled, threads=usable_threads(None))
        means[start : start + len(some)] = pooled[:, 0]
        on_progress(Progress("read pooled features", start + len(some), len(rows), "images"))
    return means


def comparable(means: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the means (N, D), changed in place, as vectors of length 1 whose products are cosines."""
    means -= means.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviation = np.sqrt(np.einsum("nd,nd->d", means, means) / len(means))  # without another array of this size
    means /= np.where(deviation > 0, deviation, 1)
    length = np.sqrt(np.einsum("nd,nd->n", means, means))[:, None]
    means /= np.where(length > 0, length, 1)
    return means


def _alike(vectors: NDArray[np.float32], on_progress: OnProgress) -> NDArray[np.int64]:
    """Return the pairs (M, 2) of rows of vectors (N, D) whose cosine is at least `ALIKE`."""
    bounds = _bounds(vectors)
    found = [np.empty((0, 2), np.int64)]
    for start in range(0, len(vectors), _BLOCK):
        likely = np.argwhere(bounds[start : start + _BLOCK] @ bounds[start:].T >= ALIKE) + start
        likely = likely[likely[:, 0] < likely[:, 1]]
        for some in np.array_split(likely, -(-len(likely) // _BLOCK) or 1):
            cosines = np.einsum("nd,nd->n", vectors[some[:, 0]], vectors[some[:, 1]])
            found.append(some[cosines >= ALIKE])
        on_progress(Progress("look for near-duplicates", min(start + _BLOCK, len(vectors)), len(vectors), "images"))
    return np.concatenate(found)


def _bounds(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors whose products are nowhere below the cosines; of many images shorter ones, quicker to multiply.

    A vector's part in some directions, with the length of the rest as one more number: the products of the rests are
    at most those of their lengths (Cauchy and Schwarz).
    """
    if len(vectors) <= _FEW:
        return vectors
    sample = vectors[np.linspace(0, len(vectors) - 1, _FEW).astype(np.int64)]
    _, directions = np.linalg.eigh(sample.T @ sample)
    within = vectors @ directions[:, -_DIRECTIONS:]
    rest = np.sqrt(np.maximum(1 - np.einsum("nd,nd->n", within, within), 0) + 1e-6)
    return np.concatenate([within, rest[:, None]], axis=1)
