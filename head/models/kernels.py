"""Kernels, how alike two pooled vectors are, and the heads that score by them; docs/heads.md has their equations.

Knows nothing of how a head is fitted.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from head.models.amnet import HeadOutput
from head.models.baselines import Standardise, output_of
from head.models.fused.switch import fused_is_on

_BLOCK = 1 << 14  # numbers in memory at once for a vector, where every channel of every pair is looked at
_SMALLEST = 1e-30  # above 0 in float32 too, to which an exporter rounds it
_MOST_FOR_MEDIAN = 2000
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Kernel:
    """The kernel gamma * measure or, where it decays, exp(-gamma * measure).

    measure gives for vectors (A, D) and (B, D) a number for each pair, (A, B). gamma follows from those of all pairs
    of training vectors, (n, n). The vectors are standardised, or as stored and then never negative.
    """

    measure: Callable[[Tensor, Tensor], Tensor]
    gamma: Callable[[Matrix], float]
    decays: bool
    standardised: bool

    def of(self, a: Tensor, b: Tensor, gamma: Tensor | float) -> Tensor:
        """Return the kernel (A, B) of vectors a (A, D) and b (B, D)."""
        return self._of_measure(self.measure(a, b), gamma)

    def among(self, x: Tensor) -> tuple[Tensor, float]:
        """Return the kernel (n, n) among training vectors x (n, D), and its gamma."""
        measured = self.measure(x, x)
        gamma = self.gamma(measured.numpy())
        return self._of_measure(measured, gamma), gamma

    def _of_measure(self, measured: Tensor, gamma: Tensor | float) -> Tensor:
        return measured.mul_(-gamma).exp_() if self.decays else measured.mul_(gamma)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared Euclidean distances (A, B) of vectors a (A, D) and b (B, D), never below 0."""
    norms = a.square().sum(dim=1).unsqueeze(1) + b.square().sum(dim=1)  # (A, B)
    return norms.addmm_(a, b.T, alpha=-2).clamp_(min=0)


