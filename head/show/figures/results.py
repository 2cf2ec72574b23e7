"""The heads that figures show: the results of a row's runs put together, and in words which they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featcache.base.errors import printable
from head.evaluation.metrics import Scores
from head.evaluation.summary import HeadSummary
from head.show.style import shortened

_MOST_NAMED = 6


@dataclass(frozen=True)
class Results:
    """Truth (n), prediction (n) and step scores (n, T) of all runs of a row, one after the other; finite ones alone."""

    truth: Scores
    prediction: Scores
    step_scores: Scores


def results_of(row: HeadSummary) -> Results:
    """Return the results of a row's runs; images that lie in several splits, or have several seeds, are there often."""
    truth = np.concatenate([one.truth for one in row.scored])
    prediction = np.concatenate([one.prediction for one in row.scored])
    steps = np.concatenate([one.step_scores for one in row.scored])
    finite = np.isfinite(prediction) & np.isfinite(truth) & np.isfinite(steps).all(axis=1)
    return Results(truth[finite], prediction[finite], steps[finite])


def without_scores(row: HeadSummary) -> str:
    """Return why the predictions of a row cannot be drawn; '' if they can."""
    return "" if len(results_of(row).truth) else "no prediction is finite"


def scope(rows: Sequence[HeadSummary]) -> str:
    """Return which part, splits, seeds and how many images rows are of, as a sentence; seeds count once."""
    first = rows[0].scored[0]
    predictions = _span([sum({one.run.split: one.metrics.n for one in row.scored}.values()) for row in rows])
    images = _span([len({name for one in row.scored for name in one.names}) for row in rows])
    n = f"{images} images" if images == predictions else f"{predictions} predictions of {images} images"
    views = "evaluation view" if first.views == "eval" else "mean over all views"
    return f"{first.part.capitalize()} part of {runs_named(rows)}, {views}; n = {n}."


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def runs_named(rows: Sequence[HeadSummary]) -> str:
    """Return of which splits and how many seeds the runs of rows are."""
    splits = list(dict.fromkeys(printable(split) for row in rows for split in row.splits))
    seeds = max(len(row.seeds) for row in rows)
    which = f"split{'s' * (len(splits) > 1)} {', '.join(splits)}"
    return (which if len(splits) <= _MOST_NAMED else f"{len(splits)} splits") + (
        f", up to {seeds} seeds each" if seeds > 1 else ""
    )


def cut_note(shown: int, found: int) -> str:
    """Return which of the heads found are shown, as a sentence; empty if all are."""
    return f" The first {shown} of {found} heads by validation rho." if shown < found else ""


def listed(names: Sequence[str]) -> str:
    """Return names as a list in words, the first few of many."""
    few = [shortened(name) for name in names[:_MOST_NAMED]]
    return ", ".join(few) + (f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else "")
