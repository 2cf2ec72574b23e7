"""SIGKILL of the real extract command at random instants and inside its system calls, restarted until it is done.

Every shard that was ever there stays the same file, the finished cache is the undisturbed one bit for bit, and no
temporary file is left.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from faults.harness import children, stub, victim
from faults.harness.trial import Campaign, Stopwatch
from faults.harness.victim import Death

ROOT = Path(__file__).parents[2]
IMAGES = 8
MOST_KILLS_A_CACHE, MOST_FAILURES = 4, 20
INSIDE = {"write": ("half", "before", "after"), "posix_fallocate": ("half", "after"), "fsync": ("before", "after"),
          "replace": ("before", "after"), "rename": ("before", "after"), "unlink": ("before", "after"),
          "mkdir": ("before", "after"), "open": ("after",)}  # fmt: skip
STRACE = ("write", "fsync", "rename", "fallocate")


def run(campaign: Campaign) -> None:
    """Kill once inside each kind of call, then anywhere, each cache up to a few times, until there are enough kills."""
    dataset = stub.make_dataset(campaign.folder("data") / "drawn", images=IMAGES)
    arguments = stub.command(dataset, campaign.scratch / "reference")
    seconds, counts = _undisturbed(campaign, arguments)
    reference = campaign.scratch / "reference"
    wanted = stub.checked_contents(reference), stub.finals(reference)
    first = [Death(name, 1, when) for name, ends in INSIDE.items() if counts[name] for when in ends]
    number = 0
    while campaign.tally.counts["kills"] < campaign.size.kills and len(campaign.tally.failures) < MOST_FAILURES:
        most = campaign.size.kills - campaign.tally.counts["kills"]
        chosen = [first.pop(0)] if first else _deaths(campaign.random(number), counts, seconds, most)
        _one_cache(campaign, dataset, list(chosen), wanted, name=f"cache {number}")
        number += 1
    _by_strace(campaign, dataset, wanted)


def _undisturbed(campaign: Campaign, arguments: list[str]) -> tuple[float, Counter[str]]:
    """Make the reference cache in a child; return how long a warm run takes, and how often it makes each call."""
    reference = Path(arguments[arguments.index("--out") + 1])
    watch = Stopwatch()
    children.undisturbed(lambda: stub.run_command(arguments))
    seconds = watch()
    shutil.move(reference, campaign.scratch / "counted")
    counts = children.in_child(lambda: victim.count_calls(lambda: stub.run_command(arguments), reference))
    if isinstance(counts, children.Died):
        raise RuntimeError(f"the undisturbed command: {counts}")
    return seconds, counts


def _deaths(rng: random.Random, counts: Counter[str], seconds: float, most: int) -> Iterator[float | Death]:
    """Yield instants in seconds, and deaths inside calls, half of each."""
    names = sorted(set(counts) & set(INSIDE))
    for _ in range(min(most, rng.randint(1, MOST_KILLS_A_CACHE))):
        name = rng.choice(names)
        inside = Death(name, rng.randint(1, counts[name]), rng.choice(INSIDE[name]))
        yield inside if rng.random() < 0.5 else rng.uniform(0, seconds)


def _one_cache(
    campaign: Campaign,
    dataset: Path,
    deaths: list[float | Death],
    wanted: tuple[stub.Contents, dict[str, bytes]],
    *,
    name: str,
) -> None:
    """Kill and restart one cache as deaths say, then let the command finish, and compare."""
    out = campaign.scratch / "cache"
    shutil.rmtree(out, ignore_errors=True)
    seen: dict[str, tuple[int, int, str]] = {}
    for death in deaths:
        status = killed(stub.command(dataset, out), out, death)
        if status not in (-signal.SIGKILL, 0):
            campaign.bad(f"{name}, {death}: the command ended with {status}", keep=out)
            return
        if status == -signal.SIGKILL:
            inside = f"inside {death.call}" if isinstance(death, Death) else "at a random instant"
            campaign.tally.counts.update(["kills", f"killed {inside}"])
        now = stub.identities(out)
        problem = _lost(seen, now)
        if problem:
            campaign.bad(f"{name}, {death}: {problem}", keep=out)
            return
        seen = now
    status = children.wait(children.fork(lambda: stub.run_command(stub.command(dataset, out))))
    problem = f"the last start ended with {status}" if status != 0 else _difference(out, seen, wanted)
    if problem:
        campaign.bad(f"{name}, {deaths}: {problem}", silent=status == 0, keep=out)
    else:
        campaign.good("finished caches")


def killed(arguments: list[str], out: Path, death: float | Death) -> object:
    """Run the command in a child that dies after so many seconds or inside a call; return how it ended."""
    if isinstance(death, Death):
        return children.wait(children.fork(lambda: victim.run_and_die(arguments, out, death)))
    child = children.fork(lambda: stub.run_command(arguments))
    time.sleep(death)
    os.kill(child, signal.SIGKILL)  # it is not reaped yet, so the number is still its own
    return children.wait(child)


def _lost(seen: dict[str, tuple[int, int, str]], now: dict[str, tuple[int, int, str]]) -> str:
    changed = [name for name, identity in seen.items() if now.get(name) != identity]
    return f"shards that were complete were lost or written anew: {changed}" if changed else ""


def _difference(
    out: Path, seen: dict[str, tuple[int, int, str]], wanted: tuple[stub.Contents, dict[str, bytes]]
) -> str:
    """Say what is wrong with a finished cache."""
    if lost := _lost(seen, stub.identities(out)):
        return lost
    if left := stub.temporaries(out):
        return f"temporary files left: {left}"
    if stub.finals(out) != wanted[1]:
        return "its shards are not those of an undisturbed run, byte for byte"
    return "" if stub.same(stub.contents(out), wanted[0]) else "it reads back differently from an undisturbed run"


def _by_strace(campaign: Campaign, dataset: Path, wanted: tuple[stub.Contents, dict[str, bytes]]) -> None:
    """Kill processes of their own by strace, at the N-th call that the kernel sees."""
    if not campaign.size.injected_kills:
        campaign.tally.skipped["kills by strace"] = f"not in --{campaign.size.name}"
    elif not shutil.which("strace"):
        campaign.tally.skipped["kills by strace"] = "no strace on this machine"
    else:
        for number in range(campaign.size.injected_kills):
            rng = campaign.random("strace", number)
            _one_strace(campaign, dataset, wanted, rng.choice(STRACE), rng.randint(1, 8))


def _one_strace(
    campaign: Campaign, dataset: Path, wanted: tuple[stub.Contents, dict[str, bytes]], call: str, number: int
) -> None:
    out = campaign.folder("cache")
    inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
    run_it = [sys.executable, "-m", "faults.harness.victim", str(dataset), str(out)]
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", "/dev/null", *inject, *run_it], cwd=ROOT, stdout=subprocess.DEVNULL, check=False
    )
    if done.returncode not in (-signal.SIGKILL, 128 + signal.SIGKILL, 0):
        campaign.bad(f"strace {call} {number}: ended with {done.returncode}", keep=out)
        return
    campaign.tally.counts.update(["killed by strace"] if done.returncode else ["strace: finished first"])
    seen = stub.identities(out)
    status = children.wait(children.fork(lambda: stub.run_command(stub.command(dataset, out))))
    problem = f"the next start ended with {status}" if status != 0 else _difference(out, seen, wanted)
    if problem:
        campaign.bad(f"strace {call} {number}: {problem}", silent=status == 0, keep=out)
    else:
        campaign.good("finished caches")
