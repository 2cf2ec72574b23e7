"""Heads on pooled vectors, which look at an image once and at no place in it: linear, kernel and perceptron.

They compute in float64, as scikit-learn does, which fits them (`head.training.baselines`); nothing here knows of it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from head.models.amnet import HeadOutput


@dataclass(frozen=True)
class LinearShape:
    """channels D is the length of a pooled vector, steps is T."""

    channels: int
    steps: int = 1


@dataclass(frozen=True)
class KernelShape:
    """channels D is the length of a pooled vector, vectors S the number of support vectors, steps is T."""

    channels: int
    vectors: int
    steps: int = 1


@dataclass(frozen=True)
class PerceptronShape:
    """channels D is the length of a pooled vector, hidden_size is H, steps is T."""

    channels: int
    hidden_size: int
    steps: int = 1


class Standardise(nn.Module):
    """Map pooled vectors (B, 1, D) or (B, D) to (B, D) float64 of mean 0 and deviation 1 over the training vectors."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, dtype=torch.float64))
        self.register_buffer("deviation", torch.ones(channels, dtype=torch.float64))

    def forward(self, features: Tensor) -> Tensor:
        """Standardise features of any float type."""
        return (features.flatten(1).double() - self.mean) / self.deviation


class LinearHead(nn.Module):
    """Score pooled vectors (B, 1, D) by a weighted sum of their standardised channels."""

    weight: Tensor

    def __init__(self, shape: LinearShape) -> None:
        super().__init__()
        self.shape = shape
        self.standardise = Standardise(shape.channels)
        self.register_buffer("weight", torch.zeros(shape.channels, dtype=torch.float64))

    def forward(self, features: Tensor) -> HeadOutput:
        """Map features (B, 1, D) to a `HeadOutput` of one step without maps."""
        return _output(self.standardise(features) @ self.weight)


class KernelHead(nn.Module):
    """Score pooled vectors (B, 1, D) by their Gaussian kernel with S support vectors: support vector regression.

    The score is `intercept + sum over s of weight[s] exp(-gamma |x - support[s]|^2)`, x and support standardised.
    support (S, D) is stored as the backbone gave it, float32.
    """

    support: Tensor
    weight: Tensor
    intercept: Tensor
    gamma: Tensor

    def __init__(self, shape: KernelShape) -> None:
        super().__init__()
        self.shape = shape
        self.standardise = Standardise(shape.channels)
        self.register_buffer("support", torch.zeros(shape.vectors, shape.channels))
        self.register_buffer("weight", torch.zeros(shape.vectors, dtype=torch.float64))
        self.register_buffer("intercept", torch.zeros((), dtype=torch.float64))
        self.register_buffer("gamma", torch.zeros((), dtype=torch.float64))

    def forward(self, features: Tensor) -> HeadOutput:
        """Map features (B, 1, D) to a `HeadOutput` of one step without maps."""
        distance = squared_distance(self.standardise(features), self.standardise(self.support))  # (B, S)
        return _output(torch.exp(-self.gamma * distance) @ self.weight + self.intercept)


class PerceptronHead(nn.Module):
    """Score pooled vectors (B, 1, D) by one hidden layer of H rectified units."""

    def __init__(self, shape: PerceptronShape) -> None:
        super().__init__()
        self.shape = shape
        self.standardise = Standardise(shape.channels)
        self.hidden = nn.Linear(shape.channels, shape.hidden_size, dtype=torch.float64)
        self.output = nn.Linear(shape.hidden_size, 1, dtype=torch.float64)

    def forward(self, features: Tensor) -> HeadOutput:
        """Map features (B, 1, D) to a `HeadOutput` of one step without maps."""
        return _output(self.output(functional.relu(self.hidden(self.standardise(features)))).squeeze(1))


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared Euclidean distances (A, B) of vectors a (A, D) and b (B, D), never below 0."""
    norms = a.square().sum(dim=1).unsqueeze(1) + b.square().sum(dim=1)  # (A, B)
    return norms.addmm_(a, b.T, alpha=-2).clamp_(min=0)


def _output(score: Tensor) -> HeadOutput:
    """Return scores (B) as the only step's; maps are empty, (B, 1, 0): there are no positions to attend to."""
    return HeadOutput(score, score.unsqueeze(1), score.new_empty((score.shape[0], 1, 0)))
