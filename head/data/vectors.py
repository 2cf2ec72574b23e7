"""The pooled vectors that a baseline is fitted on: which stored views of which images, so that they fit in memory."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.datasets.splits import Part
from featcache.store.cache import FeatureCache
from featcache.store.projection import Moments, Projection
from head.data.inputs import HeadInput

MOST_NUMBERS = 1 << 27  # 1 GiB as float64; one view of each image is read even if that is more
_BATCH = 1024
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Vectors:
    """x (n, D) float64, standardised by mean and deviation (D), and scores (n): so many views of so many images.

    bands are the channels of each layer. weights (n) say how much each counts, in mean and deviation, too; None where
    all count alike. projection is what they went through before that, None for nothing; D is C then.
    """

    x: NDArray[np.float64]
    scores: NDArray[np.float64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    images: int
    views_each: int
    bands: Mapping[str, slice]
    weights: NDArray[np.float64] | None = None
    projection: Projection | None = None

    def as_stored(
        self, rows: NDArray[np.intp] | slice = slice(None), channels: slice = slice(None)
    ) -> NDArray[np.float32]:
        """Return some of the n vectors (S, D) as they were before standardisation, to the precision of float32."""
        stored: NDArray[np.float64] = self.x[rows, channels] * self.deviation[channels] + self.mean[channels]
        return stored.astype(np.float32)

    def negative_layers(self) -> list[str]:
        """Return the layers that have features below 0, by more than rounding."""
        stored = {layer: self.as_stored(channels=band) for layer, band in self.bands.items()}
        return [layer for layer, values in stored.items() if values.min() < -_ROUNDING * np.abs(values).max()]


def draw_views(
    images: int, *, views: int, most: int, leave_out: bool, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return positions of images, in order, and views of them (k, v) of at most k * v = most training vectors.

    An image is seen as its augmented views 1..views-1, as view 0 if there are no others, in so many of them as fit
    for all, drawn without repetition. If there is no room for one view of each, k images are drawn where images may
    be left out, else all are seen once all the same.
    """
    rng = np.random.default_rng(seed)
    stored = np.arange(1, views) if views > 1 else np.zeros(1, np.int64)
    kept = np.arange(images)
    if leave_out and images > most:
        kept = np.sort(rng.choice(images, most, replace=False))
    each = min(max(most // len(kept), 1), len(stored))
    return kept, rng.permuted(np.tile(stored, (len(kept), 1)), axis=1)[:, :each]


def read_vectors(
    cache: FeatureCache,
    part: Part,
    source: HeadInput,
    *,
    seed: int,
    most_vectors: int | None = None,
    weights: NDArray[np.float64] | None = None,
    kept: int = 0,
) -> Vectors:
    """Read the training vectors of a part; with most_vectors, of no more than that, else of every image.

    weights are those of the part's images (n), None where all count alike. kept is C, to how many of their principal
    directions they are projected, 0 for not at all.
    """
    from sklearn.preprocessing import StandardScaler  # takes a second

    channels = source.map_shape(cache.recipe).channels
    most = MOST_NUMBERS // channels
    picked, seen = draw_views(
        len(part.rows),
        views=cache.views,
        most=most if most_vectors is None else min(most, most_vectors),
        leave_out=most_vectors is not None,
        seed=seed,
    )
    images, each = seen.shape
    positions, views = np.repeat(picked, each), seen.reshape(-1)
    x = np.empty((images * each, channels))
    for start in range(0, len(x), _BATCH):
        batch = slice(start, start + _BATCH)
        x[batch] = source.read(cache, part.rows[positions[batch]], views[batch]).flatten(1).numpy()
    projection = None
    if kept:
        moments = Moments(channels)
        moments.add(torch.from_numpy(x))
        projection = moments.projection(kept)
        x = projection.of_vectors(x)
    scaler = StandardScaler(copy=False)
    counted = None if weights is None else weights[positions]
    standardised = scaler.fit_transform(x) if counted is None else scaler.fit(x, sample_weight=counted).transform(x)
    bands = source.bands(cache.recipe)
    scores = part.scores[positions]
    return Vectors(standardised, scores, scaler.mean_, scaler.scale_, images, each, bands, counted, projection)
