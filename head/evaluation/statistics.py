"""Means of results on overlapping splits: intervals, p and Holm's adjustment. Knows nothing of runs or heads.

Splits of one set of images share most of their training images, so results on them are not independent: the usual
t interval over splits is too narrow. Intervals and p over splits here have the corrected variance of resampled results.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from head.evaluation.metrics import RESAMPLES, TELL_NOTHING

CORRECTION = "t over splits, its variance corrected for overlapping training sets (Nadeau and Bengio 2003)"
OF_MEAN_RHO = "Fisher's z, t over splits, corrected for overlapping training sets (Nadeau and Bengio 2003)"
CONFIDENCE = 0.95


def corrected_interval(values: NDArray[np.float64], test_share: float) -> tuple[float, float]:
    """Return the 95% interval of the mean of J values, one a split, by the corrected resampled t statistic.

    The variance of the mean is (1/J + n_test / n_train) s^2 instead of s^2 / J: training sets overlap, so the values
    are correlated, by about n_test / (n_test + n_train). test_share is n_test / n_train, and 0 gives Student's
    interval. NaN for fewer than two values. Nadeau and Bengio, Inference for the generalization error, Machine
    Learning 52 (2003), section 4.1.
    """
    error = standard_error(values, test_share)
    if math.isnan(error):
        return float("nan"), float("nan")
    half = t_quantile((1 + CONFIDENCE) / 2, len(values) - 1) * error
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def mean_rho_interval(rho: NDArray[np.float64], test_share: float, images: NDArray[np.int64]) -> tuple[float, float]:
    """Return the 95% interval of the mean of J correlations, one a split, through Fisher's z = artanh(rho).

    The variance over splits is that of z, where it hardly depends on rho, corrected as in `corrected_interval`, so the
    interval never leaves [-1, 1] and reaches further down than up where rho is high. images (J) are how many each rho
    is of: one of 1, whose z is infinite, counts as half a step below it, 1 - 6 / (n^3 - n). NaN where J is below two,
    and where a rho is of `TELL_NOTHING` images or fewer.
    """
    steps = 6 / np.maximum(images.astype(np.float64) ** 3 - images, 6)
    z = np.arctanh(np.clip(rho, steps - 1, 1 - steps))
    error = standard_error(z, test_share)
    if math.isnan(error) or images.min() <= TELL_NOTHING:
        return float("nan"), float("nan")
    mean = float(np.mean(rho))
    centre = np.arctanh(np.clip(mean, np.mean(steps) - 1, 1 - np.mean(steps)))
    half = t_quantile((1 + CONFIDENCE) / 2, len(z) - 1) * error
    return min(mean, float(np.tanh(centre - half))), max(mean, float(np.tanh(centre + half)))


def resampled_interval(
    values: Sequence[NDArray[np.float64]], images: Sequence[NDArray[np.int64]], *, seed: int = 0
) -> tuple[float, float]:
    """Return the 95% interval of the mean over splits of means over images, by a percentile bootstrap over images.

    values are of each split (n), and images (n) the number of each image: one that is in several splits is drawn for
    all of them at once. It is of these heads on other images, not of heads that are trained anew. NaN for
    `TELL_NOTHING` images or fewer.
    """
    known = np.unique(np.concatenate(images))
    if len(known) <= TELL_NOTHING:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(known), np.full(len(known), 1 / len(known)), size=RESAMPLES)  # (resamples, images)
    means = []
    for of_split, those in zip(values, images, strict=True):
        drawn = times[:, np.searchsorted(known, those)]  # (resamples, n)
        means.append(drawn @ of_split / np.maximum(drawn.sum(axis=1), 1))
    low, high = np.percentile(np.mean(means, axis=0), [2.5, 97.5])
    return float(low), float(high)


def rho_interval(rho: float, images: int) -> tuple[float, float]:
    """Return the 95% interval of Spearman's rho of so many images, through Fisher's z.

    The variance of z is (1 + rho^2 / 2) / (n - 3): Bonett and Wright, Psychometrika 65 (2000). NaN for `TELL_NOTHING`
    images or fewer, and where rho is NaN.
    """
    if images <= TELL_NOTHING or math.isnan(rho):
        return float("nan"), float("nan")
    half = 1.96 * math.sqrt((1 + rho**2 / 2) / (images - 3))
    centre = math.atanh(min(max(rho, -1 + 1e-9), 1 - 1e-9))
    return math.tanh(centre - half), math.tanh(centre + half)


def ratio_interval(
    first: float, of_first: tuple[float, float], second: float, of_second: tuple[float, float]
) -> tuple[float, float]:
    """Return the 95% interval of the ratio of two independent estimates, from each one's own 95% interval.

    The distances of the bounds from the estimates are carried over (Zou and Donner, Statistics in Medicine 27 (2008);
    Newcombe, Statistical Methods in Medical Research 25 (2016)), so that neither need be symmetric. A second without an
    interval, (NaN, NaN), counts as exact; NaN where the first has none, and where the second may be 0 or below.
    """
    low, high = of_first
    under, over = (second, second) if math.isnan(of_second[0]) else of_second
    if math.isnan(low) or not (0 < under <= second <= over < 2 * second):
        return float("nan"), float("nan")

    def bound(end: float, other: float, sign: float) -> float:
        product, squares = first * second, end * (2 * first - end) * other * (2 * second - other)
        return (product + sign * math.sqrt(max(product**2 - squares, 0.0))) / (other * (2 * second - other))

    return bound(low, over, -1.0), bound(high, under, 1.0)


def half_width(rho: float, images: int) -> float:
    """Return half the width of `rho_interval`."""
    low, high = rho_interval(rho, images)
    return (high - low) / 2


def corrected_p(values: NDArray[np.float64], test_share: float) -> float:
    """Return the two-sided p of a mean of 0, as `corrected_interval` has it; NaN where all values are equal."""
    from scipy import special  # when it is first needed

    error = standard_error(values, test_share)
    if math.isnan(error) or error == 0:
        return float("nan")
    return 2 * float(special.stdtr(len(values) - 1, -abs(float(np.mean(values))) / error))


def holm(p: Sequence[float]) -> list[float]:
    """Return p adjusted by Holm's step-down procedure; NaN is left out of the count and stays."""
    order = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    adjusted, largest = [float("nan")] * len(p), 0.0
    for rank, (value, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * value))
        adjusted[i] = largest
    return adjusted


def t_quantile(p: float, freedom: int) -> float:
    """Return the quantile of Student's t, as scipy.stats.t.ppf, which takes a second to import."""
    from scipy import special  # takes a third of that

    return float(special.stdtrit(freedom, p))


def standard_error(values: NDArray[np.float64], test_share: float) -> float:
    """Return the standard error of the mean of values, with the variance of `corrected_interval`."""
    return deviation(values) * math.sqrt(1 / max(1, len(values)) + test_share)


def deviation(values: NDArray[np.float64]) -> float:
    """Return the sample deviation, NaN for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
