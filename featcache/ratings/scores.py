"""Scores of images from sums of responses: hit rates, d', lag-corrected hits and means, with their standard errors.

Knows nothing of files, or of which responses count.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Answers(NamedTuple):
    """n responses: the image (n) and worker (n) of each as int32 codes, and its value (n) as float64."""

    image: NDArray[np.int32]
    worker: NDArray[np.int32]
    value: Floats

    def where(self, kept: NDArray[np.bool_]) -> "Answers":
        """Return the responses that are kept, a boolean (n)."""
        return Answers(self.image[kept], self.worker[kept], self.value[kept])


class Sums(NamedTuple):
    """Sums by image, each (I) or (I, M): of values, of their number, of false alarms and of first showings."""

    total: Floats
    n: Floats
    false_alarms: Floats
    firsts: Floats


class Slope(NamedTuple):
    """The slope of hits over ln(lag / T), and its standard error, clustered by worker; NaN if lags do not vary."""

    a: float
    se: float


def sums_of(repeats: Answers, firsts: Answers | None, images: int) -> Sums:
    """Return the sums (I) of all responses."""
    none = np.zeros(images)
    pairs = [_sum_and_number(one, images) if one else (none, none) for one in (repeats, firsts)]
    return Sums(*pairs[0], *pairs[1])


def _sum_and_number(answers: Answers, images: int) -> tuple[Floats, Floats]:
    number = np.bincount(answers.image, minlength=images)
    return np.bincount(answers.image, answers.value, images).astype(np.float64), number.astype(np.float64)


def scores_of(score: str, sums: Sums) -> Floats:
    """Return the score of each image, shaped as the sums; NaN where it has no response of a kind that it needs.

    hits, lag, mean, zmean: total / n. hr-fa: total / n - false alarms / firsts. dprime: z(HR) - z(FAR) of log-linear
    rates (x + 0.5) / (n + 1): Hautus, Behavior Research Methods 27 (1995).
    """
    from scipy.special import ndtri

    with np.errstate(divide="ignore", invalid="ignore"):
        if score == "hr-fa":
            return sums.total / sums.n - sums.false_alarms / sums.firsts
        if score == "dprime":
            found = ndtri(_log_linear(sums.total, sums.n)) - ndtri(_log_linear(sums.false_alarms, sums.firsts))
            return np.where((sums.n > 0) & (sums.firsts > 0), found, np.nan)
        return sums.total / sums.n


def errors_of(score: str, sums: Sums, repeats: Answers) -> Floats:
    """Return the standard error (I) of each score; NaN where it is not known.

    p is the log-linear rate, never 0 or 1. hits: sqrt(p (1 - p) / n). hr-fa: the root of the sum of both rates'
    squares. dprime: the same of sqrt(p (1 - p) / n) / phi(z(p)), the delta method (Gourevitch and Galanter,
    Psychometrika 32 (1967)). Otherwise the sample deviation over sqrt(n), NaN for n = 1.
    """
    if score == "hits":
        return _rate_error(sums.total, sums.n)
    if score == "hr-fa":
        return np.hypot(_rate_error(sums.total, sums.n), _rate_error(sums.false_alarms, sums.firsts))
    if score == "dprime":
        return np.hypot(_z_error(sums.total, sums.n), _z_error(sums.false_alarms, sums.firsts))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = sums.total / sums.n
        squares = np.bincount(repeats.image, (repeats.value - mean[repeats.image]) ** 2, len(mean))
        return np.where(sums.n > 1, np.sqrt(squares / (sums.n - 1) / sums.n), np.nan)


def _log_linear(count: Floats, n: Floats) -> Floats:
    return (count + 0.5) / (n + 1)


def _rate_error(count: Floats, n: Floats) -> Floats:
    p = _log_linear(count, n)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(n > 0, np.sqrt(p * (1 - p) / n), np.nan)


def _z_error(count: Floats, n: Floats) -> Floats:
    from scipy.special import ndtri

    density: Floats = np.exp(-(ndtri(_log_linear(count, n)) ** 2) / 2) / np.sqrt(2 * np.pi)
    return _rate_error(count, n) / density


def correct_for_lag(hits: Answers, lag: Floats, *, images: int, T: float) -> tuple[Answers, Slope]:
    """Return hits (n) as they would be at lag T, x - a ln(t / T), whose means are the scores, and the slope a.

    Khosla and others (ICCV 2015) alternate m_i = mean_j(x_ij - a u_ij), u = ln(t / T), with a = sum_i mean_j(u_ij
    (x_ij - m_i)) / sum_i mean_j(u_ij^2). Both lower one sum of squares, so they end where a is the slope within images:
    a = sum_i mean_j((u_ij - u_i)(x_ij - x_i)) / sum_i mean_j((u_ij - u_i)^2), which is computed at once.
    lag (n) is in trials, above 0. Where no image was shown at two lags a is NaN and nothing is corrected.
    """
    u = np.log(lag / T)
    n = np.maximum(np.bincount(hits.image, minlength=images), 1)
    means = [np.bincount(hits.image, values, images) / n for values in (u, hits.value)]
    from_mean, hit = u - means[0][hits.image], hits.value - means[1][hits.image]
    weight = 1 / n[hits.image]
    spread = float(np.sum(weight * from_mean**2))
    if spread < 1e-9 * max(1, len(u)):
        return hits, Slope(float("nan"), float("nan"))
    a = float(np.sum(weight * from_mean * hit)) / spread
    by_worker = np.bincount(hits.worker, weight * from_mean * (hit - a * from_mean))
    return hits._replace(value=hits.value - a * u), Slope(a, float(np.sqrt(np.sum(by_worker**2))) / spread)


def z_scored(ratings: Answers, workers: int) -> tuple[Answers, NDArray[np.bool_]]:
    """Return ratings as z-scores of their worker, and which (n) of the given those are.

    z = (x - the worker's mean) / the worker's sample deviation; ratings of workers with a single one, or of whom all
    are equal, have no z-score.
    """
    n = np.bincount(ratings.worker, minlength=workers)
    one = np.zeros(workers)
    one[ratings.worker] = ratings.value
    from_one = ratings.value - one[ratings.worker]  # of equal ratings all 0, where a sum of many of them is rounded
    mean = np.bincount(ratings.worker, from_one, workers) / np.maximum(n, 1)
    from_mean = from_one - mean[ratings.worker]
    deviation = np.sqrt(np.bincount(ratings.worker, from_mean**2, workers) / np.maximum(n - 1, 1))
    varied = deviation > 1e-12 * np.abs(one)  # less is rounding
    kept = varied[ratings.worker]
    return ratings._replace(value=from_mean / np.where(varied, deviation, 1)[ratings.worker]).where(kept), kept
