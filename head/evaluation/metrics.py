"""How predictions are judged: tie-correct Spearman rho, MSE, intervals, and the spread that rho hides.

Ranks are taken here: importing scipy.stats for them takes longer than scoring fifteen heads.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
TELL_NOTHING = 3  # images, or fewer, whose rho is of one of a handful of values, and has no interval
_ROWS_AT_ONCE = 64
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Metrics:
    """rho of Eq. 16 with ties averaged (NaN for constant predictions) and its 95% interval; mse of Eq. 17.

    prediction_sd and the range show a collapse that rho hides.
    """

    n: int
    rho: float
    rho_low: float
    rho_high: float
    mse: float
    prediction_sd: float
    prediction_min: float
    prediction_max: float
    truth_sd: float


def measure(prediction: Scores, truth: Scores, *, seed: int = 0) -> Metrics:
    """Return the metrics of n predictions; the interval is a percentile bootstrap over images, seeded."""
    low, high = bootstrap_interval(prediction, truth, seed=seed)
    return Metrics(
        n=len(truth),
        rho=spearman(prediction, truth),
        rho_low=low,
        rho_high=high,
        mse=mean_squared_error(prediction, truth),
        prediction_sd=float(np.std(prediction)),
        prediction_min=float(np.min(prediction)),
        prediction_max=float(np.max(prediction)),
        truth_sd=float(np.std(truth)),
    )


def spearman(prediction: Scores, truth: Scores) -> float:
    """Return Spearman's rho with ties averaged, as scipy.stats.spearmanr; NaN if either side is constant."""
    values = np.stack([prediction, truth]).astype(np.float64)
    if len(truth) < 2 or np.isnan(values).any() or (np.ptp(values, axis=1) == 0).any():
        return float("nan")
    return float(np.asarray(np.corrcoef(average_ranks(values)))[1, 0])


def mean_squared_error(prediction: Scores, truth: Scores) -> float:
    """Return Eq. 17."""
    return float(np.mean((prediction - truth) ** 2))


def bootstrap_interval(
    prediction: Scores, truth: Scores, *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of rho over resampled images.

    NaN where rho is NaN, and of `TELL_NOTHING` images or fewer.
    """
    if len(truth) <= TELL_NOTHING:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    rhos: list[float] = []
    for start in range(0, resamples, _ROWS_AT_ONCE):
        picks = rng.integers(0, len(truth), size=(min(_ROWS_AT_ONCE, resamples - start), len(truth)))
        rhos += row_spearman(prediction[picks], truth[picks]).tolist()
    finite = np.array(rhos)[np.isfinite(rhos)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)


def row_spearman(a: Scores, b: Scores) -> Scores:
    """Return rho of each row of two matrices (k, n), NaN for constant rows: the correlation of average ranks."""
    ranks_a, ranks_b = average_ranks(a), average_ranks(b)
    ranks_a -= ranks_a.mean(axis=1, keepdims=True)
    ranks_b -= ranks_b.mean(axis=1, keepdims=True)
    norm = np.sqrt((ranks_a**2).sum(axis=1) * (ranks_b**2).sum(axis=1))
    rho: Scores = np.divide((ranks_a * ranks_b).sum(axis=1), norm, out=np.full(len(norm), np.nan), where=norm > 0)
    return rho


def average_ranks(values: NDArray[Any]) -> Scores:
    """Return the rank from 1 of each number in its row of (k, n), equal ones their mean, as scipy.stats.rankdata.

    A row that holds NaN has NaN for all its ranks.
    """
    k, n = values.shape
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    begins = np.ones((k, n), bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    starts = np.flatnonzero(begins)  # of ties, through all rows
    middle = (starts + np.append(starts[1:], k * n) - 1) / 2
    of_ordered = middle[np.cumsum(begins) - 1].reshape(k, n) - n * np.arange(k)[:, None] + 1
    ranks = np.empty((k, n))
    np.put_along_axis(ranks, order, of_ordered, axis=1)
    ranks[np.isnan(values).any(axis=1)] = np.nan
    return ranks


def judged(prediction: Scores, truth: Scores) -> dict[str, float]:
    """Return what a history says of predictions for the selection part: rho, MSE and spread."""
    return {
        "val_rho": spearman(prediction, truth),
        "val_mse": mean_squared_error(prediction, truth),
        "val_prediction_sd": float(np.std(prediction)),
    }


def rank(line: Mapping[str, float]) -> tuple[float, float]:
    """Return what orders the lines of a history, the better the larger: rho, then MSE; NaN is below every rho."""
    return (-math.inf if math.isnan(line["val_rho"]) else line["val_rho"]), -line["val_mse"]


def json_number(value: float) -> float | None:
    """Return a number as JSON can hold it: NaN and infinity become null."""
    return value if np.isfinite(value) else None


def or_nan(value: float | None) -> float:
    """Return a number that `json_number` gave: null becomes NaN."""
    return math.nan if value is None else value


def shown(rho: float | None) -> str:
    """Return a correlation with three digits, or 'undefined' for NaN and None."""
    return "undefined" if rho is None or np.isnan(rho) else f"{rho:.3f}"
