"""The rated images that an image is nearest to, by pooled features, and whether it is far from all of them.

What a head says of an image rests on the images that it was trained on; where none is near, it says little.
docs/nearest.md has how the distance was chosen, and what it tells.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from featcache.base.errors import BadInput, InvalidSettings, Mismatch, refuse
from featcache.recipe import Recipe, check_same
from featcache.settings import VIEWS_LAYER
from featcache.store.cache import FeatureCache
from featcache.store.projection import Storing
from head.data.batches import EVAL_VIEW, parts_of, present_part
from head.data.inputs import HeadInput
from head.runs.ratings import difference, digests_once
from head.runs.run import Run

MOST = 5
FAR_QUANTILE = 0.99
_SAMPLE = 2000  # training images whose distances to all others give the threshold
_BATCH = 1024


class Near(NamedTuple):
    """A rated image: its row in the cache and its name there, its rating, and its distance from another."""

    row: int
    image: str
    rating: float
    distance: float


@dataclass(frozen=True)
class Neighbours:
    """The nearest rated images of an image, the nearest first, and whether it is far from all."""

    nearest: tuple[Near, ...]
    far: bool

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object: image, rating and distance of each, and whether it is far from all."""
        near = [{"image": one.image, "rating": one.rating, "distance": round(one.distance, 6)} for one in self.nearest]
        return {"nearest": near, "far": self.far}


@dataclass(frozen=True)
class RatedImages:
    """Training images by row (N), their ratings (N), and their vectors (N, D) float32.

    A vector is the mean over positions of each layer that is read, each channel less its mean (D) over the training
    images, in units of its deviation (D) there. A distance is the root of the mean squared difference of two vectors.
    far_beyond is a distance: `FAR_QUANTILE` of training images are nearer than that to another. names are those of all
    rows of the cache.
    """

    source: HeadInput
    rows: NDArray[np.int64]
    ratings: NDArray[np.float64]
    vectors: NDArray[np.float32]
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    far_beyond: float
    names: Sequence[str] = field(repr=False)

    def of_maps(self, maps: Mapping[str, Tensor], constants: Mapping[str, Storing], recipe: Recipe) -> list[Neighbours]:
        """Return the neighbours of images from the maps (B, L, D) of each layer, as a backbone gives them."""
        return self.of(self.source.of_maps(maps, constants, recipe)[:, 0].numpy())

    def of_rows(self, cache: FeatureCache, rows: NDArray[np.int64]) -> list[Neighbours]:
        """Return the neighbours of rows of a cache."""
        return self.of(_means(cache, self.source, rows)) if len(rows) else []

    def of(self, means: NDArray[np.float32]) -> list[Neighbours]:
        """Return the neighbours of images by means (B, D) over positions; an image that is rated is its own nearest."""
        vectors, found = (means - self.mean) / self.deviation, list[Neighbours]()
        for start in range(0, len(vectors), _BATCH):
            some = vectors[start : start + _BATCH]
            for vector, places in zip(some, _smallest(_distances(some, self.vectors), MOST), strict=True):
                near = [self._near(int(place), vector) for place in places]
                found.append(Neighbours(tuple(near), near[0].distance > self.far_beyond))
        return found

    def _near(self, place: int, vector: NDArray[np.float32]) -> Near:
        row = int(self.rows[place])
        distance = float(np.sqrt(np.mean((self.vectors[place] - vector) ** 2)))  # exact, where products round
        return Near(row, self.names[row], float(self.ratings[place]), distance)


