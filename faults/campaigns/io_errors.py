"""The N-th system call on a cache fails, comes up short or lies, once or from then on, for every N until none is hit.

Extraction must end in the exact cache or in a `StorageError`, with nothing lost and no temporary left, and the
same call must succeed afterwards; reading must end in the exact features or in the right error.
"""

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.harness import calls, children, stub, victim
from faults.harness.trial import Campaign, Verdict, exact_or
from featcache.base.errors import CorruptFile, FeatcacheError, StorageError

IMAGES, AUGS = 5, 0
SHORT, LYING = "short", "lying"
DATA = ("write", "pwrite", "read", "pread", "preadv")
FAULTS: dict[str, tuple[str, ...]] = {
    "open": ("EMFILE", "EIO", "ENOSPC"),
    "posix_fallocate": ("ENOSPC", "EDQUOT"),
    "write": ("ENOSPC", "EIO", "EDQUOT", SHORT, LYING),
    "pwrite": ("ENOSPC", "EIO"),
    "ftruncate": ("EIO",),
    "fsync": ("EIO", "ENOSPC", "EDQUOT"),
    "fdatasync": ("EIO",),
    "read": ("EIO", LYING),
    "pread": ("EIO", SHORT, LYING),
    "preadv": ("EIO", SHORT, LYING),
    "close": ("EIO", "EDQUOT", "EINTR"),  # Python retries the others after EINTR by itself, so nobody sees it
    "replace": ("EIO", "ENOSPC"),
    "rename": ("EIO", "ENOSPC"),
    "unlink": ("EIO",),
    "mkdir": ("ENOSPC", "EIO"),
}
MUST_SURFACE = {"posix_fallocate", "write", "fsync", "fdatasync", "replace", "rename", "mkdir"}


@dataclass(frozen=True)
class Fault:
    """What befalls the number-th (from 1) call of one name, and with for_ever all later ones, in a phase."""

    phase: str  # store, or load
    call: str
    kind: str
    number: int
    for_ever: bool


def run(campaign: Campaign) -> None:
    """Try every fault at every call of storing a small cache and of reading it."""
    dataset = stub.make_dataset(campaign.folder("data") / "drawn", images=IMAGES, bad=True)
    reference = campaign.scratch / "reference"
    made = children.in_child(lambda: _make(dataset, reference))
    if isinstance(made, children.Died):
        raise RuntimeError(f"the undisturbed run: {made}")
    wanted, counts = made
    faults = _faults(counts, every=campaign.size.every_call)
    for fault, verdict in children.map_in_children(lambda fault: _try(fault, dataset, reference, wanted), faults):
        campaign.judge(str(fault), verdict, keep={"fault.txt": f"{fault}\n{verdict}\n".encode()})


def _make(dataset: Path, reference: Path) -> tuple[stub.Contents, dict[str, Counter[str]]]:
    stub.run(dataset, reference.with_name("first"), augs=AUGS)  # builds the backbone
    stores = victim.count_calls(lambda: stub.run(dataset, reference, augs=AUGS), reference)
    loads = victim.count_calls(lambda: stub.contents(reference), reference)
    return stub.checked_contents(reference), {"store": stores, "load": loads}


