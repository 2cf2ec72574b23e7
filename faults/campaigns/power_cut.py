"""Power cuts while a cache is made and extended: every state of the disk that may be left is read and gone on from.

What the writer was told is safe is there and whole, and nothing under a final name is not. Two controls, without
the fsync of files and without that of folders, must fail: else this campaign would see nothing.
"""

import functools
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import featcache.base.files
from faults.harness import calls, children, disk, stub
from faults.harness.disk import Acknowledged, Entry, Loss, Operation
from faults.harness.trial import Campaign, Verdict
from featcache.base.errors import CacheIncomplete, FeatcacheError
from featcache.store.folder import NAME_PATTERN

IMAGES = 8
LOSSES = (Loss(0, 0), Loss(1, 0), Loss(1, 1), Loss(0.5, 0.5), Loss(0.5, 0.5, rubbish=True), Loss(1, 0.5), Loss(0.5, 0))
RESUMED_EVERY = 5
CONTROL_STATES = 60


@dataclass(frozen=True)
class Recording:
    """What was done to the disk, and contents of the cache after the first run (2 views) and the second (3)."""

    operations: list[Operation]
    contents: tuple[stub.Contents, stub.Contents]


@dataclass(frozen=True)
class Cut:
    """The power goes before the operation of that number."""

    number: int
    position: int
    loss: Loss


def run(campaign: Campaign) -> None:
    """Record one making of a cache, then look at states after power cuts; then both controls."""
    dataset = stub.make_dataset(campaign.folder("data") / "drawn", images=IMAGES)
    for control in ("", "file", "folder"):
        out = campaign.folder(f"disk-without-{control}" if control else "disk") / "cache"
        recording = children.in_child(functools.partial(_record, dataset, out, control))
        if isinstance(recording, children.Died):
            raise RuntimeError(f"recording: {recording}")
        cuts = _cuts(campaign, recording, CONTROL_STATES if control else campaign.size.crash_states)
        verdicts = list(_verdicts(campaign, dataset, out, recording, cuts))
        if control:
            _judge_control(campaign, control, [verdict for _, verdict in verdicts])
        for cut, verdict in verdicts if not control else ():
            campaign.judge(str(cut), verdict, keep={"cut.txt": f"{cut}\n{verdict}\n".encode()})


def _record(dataset: Path, out: Path, without: str) -> Recording:
    """Make a cache of 2 views, then extend it to 3, and note every operation; without fsync of 'file' or 'folder'."""
    recorder = disk.Recorder()
    with calls.through(recorder, out.parent), _without_fsync(without), _acknowledged(recorder.operations):
        stub.run(dataset, out, augs=1)
        first = stub.checked_contents(out)
        stub.run(dataset, out, augs=2)
        return Recording(recorder.operations, (first, stub.checked_contents(out)))


@contextmanager
def _without_fsync(kind: str) -> Iterator[None]:
    """Let fsync of files, or of folders, do nothing at all."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) != (kind == "folder"):
            real(descriptor)

    with mock.patch.object(os, "fsync", fsync if kind else real):
        yield


@contextmanager
def _acknowledged(operations: list[Operation]) -> Iterator[None]:
    """Note when write_durably returns, in every module that calls it by name."""
    real = featcache.base.files.write_durably

    def write(path: Path, data: bytes) -> str:
        result = real(path, data)
        operations.append(Acknowledged(path, bytes(data)))
        return result

    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("featcache.") and getattr(module, "write_durably", None) is real:
                stack.enter_context(mock.patch.object(module, "write_durably", write))
        yield


def _cuts(campaign: Campaign, recording: Recording, count: int) -> list[Cut]:
    """Return cuts before every operation with every loss, or some of them, or some more with other randomness."""
    places = [(position, loss) for position in range(1, len(recording.operations) + 1) for loss in LOSSES]
    rng = campaign.random("cuts")
    chosen = rng.sample(places, min(count, len(places))) + rng.choices(places, k=max(0, count - len(places)))
    return [Cut(number, position, loss) for number, (position, loss) in enumerate(chosen)]


def _verdicts(
    campaign: Campaign, dataset: Path, out: Path, recording: Recording, cuts: list[Cut]
) -> Iterator[tuple[Cut, Any]]:
    def check(cut: Cut) -> Verdict:
        done = recording.operations[: cut.position]
        state = disk.after_power_cut(done, cut.loss, campaign.random(cut))
        _put(state, out)
        return _judge(recording, done, state, out, resume=dataset if cut.number % RESUMED_EVERY == 0 else None)

    return children.map_in_children(check, cuts)


def _put(state: dict[Path, bytes | None], out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    for path, data in sorted(state.items()):
        if data is None:
            path.mkdir()
        else:
            path.write_bytes(data)


def _judge(
    recording: Recording, done: list[Operation], state: dict[Path, bytes | None], out: Path, *, resume: Path | None
) -> Verdict:
    """Judge one state of the disk, and with resume (the dataset) what the next run makes of it."""
    written: dict[Path, set[bytes]] = {}
    for operation in recording.operations:
        if isinstance(operation, Acknowledged):
            written.setdefault(operation.path, set()).add(operation.data)
    if lost := [path.name for path in _safe(done) if state.get(path) not in written[path]]:
        return Verdict(problem=f"lost or spoilt although its writer was told it is safe: {lost}")
    finals = [path for path in state if path in written or NAME_PATTERN.fullmatch(path.name)]
    spoilt = [path.name for path in finals if state[path] not in written.get(path, ())]
    read = _read(out)
    wrong_data = not isinstance(read, Exception) and not any(stub.same(read, known) for known in recording.contents)
    if spoilt or wrong_data:
        return Verdict(problem=f"not whole under its final name: {spoilt}; read: {type(read)}", silent=wrong_data)
    if isinstance(read, Exception) and not isinstance(read, CacheIncomplete):
        return Verdict(problem=f"a cache that should be whole or not there: {read!r}")
    if resume is not None:
        stub.run(resume, out, augs=2)
        if stub.temporaries(out) or not stub.same(stub.contents(out), recording.contents[1]):
            return Verdict(problem="the next run did not end in the exact cache", silent=True)
    return Verdict(("not sealed yet" if isinstance(read, Exception) else "sealed", *(["resumed"] if resume else [])))


def _safe(done: list[Operation]) -> set[Path]:
    """Return the paths that the writer was told are safe, and did not remove since."""
    safe = set()
    for operation in done:
        if isinstance(operation, Acknowledged):
            safe.add(operation.path)
        elif isinstance(operation, Entry) and not operation.inode:
            safe.discard(operation.path)
    return safe


def _read(out: Path) -> stub.Contents | Exception:
    try:
        return stub.contents(out)
    except FeatcacheError as error:
        return error


def _judge_control(campaign: Campaign, control: str, verdicts: list[Any]) -> None:
    noticed = sum(isinstance(verdict, Verdict) and bool(verdict.problem) for verdict in verdicts)
    if noticed:
        campaign.good(f"control without fsync of the {control}: noticed")
    else:
        campaign.bad(f"BLIND: without fsync of the {control} nothing was noticed in {len(verdicts)} states")
