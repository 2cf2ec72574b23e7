"""Banded ridge: linear regression with a penalty for each layer, chosen from a fixed random search.

Its first candidates have one penalty for all layers: they are those of ridge.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from head.models.baselines import RIDGE_ALPHAS, Baseline, Candidate, LinearHead, LinearShape, Task, filled

SEARCHED = 16  # sets of ratios between the penalties of the layers, the first of equal ones
HIGHEST_RATIO = 6  # in half powers of ten
_SEED = 2018  # the same candidates for all splits, folds and seeds, so that their mean over runs can be chosen by
Array = NDArray[np.float64]


def ratios_of(bands: int) -> list[tuple[float, ...]]:
    """Return each set of ratios between the penalties of so many layers once; the lowest of a set is 1."""
    powers = np.random.default_rng(_SEED).integers(0, HIGHEST_RATIO + 1, (SEARCHED, bands))
    powers[0] = 0
    powers -= powers.min(axis=1, keepdims=True)
    return list(dict.fromkeys(tuple(row) for row in (10.0 ** (powers / 2)).tolist()))


def _candidates(task: Task) -> Iterator[Candidate]:
    """Yield a candidate for each set of ratios and each penalty of ridge, which is the lowest of its penalties.

    With a layer's channels divided by the root of its ratio, it is ridge.
    """
    bands, (x, y) = task.vectors.bands, task.weighted()
    for ratios in ratios_of(len(bands)):
        scale = np.empty(x.shape[1])
        for band, ratio in zip(bands.values(), ratios, strict=True):
            scale[band] = ratio**-0.5
        fit = _fit(x * scale, y)
        for alpha in RIDGE_ALPHAS:
            penalties = {f"alpha {layer}": alpha * ratio for layer, ratio in zip(bands, ratios, strict=True)}
            yield Candidate(penalties, _head(task, fit, scale, alpha))


def _fit(x: Array, y: Array) -> Callable[[float], Array]:
    """Return a call that gives the weights (D) of ridge regression of y (n) on x (n, D) for a penalty.

    One decomposition serves all penalties: of x^T x or, of fewer vectors than channels, of x x^T.
    """
    from scipy import linalg

    few = len(x) < x.shape[1]
    values, vectors = linalg.eigh(x @ x.T if few else x.T @ x)
    projected = vectors.T @ (y if few else x.T @ y)

    def weights(alpha: float) -> Array:
        found: Array = vectors @ (projected / (np.maximum(values, 0) + alpha))
        return x.T @ found if few else found

    return weights


def _head(task: Task, fit: Callable[[float], Array], scale: Array, alpha: float) -> Iterator[LinearHead]:
    shape = LinearShape(task.vectors.x.shape[1])
    yield filled(LinearHead(shape), task.vectors, {"weight": fit(alpha) * scale})


BANDED_RIDGE = Baseline(_candidates, lambda task: len(ratios_of(len(task.vectors.bands))) * len(RIDGE_ALPHAS))
