"""What a head reads, projected on the first principal directions of its training part. Knows nothing of heads.

Features are read with all their channels once an image and view; what they are projected to stays in memory, as far as
it has room there.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.base.errors import InvalidSettings
from featcache.base.memory import free_bytes
from featcache.datasets.splits import Part
from featcache.store.cache import FeatureCache
from featcache.store.projection import MOST_POSITIONS, Moments, Projection
from featcache.store.reading import ahead
from head.data.inputs import AHEAD, HeadInput, Pairs
from head.data.vectors import draw_views

SHARE_OF_MEMORY = 4  # projected features take no more than a quarter of what is free, all trainings together
_AT_ONCE = 64  # images with all their channels in memory


def fit_channels(cache: FeatureCache, part: Part, source: HeadInput, *, channels: int, seed: int) -> Projection:
    """Return the projection on the first directions of what source reads of a part's training views.

    Those are all positions of views 1..V-1 of each image, or of view 0 if there are no others, where they are no more
    than `MOST_POSITIONS`; else of as many views as fit, drawn by the seed, the same number of each image, or, if one
    of each is too many, of images drawn by it. Raises `InvalidSettings` if they vary along fewer directions.
    """
    most = max(1, MOST_POSITIONS // source.positions(cache.recipe))
    picked, seen = draw_views(len(part.rows), views=cache.views, most=most, leave_out=True, seed=seed)
    rows, views = np.repeat(part.rows[picked], seen.shape[1]), seen.reshape(-1)
    moments = Moments(source.map_shape(cache.recipe).channels)
    pairs = [
        (rows[start : start + _AT_ONCE], views[start : start + _AT_ONCE]) for start in range(0, len(rows), _AT_ONCE)
    ]
    for features in ahead(pairs, lambda _, pair: source.read(cache, *pair), prefetch=1):
        moments.add(features.flatten(0, 1))
    return moments.projection(channels)


@dataclass(frozen=True)
class _Kept:
    """Projected features (slots, L, C), of which slot (N, V) says where those of a row and view are, -1 for nowhere."""

    features: Tensor
    slot: NDArray[np.int64]


class ProjectedInput:
    """What a `HeadInput` reads, projected: (B, L, C) or, where that pools, (B, 1, C), float32.

    rows are those that will be read, so that there is room for them; others can be. sharing is how many such are in
    the machine's memory at once.
    """

    stored_pooled = False

    def __init__(
        self, cache: FeatureCache, source: HeadInput, projection: Projection, rows: int, *, sharing: int = 1
    ) -> None:
        self.source, self.projection = source, projection
        self.pooled, self.layers = source.pooled, source.layers
        L, C = source.positions(cache.recipe), projection.channels[1]
        wanted = rows * max(1, cache.views - 1)
        slots = min(wanted, free_bytes() // (SHARE_OF_MEMORY * sharing) // (4 * L * C))
        self._kept = _Kept(torch.empty(slots, L, C), np.full((cache.rows, cache.views), -1, np.int64))
        self._used = 0

    @property
    def bytes(self) -> int:
        """Bytes of memory of projected features, once all are there."""
        return self._kept.features.nbytes

    @property
    def held_bytes(self) -> int:
        """Bytes of those that are there."""
        features = self._kept.features
        return 0 if not len(features) else features.nbytes // len(features) * self._used

    def read(self, cache: FeatureCache, rows: NDArray[np.int64], views: NDArray[np.int64] | int) -> Tensor:
        """Return projected features of (row, view) pairs; those that are not in memory are read, and kept there."""
        kept, views = self._kept, np.broadcast_to(views, rows.shape)
        found = torch.empty(len(rows), *kept.features.shape[1:])
        slots = kept.slot[rows, views]
        there = np.flatnonzero(slots >= 0)
        found[there] = kept.features[slots[there]]
        absent = np.flatnonzero(slots < 0)
        for start in range(0, len(absent), _AT_ONCE):
            some = absent[start : start + _AT_ONCE]
            projected = self.projection.of(self.source.read(cache, rows[some], views[some]))
            found[some] = projected
            self._keep(rows[some], views[some], projected)
        return found

    def batches(self, cache: FeatureCache, pairs: Pairs) -> Iterator[Tensor]:
        """Yield what `read` returns for each (rows, views), made ahead in a thread."""
        yield from ahead(pairs, lambda _, pair: self.read(cache, *pair), prefetch=AHEAD)

    def _keep(self, rows: NDArray[np.int64], views: NDArray[np.int64], projected: Tensor) -> None:
        """Keep as many of these as there is room for."""
        kept = self._kept
        room = min(len(rows), len(kept.features) - self._used)
        kept.features[self._used : self._used + room] = projected[:room]
        kept.slot[rows[:room], views[:room]] = np.arange(self._used, self._used + room)
        self._used += room


def check_channels(cache: FeatureCache, source: HeadInput, channels: int) -> None:
    """Raise `InvalidSettings` unless a head that is to read so many channels would read more without."""
    if channels and channels >= (there := source.map_shape(cache.recipe).channels):
        raise InvalidSettings(
            f"--channels {channels}: a head on {', '.join(source.layers)} of {cache.path} reads {there:,} channels "
            "anyhow; ask for fewer, or leave it out"
        )
