"""Images that look like others of the same cache: copies encoded anew, resized, or cropped a little.

Likely pairs are found by the cosine of pooled features. Each channel's mean over positions is first brought to mean 0
and deviation 1 over the images, so that what all of them share makes no two alike. Two images of the same kind may be
as near as that, but only copies have the same things in the same places: a pair counts if its feature maps agree too.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from featcache.base.cores import usable_threads
from featcache.base.progress import OnProgress, Progress, silent
from featcache.datasets.duplicates import joined
from featcache.images.identity import ImageRow
from featcache.recipe import LayerShape
from featcache.store.manifest import Groups
from featcache.store.reading import Wanted, read_chunks
from featcache.store.shards.encoding import decode
from featcache.store.shards.format import array_specs
from featcache.store.shards.shard import Shard

LIKELY = 0.7  # cosine of pooled features; docs/extraction.md says what this and the next find, and what they miss
ALIKE = 0.55  # cosine of feature maps
ALIKE_VECTORS = 0.9  # cosine of pooled features where a cache has no map
_SIDE = 7  # positions to which larger maps are averaged, so that a crop moves things by less than one
_NEAREST = 3  # likely copies of one image that are compared in their maps
_BY_BOUND = 16  # of one image whose cosine is computed, where bounds of them were multiplied
_MOST_PAIRS = 30_000  # that are compared in their maps, the nearest first; bounds the time of a large cache
_FEW = 4096  # images that are compared in all channels; of more, in the directions that these differ most in
_DIRECTIONS = 256
_BLOCK = 512  # images that are compared with all others, and that are read, at a time
_PAIRS_AT_ONCE = 64


def find_near_duplicates(
    shards: Sequence[Shard], *, layers: Sequence[str], on_progress: OnProgress = silent
) -> Groups | None:
    """Return groups of rows whose images look alike, each row in one at most; a group of one file alone is left out.

    View 0 is compared, in the last of layers that is a map; they are those of a trained network, and without any the
    result is None. shards are all of a cache. Raises `CorruptFile` for damage.
    """
    if not layers:
        return None
    stored = _Stored(shards, layers)
    if len(stored.rows) < 2:
        return ()
    pooled = stored.pooled(on_progress)
    has_maps = stored.shape.is_map
    pairs = likely_pairs(comparable(pooled.means), LIKELY if has_maps else ALIKE_VECTORS, on_progress)
    if has_maps:
        pairs = stored.with_equal_maps(pairs, pooled.deviation, on_progress)
    groups = (tuple(stored.rows[number] for number in group) for group in joined(pairs.tolist()))
    return tuple(group for group in groups if len({stored.images[row].sha256 for row in group}) > 1)


class _Pooled(NamedTuple):
    """The mean of each channel over positions (N, D), and each channel's deviation over images and positions (D)."""

    means: NDArray[np.float32]
    deviation: NDArray[np.float32]


