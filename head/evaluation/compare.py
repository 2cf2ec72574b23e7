"""Paired comparisons between heads: which is better on test, by how much, and how sure that is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from featcache.base.errors import InvalidSettings
from head.evaluation.metrics import json_number
from head.evaluation.statistics import corrected_interval, corrected_p, holm
from head.evaluation.summary import HeadSummary, called, named_groups
from head.runs.run import Run


@dataclass(frozen=True)
class Comparison:
    """Test rho of the head called name minus that of the head called against, paired by split; NaN if undefined.

    p is two-sided; p_holm is p adjusted for the number of comparisons made at once (Holm 1979); p_uncorrected is
    that of `scipy.stats.ttest_rel`, as if splits shared no images.
    """

    name: str
    against: str
    splits: int
    seeds: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    p_uncorrected: float

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object; NaN becomes null."""
        return {key: json_number(value) if isinstance(value, float) else value for key, value in asdict(self).items()}


def compare(summaries: Sequence[HeadSummary], *, against: str | None = None) -> list[Comparison]:
    """Compare each head with the one named against, or with the first of those with the most splits, in their order.

    Only splits that both have count, and in them the seeds that both have, if there are any in common.
    Raises `InvalidSettings` if not exactly one head can be meant.
    """
    if not summaries:
        return []
    if against is None:
        reference = max(summaries, key=lambda summary: len(summary.splits))
    else:
        name = _find({summary.name: summary.runs for summary in summaries}, against)
        reference = next(summary for summary in summaries if summary.name == name)
    found = [_compare(summary, reference) for summary in summaries if summary is not reference]
    adjusted = holm([one.p for one in found])
    return [replace(one, p_holm=p) for one, p in zip(found, adjusted, strict=True)]


def check_against(runs: Sequence[Run], name: str) -> None:
    """Raise what `compare` would raise for the summaries of these runs, before they are scored."""
    _find({head: [runs[place] for place in places] for head, places in named_groups(runs)}, name)


def _find(runs_by_name: Mapping[str, Iterable[Run]], name: str) -> str:
    found = called(runs_by_name, name)
    if not found:
        raise InvalidSettings(f"--against {name}: no such row; there are {', '.join(runs_by_name)}")
    if len(found) > 1:
        raise InvalidSettings(f"--against {name}: more than one row; name one of {', '.join(found)}")
    return found[0]


def _compare(summary: HeadSummary, reference: HeadSummary) -> Comparison:
    splits = [split for split in summary.splits if split in reference.splits]
    ours, theirs = summary.of_splits(splits), reference.of_splits(splits)
    differences, seeds = [], set[int]()
    for split in splits:
        one, other = ours.of_splits([split]), theirs.of_splits([split])
        shared = set(one.seeds) & set(other.seeds)
        differences.append(float(one.rho(seeds=shared or None)[0] - other.rho(seeds=shared or None)[0]))
        seeds |= shared or {*one.seeds, *other.seeds}
    values = np.array(differences)
    share = (ours.test_share + theirs.test_share) / 2 if splits else float("nan")
    low, high = corrected_interval(values, share)
    return Comparison(
        name=summary.name,
        against=reference.name,
        splits=len(splits),
        seeds=len(seeds),
        difference=float(np.mean(values)) if splits else float("nan"),
        low=low,
        high=high,
        p=corrected_p(values, share),
        p_holm=float("nan"),
        p_uncorrected=corrected_p(values, 0.0),
    )
