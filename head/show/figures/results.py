"""The heads that figures show: the results of a head's runs put together, and in words which they are."""

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
    """Truth (n), prediction (n) and step scores (n, T) of all runs of a head, joined; finite ones alone."""

    truth: Scores
    prediction: Scores
    step_scores: Scores


def results_of(summary: HeadSummary) -> Results:
    """Return the results of a head's runs; images in several splits or with several seeds come up often."""
    truth = np.concatenate([one.truth for one in summary.scored])
    prediction = np.concatenate([one.prediction for one in summary.scored])
    steps = np.concatenate([one.step_scores for one in summary.scored])
    finite = np.isfinite(prediction) & np.isfinite(truth) & np.isfinite(steps).all(axis=1)
    return Results(truth[finite], prediction[finite], steps[finite])


def without_scores(summary: HeadSummary) -> str:
    """Return why the predictions of a head cannot be drawn; '' if they can."""
    return "" if len(results_of(summary).truth) else "no prediction is finite"


def scope(summaries: Sequence[HeadSummary]) -> str:
    """Return which part, splits, seeds and how many images the summaries are of, as a sentence; seeds count once."""
    first = summaries[0].scored[0]
    predictions = _span([summary.as_json()["n"] for summary in summaries])
    images = _span([len({name for one in summary.scored for name in one.names}) for summary in summaries])
    n = f"{images} images" if images == predictions else f"{predictions} predictions of {images} images"
    views = "evaluation view" if first.views == "eval" else "mean over all views"
    return f"{first.part.capitalize()} part of {runs_named(summaries)}, {views}; n = {n}."


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def runs_named(summaries: Sequence[HeadSummary]) -> str:
    """Return of which splits and how many seeds the runs of the summaries are."""
    splits = list(dict.fromkeys(printable(split) for summary in summaries for split in summary.splits))
    seeds = max(len(summary.seeds) for summary in summaries)
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
