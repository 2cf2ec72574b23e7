"""How far people agree: split-half consistency of workers, its interval, its curve over ratings an image, and ICC(1,k).

Halves are of workers, never of ratings: what a worker does to all images then stays in one half.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from featcache.base import agreement as base
from featcache.base.cores import usable_threads
from featcache.ratings.halves import Part, agreement, agreements, less, split_into_parts, sums_of_groups
from featcache.ratings.scores import Answers, Floats, Sums, sums_of

CONFIDENCE = 0.95
INTERVAL = (
    "t on Fisher's z; twentieths of workers, of images and of responses left out in turn, "
    "V(workers) + V(images) - V(responses)"
)
_TWENTIETHS = 20  # of workers, images and responses, each left out in turn
_FOR_INTERVAL = 25  # halvings, at most
_FEWEST = 4  # workers and images that an interval needs
_DRAWS = 8  # pairs of groups of workers for a point of the curve
_FEWEST_RATINGS = 1.0  # an image, of a point of the curve
_BEYOND = (1, 2, 4)  # times all ratings, to which the curve is extrapolated


class Point(NamedTuple):
    """The consistency of two groups of workers with so many ratings an image each: measured, or extrapolated."""

    ratings: float
    consistency: float
    extrapolated: bool


class Consistency(NamedTuple):
    """The mean Spearman of two halves and its 95% interval, NaN where there is none, and the curve."""

    halvings: int
    split_half: float
    low: float
    high: float
    curve: list[Point]


class Icc(NamedTuple):
    """ICC(1,k) of means of as many ratings as images have, and k0, their number an image for unbalanced tables."""

    icc_1_k: float
    k0: float


def spearman_brown(r: float, times: float = 2.0) -> float:
    """Return what `featcache.base.agreement.spearman_brown` does of halves that agree; NaN for r of 0 or below."""
    return base.spearman_brown(r, times) if r > 0 else float("nan")


def icc(ratings: Answers, images: int) -> Icc:
    """Return ICC(1,k) = (MSB - MSW) / MSB of a one-way ANOVA over images (I), and k0; NaN where it is not defined.

    k0 = (N - sum n_i^2 / N) / (I - 1): Shrout and Fleiss, Psychological Bulletin 86 (1979); Donner and Koval 1980.
    """
    sums = sums_of(ratings, None, images)
    rated = sums.n > 0
    number, count = float(sums.n.sum()), int(rated.sum())
    if count < 2 or number <= count:
        return Icc(float("nan"), float("nan"))
    means = sums.total / np.maximum(sums.n, 1)
    between = float(np.sum(sums.n * (means - ratings.value.mean()) ** 2)) / (count - 1)
    within = float(np.sum((ratings.value - means[ratings.image]) ** 2)) / (number - count)
    k0 = (number - float(np.sum(sums.n**2)) / number) / (count - 1)
    return Icc((between - within) / between if between > 0 else float("nan"), k0)


def split_half_consistency(
    score: str, answers: Sequence[Answers], *, images: int, workers: int, halvings: int, seed: int
) -> Consistency:
    """Return how far scores of two random halves of the workers agree: the mean of Spearman's rho over halvings.

    answers are the repeats and, for scores that need them, the first showings. Images without a score in one of the
    halves are left out of that halving. Equal seeds give equal numbers, whatever the order of the responses' lines.
    """
    nothing = Consistency(halvings, float("nan"), float("nan"), float("nan"), [])
    if workers < 2 or images < 3:
        return nothing
    shape, rng = (images, workers), np.random.default_rng([seed, 0])
    halves = np.array([rng.permutation(workers) < workers // 2 for _ in range(halvings)]).T
    groups = rng.permutation(workers) % _TWENTIETHS
    parts = split_into_parts(answers, [groups[one.worker] for one in answers], _TWENTIETHS, shape)
    whole = sums_of_groups(parts, np.ones((workers, 1), bool))
    half = sums_of_groups(parts, halves)
    by_halving = agreements(score, half, less(whole, half))
    if not len(by_halving):
        return nothing
    r = float(np.mean(by_halving))
    left_out = _LeftOut(score, halves[:, :_FOR_INTERVAL], Sums(*(one[:, :_FOR_INTERVAL] for one in half)), whole)
    variances = [left_out.by_image(rng.permutation(images) % _TWENTIETHS), left_out.by_part(parts)]
    curve = _curve(score, parts, half, r, workers, rng)
    del parts
    labels = [rng.integers(_TWENTIETHS, size=len(one.image)) for one in answers]
    variances.append(left_out.by_part(split_into_parts(answers, labels, _TWENTIETHS, shape)))
    low, high = _interval(by_halving, *variances) if min(workers, images) >= _FEWEST else (float("nan"), float("nan"))
    return Consistency(halvings, r, low, high, curve)


class _LeftOut(NamedTuple):
    """The variance of Fisher's z of the consistency, from leaving out a twentieth at a time (delete-a-group jackknife).

    The same halvings (W, H) are used each time, so that their chance cancels out.
    """

    score: str
    halves: NDArray[np.bool_]
    half: Sums
    whole: Sums

    def by_image(self, groups: NDArray[np.int64]) -> float:
        """Return the variance that images cause, from a group (I) of each."""
        rest = less(self.whole, self.half)
        return _variance(lambda group: agreement(self.score, self.half, rest, groups != group), np.unique(groups))

    def by_part(self, parts: Sequence[Part]) -> float:
        """Return the variance that parts of the responses cause."""
        return _variance(self._without, [part for part in parts if part[0][0].nnz])

    def _without(self, part: Part) -> float:
        half = less(self.half, sums_of_groups([part], self.halves))
        whole = less(self.whole, sums_of_groups([part], np.ones((len(self.halves), 1), bool)))
        return agreement(self.score, half, less(whole, half))


def _variance(without: Callable[[Any], float], groups: Iterable[Any]) -> float:
    """Return (G - 1) / G times the sum of squared deviations of Fisher's z, each without one of G groups."""
    with ThreadPoolExecutor(usable_threads(None)) as pool:
        found = np.array(list(pool.map(without, groups)))
    z = np.arctanh(np.clip(found[np.isfinite(found)], -1 + 1e-12, 1 - 1e-12))
    return float(len(z) - 1) * float(np.var(z)) if len(z) > 1 else float("nan")


