"""The runs of one head that predict together, its splits and seeds: which they are in a folder, and what each reads."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from featcache.base.errors import InvalidSettings, counted, list_problems, refuse
from featcache.datasets.splits import natural_key
from featcache.store.projection import digest_of_storing
from head.data.several import AnyInput
from head.evaluation.summary import named_groups
from head.models.kinds import digest_of_others
from head.runs.head_file import TrainedHead
from head.runs.ratings import rescored_since
from head.runs.run import Run, read_run, run_folders


class Features(NamedTuple):
    """What a head reads of an image, and the digest of the constants that it was stored with, '' for none."""

    input: AnyInput
    constants_sha256: str


@dataclass(frozen=True)
class Member:
    """A finished run and its head."""

    run: Run
    head: TrainedHead

    @cached_property
    def features(self) -> Features:
        """What it reads; members that read the same have the same."""
        return Features(self.run.input, digest_of_storing(self.head.constants))

    def predict(self, read: Mapping[Features, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `TrainedHead.predict` gives for what it reads, on the CPU, wherever it is computed."""
        scores, steps, maps = self.head.predict(read[self.features].to(self.head.device))
        return scores.cpu(), steps.cpu(), maps.cpu()

    @property
    def stands_alone(self) -> bool:
        """Whether it needs no weights of a backbone: it reads pixels, and its file holds all that reads them."""
        return self.run.reads_pixels and not digest_of_others(self.head.module)


def trained_on(members: Sequence[Member]) -> frozenset[str]:
    """Return the sha256 of all images that any member was trained on."""
    return frozenset[str]().union(*(member.head.train_images for member in members))


def left_out(unfinished: Sequence[Run]) -> list[str]:
    """Return that these runs are left out, as their training has not finished."""
    names = ", ".join(str(run.folder) for run in unfinished)
    told = f"warning: left out, their training has not finished: {names}; the same train-head command ends it"
    return [told] if names else []


def predict_each(members: Sequence[Member], read: Mapping[Features, Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return what `TrainedHead.predict` gives for each member, of the features (B, L, D) that it reads.

    Several are computed at once, each by one thread: a head is too small for threads to share.
    """
    threads = min(torch.get_num_threads(), len(members))
    if threads == 1:
        return [member.predict(read) for member in members]
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1)) as pool:
            return list(pool.map(lambda member: member.predict(read), members))
    finally:
        torch.set_num_threads(before)  # MKL keeps one number for all threads


class HeadRuns(NamedTuple):
    """Runs of one head, by split and seed, and those in the same folder whose training has not finished."""

    runs: list[Run]
    unfinished: list[Run]


def find_members(folder: Path) -> HeadRuns:
    """Return the run in folder, finished or not, or the finished runs of one head in or below it, a copy of one once.

    Those on all images are none of several: they are taken where there are no others. Raises `InvalidSettings` if there
    is none, or if they are of several heads, features or scores: it lists the folders that are of one, each with its
    number of runs.
    """
    folders = run_folders(folder)
    runs = [] if folder in folders else [read_run(one) for one in folders]
    runs = [run for run in runs if not run.on_all_images] or runs
    finished = _without_copies([run for run in runs if run.finished])
    if not finished:
        return HeadRuns([read_run(folder)], [])
    if not _of_one_head(finished):
        title = f"{folder}: its {len(finished)} finished runs are not of one head, on the same features and scores:"
        heads = [f"{one}: {counted(count, 'run')}" for one, count in _heads(folder, finished)]
        raise InvalidSettings(list_problems(title, heads, "Name one of these folders."))
    finished.sort(key=lambda run: (natural_key(run.split), run.seed))
    if others := rescored_since(finished):
        first = finished[0].folder
        title = f"{folder}: its {len(finished)} runs are not of the same scores; these are of others than {first}:"
        way_out = "Scores have changed in between. Train all of them again with --no-resume, or name one run."
        refuse(InvalidSettings, title, [str(run.folder) for run in others], way_out)
    return HeadRuns(finished, [run for run in runs if not run.finished])


def _without_copies(runs: Sequence[Run]) -> list[Run]:
    """Return runs without those that are another's copy; of a run and its export the run, with its scores beside it."""
    by_head: dict[tuple[str, int, str], Run] = {}
    for run in sorted(runs, key=lambda run: run.config.exported is not None):
        by_head.setdefault((run.split, run.seed, run.result.head_sha256), run)
    return list(by_head.values())


def _of_one_head(runs: Sequence[Run]) -> bool:
    """Return whether runs differ in split and seed alone, and are of the same features and scores, read alike."""
    return (
        len({(run.config.fingerprint, run.data_name, run.input) for run in runs}) == 1 and len(named_groups(runs)) == 1
    )


def _heads(folder: Path, runs: Sequence[Run]) -> list[tuple[Path, int]]:
    """Return the topmost folders, folder or below it, whose runs are of one head, and how many runs each has."""
    if _of_one_head(runs):
        return [(folder, len(runs))]
    inside: dict[Path, list[Run]] = {}
    for run in runs:
        inside.setdefault(folder.joinpath(*run.folder.relative_to(folder).parts[:1]), []).append(run)
    return [head for below, some in inside.items() for head in _heads(below, some)]
