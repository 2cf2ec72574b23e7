"""What keeps predictions from being taken at their word: outside the ratings of training, hardly apart, or reversed.

Each mark is one line of text, '' where there is nothing to say. All that prints or shows predictions asks here.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from head.evaluation.means import by_split
from head.evaluation.metrics import or_nan
from head.evaluation.score import Scored
from head.evaluation.statistics import rho_interval
from head.evaluation.summary import HeadSummary, named_groups
from head.runs.run import Run

NARROW = 0.1  # of the range of training: predictions closer together than that hardly tell images apart
# Of so many images the chance of such closeness is below 1%, if the deviation of predictions, drawn from a normal
# distribution, is a tenth of that range or more: 0.8% of 200,000 simulated sets, of 5 images 4.5%. It is less where
# the deviation is larger, and 3.4% at 0.075 and 10% at 0.06.
FEWEST = 7
# By chance, of predictions that have nothing to do with the ratings, rho is below -0.3 in 26% of 100,000 simulated
# sets of 5 images, in 10% of 20 and in 2.5% of 43, and in one of five splits of 20 images in 41%. With an interval
# below 0 as well it is marked in 0.9%, 2.0% and 2.3%; of several splits, whose mean counts, in no more.
REVERSED_RHO = -0.3


class ScoreRange(NamedTuple):
    """The lowest and the highest of the ratings that heads were trained on."""

    low: float
    high: float

    def has(self, score: float) -> bool:
        """Whether a score is among them, or off by no more than rounding."""
        slack = 1e-6 * (self.high - self.low)
        return self.low - slack <= score <= self.high + slack

    def __str__(self) -> str:
        return f"{self.low:.4g} to {self.high:.4g}, the range of the ratings that the head was trained on"


def score_range(runs: Iterable[Run]) -> ScoreRange | None:
    """Return the range over all runs; None if one does not say it, as imported and older ones do not."""
    ranges = [run.result.score_range for run in runs]
    known = [one for one in ranges if one is not None]
    if not known or len(known) < len(ranges):
        return None
    return ScoreRange(min(low for low, _ in known), max(high for _, high in known))


def mark_outside(scores: ArrayLike, within: ScoreRange | None) -> str:
    """Return how many scores (n) are outside a range, and how far they reach."""
    found = np.asarray(scores, np.float64)
    outside = [score for score in found.tolist() if within is not None and not within.has(score)]
    if not outside:
        return ""
    low, high = min(outside), max(outside)
    reached = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
    count = "the score is" if len(found) == 1 else f"{len(outside):,} of {len(found):,} scores are"
    return f"{count} outside {within}: {reached}"


def mark_narrow(scores: ArrayLike, within: ScoreRange | None) -> str:
    """Return that all scores (n) together span less than `NARROW` of a range; nothing of fewer than `FEWEST`."""
    found = np.asarray(scores, np.float64)
    if within is None or len(found) < FEWEST or np.ptp(found) >= NARROW * (within.high - within.low):
        return ""
    return (
        f"all {len(found):,} scores are within {found.min():.4g} to {found.max():.4g}, less than a tenth of {within}: "
        "they hardly tell these images apart"
    )


def mark_other_scale(ratings: ArrayLike, within: ScoreRange | None) -> str:
    """Return that ratings (n) reach beyond a range by more than its width: they may be on another scale."""
    found = np.asarray(ratings, np.float64)
    if within is None or not len(found):
        return ""
    low, high, width = found.min(), found.max(), within.high - within.low
    if low >= within.low - width and high <= within.high + width:
        return ""
    return f"its ratings reach from {low:.4g} to {high:.4g}, and {within}: they may be on another scale"


def mark_reversed(part: str, rhos: NDArray[np.float64], images: int) -> str:
    """Return that the mean of rhos (J), one a split, is below `REVERSED_RHO`, and what that may come from.

    images is how many a rho is of, at least. The 95% interval must be below 0, too. It is that of a single rho: by
    chance a mean of several is no further from 0, however much their images overlap, while the deviation of two or
    three rhos says little.
    """
    known = rhos[np.isfinite(rhos)]
    mean = float(np.mean(known)) if len(known) else math.nan
    low, high = rho_interval(mean, images)
    if not (mean < REVERSED_RHO and high < 0):
        return ""
    of = f"{images:,} images" if len(known) == 1 else f"the mean over {len(known)} splits of {images:,} images or more"
    return (
        f"rho on {part} is {mean:.3f}, of {of}, below {REVERSED_RHO} (95% interval {low:.3f} to {high:.3f}): the scale "
        "of the ratings may be reversed (high = bad, as of difference mean opinion scores), they may be of other data "
        "than those of training, or the head has learnt nothing that holds of other images"
    )


def mark_above_ceiling(part: str, result: Mapping[str, Any]) -> str:
    """Return that the rho of a summary, as JSON, is above the ceiling of its scores, and what that may come from."""
    share = result.get("of_ceiling")
    if share is None or share <= 1:
        return ""
    low, high = result["of_ceiling_low"], result["of_ceiling_high"]
    sure = low is not None and low > 1
    interval = "without an interval" if low is None else f"95% interval {low:.2f} to {high:.2f}"
    chance = "more than chance explains" if sure else "chance alone may do that"
    return (
        f"rho on {part} is {result['rho_mean']:.3f}, above the ceiling {result['ceiling']:.3f} of its ratings "
        f"({share:.2f} of it, {interval}): {chance}; images of train and test may be alike, their raters may have a "
        "taste of their own, or the ceiling is of other ratings"
    )


def mark_diverged(run: Run) -> str:
    """Return that a head predicts the images it was selected on as no head should, after a training that went astray.

    Either all predictions are alike, so that rho is undefined, or the root of their MSE is more than the whole range of
    the ratings, where the mean rating alone is off by less than half of it.
    """
    result, within = run.result, score_range([run])
    if not result.val_images or result.val_mse is None or within is None or within.high == within.low:
        return ""
    rate = "--lr or --backbone-lr" if "backbone_lr" in run.used_settings else "--lr"
    by_rate = f"training went astray; a lower {rate}, or more epochs, may do"
    way_out = by_rate if "lr" in run.used_settings else "it has learnt nothing"
    if result.val_rho is None and result.val_images > 1:
        alike = f"rho is undefined on {run.config.selected_on}, as all ratings or all predictions are alike"
        return f"{alike}; if it is the predictions, {way_out}"
    error = math.sqrt(result.val_mse)
    if error > within.high - within.low:
        return f"predictions are off by {error:.4g} (root of the MSE), more than all of {within}: {way_out}"
    return ""


def marks_of_head(scored: Sequence[Scored]) -> list[str]:
    """Return the marks of a head's results on a part, of several splits and seeds together."""
    within = score_range(one.run for one in scored)
    names = [f"split {one.run.split}, seed {one.run.seed}" for one in scored]
    narrow = {
        name: mark for name, one in zip(names, scored, strict=True) if (mark := mark_narrow(one.prediction, within))
    }
    several = f" (so it is in {len(narrow)} of {len(scored)} runs)" if len(narrow) > 1 else ""
    scale = mark_other_scale(np.concatenate([one.truth for one in scored]), within)
    rhos = by_split((one.run.split, one.metrics.rho) for one in scored)
    part = f"the {scored[0].part} part"
    found = [
        mark_reversed(part, rhos, min(one.metrics.n for one in scored)),
        mark_above_ceiling(part, HeadSummary("", tuple(scored)).as_json()),
        mark_outside(np.concatenate([one.prediction for one in scored]), within),
        f"{scored[0].part} part: {scale}" if scale else "",
        *(f"{name}: {mark}{several}" for name, mark in list(narrow.items())[:1]),
    ]
    return [mark for mark in found if mark]


def marks_of_training(runs: Sequence[Run]) -> list[str]:
    """Return which heads order the images in reverse that their epoch or candidate was selected on, or went astray."""
    marks = [f"{run.folder}: {mark}" for run in runs if (mark := mark_diverged(run))]
    for name, places in named_groups(runs):
        mine = [runs[place] for place in places]
        rhos = by_split((run.split, or_nan(run.result.val_rho)) for run in mine)
        images = min(run.result.val_images or 0 for run in mine)
        if mark := mark_reversed(mine[0].config.selected_on, rhos, images):
            marks.append(f"{name}: {mark}")
    return marks
