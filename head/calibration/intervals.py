"""Prediction intervals: how far from a score ratings are, by how far they were on images the head was not fitted to.

Split conformal prediction (Vovk et al., 2005; Lei et al., 2018): an interval of half-width q around a score, q being
the ceil((n + 1) level)-th smallest of n absolute residuals. docs/intervals.md says on which images, and what that
guarantees.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.base.errors import InvalidSettings

LEVEL = 0.9
THIRDS = ("low", "middle", "high")
Scores = NDArray[np.float64]


def check_level(level: float) -> None:
    """Raise `InvalidSettings` unless level is the share of ratings that an interval can be asked to hold."""
    if not 0 < level < 1:
        raise InvalidSettings(f"--interval must be above 0 and below 1, such as 0.9, found {level:g}")


def fewest_images(level: float) -> int:
    """Return of how many images residuals must be known for an interval of a level: 9 for 90%, 19 for 95%."""
    check_level(level)
    return max(1, math.ceil(1 / (1 - level) - 1 - 1e-9))


def half_width(residuals: Scores, level: float) -> float | None:
    """Return the half-width of an interval from absolute residuals (n); None where they are too few for it."""
    n = len(residuals)
    if n < fewest_images(level):
        return None
    return float(np.sort(residuals)[max(1, math.ceil((n + 1) * level - 1e-9)) - 1])


def mean_half_width(residuals: Sequence[Scores], level: float) -> float | None:
    """Return the mean of several heads' half-widths, which is that of their mean score; None where one has none."""
    widths = [half_width(one, level) for one in residuals]
    known = [one for one in widths if one is not None]
    return float(np.mean(known)) if known and len(known) == len(widths) else None


def usual_half_widths(residuals: Sequence[Scores]) -> dict[str, float]:
    """Return several heads' mean half-widths by level, `0.8`, `0.9` and `0.95`, as far as they have such intervals."""
    found = {f"{level:g}": mean_half_width(residuals, level) for level in (0.8, LEVEL, 0.95)}
    return {level: width for level, width in found.items() if width is not None}


def why_none(residuals: Sequence[Scores], level: float) -> str:
    """Return why several heads have no interval, in words; '' if they have one."""
    if mean_half_width(residuals, level) is not None:
        return ""
    fewest = min(map(len, residuals))
    if not fewest:
        return "the head's file does not tell its residuals on images that it was not fitted to"
    wanted = fewest_images(level)
    return f"one of {level:.4g} takes {wanted:,} images that the head was not fitted to, and there were {fewest:,}"


@dataclass(frozen=True)
class Coverage:
    """How many of images' ratings are in their intervals, of all and of those in each third by rating.

    half_width is that of the intervals, of several runs its mean. inside and images count, by `THIRDS`.
    """

    level: float
    half_width: float
    inside: dict[str, int] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """The share of all ratings that are in their intervals."""
        return sum(self.inside.values()) / sum(self.images.values())

    @property
    def of_thirds(self) -> dict[str, float | None]:
        """The share in each third, None of one without images."""
        return {name: self.inside[name] / self.images[name] if self.images[name] else None for name in THIRDS}

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "level": self.level,
            "half_width": self.half_width,
            "coverage": self.share,
            "n": sum(self.images.values()),
            "coverage_of_thirds": self.of_thirds,
            "n_of_thirds": self.images,
        }

    def as_text(self) -> str:
        """Return it in one phrase."""
        thirds = ", ".join(f"{name} {share:.0%}" for name, share in self.of_thirds.items() if share is not None)
        n = sum(self.images.values())
        return f"+-{self.half_width:.4g} holds {self.share:.1%} of {n:,} ratings (by thirds of the rating: {thirds})"


def coverage(predicted: Scores, truth: Scores, residuals: Scores, level: float = LEVEL) -> Coverage | None:
    """Return how many of truth (n) are within the interval around predictions (n); None if there is no interval."""
    width = half_width(residuals, level)
    if width is None or not len(truth):
        return None
    held = np.abs(predicted - truth) <= width
    parts = dict(zip(THIRDS, np.array_split(np.argsort(truth, kind="stable"), 3), strict=True))
    inside = {name: int(held[places].sum()) for name, places in parts.items()}
    return Coverage(level, width, inside, {name: len(places) for name, places in parts.items()})


def pooled(several: Sequence[Coverage | None]) -> Coverage | None:
    """Return the coverage over several runs together; None if one has none."""
    known = [one for one in several if one is not None]
    if not known or len(known) < len(several):
        return None
    inside = {name: sum(one.inside[name] for one in known) for name in THIRDS}
    images = {name: sum(one.images[name] for one in known) for name in THIRDS}
    return Coverage(known[0].level, float(np.mean([one.half_width for one in known])), inside, images)
