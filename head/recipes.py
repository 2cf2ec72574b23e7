"""What the recipes differ in beyond numbers in settings: scales of scores and features, and the constant of Eq. 15."""

from dataclasses import dataclass

import numpy as np
from torch import nn

from featcache.cache import FeatureCache
from featcache.dataset import Part

from .data import feature_scale
from .inputs import HeadInput
from .metrics import Scores
from .model import AMNetHead
from .published import COVERAGE_PER_STEP, TARGET_MEAN, TARGET_SCALE
from .settings import TrainSettings


@dataclass(frozen=True)
class TargetScale:
    """Targets are (score - mean) / scale."""

    mean: float
    scale: float


def target_scale(settings: TrainSettings, scores: Scores) -> TargetScale:
    """Return the scale of the training scores: to [-1, 1] around their mean (section 3.5), or the published one."""
    if settings.recipe == "published":
        return TargetScale(TARGET_MEAN, TARGET_SCALE)
    mean = float(np.mean(scores))
    return TargetScale(mean, float(np.max(np.abs(scores - mean))))


def fix_feature_scale(module: nn.Module, cache: FeatureCache, part: Part, *, source: HeadInput, seed: int) -> None:
    """Fix how a paper head standardises features, from its training part; published heads have batch norm instead."""
    if isinstance(module, AMNetHead):
        module.set_feature_scale(*feature_scale(cache, part, source=source, seed=seed))


def coverage_of(settings: TrainSettings) -> float:
    """Return the constant of Eq. 15: how much attention a position should get in all steps together."""
    return COVERAGE_PER_STEP * settings.steps if settings.recipe == "published" else 1.0
