"""Means over splits of means over seeds, of numbers alone. Knows nothing of runs, heads or images."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from head.evaluation.metrics import json_number
from head.evaluation.statistics import deviation, mean_rho_interval


class Outcome(NamedTuple):
    """What a head of one split and seed reached on n images; n_train is NaN where that is not known."""

    split: str
    seed: int
    rho: float
    mse: float
    n: int
    n_train: float


def by_split(values: Iterable[tuple[str, float]]) -> NDArray[np.float64]:
    """Return for each split, in the order in which they come, the mean of its values."""
    return np.array([np.mean(cell) for cell in _cells(values)])


def mean_test_share(outcomes: Sequence[Outcome]) -> float:
    """Return the mean of n / n_train; NaN if one does not say what it was trained on."""
    return float(np.mean([one.n / one.n_train for one in outcomes]))


def means_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return means over splits of means over seeds, their deviation and interval, and the deviation over seeds.

    n is how many images were scored, a split's once however many seeds it has. What cannot be had is None.
    """
    rhos = [(one.split, one.rho) for one in outcomes]
    errors = [(one.split, one.mse) for one in outcomes]
    rho, mse = by_split(rhos), by_split(errors)
    images = np.array(list({one.split: one.n for one in outcomes}.values()))
    low, high = mean_rho_interval(rho, mean_test_share(outcomes), images)
    return {
        "splits": len(images),
        "seeds": len({one.seed for one in outcomes}),
        "n": int(images.sum()),
        "rho_mean": json_number(float(np.mean(rho))),
        "rho_sd": json_number(deviation(rho)),
        "rho_low": json_number(low),
        "rho_high": json_number(high),
        "rho_seed_sd": json_number(_seed_deviation(rhos)),
        "mse_mean": json_number(float(np.mean(mse))),
        "mse_sd": json_number(deviation(mse)),
        "mse_seed_sd": json_number(_seed_deviation(errors)),
    }


def _cells(values: Iterable[tuple[str, float]]) -> list[list[float]]:
    """Return the values of each split."""
    cells: dict[str, list[float]] = {}
    for split, value in values:
        cells.setdefault(split, []).append(value)
    return list(cells.values())


def _seed_deviation(values: Iterable[tuple[str, float]]) -> float:
    """Return the deviation over seeds within a split, pooled over splits; NaN if no split has two."""
    cells = _cells(values)
    freedom = sum(len(cell) - 1 for cell in cells)
    squares = sum(float(np.sum((np.array(cell) - np.mean(cell)) ** 2)) for cell in cells)
    return math.sqrt(squares / freedom) if freedom else float("nan")
