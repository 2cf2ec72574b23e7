"""How much each image counts in training: as many times as it has ratings, or by the precision of its score."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.base.commands import amnet, command
from featcache.base.errors import BadInput, printable
from featcache.datasets.splits import Part
from featcache.store.cache import FeatureCache

FLOOR_QUANTILE = 0.05  # of the standard errors of what is trained on: smaller ones, and 0, count as that
_COLUMNS = {"n": "numbers of ratings", "se": "standard errors"}


@dataclass(frozen=True)
class Weights:
    """Weights of the images of a part, float64 (n) of mean 1.

    at_least is the floor of standard errors, floored how many were below it.
    """

    of_images: NDArray[np.float64]
    at_least: float | None = None
    floored: int = 0

    @property
    def effective_images(self) -> float:
        """As many equally weighted images tell a mean as well: (sum w)^2 / sum w^2 (Kish 1965)."""
        return float(self.of_images.sum() ** 2 / np.square(self.of_images).sum())

    def as_json(self) -> dict[str, Any]:
        """Return how many images they are worth, and the floor of standard errors where there is one."""
        floor = {} if self.at_least is None else {"se_at_least": self.at_least, "images_at_floor": self.floored}
        return {"effective_images": self.effective_images, **floor}


def image_weights(cache: FeatureCache, part: Part, weight: str) -> Weights | None:
    """Return the weights of a part's images: n, or 1 / se^2, divided by their mean; None for 'none'.

    Raises `BadInput` if the cache does not have what they are made of for every image.
    """
    if weight == "none":
        return None
    found = raw_weights(cache, part, weight)
    lacking = int(np.isnan(found).sum())
    if 0 < lacking < len(found):
        rows = part.rows[np.isnan(found)]
        names = ", ".join(printable(cache.images[row].name) for row in rows[:3])
        raise BadInput(
            f"{cache.path}: {command('--weight', weight)} needs {_COLUMNS[weight]}, which {lacking:,} of "
            f"{len(found):,} training images lack ({names}{', ...' if lacking > 3 else ''}), as those of one rating "
            f"do; use {command('--weight', 'n')}, or leave these images out of the table and extract again"
        )
    if lacking:
        raise BadInput(
            f"{cache.path}: {command('--weight', weight)} needs {_COLUMNS[weight]}, which {lacking:,} of "
            f"{len(found):,} training images lack; extract again (no feature is computed anew) from a table with a "
            f"column {weight}, of several ratings NAME_{weight}, as {amnet('ratings')} writes it"
        )
    if weight == "n":
        return Weights(found / found.mean())
    return _by_errors(cache, found)


def raw_weights(cache: FeatureCache, part: Part, weight: str) -> NDArray[np.float64]:
    """Return the numbers of ratings ('n') or the standard errors ('se') of a part's images (n), NaN where unknown."""
    of_rows = np.full(cache.rows, np.nan)
    raters = cache.raters
    column = None if raters is None else raters.counts if weight == "n" else raters.errors
    if raters is not None and column is not None:
        of_rows[raters.rows] = column
    values: NDArray[np.float64] = of_rows[part.rows]
    return values


def _by_errors(cache: FeatureCache, errors: NDArray[np.float64]) -> Weights:
    above = errors[errors > 0]
    if not len(above):
        raise BadInput(f"{cache.path}: --weight se: all standard errors are 0; use {command('--weight', 'n')}")
    floor = float(np.quantile(above, FLOOR_QUANTILE))
    weights = 1 / np.maximum(errors, floor) ** 2
    return Weights(weights / weights.mean(), floor, int((errors < floor).sum()))
