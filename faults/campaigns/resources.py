"""Few descriptors, little memory, signals, closed output, another time zone, locale and folder.

The command ends in the exact cache, or with the exit status that says why not; then the next run does.
"""

import locale
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faults.harness import children, stub
from faults.harness.trial import Campaign
from featcache.backbones.backbone import load_backbone
from featcache.base.errors import ResourceError
from featcache.base.lock import LOCK_NAME
from featcache.settings import ExtractSettings
from featcache.store.folder import MANIFEST_NAME

IMAGES, MANY = 8, 70
DESCRIPTORS = 64
LITTLE_MEMORY = 400 << 20  # bytes more than the process has
UNFIT = "timm:test_efficientnet"  # of so many pixels, 16 views do not fit into that
UNFIT_SIZES = (1024, 2048)


@dataclass(frozen=True)
class Ground:
    """The dataset, its cache by an undisturbed run, and what is in it."""

    dataset: Path
    reference: Path
    contents: stub.Contents


def run(campaign: Campaign) -> None:
    """Meet every shortage, some of them several times."""
    dataset = stub.make_dataset(campaign.folder("data") / "drawn", images=IMAGES)
    reference = campaign.scratch / "reference"
    made = children.in_child(lambda: stub.run(dataset, reference) and stub.checked_contents(reference))
    if isinstance(made, children.Died):
        raise RuntimeError(f"making the reference: {made}")
    ground = Ground(dataset, reference, made)
    _few_descriptors(campaign)
    for number in range(campaign.size.repeats):
        rng = campaign.random(number)
        for what, trial in TRIALS.items():
            out = campaign.scratch / "cache"
            shutil.rmtree(out, ignore_errors=True)
            problem = trial(ground, out, rng)
            if problem:
                campaign.bad(f"{what} ({number}): {problem}", keep=out if out.is_dir() else None)
            else:
                campaign.good(what)


def _few_descriptors(campaign: Campaign) -> None:
    """Make and read a cache of more shards than a process may have files open."""
    dataset = stub.make_dataset(campaign.folder("many") / "drawn", images=MANY)
    free, limited = campaign.scratch / "free", campaign.scratch / "limited"

    def work(out: Path, limit: bool) -> stub.Contents:
        import featcache.extraction.plan

        if limit:
            resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        stub.ROWS_PER_SHARD = featcache.extraction.plan.ROWS_PER_SHARD = 1
        stub.run(dataset, out, augs=0)
        return stub.contents(out)

    expected = children.in_child(lambda: work(free, False))
    found = children.in_child(lambda: work(limited, True))
    shards = len(stub.finals(limited))
    if isinstance(found, dict) and isinstance(expected, dict) and stub.same(found, expected) and shards > DESCRIPTORS:
        campaign.good(f"{shards} shards with {DESCRIPTORS} descriptors")
    else:
        campaign.bad(f"{shards} shards with {DESCRIPTORS} descriptors: {found}; without the limit: {type(expected)}")


def _status(ground: Ground, out: Path, before: Callable[[], object] = lambda: None) -> object:
    return _status_of(stub.command(ground.dataset, out), before)


def _status_of(command: list[str], before: Callable[[], object]) -> object:
    def work() -> int:
        before()
        return stub.run_command(command)

    return children.wait(children.fork(work))


def _finished(ground: Ground, out: Path) -> str:
    """Say what keeps a cache from being the undisturbed one, shard for shard."""
    if left := stub.temporaries(out):
        return f"temporary files left: {left}"
    if stub.finals(out) != stub.finals(ground.reference):
        return "its shards are not those of an undisturbed run"
    return "" if stub.same(stub.contents(out), ground.contents) else "it reads back differently"


def _then_finished(ground: Ground, out: Path) -> str:
    """Run the command once more and say what is wrong with the result."""
    status = _status(ground, out)
    return f"the next run ended with {status}" if status != 0 else _finished(ground, out)


