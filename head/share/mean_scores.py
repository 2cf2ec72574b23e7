"""The test scores of several runs of one head, as score-cache sums them up. Knows nothing of cards."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from head.evaluation.metrics import Metrics, or_nan
from head.evaluation.score import Scored
from head.evaluation.summary import HeadSummary
from head.runs.run import Run
from head.share.card import read_scores

_NOTHING = np.zeros(0)


def read_mean_scores(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Return rho, its 95% interval, mse, n and splits of a head's row in the table; None if a run is not scored.

    Raises what `read_scores` raises.
    """
    found = [read_scores(run) for run in runs]
    known = [scores for scores in found if scores is not None]
    if len(known) < len(runs):
        return None
    row = HeadSummary("", tuple(map(_scored, runs, known))).as_json()
    return {key: row.get(f"{key}_mean", row.get(key)) for key in ("rho", "rho_low", "rho_high", "mse", "n", "splits")}


def _scored(run: Run, scores: Mapping[str, Any]) -> Scored:
    """Return the result that a run's scores are of, without its images."""
    values = {one.name: or_nan(scores.get(one.name)) for one in fields(Metrics)}
    return Scored(run, "test", "eval", Metrics(**values), 0, [], _NOTHING, _NOTHING, _NOTHING)  # type: ignore[arg-type]
