"""A list of runs to train, each a job of its own, for one process after another or for many at once."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from featcache.base.errors import CacheIncomplete, FeatcacheError, InvalidSettings, join_errors
from featcache.base.jobs import Workers, run_jobs
from featcache.base.progress import OnProgress, Progress, silent
from featcache.store.cache import FeatureCache
from head.runs.run import HEAD_NAME, Run
from head.training.grid import Point
from head.training.job import TrainingJob
from head.training.train import check_start, train


def jobs_of(
    cache: FeatureCache, points: Iterable[Point], split: str, *, runs: Path, events: Path | None = None, **how: Any
) -> list[TrainingJob]:
    """Return a job for each point and split, runs in runs/CACHE/NAME/split-K; split is as `chosen_splits` takes it.

    events is the home of their event files; how is resume and device, as `TrainingJob` has them.
    """
    splits = chosen_splits(cache, split)
    return [
        TrainingJob(
            cache, one, point.settings, runs / place, point.name, events=events / place if events else None, **how
        )
        for point in points
        for one in splits
        for place in [Path(cache.name, point.name, f"split-{one}")]
    ]


def chosen_splits(cache: FeatureCache, text: str) -> list[str]:
    """Return the splits that text names: all, one, or several with commas; raise `InvalidSettings` for others."""
    if text == "all":
        return list(cache.splits)
    chosen = [text] if text in cache.splits else list(dict.fromkeys(part.strip() for part in text.split(",")))
    unknown = [split for split in chosen if split not in cache.splits]
    if unknown:
        raise InvalidSettings(f"{cache.path} has no split {', '.join(unknown)}; it has {', '.join(cache.splits)}")
    return chosen


def train_all(
    jobs: Sequence[TrainingJob], workers: Workers, *, on_progress: OnProgress = silent
) -> list[Run | FeatcacheError]:
    """Train every job and return its run, or the error that ended it, in the order of jobs.

    What can be known to be wrong is raised before any is trained. An error of one does not end the others.
    One after another is reported by epoch, otherwise by job. The number of threads decides the order in which
    floats are added: the same weights to the last bit take as many threads as `threads_per_job` says.
    A cluster's workers must see cache and folder under the same paths. Raises what `check_start` and `run_jobs` raise.
    """
    _check_all(jobs)
    if len(jobs) == 1 and not workers.cluster:  # with all cores, and a report of each epoch
        workers = Workers()
    if workers == Workers():
        one_by_one = partial(_attempt_here, on_progress=on_progress, jobs=jobs)
        return [outcome for _, outcome in run_jobs(one_by_one, range(len(jobs)), workers)]
    outcomes: dict[int, Run | FeatcacheError] = {}
    away = [
        replace(job, folder=job.folder.absolute(), events=job.events.absolute() if job.events else None) for job in jobs
    ]  # wherever the process goes
    unit = "runs" if _several_names(jobs) else "splits"
    with closing(run_jobs(_attempt, away, workers)) as finished:
        for index, outcome in finished:
            job = jobs[index]
            outcomes[index] = Run(job.folder, outcome.config) if isinstance(outcome, Run) else outcome
            note = f"{job.name} split {job.split}" if unit == "runs" else ""
            on_progress(Progress("train", len(outcomes), len(jobs), unit, note))
    return [_seen(outcomes[index]) for index in range(len(jobs))]


def _check_all(jobs: Sequence[TrainingJob]) -> None:
    errors: list[FeatcacheError] = []
    for job in jobs:
        try:
            check_start(job)
        except FeatcacheError as error:
            errors.append(error)
    if errors:
        raise join_errors(errors, f"{len(errors)} of {len(jobs)} runs cannot be trained:", "Nothing was trained.")


def _attempt(job: TrainingJob, on_progress: OnProgress = silent) -> Run | FeatcacheError:
    """Train it; return the error, if there is one, so that others go on."""
    try:
        return train(job, on_progress)
    except FeatcacheError as error:
        return error


def _attempt_here(index: int, *, jobs: Sequence[TrainingJob], on_progress: OnProgress) -> Run | FeatcacheError:
    """Train a job here; among runs of several names, progress says which this one is."""
    job = jobs[index]
    if not _several_names(jobs):
        return _attempt(job, on_progress)
    return _attempt(
        job,
        lambda progress: on_progress(
            replace(progress, stage=f"{job.name} {progress.stage} ({index + 1} of {len(jobs)})")
        ),
    )


def _several_names(jobs: Sequence[TrainingJob]) -> bool:
    return len({job.name for job in jobs}) > 1


def _seen(outcome: Run | FeatcacheError) -> Run | FeatcacheError:
    """Return the outcome, or an error if the head was trained where this machine does not see it."""
    if isinstance(outcome, Run) and not (outcome.folder / HEAD_NAME).is_file():
        return CacheIncomplete(
            f"{outcome.folder}: a worker trained this head in a folder that this machine does not see; "
            "bring it from the worker's machine, or use folders that all machines share"
        )
    return outcome
