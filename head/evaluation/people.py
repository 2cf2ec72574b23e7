"""How far people agree with people on the test images of a cache: what the rho of a head is read against.

Only where the cache has scores of its test images by other people than those of the test part.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.datasets.splits import Part
from featcache.store.cache import FeatureCache
from head.data.batches import present_part
from head.evaluation.metrics import json_number, shown, spearman
from head.evaluation.statistics import deviation


class Agreement(NamedTuple):
    """Spearman's rho of two groups of people over n images; NaN as `spearman` has it."""

    rho: float
    n: int


@dataclass(frozen=True)
class HumanConsistency:
    """Agreement of people with people by split, one or more."""

    by_split: dict[str, Agreement]

    @property
    def rho(self) -> NDArray[np.float64]:
        """The rho of each split, (J)."""
        return np.array([one.rho for one in self.by_split.values()])

    def as_json(self) -> dict[str, Any]:
        """Return rho and n by split, mean and sample deviation of rho over splits; NaN becomes null."""
        return {
            "splits": {split: {"rho": json_number(rho), "n": n} for split, (rho, n) in self.by_split.items()},
            "rho_mean": json_number(float(np.mean(self.rho))),
            "rho_sd": json_number(deviation(self.rho)),
        }

    def as_text(self) -> str:
        """Return mean and deviation over splits, and of how many images each is, as a line."""
        mean, spread = float(np.mean(self.rho)), deviation(self.rho)
        counts = sorted({one.n for one in self.by_split.values()})
        images = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        over = (
            f"over {len(self.by_split)} splits, {images} images each" if len(self.by_split) > 1 else f"{images} images"
        )
        return f"people agree with people: rho {shown(mean)}{'' if np.isnan(spread) else f' +- {spread:.3f}'} ({over})"


def human_consistency(cache: FeatureCache, splits: Iterable[str]) -> HumanConsistency | None:
    """Return how far the scores of each test part agree with those by other people; None where no split has these.

    It is over the images that have both, and features, so that a head is judged on the same.
    """
    by_split = {
        split: _agreement(present_part(cache, cache.splits[split]["test"]), present_part(cache, cache.others[split]))
        for split in dict.fromkeys(splits)
        if split in cache.others
    }
    return HumanConsistency(by_split) if by_split else None


def _agreement(test: Part, others: Part) -> Agreement:
    rows, in_test, in_others = np.intersect1d(test.rows, others.rows, return_indices=True)
    return Agreement(spearman(test.scores[in_test], others.scores[in_others]), len(rows))
