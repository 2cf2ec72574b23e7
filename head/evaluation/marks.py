"""What keeps predictions from being taken at their word: outside the ratings of training, hardly apart, or reversed.

Each mark is one line of text, '' where there is nothing to say. All that prints or shows predictions asks here.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from featcache.images.notes import some_of
from head.evaluation.metrics import or_nan
from head.evaluation.score import Scored
from head.runs.run import Run

NARROW = 0.1  # of the range of training: predictions closer together than that hardly tell images apart
FEWEST = 5  # images: of so many the chance of such closeness is below 1%, even if predictions vary half as ratings do
REVERSED_RHO = -0.3  # by chance rho comes that low for one in forty heads on 43 images, and hardly ever on 100


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


def mark_reversed(part: str, rhos: Mapping[str, float | None]) -> str:
    """Return which rhos on a part, named by what each is of, are below `REVERSED_RHO`, and what that may come from."""
    low = [f"{name}: {rho:.3f}" for name, rho in rhos.items() if rho is not None and or_nan(rho) < REVERSED_RHO]
    if not low:
        return ""
    return (
        f"{part} rho is below {REVERSED_RHO} ({some_of(low)}): the scale of the ratings may be reversed (high = bad, "
        "as of difference mean opinion scores), or they are of other data than those of training"
    )


def marks_of_head(scored: Sequence[Scored]) -> list[str]:
    """Return the marks of a head's results on a part, of several splits and seeds together."""
    within = score_range(one.run for one in scored)
    names = [f"split {one.run.split}, seed {one.run.seed}" for one in scored]
    narrow = {name: mark_narrow(one.prediction, within) for name, one in zip(names, scored, strict=True)}
    found = [
        mark_reversed(scored[0].part, dict(zip(names, (one.metrics.rho for one in scored), strict=True))),
        mark_outside(np.concatenate([one.prediction for one in scored]), within),
        *(f"{name}: {mark}" for name, mark in narrow.items() if mark),
    ]
    return [mark for mark in found if mark]
