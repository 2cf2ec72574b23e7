"""Campaigns side by side, each in a forked child of this warm process with a scratch folder of its own."""

import contextlib
import os
import pickle
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

from faults.harness.trial import Campaign, EnoughError, Stopwatch, Tally

LANES = 2
Run = Callable[[Campaign], None]


def run_all(runs: Sequence[tuple[str, Run]], make: Callable[[str], Campaign]) -> Iterator[Tally]:
    """Yield the tally of each campaign, made by its name, as it ends, LANES at a time."""
    waiting, running = list(runs), dict[Connection, tuple[str, int]]()
    while waiting or running:
        while waiting and len(running) < LANES:
            name, work = waiting.pop(0)
            receiver, child = _start(work, make(name))
            running[receiver] = name, child
        ready = wait(list(running))
        for receiver in [receiver for receiver in running if receiver in ready]:
            name, child = running.pop(receiver)
            yield _collect(name, child, receiver)


def scratch_folder() -> Path:
    """Return a new folder, in memory where there is such a place: syncing is modelled, not timed."""
    memory = Path("/dev/shm")
    usable = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1 << 30
    return Path(tempfile.mkdtemp(prefix="faults-", dir=memory if usable else None))


def _start(work: Run, campaign: Campaign) -> tuple[Connection, int]:
    receiver, sender = Pipe(duplex=False)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        sender.close()
        return receiver, child
    try:
        receiver.close()
        campaign.scratch.mkdir()
        sender.send_bytes(pickle.dumps(_run_one(work, campaign)))
        sys.stderr.flush()
    finally:
        os._exit(0)


def _run_one(work: Run, campaign: Campaign) -> Tally:
    watch = Stopwatch()
    try:
        with contextlib.suppress(EnoughError):
            work(campaign)
    except Exception:  # noqa: BLE001  # a campaign that breaks is a failure of it, reported with the others
        campaign.bad(f"the campaign itself broke: {traceback.format_exc()}")
        campaign.tally.counts["broken"] += 1
    campaign.tally.seconds = watch()
    return campaign.tally


def _collect(name: str, child: int, receiver: Connection) -> Tally:
    try:
        tally: Tally = pickle.loads(receiver.recv_bytes())  # our own child's
    except EOFError:
        tally = Tally(name, failures=["the campaign's process ended without a result"])
        tally.counts["broken"] += 1
    receiver.close()
    os.waitpid(child, 0)
    return tally
