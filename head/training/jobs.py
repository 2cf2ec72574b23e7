"""A list of runs to train, each a job of its own, for one process after another or for many at once."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from featcache.base.errors import CacheIncomplete, FeatcacheError, InvalidSettings, collected, join_errors
from featcache.base.jobs import Workers, run_jobs
from featcache.base.progress import OnProgress, Progress, silent
from featcache.datasets.duplicates import LOOK_ALIKE, SAME_FILE, of_parts
from featcache.maintenance.project import known_of_tests
from featcache.store.cache import FeatureCache
from head.data.batches import FULL, SplitData, is_all_images
from head.grid import Point
from head.runs.members import as_one
from head.runs.run import HEAD_NAME, Run
from head.training.fitted import Trained
from head.training.job import TrainingJob
from head.training.train import check_start, train


def jobs_of(
    cache: FeatureCache, points: Iterable[Point], split: str, *, runs: Path, events: Path | None = None, **how: Any
) -> list[TrainingJob]:
    """Return a job for each point and split, runs in runs/CACHE/NAME/split-K; split is as `chosen_splits` takes it.

    Runs of a cache's target are in runs/CACHE/TARGET/NAME/split-K.
    events is the home of their event files; how is resume and device, as `TrainingJob` has them.
    """
    splits = chosen_splits(cache, split)
    return [
        TrainingJob(
            cache, one, point.settings, runs / place, point.name, events=events / place if events else None, **how
        )
        for point in points
        for one in splits
        for place in [Path(cache.name, cache.target, point.name, f"split-{one}")]
    ]


def chosen_splits(cache: FeatureCache, text: str) -> list[str]:
    """Return the splits that text names: all, one, or several with commas; raise `InvalidSettings` for others.

    'full' alone is all images, unless the cache has a split of that name.
    """
    if text == "all":
        return list(cache.splits)
    chosen = (
        [text]
        if text in cache.splits or is_all_images(cache, text)
        else list(dict.fromkeys(part.strip() for part in text.split(",")))
    )
    if len(chosen) > 1 and any(is_all_images(cache, split) for split in chosen):
        raise InvalidSettings(f"--split {FULL}, for all images, stands alone: it needs finished runs on the splits")
    unknown = [split for split in chosen if split not in cache.splits and not is_all_images(cache, split)]
    if unknown:
        raise InvalidSettings(f"{cache.path} has no split {', '.join(unknown)}; it has {', '.join(cache.splits)}")
    return chosen


def leaks(cache: FeatureCache) -> list[str]:
    """Return warnings of images that are in one part of a split and, alike, in a later one: test scores flatter."""
    split = cache.manifest.source.get("projection_split", "")
    names, alike = [image.name for image in cache.images], cache.manifest.near_duplicates or ()
    return [
        *of_parts(names, cache.splits, cache.same_files, SAME_FILE),
        *of_parts(names, cache.splits, alike, LOOK_ALIKE),
        *(f"warning: {cache.path}: {line}" for line in known_of_tests(cache.manifest.ratings, split)),
    ]


def named_full(jobs: Sequence[TrainingJob]) -> list[str]:
    """Return warnings of jobs whose split is named 'full' and does not mean all images."""
    folders = [job.folder for job in jobs if job.split == FULL and not job.on_all_images]
    return [f"warning: {folder}: of the cache's own split {FULL}, not of all images" for folder in folders]


def check_all(jobs: Sequence[TrainingJob]) -> list[tuple[SplitData, bool]]:
    """Return what `check_start` does of every job; raise all that it raises."""
    found, errors = collected(check_start, jobs)
    if errors:
        raise join_errors(
            as_one(errors), f"{len(errors)} of {len(jobs)} runs cannot be trained:", "Nothing was trained."
        )
    return found


def train_all(jobs: Sequence[TrainingJob], workers: Workers, *, on_progress: OnProgress = silent) -> Trained:
    """Train every job; the error of one does not end the others.

    What can be known to be wrong is raised before any is trained.
    One after another is reported by epoch, otherwise by job. The number of threads decides the order in which
    floats are added: the same weights to the last bit take as many threads as `threads_per_job` says.
    A cluster's workers must see cache and folder under the same paths. Raises what `check_start` and `run_jobs` raise.
    """
    check_all(jobs)
    several_names = len({job.name for job in jobs}) > 1
    if workers == Workers() or (len(jobs) == 1 and not workers.cluster):  # here, with all cores

        def train_here(index: int) -> Run:
            job, place = jobs[index], f"({index + 1} of {len(jobs)})"
            if not several_names:
                return train(job, on_progress)
            return train(job, lambda one: on_progress(replace(one, stage=f"{job.name} {one.stage} {place}")))

        return Trained(*collected(train_here, range(len(jobs))))
    outcomes: dict[int, Run | FeatcacheError] = {}
    away = [_sent_away(job, workers, min(workers.jobs, len(jobs))) for job in jobs]
    with closing(run_jobs(_attempt, away, workers)) as finished:
        for index, outcome in finished:
            outcomes[index] = outcome
            unit, note = ("runs", f"{jobs[index].name} split {jobs[index].split}") if several_names else ("splits", "")
            on_progress(Progress("train", len(outcomes), len(jobs), unit, note))
    return Trained(*collected(lambda index: _brought(jobs[index], outcomes[index]), range(len(jobs))))


def _sent_away(job: TrainingJob, workers: Workers, at_once: int) -> TrainingJob:
    """Return a job for a process that runs anywhere, one of so many at once; a cluster's may be many on one machine."""
    resident = "no" if workers.cluster and job.resident == "auto" else job.resident
    events = job.events.absolute() if job.events else None
    return replace(job, folder=job.folder.absolute(), events=events, resident=resident, processes=at_once)


def _attempt(job: TrainingJob) -> Run | FeatcacheError:
    """Train it; return the error, if there is one, so that others go on."""
    try:
        return train(job)
    except FeatcacheError as error:
        return error


def _brought(job: TrainingJob, outcome: Run | FeatcacheError) -> Run:
    """Return a job's run in the job's folder; raise its error, or that this machine does not see the head."""
    if isinstance(outcome, FeatcacheError):
        raise outcome
    if not (job.folder / HEAD_NAME).is_file():
        raise CacheIncomplete(
            f"{job.folder}: a worker trained this head in a folder that this machine does not see; "
            "bring it from the worker's machine, or use folders that all machines share"
        )
    return Run(job.folder, outcome.config)
