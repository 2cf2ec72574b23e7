"""All runs of a cache scored, their scores written beside them, and compared: what score-cache does."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.base.commands import amnet
from featcache.base.errors import FeatcacheError, InvalidSettings, StorageError, collected
from featcache.store.cache import FeatureCache
from head.evaluation.compare import Comparison, check_against, compare
from head.evaluation.score import Scored, score_run, write_scores
from head.evaluation.summary import HeadSummary, summaries_of
from head.evaluation.text import format_comparisons, format_table
from head.runs.find import find_runs_of
from head.runs.run import Run


@dataclass(frozen=True)
class Evaluation:
    """The runs that were found, results of those that could be scored, and the errors of others.

    of_other_data are runs that were left out, each with how its data differ from the cache's.
    """

    runs: Sequence[Run]
    scored: Sequence[Scored]
    summaries: Sequence[HeadSummary]
    comparisons: Sequence[Comparison]
    errors: Sequence[FeatcacheError]
    of_other_data: Sequence[tuple[Run, str]] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "runs": [result.as_json() for result in self.scored],
            "summary": [summary.as_json() for summary in self.summaries],
            "comparisons": [comparison.as_json() for comparison in self.comparisons],
            "left_out": [{"run": str(run.folder), "reason": reason} for run, reason in self.of_other_data],
            "problems": [str(error) for error in self.errors],
        }

    def as_text(self) -> str:
        """Return the tables of results and of comparisons, and how to use the best; empty if nothing was scored."""
        tables = [format_table(self.scored) if self.scored else "", format_comparisons(self.comparisons), self._use()]
        return "\n\n".join(filter(None, tables))

    def _use(self) -> str:
        """Return the command that predicts with the head of best validation rho; '' where validation chose none."""
        if not self.summaries or self.summaries[0].optimistic or math.isnan(self.summaries[0].val_rho):
            return ""
        runs = self.summaries[0].runs
        folders = {run.folder.parent for run in runs}
        folder = folders.pop() if len(folders) == 1 and len(runs) > 1 else runs[0].folder
        return f"best by validation: {amnet('predict', '--run', folder, 'IMAGES/')}"

    def warnings(self) -> list[str]:
        """Return what to know of runs that were left out, or whose training images are not known."""
        unfinished = "not finished, left out; run the same train-head command again"
        imported = "imported, so which images it was trained on is unknown; its scores of those say nothing"
        return [
            *(f"{run.folder}: {unfinished}" for run in self.runs if not run.finished),
            *(f"{run.folder}: {reason}; left out" for run, reason in self.of_other_data),
            *(f"warning: {run.folder}: {imported}" for run in self.runs if run.imported),
        ]


def evaluate(
    cache: FeatureCache,
    runs: Path,
    *,
    splits: str = "all",
    part: str = "test",
    views: str = "eval",
    against: str | None = None,
) -> Evaluation:
    """Score the runs that `find_runs_of` finds, write their scores, and compare the heads.

    Raises what `find_runs_of` and `check_against` raise, before any is scored; errors of single runs are collected,
    and so is that none of the head named against could be scored.
    """
    found = find_runs_of(cache, runs, splits)
    finished = [run for run in found.runs if run.finished]
    if against is not None:
        check_against(finished, against)
    scored, failed = collected(lambda run: score_run(run, cache, part=part, views=views), finished)
    errors = [*found.errors, *failed]
    errors += _in_one(collected(write_scores, scored)[1])
    summaries, comparisons = summaries_of(scored), list[Comparison]()
    try:
        comparisons = compare(summaries, against=against)
    except InvalidSettings as error:
        errors.append(error)
    return Evaluation(found.runs, scored, summaries, comparisons, errors, found.of_other_data)


def _in_one(unwritten: Sequence[FeatcacheError]) -> list[FeatcacheError]:
    """Return the errors of scores that could not be written as one: a result whose folder takes no file is no less one.

    Where one folder takes none, as on a read-only disk, others rarely do.
    """
    if len(unwritten) < 2:
        return list(unwritten)
    return [StorageError(f"the scores of {len(unwritten)} runs are not kept beside them; the first: {unwritten[0]}")]
