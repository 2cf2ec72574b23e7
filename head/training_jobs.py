"""A list of splits to train, each a job of its own, for one process after another or for many at once."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from featcache.cache import FeatureCache
from featcache.errors import CacheIncomplete, list_problems
from featcache.jobs import Workers, run_jobs
from featcache.progress import OnProgress, Progress, silent

from .runs import Run
from .settings import TrainSettings
from .train import train_split


@dataclass(frozen=True)
class TrainingJob:
    """One split to train, and the folder of its run; the arguments of `head.train.train_split`."""

    cache: FeatureCache
    split: str
    settings: TrainSettings
    folder: Path
    name: str
    resume: bool = True

    def run(self, on_progress: OnProgress = silent) -> Run:
        """Train it in this process."""
        return train_split(
            self.cache,
            self.split,
            self.settings,
            self.folder,
            name=self.name,
            resume=self.resume,
            on_progress=on_progress,
        )


def train_all(jobs: Sequence[TrainingJob], workers: Workers, *, on_progress: OnProgress = silent) -> list[Run]:
    """Train every split and return the runs in the order of jobs.

    One after another is reported by epoch, otherwise by split. The number of threads decides the order in which
    floats are added: the same weights to the last bit take as many threads as `featcache.jobs.threads_per_job` says.
    A cluster's workers must see cache and folder under the same paths. Raises what `train_split` and `run_jobs` raise.
    """
    if len(jobs) == 1 and not workers.cluster:  # with all cores, and a report of each epoch
        workers = Workers()
    if workers == Workers():
        return [run for _, run in run_jobs(partial(TrainingJob.run, on_progress=on_progress), jobs, workers)]
    runs: dict[int, Run] = {}
    away = [replace(job, folder=job.folder.absolute()) for job in jobs]  # wherever the process goes
    with closing(run_jobs(TrainingJob.run, away, workers)) as finished:
        for index, run in finished:
            runs[index] = Run(jobs[index].folder, run.config)
            on_progress(Progress("train", len(runs), len(jobs), "splits"))
    unseen = [str(job.folder) for job in jobs if not (job.folder / "head.safetensors").is_file()]
    if unseen:
        title = "workers trained heads in folders that this machine does not see:"
        way_out = "Bring them from the workers' machines, or use folders that all machines share."
        raise CacheIncomplete(list_problems(title, unseen, way_out))
    return [runs[index] for index in range(len(jobs))]