class _Stored:
    """View 0 of a cache's present images, in the last of some layers that is a map; in the last if none is."""

    def __init__(self, shards: Sequence[Shard], layers: Sequence[str]) -> None:
        first = [shard for shard in shards if shard.block.views[0] == 0]
        recipe = first[0].recipe
        maps = [layer for layer in layers if recipe.layer_shape(layer).is_map]
        self.layer = (maps or layers)[-1]
        self.shape: LayerShape = recipe.layer_shape(self.layer)
        self.images = _images(shards)
        self.rows = [row for row in sorted(self.images) if not self.images[row].absent]
        self._specs, self._constants = array_specs(recipe), first[0].constants.get(self.layer)
        self._shards = sorted(first, key=lambda shard: shard.block.rows[0])

    def _read(self, kind: str, numbers: Sequence[int]) -> NDArray[np.generic]:
        """Return the chunks of images, by their places in rows."""
        array = f"{kind}/{self.layer}"
        chunks = np.empty((len(numbers), *self._specs[array].chunk_shape), self._specs[array].dtype)
        rows = np.array([self.rows[number] for number in numbers], np.int64)
        firsts = np.array([shard.block.rows[0] for shard in self._shards])
        of_row = np.searchsorted(firsts, rows, side="right") - 1
        wanted = Wanted(self._shards, of_row, rows - firsts[of_row], np.zeros_like(rows), np.arange(len(rows)))
        read_chunks(wanted, array, chunks, threads=usable_threads(None))
        return chunks

    def pooled(self, on_progress: OnProgress) -> _Pooled:
        n, d = len(self.rows), self.shape.channels
        means, squares = np.empty((n, d), np.float32), np.zeros(d)
        for start in range(0, n, _BLOCK):
            stop = min(start + _BLOCK, n)
            pooled = self._read("pooled", range(start, stop)).astype(np.float64)
            means[start:stop] = pooled[:, 0]
            squares += np.square(pooled).sum(axis=(0, 1))
            on_progress(Progress("read pooled features", stop, n, "images"))
        variance = squares / n - np.square(means.mean(axis=0, dtype=np.float64))
        return _Pooled(means, np.sqrt(np.maximum(variance, 0)).astype(np.float32))

    def with_equal_maps(
        self, pairs: NDArray[np.int64], deviation: NDArray[np.float32], on_progress: OnProgress
    ) -> NDArray[np.int64]:
        """Return the pairs (M, 2) whose maps have a cosine of at least `ALIKE`."""
        kept = [np.empty((0, 2), np.int64)]
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            some = pairs[start : start + _PAIRS_AT_ONCE]
            numbers, place = np.unique(some, return_inverse=True)
            maps = self._maps(numbers.tolist(), deviation)
            left, right = maps[place.reshape(-1, 2)].swapaxes(0, 1)
            kept.append(some[np.einsum("nd,nd->n", left, right) >= ALIKE])
            done = min(start + _PAIRS_AT_ONCE, len(pairs))
            on_progress(Progress("compare likely copies", done, len(pairs), "pairs"))
        return np.concatenate(kept)

    def _maps(self, numbers: Sequence[int], deviation: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return maps as vectors of length 1: each channel less its mean over positions, by its deviation."""
        maps = decode(torch.from_numpy(self._read("features", numbers)), self._constants).float()  # (n, L, D)
        maps = (maps - maps.mean(dim=1, keepdim=True)) / torch.from_numpy(np.where(deviation > 0, deviation, 1))
        image = maps.transpose(1, 2).reshape(len(numbers), -1, self.shape.height, self.shape.width)
        side = (min(_SIDE, self.shape.height), min(_SIDE, self.shape.width))
        return functional.normalize(functional.adaptive_avg_pool2d(image, side).flatten(1)).numpy()


def _images(shards: Sequence[Shard]) -> dict[int, ImageRow]:
    """Return the image of each row; one that a shard does not have is absent."""
    images: dict[int, ImageRow] = {}
    for shard in shards:
        for row, image in enumerate(shard.images, start=shard.block.rows[0]):
            if row not in images or image.absent:
                images[row] = image
    return images


def comparable(means: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the means (N, D), changed in place, as vectors of length 1 whose products are cosines."""
    means -= means.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviation = np.sqrt(np.einsum("nd,nd->d", means, means) / len(means))  # without another array of this size
    means /= np.where(deviation > 0, deviation, 1)
    length = np.sqrt(np.einsum("nd,nd->n", means, means))[:, None]
    means /= np.where(length > 0, length, 1)
    return means


def likely_pairs(vectors: NDArray[np.float32], least: float, on_progress: OnProgress = silent) -> NDArray[np.int64]:
    """Return pairs (M, 2) of rows of vectors (N, D) whose cosine is least or more, the lower row first.

    Of each row only its `_NEAREST` are there, of all pairs the nearest `_MOST_PAIRS`.
    """
    bounds, n = _bounds(vectors), len(vectors)
    pairs, cosines = [np.empty((0, 2), np.int64)], [np.empty(0, np.float32)]
    edges = [*range(0, n, _BLOCK), n]
    for start, stop in pairwise(edges):
        products = bounds[start:stop] @ bounds.T
        products[np.arange(stop - start), np.arange(start, stop)] = -1  # itself
        highest = torch.topk(torch.from_numpy(products), min(_BY_BOUND, n))
        values, others = highest.values.numpy(), highest.indices.numpy()  # (B, K)
        if bounds is not vectors:
            values = np.einsum("nd,nkd->nk", vectors[start:stop], vectors[others])
        order = np.argsort(-values, axis=1, kind="stable")[:, :_NEAREST]
        values, others = np.take_along_axis(values, order, 1), np.take_along_axis(others, order, 1)
        rows, ranks = np.nonzero(values >= least)
        pairs.append(np.stack([start + rows, others[rows, ranks]], axis=1))
        cosines.append(values[rows, ranks])
        on_progress(Progress("look for near-duplicates", stop, n, "images"))
    found, nearness = np.sort(np.concatenate(pairs), axis=1), np.concatenate(cosines)
    found, first = np.unique(found, axis=0, return_index=True)
    nearest = np.argsort(-nearness[first], kind="stable")[:_MOST_PAIRS]
    return found[np.sort(nearest)]


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
