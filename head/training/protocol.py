"""What the recipes differ in beyond numbers in settings: scales of scores and features, and the constant of Eq. 15."""

from dataclasses import dataclass

import numpy as np
from torch import nn

from featcache.datasets.splits import Part
from featcache.store.cache import FeatureCache
from head.data.batches import feature_scale
from head.data.inputs import HeadInput
from head.evaluation.metrics import Scores
from head.models.amnet import AMNetHead
from head.models.published import COVERAGE_PER_STEP, TARGET_MEAN, TARGET_SCALE
from head.settings import TrainSettings


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
