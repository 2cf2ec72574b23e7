"""The test scores of several runs of one head, as score-cache sums them up. Knows nothing of cards."""

import math
from collections.abc import Sequence
from typing import Any

from head.evaluation.means import Outcome, mean_test_share, means_of
from head.evaluation.metrics import or_nan
from head.evaluation.people import ceiling_from_json, mean_ceiling, of_ceiling
from head.runs.run import Run
from head.share.card import read_scores


def read_mean_scores(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Return rho, its 95% interval, mse, n and splits of a head's row in the table, and how near the ceiling it is.

    None if a run is not scored.

    Raises what `read_scores` raises.
    """
    found = [(run, read_scores(run)) for run in runs]
    known = [
        Outcome(
            run.split,
            run.seed,
            or_nan(scores["rho"]),
            or_nan(scores["mse"]),
            int(scores["n"] or 0),
            run.config.train_images or math.nan,
        )
        for run, scores in found
        if scores is not None
    ]
    if len(known) < len(runs):
        return None
    row = means_of(known)
    keys = ("rho", "rho_low", "rho_high", "mse", "n", "splits")
    means = {key: row.get(f"{key}_mean", row.get(key)) for key in keys}
    ceilings = {run.split: ceiling_from_json(scores) for run, scores in found if scores is not None}
    rho, low, high = (or_nan(means[key]) for key in ("rho", "rho_low", "rho_high"))
    return means | of_ceiling(rho, low, high, mean_ceiling(ceilings, mean_test_share(known)))
