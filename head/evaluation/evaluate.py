"""All runs of a cache scored, their scores written beside them, and compared: what score-cache does."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featcache.base.commands import amnet
from featcache.base.errors import FeatcacheError, InvalidSettings, StorageError, collected
from featcache.store.cache import FeatureCache
from head.data.batches import FULL, is_all_images
from head.evaluation.compare import Comparison, check_against, compare
from head.evaluation.marks import marks_of_head
from head.evaluation.people import HumanConsistency, human_consistency
from head.evaluation.score import Scored, score_run, write_scores
from head.evaluation.summary import HeadSummary, summaries_of, without_seed
from head.evaluation.text import format_comparisons, format_table
from head.runs.find import FoundRuns, commands_to_train, find_runs_of, train_command
from head.runs.members import commands_on_all_images
from head.runs.run import Run

_NO_SCORE = "trained on all images: no test score of its own"


@dataclass(frozen=True)
class Evaluation:
    """The runs that were found, results of those that could be scored, and the errors of others.

    of_other_data are runs that were left out, each with how its data differ from the cache's, and on_all_images those
    that nothing is left to score on. to_fit_all is the command that fits the best to all images, after those that
    finish its runs on the splits where some are not; empty if there is none. people is how far people agree with people
    on the test parts that were scored, where the cache has scores by others.
    """

    runs: Sequence[Run]
    scored: Sequence[Scored]
    summaries: Sequence[HeadSummary]
    comparisons: Sequence[Comparison]
    errors: Sequence[FeatcacheError]
    of_other_data: Sequence[tuple[Run, str]] = ()
    on_all_images: Sequence[Run] = ()
    to_fit_all: Sequence[str] = ()
    people: HumanConsistency | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "runs": [result.as_json() for result in self.scored],
            "summary": [summary.as_json() for summary in self.summaries],
            "comparisons": [comparison.as_json() for comparison in self.comparisons],
            **({"human_consistency": self.people.as_json()} if self.people else {}),
            "to_fit_all": [] if self._on_all() else list(self.to_fit_all),
            "marks": self.marks(),
            "left_out": [{"run": str(run.folder), "reason": reason} for run, reason in self._left_out()],
            "problems": [str(error) for error in self.errors],
        }

    def as_text(self) -> str:
        """Return the tables of results and of comparisons, and how to use the best; empty if nothing was scored."""
        people = f"\n{self.people.as_text()}" if self.people else ""
        results = format_table(self.scored) + people if self.scored else ""
        tables = [results, format_comparisons(self.comparisons), self._use()]
        return "\n\n".join(filter(None, tables))

    def _use(self) -> str:
        """Return the command that predicts with the head of best validation rho; '' where validation chose none.

        That is the one on all images, if there is one; if not, how it is made stands above.
        """
        best = best_of(self.summaries)
        if best is None:
            return ""
        folders = {run.folder.parent for run in best.runs}
        folder = folders.pop() if len(folders) == 1 and len(best.runs) > 1 else best.runs[0].folder
        whole = self._on_all()
        first = (
            "first, what it is made of" if best.runs[0].train_settings.members else "first, to finish it on the splits"
        )
        titles = [*[first] * (len(self.to_fit_all) - 1), "the best, fitted to all images"]
        making = [] if whole else [f"{title}: {line}" for title, line in zip(titles, self.to_fit_all, strict=False)]
        using = amnet("predict", "--run", whole.folder if whole else folder, "IMAGES/")
        return "\n".join([*making, f"best by validation: {using}"])

    def _on_all(self) -> Run | None:
        """Return the finished run on all images of the best head, if there is one."""
        best = best_of(self.summaries)
        return next((run for run in self.on_all_images if best and run.finished and _is_of(run, best)), None)

    def _left_out(self) -> list[tuple[Run, str]]:
        """Return the runs that are there and not scored, each with why."""
        return [*self.of_other_data, *((run, _NO_SCORE) for run in self.on_all_images if run.finished)]

    def marks(self) -> list[str]:
        """Return what keeps predictions of a head from being taken at their word, a line each."""
        return [f"{head.name}: {mark}" for head in self.summaries for mark in marks_of_head(head.scored)]

    def warnings(self) -> list[str]:
        """Return what to know of runs that were left out, whose training images are not known, or that are marked."""
        unfinished = "not finished, left out; run the same train-head command again"
        imported = "imported, so which images it was trained on is unknown; its scores of those say nothing"
        return [
            *(f"{run.folder}: {unfinished}" for run in (*self.runs, *self.on_all_images) if not run.finished),
            *(f"{run.folder}: {reason}; left out" for run, reason in self._left_out()),
            *(f"warning: {run.folder}: {imported}" for run in self.runs if run.imported),
            *(f"warning: {mark}" for mark in self.marks()),
        ]


def evaluate(
    cache: FeatureCache,
    runs: Path,
    *,
    splits: str = "all",
    part: str = "test",
    views: str = "eval",
    against: str | None = None,
    weights: str | None = None,
    device: str = "auto",
) -> Evaluation:
    """Score the runs that `find_runs_of` finds, write their scores, and compare the heads.

    weights are those of the backbone, if they are not where its runs say; heads need them that are a part of it of
    which not all was trained. device is where heads compute.
    Raises what `find_runs_of` and `check_against` raise, before any is scored; errors of single runs are collected,
    and so is that none of the head named against could be scored.
    """
    found = find_runs_of(cache, runs, splits)
    finished = [replace(run, weights=weights) for run in found.runs if run.finished]
    if against is not None:
        check_against(finished, against)
    scored, failed = collected(lambda run: score_run(run, cache, part=part, views=views, device=device), finished)
    errors = [*found.errors, *failed]
    errors += _in_one(collected(write_scores, scored)[1])
    summaries, comparisons = summaries_of(scored), list[Comparison]()
    try:
        comparisons = compare(summaries, against=against)
    except InvalidSettings as error:
        errors.append(error)
    to_fit_all = _to_fit_all(cache, summaries, found, runs)
    people = human_consistency(cache, [one.run.split for one in scored]) if part == "test" else None
    return Evaluation(
        found.runs, scored, summaries, comparisons, errors, found.of_other_data, found.on_all_images, to_fit_all, people
    )


def best_of(summaries: Sequence[HeadSummary]) -> HeadSummary | None:
    """Return the first of `summaries_of`, if validation chose it."""
    if not summaries or summaries[0].optimistic or math.isnan(summaries[0].val_rho):
        return None
    return summaries[0]


def _is_of(whole: Run, summary: HeadSummary) -> bool:
    """Whether a run that was not scored is of the same head, in a folder beside those on the splits."""
    homes = {without_seed(str(run.folder.parent)) for run in summary.runs}
    settings = [{**run.settings, "seed": None} for run in (whole, summary.runs[0])]
    return without_seed(str(whole.folder.parent)) in homes and settings[0] == settings[1]


def _to_fit_all(cache: FeatureCache, summaries: Sequence[HeadSummary], found: FoundRuns, runs: Path) -> list[str]:
    """Return the command that fits the best head to all images, after those that finish its runs on the splits.

    Members of a stack are fitted to all images before it. There is none where it would not find those runs, or would
    be refused for a member.
    """
    best = best_of(summaries)
    if best is None or not is_all_images(cache, FULL):
        return []
    run = best.runs[0]
    if run.imported or run.folder.parent != runs / cache.name / cache.target / run.name:
        return []
    finishing = commands_to_train(cache, [one for one in found.unfinished if _is_of(one, best)], runs)
    members = commands_on_all_images(cache, run.train_settings, runs / cache.name / cache.target)
    if members is None:
        return []
    return [*finishing, *members, train_command(cache, FULL, run.train_settings, name=run.name, runs=runs)]


def _in_one(unwritten: Sequence[FeatcacheError]) -> list[FeatcacheError]:
    """Return the errors of scores that could not be written as one: a result whose folder takes no file is no less one.

    Where one folder takes none, as on a read-only disk, others rarely do.
    """
    if len(unwritten) < 2:
        return list(unwritten)
    return [StorageError(f"the scores of {len(unwritten)} runs are not kept beside them; the first: {unwritten[0]}")]
