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

from featcache.base.errors import InvalidSettings, counted

LEVEL = 0.9
THIRDS = ("low", "middle", "high")
FEWEST_OF_THIRD = 20  # images: of 90% that are held, the share of so many has a standard error of 7 points
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
    """Which of images' ratings are in their intervals: ratings truth (n) float64, and held (n) bool whether each is.

    rows (n) says which image of the cache each is of: several runs, as of other seeds, may tell of one image again.
    half_width is that of the intervals, of several runs its mean. Thirds are by rating, over all of the n together.
    """

    level: float
    half_width: float
    truth: Scores = field(repr=False)
    held: NDArray[np.bool_] = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)

    @property
    def share(self) -> float:
        """The share of all ratings that are in their intervals."""
        return float(self.held.mean())

    @property
    def why_no_thirds(self) -> str:
        """Why nothing is said of thirds, in words, '' if they hold enough images."""
        least = len(np.unique(self.rows)) // len(THIRDS)
        if least >= FEWEST_OF_THIRD:
            return ""
        few = f"no shares by thirds of the rating, of {counted(least, 'image')} each"
        return f"{few}: below {FEWEST_OF_THIRD} a share says little"

    def of_thirds(self) -> dict[str, tuple[float, int]]:
        """Return the share in each third by name, and of how many ratings; empty where their images are too few."""
        if self.why_no_thirds:
            return {}
        parts = np.array_split(self.held[np.argsort(self.truth, kind="stable")], len(THIRDS))
        return {name: (float(part.mean()), len(part)) for name, part in zip(THIRDS, parts, strict=True)}

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object; of thirds null and why, where they are too small."""
        thirds = self.of_thirds()
        return {
            "level": self.level,
            "half_width": self.half_width,
            "coverage": self.share,
            "n": len(self.truth),
            "coverage_of_thirds": {name: share for name, (share, _) in thirds.items()} or None,
            "n_of_thirds": {name: n for name, (_, n) in thirds.items()} or None,
            **({"why_no_thirds": self.why_no_thirds} if self.why_no_thirds else {}),
        }

    def as_text(self) -> str:
        """Return it in one phrase."""
        thirds = ", ".join(f"{name} {share:.0%} of {n:,}" for name, (share, n) in self.of_thirds().items())
        by_thirds = f"by thirds of the rating: {thirds}" if thirds else self.why_no_thirds
        return f"+-{self.half_width:.4g} holds {self.share:.1%} of {len(self.truth):,} ratings ({by_thirds})"


def coverage(
    predicted: Scores, truth: Scores, residuals: Scores, level: float = LEVEL, *, rows: NDArray[np.int64]
) -> Coverage | None:
    """Return which of truth (n) are within the interval around predictions (n) of the images in these rows (n).

    None if there is no interval.
    """
    width = half_width(residuals, level)
    if width is None or not len(truth):
        return None
    return Coverage(level, width, truth, np.abs(predicted - truth) <= width, rows)


def pooled(several: Sequence[Coverage | None]) -> Coverage | None:
    """Return the coverage over several runs together; None if one has none."""
    known = [one for one in several if one is not None]
    if not known or len(known) < len(several):
        return None
    joined = (np.concatenate([getattr(one, name) for one in known]) for name in ("truth", "held", "rows"))
    return Coverage(known[0].level, float(np.mean([one.half_width for one in known])), *joined)
