"""One writer that makes and extends caches, others that read them in every way there is to share a reader; two writers.

Every read gives the exact features or the documented error, nothing hangs, no descriptor stays open, and the
second writer is told who the first is.
"""

import functools
import multiprocessing
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from faults.harness import children, stub
from faults.harness.trial import Campaign
from featcache.base.errors import CacheIncomplete, FeatcacheError, Locked
from featcache.base.lock import writer_lock
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.folder import shards_folder

IMAGES, MOST_AUGS = 6, 5
ENDS_WITHIN = 60.0  # seconds after it should
PAUSE = 0.01  # seconds, where there is no cache yet


@dataclass
class Report:
    """What one reader or writer did, and what went wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


class Features(Dataset[Any]):
    """Row and view of each item of a cache, with its features, for a DataLoader."""

    def __init__(self, cache: FeatureCache) -> None:
        self._cache = cache

    def __len__(self) -> int:
        return self._cache.rows * self._cache.views

    def __getitem__(self, item: int) -> tuple[int, int, Any]:
        row, view = divmod(item, self._cache.views)
        return row, view, torch.from_numpy(self._cache.read([row], view)[0])


def run(campaign: Campaign) -> None:
    """Let a writer and readers of every kind run at once, then let two writers meet."""
    dataset = stub.make_dataset(campaign.folder("data") / "drawn", images=IMAGES)
    reference = campaign.scratch / "reference"
    made = children.in_child(lambda: stub.run(dataset, reference, augs=MOST_AUGS) and stub.checked_contents(reference))
    if isinstance(made, children.Died):
        raise RuntimeError(f"making the reference: {made}")
    features = made[f"features/{stub.LAYERS[-1]}"]  # the layer that a cache is read in where none is named
    rounds = campaign.folder("rounds")
    deadline = time.monotonic() + campaign.size.together_seconds
    writer = children.start(lambda: _write(dataset, rounds, deadline))
    readers = {
        name: children.start(functools.partial(reader, rounds, features, deadline, campaign.random(name)))
        for name, reader in READERS.items()
    }
    for name, result in {"writer": writer, **readers}.items():
        _judge(campaign, name, result(campaign.size.together_seconds + ENDS_WITHIN))
    if campaign.size.name == "small":
        campaign.tally.skipped["spawned process"] = "takes seconds to start, so not in --small"
    else:
        _judge(campaign, "spawned process", _in_spawned_process(reference, features))
    for number in range(campaign.size.repeats):
        _two_writers(campaign, dataset, campaign.folder(f"contended-{number}"))


def _judge(campaign: Campaign, name: str, report: object) -> None:
    if not isinstance(report, Report):
        campaign.bad(f"{name}: {report}")
        return
    for problem in report.problems:
        campaign.bad(f"{name}: {problem}", silent="wrong" in problem)
    campaign.tally.counts.update({f"{name}: {what}": count for what, count in report.counts.items()})
    if not report.counts and not report.problems:
        campaign.bad(f"{name}: did nothing at all")
    campaign.tally.trials += sum(report.counts.values())


def _write(dataset: Path, rounds: Path, deadline: float) -> Report:
    report = Report()
    while time.monotonic() < deadline and not report.problems:
        out = rounds / f"{report.counts['caches']:06d}"
        for augs in range(1, MOST_AUGS + 1):
            try:
                stub.run(dataset, out, augs=augs)
            except FeatcacheError as error:
                report.problems.append(f"was disturbed: {error!r}")
        report.counts["caches"] += 1
    return report


def _latest(rounds: Path) -> Path:
    return max(rounds.iterdir(), default=rounds / "none yet")


def _check(cache: FeatureCache, features: Any, rng: random.Random, report: Report) -> None:
    """Read a few rows and views of a cache and compare them with the reference."""
    rows = [rng.randrange(cache.rows) for _ in range(5)]
    views = [rng.randrange(cache.views) for _ in range(5)]
    same = np.array_equal(cache.read(rows, views), features[rows, views])
    report.counts["exact"] += same
    if not same or cache.box.shape[1] != cache.views:
        report.problems.append(f"wrong features, or tables of {cache.box.shape[1]} views for {cache.views}")


def _read_once(rounds: Path, features: Any, rng: random.Random, report: Report) -> None:
    try:
        _check(open_cache(_latest(rounds)), features, rng, report)
    except CacheIncomplete:
        report.counts["CacheIncomplete"] += 1
        time.sleep(PAUSE)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the result
        report.problems.append(f"{error!r}")


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def _alone(rounds: Path, features: Any, deadline: float, rng: random.Random) -> Report:
    """Open and read again and again, in one thread."""
    report = Report()
    _read_once(rounds, features, rng, report)
    before = _descriptors()
    while time.monotonic() < deadline and not report.problems:
        _read_once(rounds, features, rng, report)
    if _descriptors() > before:
        report.problems.append(f"{_descriptors() - before} descriptors more than at first")
    return report


def _in_threads(rounds: Path, features: Any, deadline: float, rng: random.Random) -> Report:
    """Share each opened cache between four threads."""
    report = Report()
    before = _descriptors()
    while time.monotonic() < deadline and not report.problems:
        try:
            cache = open_cache(_latest(rounds))
        except CacheIncomplete:
            report.counts["CacheIncomplete"] += 1
            time.sleep(PAUSE)
            continue
        own = [Report() for _ in range(4)]
        keys = [random.Random(rng.random()) for _ in own]
        threads = [
            threading.Thread(target=_check_often, args=(cache, features, key, one))
            for one, key in zip(own, keys, strict=True)
        ]
        _run_threads(threads)
        for one in own:
            report.counts += one.counts
            report.problems += one.problems
    if _descriptors() > before:
        report.problems.append(f"{_descriptors() - before} descriptors more than at first")
    return report


def _check_often(cache: FeatureCache, features: Any, rng: random.Random, report: Report) -> None:
    for _ in range(5):
        _guarded(lambda: _check(cache, features, rng, report), report)


def _guarded(work: Callable[[], Any], report: Report) -> None:
    try:
        work()
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the result
        report.problems.append(f"{error!r}")


def _run_threads(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _after_fork(rounds: Path, features: Any, deadline: float, rng: random.Random) -> Report:
    """Read from a cache in a child that was forked after the cache was opened and read."""
    report = Report()
    while time.monotonic() < deadline and not report.problems:
        try:
            cache = open_cache(_latest(rounds))
        except CacheIncomplete:
            report.counts["CacheIncomplete"] += 1
            time.sleep(PAUSE)
            continue
        _check(cache, features, rng, report)
        child = children.in_child(functools.partial(_read_in_child, cache, features, rng), ENDS_WITHIN)
        if not isinstance(child, Report):
            report.problems.append(str(child))
            continue
        report.counts += child.counts
        report.problems += child.problems
    return report


def _read_in_child(cache: FeatureCache, features: Any, rng: random.Random) -> Report:
    report = Report()
    _guarded(lambda: _check(cache, features, rng, report), report)
    return report


def _in_loaders(rounds: Path, features: Any, deadline: float, rng: random.Random) -> Report:
    """Read whole caches through DataLoaders, with no worker and with two."""
    report = Report()
    while time.monotonic() < deadline and not report.problems:
        try:
            cache = open_cache(_latest(rounds))
        except CacheIncomplete:
            report.counts["CacheIncomplete"] += 1
            time.sleep(PAUSE)
            continue
        for workers in (0, 2):
            loader = DataLoader(Features(cache), batch_size=4, num_workers=workers, timeout=30 if workers else 0)
            for rows, views, found in loader:
                same = np.array_equal(found.numpy(), features[rows.numpy(), views.numpy()])
                report.counts[f"exact, {workers} workers"] += same
                if not same:
                    report.problems.append(f"wrong features from {workers} workers")
    return report


READERS: dict[str, Callable[[Path, Any, float, random.Random], Report]] = {
    "reader": _alone,
    "threads": _in_threads,
    "forked": _after_fork,
    "DataLoader": _in_loaders,
}


def _in_spawned_process(reference: Path, features: Any) -> object:
    """Hand an opened cache to a new interpreter, as pickle does it."""
    cache = open_cache(reference)
    rows, views = [3, 0, 5], [2, 0, MOST_AUGS]
    cache.read([1], 1)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply_async(cache.read, (rows, views)).get(timeout=ENDS_WITHIN)
    same = np.array_equal(found, features[rows, views])
    return Report(Counter(["exact"]) if same else Counter(), [] if same else ["wrong features in a spawned process"])


def _two_writers(campaign: Campaign, dataset: Path, out: Path) -> None:
    """Run the command while another process holds the lock, and once more when it does not."""
    said = campaign.scratch / "stderr"
    holder_reads, holder_writes = os.pipe()
    ready_reads, ready_writes = os.pipe()

    def hold() -> int:
        os.close(holder_writes)
        with writer_lock(out):
            os.write(ready_writes, b"x")
            os.read(holder_reads, 1)  # until the other end is closed
        return 0

    shards_folder(out).mkdir()
    holder = children.fork(hold)
    os.read(ready_reads, 1)
    second = children.wait(children.fork(lambda: stub.run_command(stub.command(dataset, out)), stderr=said))
    for descriptor in (holder_reads, holder_writes, ready_reads, ready_writes):
        os.close(descriptor)
    first = children.wait(holder)
    third = children.wait(children.fork(lambda: stub.run_command(stub.command(dataset, out))))
    message = said.read_text()
    if (second, first, third) == (Locked.exit_code, 0, 0) and f"process {holder}" in message:
        campaign.good("second writer: Locked")
    else:
        campaign.bad(f"two writers ended with {second}, {first} and {third}, saying {message!r}", keep=out)
