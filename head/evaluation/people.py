"""How far people agree with people, and the ceiling that this sets: what the rho of a head is read against.

A ceiling is the rho that a prediction of what endlessly many raters say would reach with the scores at hand.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.datasets.reliability import Reliability
from featcache.datasets.splits import Part
from featcache.store.cache import FeatureCache
from head.data.batches import present_part
from head.evaluation.metrics import json_number, or_nan, shown, spearman
from head.evaluation.statistics import deviation, mean_rho_interval, ratio_interval, rho_interval

_BY_HALVES = "root of how far two groups of people agree, as test scores are of one of them (others_K.txt)"


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


@dataclass(frozen=True)
class Ceiling:
    """The highest rho that is to be expected of a model, its 95% interval, if known, and what it follows from.

    images is on how many it was measured, None where it is said of all ratings.
    """

    rho: float
    low: float | None
    high: float | None
    how: str
    images: int | None = None

    def as_text(self) -> str:
        """Return it as a line."""
        known = self.low is not None and self.high is not None
        interval = f"95% {self.low:.3f} to {self.high:.3f}" if known else "no interval known"
        return f"ceiling {self.rho:.3f} ({interval}): {self.how}"


def ceiling_of(cache: FeatureCache, split: str, part: str) -> Ceiling | None:
    """Return the ceiling of a part's scores; None where nothing is known of how far its raters agree.

    A reliability that came with the dataset counts first. Without one, test scores of one group of people of two have
    the root of how far both agree: of equally many raters r = t / (t + e), t the variance of what all agree on and e
    that of the rest, and what is agreed on correlates with one group by the root of r. Last comes what was published.
    """
    own = cache.manifest.reliability.get(cache.target)
    if own is None and part == "test" and split in cache.others:
        found = human_consistency(cache, [split])
        return _by_halves(found.by_split[split]) if found else None
    known = own or cache.reliability
    return _of_all(known) if known else None


def mean_ceiling(ceilings: Mapping[str, Ceiling | None], test_share: float) -> Ceiling | None:
    """Return the mean over splits, with the interval of `mean_rho_interval`; None where a split has none."""
    known = [one for one in ceilings.values() if one is not None]
    if not known or len(known) < len(ceilings):
        return None
    first = known[0]
    if all(one == first for one in known):
        return first
    rho, images = np.array([one.rho for one in known]), np.array([one.images or 0 for one in known])
    bounds = _known(*mean_rho_interval(rho, test_share, images))
    how = f"mean over {len(rho)} splits, {rho.min():.3f} to {rho.max():.3f}, of the {first.how}"
    return Ceiling(float(np.mean(rho)), *bounds, how, int(images.min()))


def of_ceiling(rho: float, low: float, high: float, ceiling: Ceiling | None) -> dict[str, Any]:
    """Return rho / ceiling with its 95% interval, and the ceiling, as a JSON object; empty without a ceiling."""
    if ceiling is None:
        return {}
    bounds = ratio_interval(rho, (low, high), ceiling.rho, (or_nan(ceiling.low), or_nan(ceiling.high)))
    return {
        "of_ceiling": json_number(rho / ceiling.rho),
        "of_ceiling_low": json_number(bounds[0]),
        "of_ceiling_high": json_number(bounds[1]),
        "ceiling": ceiling.rho,
        "ceiling_low": ceiling.low,
        "ceiling_high": ceiling.high,
        "ceiling_images": ceiling.images,
        "ceiling_how": ceiling.how,
    }


def ceiling_from_json(found: Mapping[str, Any]) -> Ceiling | None:
    """Return the ceiling of what `of_ceiling` returned, None where there was none."""
    if found.get("ceiling") is None:
        return None
    how, images = str(found.get("ceiling_how")), found.get("ceiling_images")
    return Ceiling(found["ceiling"], found.get("ceiling_low"), found.get("ceiling_high"), how, images)


def near_ceiling(found: Mapping[str, Any]) -> str:
    """Return in words what share of the ceiling was reached, from what `of_ceiling` returned, '' if that is unknown."""
    share, low, high = (found.get(f"of_ceiling{bound}") for bound in ("", "_low", "_high"))
    if share is None or found.get("ceiling") is None:
        return ""
    interval = "" if low is None or high is None else f", 95% interval {low:.2f} to {high:.2f}"
    return f"{share:.2f} of the ceiling {found['ceiling']:.3f} that the agreement of raters sets{interval}"


def _by_halves(found: Agreement) -> Ceiling | None:
    if not found.rho > 0:
        return None
    low, high = rho_interval(*found)
    bounds = _known(math.sqrt(max(low, 0.0)), math.sqrt(max(high, 0.0)))
    return Ceiling(math.sqrt(found.rho), *bounds, _BY_HALVES, found.n)


def _known(low: float, high: float) -> tuple[float | None, float | None]:
    return json_number(low), json_number(high)


def _of_all(known: Reliability) -> Ceiling:
    how = "" if known.full is None else f"root of {known.full:.3f}, the reliability of all ratings; "
    if known.split_half is not None:
        how += f"{known.split_half:.3f} is that of half of the raters alone; "
    return Ceiling(known.ceiling, known.ceiling_low, known.ceiling_high, f"{how}{known.source}")