def _interval(by_halving: Floats, of_images: float, of_workers: float, of_responses: float) -> tuple[float, float]:
    """Return the interval of the mean over halvings (H) from three variances of its z, and that of so few halvings.

    What single responses cause is in both of the others, so it is taken off once (Cameron, Gelbach and Miller, Journal
    of Business and Economic Statistics 29 (2011)).
    """
    variance = max(of_images, of_workers, of_images + of_workers - of_responses)
    r = float(np.mean(by_halving))
    if len(by_halving) > 1:
        variance += float(np.var(by_halving, ddof=1)) / len(by_halving) / max(1 - r**2, 1e-12) ** 2
    half = float(special.stdtrit(_TWENTIETHS - 1, (1 + CONFIDENCE) / 2)) * math.sqrt(variance)
    centre = math.atanh(max(-1 + 1e-12, min(r, 1 - 1e-12)))
    return math.tanh(centre - half), math.tanh(centre + half)


def _curve(
    score: str, parts: Sequence[Part], half: Sums, r: float, workers: int, rng: np.random.Generator
) -> list[Point]:
    """Return consistency against ratings an image: of small groups of workers, of halves, extrapolated."""
    at_half = _ratings_an_image(half)
    points = [Point(at_half, r, extrapolated=False)]
    size = workers // 4
    while size >= 1 and at_half * 2 * size / workers >= _FEWEST_RATINGS:
        orders = [rng.permutation(workers) for _ in range(_DRAWS)]
        first, second = (sums_of_groups(parts, np.array([(low <= one) & (one < low + size) for one in orders]).T)
                         for low in (0, size))  # fmt: skip
        points.insert(0, Point(_ratings_an_image(first), agreement(score, first, second), extrapolated=False))
        size //= 2
    more = [Point(2 * times * at_half, spearman_brown(r, 2 * times), extrapolated=True) for times in _BEYOND]
    return [point for point in points + more if math.isfinite(point.consistency)]


def _ratings_an_image(sums: Sums) -> float:
    return float(sums.n.sum() / max(1, np.count_nonzero(sums.n)))