def _faults(counts: dict[str, Counter[str]], *, every: bool) -> list[Fault]:
    """Return every fault up to one call more than there are, which must not be hit; or some of them."""
    return [
        Fault(phase, call, kind, number, for_ever)
        for phase, own in counts.items()
        for call, kinds in FAULTS.items()
        if own[call]
        for kind in kinds
        for for_ever in ((False,) if call == "read" else (False, True))  # there are a hundred reads
        for number in range(1, own[call] + 2)
        if every or (not for_ever and number in {1, own[call] // 2, own[call] // 2 + 1, own[call]})
    ]


class _Hand:
    """Makes one fault happen, and notes an fsync of a file whose fsync failed before."""

    def __init__(self, fault: Fault) -> None:
        self.fault, self.calls, self.hits = fault, 0, 0
        self.synced_again = False
        self._failed: set[int] = set()

    def __call__(self, call: calls.Call, real: Callable[..., Any]) -> Any:
        if call.name == "fsync":
            self.synced_again |= call.descriptor in self._failed
        if call.name == "close":
            self._failed.discard(call.descriptor)
        self.calls += call.name == self.fault.call
        due = self.calls >= self.fault.number if self.fault.for_ever else self.calls == self.fault.number
        if call.name != self.fault.call or not due:
            return real(*call.arguments)
        self.hits += 1
        if self.fault.kind in (SHORT, LYING):
            return _spoil(call, real, self.fault.kind)
        if call.name == "close":
            real(*call.arguments)  # as in Linux, the descriptor is gone all the same
        if call.name == "fsync":
            self._failed.add(call.descriptor)
        code = getattr(errno, self.fault.kind)
        raise OSError(code, os.strerror(code), str(call.path))


def _spoil(call: calls.Call, real: Callable[..., Any], kind: str) -> Any:
    """Write or read half of what was asked for, or claim to have written all of it, or read a bit that is not there."""
    if call.name in ("write", "pwrite"):
        descriptor, data, *rest = call.arguments
        written = real(descriptor, data[: max(1, len(data) // 2)], *rest)
        return len(data) if kind == LYING else written
    if call.name == "pread":
        descriptor, size, offset = call.arguments
        data = real(descriptor, max(1, size // 2) if kind == SHORT else size, offset)
        return data if kind == SHORT else _flipped(data)
    descriptor, buffers, *rest = call.arguments
    first = memoryview(buffers[0] if call.name == "preadv" else buffers).cast("B")
    if kind == SHORT:
        return real(descriptor, [first[: max(1, len(first) // 2)]], *rest)
    count = real(descriptor, buffers, *rest)
    if count:
        first[count // 2 if call.name == "read" else 0] ^= 1
    return count


def _flipped(data: bytes) -> bytes:
    spoilt = bytearray(data)
    if spoilt:
        spoilt[len(spoilt) // 2] ^= 1
    return bytes(spoilt)


def _try(fault: Fault, dataset: Path, reference: Path, wanted: stub.Contents) -> Verdict:
    return (_try_to_store if fault.phase == "store" else _try_to_load)(fault, dataset, reference, wanted)


def _disturbed(fault: Fault, work: Callable[[], Any], folder: Path) -> tuple[_Hand, Any, BaseException | None]:
    """Return the hand, what work returned, and what it raised; count descriptors left open as an error."""
    hand, result, raised = _Hand(fault), None, None
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    try:
        with calls.through(hand, folder):
            result = work()
    except (FeatcacheError, OSError, ValueError, LookupError, RuntimeError, TypeError, MemoryError) as error:
        raised = error.with_traceback(None)
    left = len(os.listdir("/proc/self/fd")) - len(before)  # noqa: PTH208
    if left > 0:
        raised = RuntimeError(f"{left} descriptors left open")
    return hand, result, raised


def _try_to_store(fault: Fault, dataset: Path, reference: Path, wanted: stub.Contents) -> Verdict:
    own = reference.with_name("own")
    shutil.rmtree(own, ignore_errors=True)
    hand, _, raised = _disturbed(fault, lambda: stub.run(dataset, own, augs=AUGS), own)
    problem = _wrong_end(fault, hand, raised) or _wrong_state(fault, own, reference)
    if problem:
        return Verdict(problem=problem)
    if raised is None and not stub.same(stub.contents(own), wanted):
        return Verdict(problem="another cache without an error", silent=True)
    before = stub.identities(own)
    try:
        stub.run(dataset, own, augs=AUGS)
    except (FeatcacheError, OSError) as error:
        return Verdict(problem=f"the next run failed: {error!r}")
    after = stub.identities(own)
    if any(after.get(name) != identity for name, identity in before.items()):
        return Verdict(problem="the next run wrote complete shards anew")
    if stub.temporaries(own) or not stub.same(stub.contents(own), wanted):
        return Verdict(problem="the next run did not end in the exact cache", silent=True)
    return Verdict((f"store: {type(raised).__name__ if raised else 'exact' if hand.hits else 'not hit'}",))


def _wrong_end(fault: Fault, hand: _Hand, raised: BaseException | None) -> str:
    if raised is not None and not (hand.hits and _is_of_storage(fault, raised)):
        return f"ended with {raised!r}, expected StorageError"
    if raised is None and hand.hits and fault.call in MUST_SURFACE and fault.kind not in (SHORT, LYING):
        return "the fault was passed over in silence"
    if raised is not None and fault.kind == SHORT:
        return f"a short call was not gone on from: {raised!r}"
    if raised is None and hand.hits and (fault.call, fault.kind) == ("write", LYING):
        return "a write that lied was believed"
    if hand.synced_again:
        return "a file was synced again after its fsync had failed"
    return ""


def _is_of_storage(fault: Fault, raised: BaseException) -> bool:
    """Whether raised may come of fault while storing. A close fails plainly: the command's exit status is the same."""
    if fault.kind == LYING and fault.call in ("read", "pread", "preadv"):  # of a shard that is there already
        return type(raised) in (StorageError, CorruptFile)
    return type(raised) is StorageError or (fault.call == "close" and isinstance(raised, OSError))


def _wrong_state(fault: Fault, own: Path, reference: Path) -> str:
    """Say what a run, ended well or not, left that must not be there."""
    committed = stub.finals(reference)
    wrong = [name for name, data in stub.finals(own).items() if committed.get(name) != data]
    if wrong:
        return f"under final names there are other files than those of an undisturbed run: {wrong}"
    if fault.call != "unlink" and (left := stub.temporaries(own)):
        return f"temporary files left: {left}"
    return ""


def _try_to_load(fault: Fault, dataset: Path, reference: Path, wanted: stub.Contents) -> Verdict:
    hand, found, raised = _disturbed(fault, lambda: stub.contents(reference), reference)
    if not hand.hits and raised is None:
        return Verdict(("load: not hit",))
    if fault.call == "close" and isinstance(raised, OSError):
        return Verdict((f"load: {type(raised).__name__}",))
    right = {SHORT: (), LYING: (CorruptFile,)}.get(fault.kind, (StorageError, CorruptFile))
    verdict = exact_or(right, raised, found is not None and stub.same(found, wanted))
    return Verdict(tuple(f"load: {outcome}" for outcome in verdict.outcomes), verdict.problem, verdict.silent)
