"""Heads made of heads: several that predict together by a weighted sum of scores, and one behind a projection.

Knows nothing of how the heads in it were made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featcache.store.projection import Projection
from head.models.amnet import HeadOutput

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class StackShape:
    """members has kind and shape of each head as JSON objects, sizes where each reads: first channel, L and D.

    steps is T: the members' where maps of attention are shown, else 1.
    """

    members: tuple[dict[str, Any], ...]
    sizes: tuple[tuple[int, int, int], ...]
    steps: int = 1
    attends: bool = False


@dataclass(frozen=True)
class Weights:
    """A score is intercept + the sum over members of weight times the member's score."""

    values: tuple[float, ...]
    intercept: float


class StackHead(nn.Module):
    """Score what several heads read, (B, 1, D) in a row, by weighted sums of their outputs."""

    weight: Tensor
    share: Tensor
    intercept: Tensor

    def __init__(self, shape: StackShape, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.shape = shape
        self.members = nn.ModuleList(members)
        self.register_buffer("weight", torch.zeros(len(members), dtype=torch.float64))
        self.register_buffer("share", torch.zeros(len(members), dtype=torch.float64))
        self.register_buffer("intercept", torch.zeros((), dtype=torch.float64))

    def weigh(self, weights: Scores, intercept: float) -> None:
        """Set the weights (M) of members' outputs, and what is added."""
        self.weight.copy_(torch.from_numpy(weights))
        self.intercept.fill_(intercept)

    def share_attention(self, weights: Scores) -> None:
        """Set the shares (M) of members' maps in its own: the weights divided by their sum, equal where all are 0."""
        total = weights.sum()
        self.share.copy_(torch.from_numpy(weights / total if total else np.full(len(weights), 1 / len(weights))))

    def forward(self, features: Tensor) -> HeadOutput:
        """Map features (B, 1, D) to scores (B), step scores (B, T) float64, and maps (B, T, L), L = 0 without them."""
        found = [member(self.read(features, k)) for k, member in enumerate(self.members)]
        weights = self.weight.unbind()
        whole = [one.step_scores if self.shape.attends else one.score.unsqueeze(1) for one in found]  # (B, T) each
        sums = sum(weight * one.to(weight.device).double() for weight, one in zip(weights, whole, strict=True))
        steps = sums + self.intercept / self.shape.steps
        if not self.shape.attends:
            return HeadOutput(steps.sum(dim=1), steps, features.new_empty((features.shape[0], self.shape.steps, 0)))
        maps = sum(share.to(one.maps) * one.maps for share, one in zip(self.share.unbind(), found, strict=True))
        return HeadOutput(steps.sum(dim=1), steps, maps)

    def read(self, features: Tensor, member: int) -> Tensor:
        """Return what a member reads, (B, L, D), of all that is read, (B, 1, D)."""
        start, positions, channels = self.shape.sizes[member]
        return features[:, 0, start : start + positions * channels].reshape(-1, positions, channels)


@dataclass(frozen=True)
class ProjectedShape:
    """channels D is what is read, kept C what the head behind the projection reads, head its kind and shape as JSON.

    steps is T and attention whether there is any, both the head's.
    """

    channels: int
    kept: int
    head: dict[str, Any]
    steps: int = 1
    attention: bool = True


class ProjectedHead(nn.Module):
    """Score features (B, L, D) by a head that reads them projected, (B, L, C): (x - mean) directions.

    mean (D) and directions (D, C) are float32 and never trained; they are computed with as the head is, in float64 if
    it is in that. variance is the share of the training features' variance that is kept.
    """

    mean: Tensor
    directions: Tensor
    variance: Tensor

    def __init__(self, shape: ProjectedShape, head: nn.Module) -> None:
        super().__init__()
        self.shape, self.head = shape, head
        self.register_buffer("mean", torch.zeros(shape.channels))
        self.register_buffer("directions", torch.zeros(shape.channels, shape.kept))
        self.register_buffer("variance", torch.zeros((), dtype=torch.float32))
        in_float64 = any(tensor.dtype == torch.float64 for tensor in head.state_dict().values())
        self._type = torch.float64 if in_float64 else torch.float32

    def forward(self, features: Tensor) -> HeadOutput:
        """Map features (B, L, D) to what the head behind makes of them; features may be on another device."""
        x = features.to(self.mean.device).to(self._type)
        output: HeadOutput = self.head((x - self.mean.to(self._type)) @ self.directions.to(self._type))
        return output

    def feature_mean(self) -> Tensor:
        """Return the mean training feature (D)."""
        return self.mean

    def unprojected(self, scale: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return mean and deviation (D) of features whose projections have those of scale (C), and nothing beside."""
        mean, deviation = (one.to(self.mean) for one in scale)
        spread = (self.directions.square() @ deviation.square()).sqrt()
        return self.mean + self.directions @ mean, spread.clamp(min=1e-6)


def projected_head(projection: Projection, head: nn.Module, as_json: dict[str, Any]) -> ProjectedHead:
    """Return a head, of this kind and shape, behind the projection that it was trained on."""
    channels, kept = projection.channels
    shape: Any = head.shape
    attention = bool(getattr(shape, "attention", True))
    whole = ProjectedHead(ProjectedShape(channels, kept, as_json, steps=int(shape.steps), attention=attention), head)
    whole.mean.copy_(torch.from_numpy(projection.mean))
    whole.directions.copy_(torch.from_numpy(projection.directions))
    whole.variance.fill_(projection.variance)
    return whole


def equal_weights(members: int) -> Weights:
    """Return the weights of a plain mean."""
    return Weights((1 / members,) * members, 0.0)


def non_negative_weights(predictions: Scores, scores: Scores) -> Weights:
    """Return the weights >= 0 of members' predictions (n, M), and intercept, of the least squared error for scores (n).

    Stacked regression (Breiman, Machine Learning 1996). Members whose predictions are all alike get none.
    """
    from scipy.optimize import nnls

    means = predictions.mean(axis=0)
    found, _ = nnls(predictions - means, scores - scores.mean())
    return Weights(tuple(found.tolist()), float(scores.mean() - means @ found))
