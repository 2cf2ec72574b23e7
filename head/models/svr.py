"""Support vector regression with each of its kernels: which candidates there are, and how scikit-learn fits them.

Kernels are computed here, not by libsvm, which takes the same and computes them 15 to 40 times slower.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from head.models.baselines import Baseline, Candidate, Task, Values, filled
from head.models.kernels import (
    KERNELS,
    KernelHead,
    KernelProductHead,
    KernelProductShape,
    KernelShape,
    squared_distance,
)
from head.settings import TrainSettings

RBF_COSTS = (0.3, 1.0, 3.0, 10.0, 30.0)  # C, for scores of deviation 1
RBF_MARGINS = (0.1, 0.3)  # epsilon, in deviations of the scores
RBF_WIDTHS = (0.03, 0.1, 0.3, 1.0)  # gamma times D; standardised vectors are 2 D apart in the mean, squared
COSTS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # for kernels of which gamma follows from the training vectors
MARGINS = (0.03, 0.1, 0.3)
MOST_VECTORS = 8000  # its matrices grow with the square: two of 0.5 GB
HISTOGRAM_ROUNDING = 1e-3  # by how much sums of a histogram's float16 values may differ from 1


def _candidates(task: Task) -> Iterator[Candidate]:
    return _gaussian(task) if task.settings.kernel == "rbf" else _of_products(task)


def _number(task: Task) -> int:
    grid = (RBF_WIDTHS, RBF_COSTS, RBF_MARGINS) if task.settings.kernel == "rbf" else (COSTS, MARGINS)
    return int(np.prod([len(values) for values in grid]))


def _gaussian(task: Task) -> Iterator[Candidate]:
    """Yield candidates of each width, whose kernel is computed once."""
    x = torch.from_numpy(task.vectors.x)
    distance = squared_distance(x, x).numpy()  # (n, n)
    kernel = np.empty_like(distance)
    for width in RBF_WIDTHS:
        gamma = width / x.shape[1]
        np.exp(np.multiply(distance, -gamma, out=kernel), out=kernel)
        for cost, margin in product(RBF_COSTS, RBF_MARGINS):
            values = {"C": cost, "epsilon": margin, "gamma": gamma}
            yield Candidate(values, _gaussian_head(task, kernel, values))


def _gaussian_head(task: Task, kernel: NDArray[np.float64], values: Values) -> Iterator[KernelHead]:
    rows, found = _fitted(task, kernel, values)
    support = task.vectors.as_stored(rows)
    head = KernelHead(KernelShape(support.shape[1], vectors=len(support)))
    yield filled(head, task.vectors, {**found, "support": support, "gamma": values["gamma"]})


@dataclass(frozen=True)
class _Part:
    """A kernel by its name, its gamma, and the channels that it sees."""

    kernel: str
    gamma: float
    channels: slice


def _of_products(task: Task) -> Iterator[Candidate]:
    """Yield candidates of the one kernel of all channels, or of the product of one kernel a layer."""
    kernel, parts = np.ones(()), []
    for name, channels in _kernels(task):
        seen = task.vectors.x[:, channels] if KERNELS[name].standardised else task.vectors.as_stored(channels=channels)
        one, gamma = KERNELS[name].among(torch.from_numpy(np.ascontiguousarray(seen, np.float64)))
        kernel = np.multiply(kernel, one.numpy(), out=one.numpy())  # (n, n)
        parts.append(_Part(name, gamma, channels))
    for cost, margin in product(COSTS, MARGINS):
        values = {"C": cost, "epsilon": margin}
        yield Candidate(values, _product_head(task, parts, kernel, values))


def _kernels(task: Task) -> Iterator[tuple[str, slice]]:
    """Yield the name of each kernel, and the channels that it sees."""
    if task.settings.kernel != "product":
        yield task.settings.kernel, slice(0, task.vectors.x.shape[1])
        return
    for band in task.vectors.bands.values():
        yield ("intersection" if _are_histograms(task.vectors.as_stored(channels=band)) else "rbf"), band


def _are_histograms(stored: NDArray[np.float32]) -> bool:
    """Return whether vectors (n, D) are never negative and each sums to 1, within rounding."""
    sums = stored.sum(axis=1, dtype=np.float64)
    return bool(stored.min() >= -1e-6 and np.abs(sums - 1).max() <= HISTOGRAM_ROUNDING)


def _product_head(
    task: Task, parts: list[_Part], kernel: NDArray[np.float64], values: Values
) -> Iterator[KernelProductHead]:
    """Yield the head, with factors of kernels in its weights: an exporter takes those that are almost 1 for 1."""
    rows, found = _fitted(task, kernel, values)
    gamma = np.array([part.gamma for part in parts])
    mean, deviation = task.vectors.mean.copy(), task.vectors.deviation.copy()
    for k, part in enumerate(parts):
        if not KERNELS[part.kernel].decays:
            found["weight"], gamma[k] = found["weight"] * gamma[k], 1
        if not KERNELS[part.kernel].standardised:
            mean[part.channels], deviation[part.channels] = 0, 1
    sizes = tuple(part.channels.stop - part.channels.start for part in parts)
    head = KernelProductHead(KernelProductShape(len(rows), tuple(part.kernel for part in parts), sizes))
    scale = {"standardise.mean": mean, "standardise.deviation": deviation}
    yield filled(head, task.vectors, {**found, **scale, "support": task.vectors.as_stored(rows), "gamma": gamma})


def _fitted(
    task: Task, kernel: NDArray[np.float64], values: Values
) -> tuple[NDArray[np.intp], dict[str, NDArray[np.float64]]]:
    """Return which training vectors support the fit to a kernel (n, n), their weights, and the intercept."""
    from sklearn.svm import SVR

    model = SVR(kernel="precomputed", C=values["C"], epsilon=values["epsilon"])
    model.fit(kernel, task.y, sample_weight=task.vectors.weights)
    return model.support_, {"weight": model.dual_coef_[0], "intercept": model.intercept_[0]}


def _way_out(settings: TrainSettings) -> str:
    """Return what to take where features are negative, '' for a kernel that takes any."""
    kernel = KERNELS.get(settings.kernel)
    if kernel is None or kernel.standardised:
        return ""
    return "use --kernel rbf or linear, or product, which takes the intersection for layers of histograms alone"


KERNEL = Baseline(_candidates, _number, MOST_VECTORS, way_out_of_negative=_way_out)
