"""What the recipes' protocols differ in beyond numbers in settings: scales of scores and features, and Eq. 15."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from head.evaluation.metrics import Scores
from head.models.published import COVERAGE_PER_STEP, TARGET_MEAN, TARGET_SCALE


@dataclass(frozen=True)
class TargetScale:
    """Targets are (score - mean) / scale."""

    mean: float
    scale: float


@dataclass(frozen=True)
class Protocol:
    """target gives the scale of training scores, coverage the constant of Eq. 15: how much attention a position
    should get in all T steps together. standardises is whether features are scaled by those of the training part.
    """

    target: Callable[[Scores], TargetScale]
    coverage: Callable[[int], float]
    standardises: bool


def _to_one(scores: Scores) -> TargetScale:
    """Return the scale to [-1, 1] around the mean (section 3.5)."""
    mean = float(np.mean(scores))
    return TargetScale(mean, float(np.max(np.abs(scores - mean))))


PROTOCOLS = {  # by the recipe in settings
    "paper": Protocol(_to_one, lambda steps: 1.0, standardises=True),
    "published": Protocol(
        lambda scores: TargetScale(TARGET_MEAN, TARGET_SCALE),
        lambda steps: COVERAGE_PER_STEP * steps,
        standardises=False,  # batch norm instead
    ),
}
