"""Part of a split as a dataset for torch's DataLoader: features and score of each image and view."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from featcache.base.errors import InvalidSettings
from featcache.store.cache import FeatureCache
from featcache.store.shards.encoding import decode


class FeatureDataset(Dataset[tuple[Tensor, Tensor]]):
    """Item i is (features, score) of image i // len(views) in view i % len(views), absent images left out.

    Features are float32 (L, D), or (2, D), mean and deviation over positions, if pooled; the score is a float32 scalar.
    A DataLoader's batch is one read of the cache, each chunk's digest checked, in whatever process it is read.
    views=range(1, cache.views) has every augmented view. Raises `InvalidSettings` for a split, part, layer or view that
    the cache does not have, and on reading what `FeatureCache.read` raises.
    """

    def __init__(
        self,
        cache: FeatureCache,
        split: str,
        part: str,
        *,
        views: Sequence[int] = (0,),
        layer: str | None = None,
        pooled: bool = False,
    ) -> None:
        parts = cache.splits.get(str(split))
        if parts is None or part not in parts:
            there = ", ".join(f"{name} {'/'.join(found)}" for name, found in cache.splits.items())
            raise InvalidSettings(f"{cache.path} has no {part} part of split {split}; it has {there}")
        if not len(views) or not all(0 <= view < cache.views for view in views):
            raise InvalidSettings(f"views must be some of 0 to {cache.views - 1}, found {list(views)}")
        self.cache, self.layer, self.pooled, self.views = cache, cache.layer(layer), pooled, tuple(views)
        listed = parts[part]
        present = cache.present[listed.rows]
        self.rows, self.scores = listed.rows[present], listed.scores[present]

    @property
    def names(self) -> list[str]:
        """The images' names, one for each len(views) items."""
        return [self.cache.images[row].name for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows) * len(self.views)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Return the items of a batch, read at once; a DataLoader asks by this."""
        wrong = [index for index in indices if not -len(self) <= index < len(self)]
        if wrong:
            raise IndexError(f"item {wrong[0]} of {len(self)}")
        images, views = np.divmod(np.asarray(indices, np.int64) % len(self), len(self.views))
        rows, numbers = self.rows[images], np.asarray(self.views, np.int64)[views]
        if self.pooled:
            features = torch.from_numpy(self.cache.read_pooled(rows, numbers, self.layer))
        else:
            features = decode(self.cache.read(rows, numbers, self.layer), self.cache.constants(self.layer))
        scores = torch.from_numpy(self.scores[images]).float()
        return list(zip(features, scores, strict=True))
