"""Support vector regression with each of its kernels: which candidates there are, and how scikit-learn fits them.

Kernels are computed here, not by libsvm, which takes the same and computes them 15 to 40 times slower.
"""

from collections.abc import Iterator
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


def _of_products(task: Task) -> Iterator[Candidate]:
    """Yield candidates of the one kernel of all channels, or of the product of one kernel a layer."""
    kernels = _kernels(task)
    product_of_all, gammas = np.ones(()), []
    for name, channels in kernels:
        seen = task.vectors.x[:, channels] if KERNELS[name].standardised else task.vectors.as_stored(channels=channels)
        kernel, gamma = KERNELS[name].among(torch.from_numpy(np.ascontiguousarray(seen, np.float64)))
        product_of_all = np.multiply(product_of_all, kernel.numpy(), out=kernel.numpy())
        gammas.append(gamma)
    for cost, margin in product(COSTS, MARGINS):
        values = {"C": cost, "epsilon": margin}
        yield Candidate(values, _product_head(task, kernels, gammas, product_of_all, values))


def _kernels(task: Task) -> list[tuple[str, slice]]:
    """Return the name of each kernel, and the channels that it sees."""
    if task.settings.kernel != "product":
        return [(task.settings.kernel, slice(0, task.vectors.x.shape[1]))]
    bands = task.vectors.bands.values()
    return [
        ("intersection" if _are_histograms(task.vectors.as_stored(channels=band)) else "rbf", band) for band in bands
    ]


def _are_histograms(stored: NDArray[np.float32]) -> bool:
    """Return whether vectors (n, D) are never negative and each sums to 1, within rounding."""
    sums = stored.sum(axis=1, dtype=np.float64)
    return bool(stored.min() >= -1e-6 and np.abs(sums - 1).max() <= HISTOGRAM_ROUNDING)


def _product_head(
    task: Task, kernels: list[tuple[str, slice]], gammas: list[float], kernel: NDArray[np.float64], values: Values
) -> Iterator[KernelProductHead]:
    rows, found = _fitted(task, kernel, values)
    mean, deviation = task.vectors.mean.copy(), task.vectors.deviation.copy()
    for name, channels in kernels:
        if not KERNELS[name].standardised:
            mean[channels], deviation[channels] = 0, 1
    names, sizes = zip(*((name, channels.stop - channels.start) for name, channels in kernels), strict=True)
    scale = {"standardise.mean": mean, "standardise.deviation": deviation}
    more = {"support": task.vectors.as_stored(rows), "gamma": gammas, **scale}
    yield filled(KernelProductHead(KernelProductShape(len(rows), names, sizes)), task.vectors, {**found, **more})


def _fitted(
    task: Task, kernel: NDArray[np.float64], values: Values
) -> tuple[NDArray[np.intp], dict[str, NDArray[np.float64]]]:
    """Return which training vectors support the fit to a kernel (n, n), their weights, and the intercept."""
    from sklearn.svm import SVR

    model = SVR(kernel="precomputed", C=values["C"], epsilon=values["epsilon"]).fit(kernel, task.y)
    return model.support_, {"weight": model.dual_coef_[0], "intercept": model.intercept_[0]}


def _way_out(settings: TrainSettings) -> str:
    """Return what to take where features are negative, '' for a kernel that takes any."""
    kernel = KERNELS.get(settings.kernel)
    if kernel is None or kernel.standardised:
        return ""
    return "use --kernel rbf or linear, or product, which takes the intersection for layers of histograms alone"


KERNEL = Baseline(_candidates, _number, MOST_VECTORS, way_out_of_negative=_way_out)