def rated_images(cache: FeatureCache, runs: Sequence[Run], train_images: Collection[str]) -> RatedImages:
    """Return the images of a cache that any of some runs was trained on, as one of its heads reads them.

    train_images are the sha256 of what their heads were trained on: nothing else is taken. An image that has several
    scores in their train parts has their mean. Raises `Mismatch` if the cache has other features, images or ratings
    than the heads were trained on, `InvalidSettings` if they read pixels alone or it lacks what they were trained to
    predict, or `BadInput` if it has less than half of their images, or they are imported.
    """
    run = runs[0]
    cache = cache.of_target(run.config.target)
    check_same(
        run.recipe,
        cache.recipe,
        where=str(run.folder),
        way_out="Name the cache that the head was trained on, or one extracted with the same recipe.",
    )
    layers = tuple(layer for layer in run.input.layers if layer != VIEWS_LAYER)
    if not layers:
        raise InvalidSettings(f"{run.folder}: reads pixels alone, by which no images are near; leave --cache out")
    source = HeadInput(layers, "mean")
    if run.imported:
        raise BadInput(f"{run.folder}: imported, so which images it was trained on is unknown; leave --cache out")
    digests = digests_once(cache)
    others = [f"{one.folder}: {problem}" for one in runs if (problem := difference(one, cache, digests))]
    refuse(Mismatch, f"{cache.path}: is not what these runs were trained on:", others, "Name the cache that is.")
    rows, ratings = _trained_on(cache, runs, train_images)
    whose = f"{run.folder} was" if len(runs) == 1 else f"{len(runs)} runs, {run.folder} and others, were"
    if len(rows) < max(2, len(train_images) / 2):
        raise BadInput(
            f"{cache.path}: has {len(rows):,} of the {len(train_images):,} images that {whose} trained on; name the "
            f"cache that {'it was' if len(runs) == 1 else 'they were'} trained on"
        )
    means = _means(cache, source, rows)
    mean, deviation = means.mean(axis=0), means.std(axis=0)
    deviation[deviation == 0] = 1.0
    vectors = (means - mean) / deviation
    names = [image.name for image in cache.images]
    return RatedImages(source, rows, ratings, vectors, mean, deviation, _far_beyond(vectors), names)


def _trained_on(
    cache: FeatureCache, runs: Sequence[Run], train_images: Collection[str]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    splits = dict.fromkeys(run.split for run in runs)
    trained = [parts["train"] for split in splits if "train" in (parts := parts_of(cache, split))]
    present = [present_part(cache, part) for part in trained]
    every = np.concatenate([np.zeros(0, np.int64), *(part.rows for part in present)])
    scores = np.concatenate([np.zeros(0), *(part.scores for part in present)])
    trained_on = np.array([cache.images[row].sha256 in train_images for row in every], dtype=bool)
    every, scores = every[trained_on], scores[trained_on]
    rows, image = np.unique(every, return_inverse=True)
    return rows, np.bincount(image, scores, len(rows)) / np.bincount(image, minlength=len(rows))


def _means(cache: FeatureCache, source: HeadInput, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the means over positions (B, D) of rows, in their evaluation view."""
    parts = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
    return np.concatenate([source.read(cache, part, EVAL_VIEW)[:, 0].numpy() for part in parts])


def _distances(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the distance of each pair (A, B) of vectors (A, D) and (B, D)."""
    squares = np.sum(a * a, axis=1)[:, None] + np.sum(b * b, axis=1) - 2 * (a @ b.T)
    found: NDArray[np.float32] = np.sqrt(np.maximum(squares, 0) / a.shape[1])
    return found


def _smallest(distances: NDArray[np.float32], most: int) -> NDArray[np.int64]:
    """Return the columns of the smallest values of each row, in order, of equal ones the first."""
    most = min(most, distances.shape[1])
    some = np.sort(np.argpartition(distances, most - 1, axis=1)[:, :most], axis=1)
    order = np.argsort(np.take_along_axis(distances, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)


def _far_beyond(vectors: NDArray[np.float32]) -> float:
    """Return the quantile of distances to the nearest other, of all vectors or a sample of them."""
    chosen = np.random.default_rng(0).permutation(len(vectors))[:_SAMPLE]
    nearest = []
    for start in range(0, len(chosen), _BATCH):
        some = chosen[start : start + _BATCH]
        distances = _distances(vectors[some], vectors)
        distances[np.arange(len(some)), some] = np.inf
        nearest.append(distances.min(axis=1))
    return float(np.quantile(np.concatenate(nearest), FAR_QUANTILE))
