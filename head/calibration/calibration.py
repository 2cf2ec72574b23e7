"""From a head's scores to the ratings of images that it was not fitted to: one straight or one rising broken line.

It is fitted after the head, by `head.training.fitted`, and applied wherever the head scores: `head.runs.head_file`
keeps it. docs/intervals.md says what it does to step scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.base.errors import BadInput
from head.settings import CALIBRATIONS

_FOLDS = 10
Scores = NDArray[np.float64]

_ALIKE = 1e-4  # of the range of ratings: a line through predictions that close is all rounding


@dataclass(frozen=True)
class Calibration:
    """What a head's scores become. knots (2, K) float64 are K scores, rising, and below them what they become.

    Between two knots the line is straight. Beyond the ends of a linear one, of two knots, it goes on; an isotonic one
    gives there what it gives at the end.
    """

    kind: str
    knots: Tensor

    def __post_init__(self) -> None:
        knots = self.knots
        fits = knots.ndim == 2 and len(knots) == 2 and knots.shape[1] >= 2 and bool(torch.isfinite(knots).all())
        if self.kind not in CALIBRATIONS[1:] or not fits or not bool((knots[0].diff() > 0).all()):
            raise ValueError("its calibration is no line over rising scores")

    def of_steps(self, steps: Tensor) -> Tensor:
        """Map step scores (B, T) float64 to those that add up to the calibrated score, (B, T) float64.

        A linear one maps each step by the same slope. Of an isotonic one each takes an equal share of what it adds to
        their sum, so that steps stay as far apart as they were.
        """
        T = steps.shape[1]
        if self.kind == "linear":
            slope, intercept = self._line()
            return steps * slope + intercept / T
        score = steps.sum(dim=1, keepdim=True)  # (B, 1)
        return steps + (self._broken_line(score) - score) / T

    def __call__(self, scores: Scores) -> Scores:
        """Map scores (n) float64 to calibrated ones."""
        found: Scores = self.of_steps(torch.from_numpy(scores)[:, None])[:, 0].numpy()
        return found

    def _line(self) -> tuple[float, float]:
        (a, b), (low, high) = self.knots.tolist()
        slope = (high - low) / (b - a)
        return slope, low - slope * a

    def _broken_line(self, score: Tensor) -> Tensor:
        """Map scores (B, 1) by adding up how far each lies in every piece, (B, K - 1), in operations that ONNX has."""
        x, y = self.knots.to(score.device)
        width = x.diff()
        within = torch.minimum((score - x[:-1]).clamp(min=0), width)
        found: Tensor = y[0] + (within * (y.diff() / width)).sum(dim=1, keepdim=True)
        return found


def fit_calibration(kind: str, predicted: Scores, truth: Scores) -> Calibration:
    """Return what maps predictions (n) to ratings (n) with the least squared error: a line, or any that never falls.

    Raises `BadInput` that says why there is none: what fits best falls as predictions rise, or is the same for all.
    """
    if np.ptp(truth) == 0:
        raise BadInput("ratings are all alike")
    if np.ptp(predicted) <= _ALIKE * np.ptp(truth):
        raise BadInput(f"predictions are all alike, within {np.ptp(predicted):.2g}")
    if kind == "linear":
        centred = predicted - predicted.mean()
        slope = float(centred @ truth / (centred @ centred))
        if not slope > 0:
            raise BadInput(f"the line that fits best does not rise, its slope is {slope:.3g}")
        intercept = float(truth.mean() - slope * predicted.mean())
        return Calibration(kind, torch.tensor([[0.0, 1.0], [intercept, intercept + slope]], dtype=torch.float64))
    from sklearn.isotonic import IsotonicRegression  # takes a second to import

    fitted = IsotonicRegression(increasing=True).fit(predicted, truth)
    if np.ptp(fitted.y_thresholds_) == 0:
        raise BadInput("the rising line that fits best is the same for all predictions")
    return Calibration(kind, torch.from_numpy(np.stack([fitted.X_thresholds_, fitted.y_thresholds_])))


def mean_calibration(calibrations: Sequence[Calibration]) -> Calibration:
    """Return the mean of calibrations of one kind: of each score the mean of what they make of it."""
    x = np.unique(np.concatenate([one.knots[0].numpy() for one in calibrations]))
    y = np.mean([one(x) for one in calibrations], axis=0)
    return Calibration(calibrations[0].kind, torch.from_numpy(np.stack([x, y])))


def cross_fitted(kind: str, predicted: Scores, truth: Scores) -> Scores:
    """Return predictions (n) calibrated each by what was fitted to the others' nine tenths.

    The images are dealt out to ten folds by a fixed seed. A fold stays as it is where the others give no calibration.
    """
    found = predicted.copy()
    fold = np.random.default_rng(0).permutation(len(predicted)) % min(_FOLDS, len(predicted))
    for one in range(fold.max() + 1):
        others = fold != one
        try:
            found[~others] = fit_calibration(kind, predicted[others], truth[others])(predicted[~others])
        except BadInput:
            continue
    return found
