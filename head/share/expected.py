"""What outputs of a head's graph are to be, and how far each may be off. Knows nothing of ONNX.

Before calibration a score may be off by 1e-4, of scores on a scale beyond 1 in units of that scale. What calibration
makes of any score so near is right too, however steep its line is there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from head.models.kinds import has_maps
from head.runs.head_file import TrainedHead

LARGEST_DIFFERENCE = 1e-4
Numbers = NDArray[Any]


@dataclass(frozen=True)
class Expected:
    """An output's values, and by how much it may be below and above each: arrays of one shape, or that broadcast."""

    values: Numbers
    below: Numbers
    above: Numbers

    def difference(self, found: Numbers) -> float:
        """Return the largest difference of an output, such that `LARGEST_DIFFERENCE` is all that it may be off.

        It is infinite if the output has NaN or infinity.
        """
        off = found.astype(np.float64) - self.values
        share = np.abs(off) / np.where(off < 0, self.below, self.above)
        largest = float(share.max(initial=0))
        return LARGEST_DIFFERENCE * largest if math.isfinite(largest) else math.inf


def expected_of(heads: Sequence[TrainedHead], features: Numbers) -> list[Expected]:
    """Return what a graph of heads is to give for features (B, L, D), in the order of its outputs.

    Those are scores (B), step scores (B, T) and, where heads have them, maps (B, T, L); of several heads the means over
    them, and the deviation (B) of their scores.
    """
    found = [_of_one(head, torch.from_numpy(features)) for head in heads]
    outputs = [_mean(column) for column in zip(*found, strict=True)]
    if len(found) == 1:
        return outputs
    scores = [scores for scores, *_ in found]
    # deviations of M numbers differ by no more than the root of the sum of their squared differences over M - 1
    moved = np.stack([np.maximum(one.below, one.above) for one in scores])
    most = np.sqrt(np.square(moved).sum(axis=0) / (len(found) - 1))
    return [*outputs, Expected(np.stack([one.values for one in scores]).std(axis=0, ddof=1), most, most)]


def _of_one(head: TrainedHead, features: Tensor) -> list[Expected]:
    steps, maps = head.uncalibrated(features)
    scores = steps.sum(dim=1)
    near = LARGEST_DIFFERENCE * max(1.0, head.target_scale)
    low, score, high = (_calibrated(head, scores + off) for off in (-near, 0.0, near))
    below, above = np.maximum(score - low, near), np.maximum(high - score, near)
    step_scores = head.calibrated(steps).numpy()
    found = [Expected(score, below, above), Expected(step_scores, below[:, None], above[:, None])]
    if has_maps(head.module):
        found.append(Expected(maps.numpy(), *[np.full(1, LARGEST_DIFFERENCE)] * 2))
    return found


def _calibrated(head: TrainedHead, scores: Tensor) -> Numbers:
    found: Numbers = head.calibrated(scores[:, None])[:, 0].numpy()
    return found


def _mean(several: Sequence[Expected]) -> Expected:
    return Expected(
        *(np.mean([getattr(one, name) for one in several], axis=0) for name in ("values", "below", "above"))
    )