def chi_squared(a: Tensor, b: Tensor) -> Tensor:
    """Return the sums (A, B) over channels of (x - y)^2 / (x + y), where both are 0 of 0; what is negative is 0."""
    return _of_pairs(lambda x, y: (x - y).square() / (x + y).clamp(min=_SMALLEST), a, b)


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Return the sums (A, B) over channels of the smaller of x and y; what is negative is 0."""
    return _of_pairs(torch.minimum, a, b)


def _of_pairs(one: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Return the sums over channels of one(x, y) of every pair, block by block.

    An exporter can follow blocks of b, of which there are as many in every batch.
    """
    a, b = a.clamp(min=0).unsqueeze(1), b.clamp(min=0)  # (A, 1, D), (B, D)
    blocks = torch.split(b, max(1, _BLOCK // b.shape[1]))
    rows = torch.split(a, 1) if fused_is_on() else (a,)  # so little at once that threads need not wait for each other
    return torch.cat([torch.cat([one(some, block).sum(dim=2) for block in blocks], dim=1) for some in rows])


def _products(a: Tensor, b: Tensor) -> Tensor:
    return a @ b.T


def _inverse_mean_of_itself(measured: Matrix) -> float:
    return _inverse(float(np.diagonal(measured).mean()))


def _inverse_mean_of_others(measured: Matrix) -> float:
    n = len(measured)
    return _inverse(float((measured.sum() - np.trace(measured)) / (n * (n - 1))))


def _inverse_of_two_medians(measured: Matrix) -> float:
    """Return 1 / (2 median), over pairs of at most so many vectors, evenly spaced."""
    few = measured[:: -(-len(measured) // _MOST_FOR_MEDIAN), :: -(-len(measured) // _MOST_FOR_MEDIAN)]
    return _inverse(2 * float(np.median(few[np.triu_indices(len(few), 1)])))


def _inverse(value: float) -> float:
    return 1 / value if value > 0 else 1.0  # all vectors are the same, or 0


KERNELS = {  # by the names under which heads store them
    "rbf": Kernel(squared_distance, _inverse_of_two_medians, decays=True, standardised=True),
    "chi2": Kernel(chi_squared, _inverse_mean_of_others, decays=True, standardised=False),
    "intersection": Kernel(intersection, _inverse_mean_of_itself, decays=False, standardised=False),
    "linear": Kernel(_products, _inverse_mean_of_itself, decays=False, standardised=True),
}


@dataclass(frozen=True)
class KernelShape:
    """channels D is the length of a pooled vector, vectors S the number of support vectors, steps is T."""

    channels: int
    vectors: int
    steps: int = 1


@dataclass(frozen=True)
class KernelProductShape:
    """vectors S is the number of support vectors, steps is T.

    Of the D channels of a pooled vector the first sizes[0] are seen by kernels[0], the next sizes[1] by kernels[1],
    and so on.
    """

    vectors: int
    kernels: tuple[str, ...]
    sizes: tuple[int, ...]
    steps: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernels", tuple(self.kernels))  # lists, where they come from JSON
        object.__setattr__(self, "sizes", tuple(self.sizes))
        if len(self.kernels) != len(self.sizes) or not set(self.kernels) <= set(KERNELS):
            raise ValueError(f"not kernels and what they see: {self.kernels}, {self.sizes}")

    @property
    def channels(self) -> int:
        """D, the length of a pooled vector."""
        return sum(self.sizes)


class _SupportVectors(nn.Module):
    """What a regression by kernels holds: S support vectors (S, D), their weights (S), and gamma of each kernel."""

    support: Tensor
    weight: Tensor
    intercept: Tensor
    gamma: Tensor

    def __init__(self, shape: KernelShape | KernelProductShape, gamma: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.standardise = Standardise(shape.channels)
        self.register_buffer("support", torch.zeros(shape.vectors, shape.channels))
        self.register_buffer("weight", torch.zeros(shape.vectors, dtype=torch.float64))
        self.register_buffer("intercept", torch.zeros((), dtype=torch.float64))
        self.register_buffer("gamma", torch.zeros(gamma, dtype=torch.float64))


class KernelHead(_SupportVectors):
    """Score pooled vectors (B, 1, D) by their Gaussian kernel with S support vectors: support vector regression.

    The score is `intercept + sum over s of weight[s] exp(-gamma |x - support[s]|^2)`, x and support standardised.
    support (S, D) is stored as the backbone gave it, float32.
    """

    shape: KernelShape

    def __init__(self, shape: KernelShape) -> None:
        super().__init__(shape, ())

    def forward(self, features: Tensor) -> HeadOutput:
        """Map features (B, 1, D) to a `HeadOutput` of one step without maps."""
        distance = squared_distance(self.standardise(features), self.standardise(self.support))  # (B, S)
        return output_of(torch.exp(-self.gamma * distance) @ self.weight + self.intercept)


class KernelProductHead(_SupportVectors):
    """Score pooled vectors (B, 1, D) by the product of one kernel or several, each of channels of its own.

    The score is `intercept + sum over s of weight[s] prod over k of kernel_k(x, support[s])`. gamma (k) is that of each
    kernel. Channels that a kernel takes as stored have mean 0 and deviation 1 in `standardise`.
    """

    shape: KernelProductShape

    def __init__(self, shape: KernelProductShape) -> None:
        super().__init__(shape, (len(shape.kernels),))

    def forward(self, features: Tensor) -> HeadOutput:
        """Map features (B, 1, D) to a `HeadOutput` of one step without maps."""
        x, support = self.standardise(features), self.standardise(self.support)
        product = torch.ones((), dtype=x.dtype, device=x.device)
        parts = zip(self.shape.kernels, x.split(self.shape.sizes, 1), support.split(self.shape.sizes, 1), strict=True)
        for k, (name, seen, known) in enumerate(parts):
            product = product * KERNELS[name].of(seen, known, self.gamma[k])  # (B, S)
        return output_of(product @ self.weight + self.intercept)

    def mean_feature(self) -> Tensor:
        """Return the mean training vector (D); of channels that a kernel takes as stored that of support vectors."""
        parts = zip(self.shape.kernels, self.shape.sizes, strict=True)
        held = torch.cat([torch.full((size,), KERNELS[name].standardised) for name, size in parts])
        return torch.where(held.to(self.support.device), self.standardise.mean, self.support.double().mean(dim=0))