def _little_memory(ground: Ground, out: Path, rng: random.Random) -> str:
    """Ask for views so large that a batch of them does not fit."""

    def before() -> None:  # what is imported takes as much: it is there before the limit
        load_backbone(ExtractSettings(backbone=UNFIT, weights="random"), views=1)
        children.limit_memory(LITTLE_MEMORY)

    for size in UNFIT_SIZES:
        command = stub.command(ground.dataset, out, backbone=UNFIT, layers=())
        status = _status_of([*command, "--image-size", str(size)], before)
        if status != ResourceError.exit_code:
            return f"at {size} pixels ended with {status}, expected {ResourceError.exit_code}"
        if stub.finals(out) or stub.temporaries(out):
            return "left files although nothing was complete"
        shutil.rmtree(out, ignore_errors=True)
    return _then_finished(ground, out)


def _signal_at_work(ground: Ground, out: Path, rng: random.Random, number: int) -> int:
    """Send a signal at a random instant after the lock is held; return the child."""
    child = children.fork(lambda: stub.run_command(stub.command(ground.dataset, out)))
    deadline = time.monotonic() + 10
    while not (out / LOCK_NAME).exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.05))
    os.kill(child, number)
    return child


def _ended_by(number: int, status: int) -> Callable[[Ground, Path, random.Random], str]:
    def trial(ground: Ground, out: Path, rng: random.Random) -> str:
        child = _signal_at_work(ground, out, rng, number)
        ended = children.wait(child, 10)
        sealed = (out / MANIFEST_NAME).exists()  # then the signal came when all was done
        if ended != status and not sealed:
            return f"ended with {ended}, expected {status}"
        if left := stub.temporaries(out):
            return f"temporary files left: {left}"
        return _then_finished(ground, out)

    return trial


def _stopped(ground: Ground, out: Path, rng: random.Random) -> str:
    """Stop the process for a while, then let it go on."""
    child = _signal_at_work(ground, out, rng, signal.SIGSTOP)
    time.sleep(0.2)
    os.kill(child, signal.SIGCONT)
    ended = children.wait(child)
    return f"ended with {ended}" if ended != 0 else _finished(ground, out)


def _output_to_nobody() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    os.dup2(writes, 1)
    os.dup2(writes, 2)


def _output_to_a_full_disk() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 1)
    os.dup2(full, 2)


def _without_output(before: Callable[[], object]) -> Callable[[Ground, Path, random.Random], str]:
    def trial(ground: Ground, out: Path, rng: random.Random) -> str:
        ended = _status(ground, out, before)
        if not isinstance(ended, int) or ended < 0:
            return f"ended with {ended}"
        return _finished(ground, out)  # whatever the exit status, the work is done

    return trial


def _elsewhere(ground: Ground, out: Path, rng: random.Random) -> str:
    """Run in another time zone, locale and folder, with a relative path for the cache."""

    def move() -> None:
        os.environ.update(TZ=rng.choice(("Pacific/Kiritimati", "America/St_Johns", "UTC")), LC_ALL="C", LANG="C")
        time.tzset()
        locale.setlocale(locale.LC_ALL, "C")
        os.chdir(out.parent)

    status = _status(ground, Path(out.name), move)
    return f"ended with {status}" if status != 0 else _finished(ground, out)


TRIALS: dict[str, Callable[[Ground, Path, random.Random], str]] = {
    "little memory: exit 9": _little_memory,
    "SIGTERM: exit 143": _ended_by(signal.SIGTERM, 128 + signal.SIGTERM),
    "SIGINT: exit 130": _ended_by(signal.SIGINT, 128 + signal.SIGINT),
    "SIGSTOP, SIGCONT": _stopped,
    "output to a closed pipe": _without_output(_output_to_nobody),
    "output to a full disk": _without_output(_output_to_a_full_disk),
    "other time zone, locale and folder": _elsewhere,
}
