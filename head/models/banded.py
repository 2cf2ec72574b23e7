"""Banded ridge: linear regression with a penalty for each layer, chosen from a fixed random search.

Its first candidates have one penalty for all layers: they are those of ridge.
"""

from collections.abc import Iterator

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
    bands = task.vectors.bands
    for ratios in ratios_of(len(bands)):
        scale = np.empty(task.vectors.x.shape[1])
        for band, ratio in zip(bands.values(), ratios, strict=True):
            scale[band] = ratio**-0.5
        x = task.vectors.x * scale
        products = _products(x)
        for alpha in RIDGE_ALPHAS:
            penalties = {f"alpha {layer}": alpha * ratio for layer, ratio in zip(bands, ratios, strict=True)}
            yield Candidate(penalties, _head(task, x, products, scale, alpha))


def _products(x: Array) -> Array:
    """Return x^T x (D, D) or, of fewer vectors than channels, the kernel x x^T (n, n)."""
    return x @ x.T if len(x) < x.shape[1] else x.T @ x


def _head(task: Task, x: Array, products: Array, scale: Array, alpha: float) -> Iterator[LinearHead]:
    from scipy import linalg

    penalised = products.copy()
    penalised.flat[:: len(penalised) + 1] += alpha
    if len(x) < x.shape[1]:
        weight = x.T @ linalg.solve(penalised, task.y, assume_a="pos", overwrite_a=True)
    else:
        weight = linalg.solve(penalised, x.T @ task.y, assume_a="pos", overwrite_a=True)
    yield filled(LinearHead(LinearShape(x.shape[1])), task.vectors, {"weight": weight * scale})


BANDED_RIDGE = Baseline(_candidates, lambda task: len(ratios_of(len(task.vectors.bands))) * len(RIDGE_ALPHAS))
