"""Damage mended by the real verify-cache --repair, which is killed on the way and started again.

Afterwards every shard is the file it was, byte for byte, those that were never damaged are untouched, and nothing
else is left.
"""

import random
import shutil
import signal
from pathlib import Path

from faults.campaigns.kills import INSIDE, killed
from faults.harness import children, stub
from faults.harness.trial import Campaign
from faults.harness.victim import Death
from featcache.store.folder import INDEX_NAME, shard_paths

IMAGES, MOST_KILLS, SLOWEST_KILL = 8, 2, 0.2
TO_SHARDS = ("flip", "cut", "removal", "other shard")


def run(campaign: Campaign) -> None:
    """Damage a cache, kill its repair up to twice, let it finish, and compare."""
    dataset = stub.make_dataset(campaign.folder("data") / "drawn", images=IMAGES)
    reference = campaign.scratch / "reference"
    children.undisturbed(lambda: stub.run_command(stub.command(dataset, reference)))
    for number in range(campaign.size.repairs):
        _one_repair(campaign, reference, campaign.random(number), f"repair {number}")


def _one_repair(campaign: Campaign, reference: Path, rng: random.Random, name: str) -> None:
    out = campaign.scratch / "cache"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(reference, out)
    # with cache.h5 lost as well, the images of an unreadable shard are not known, and repair rightly refuses
    damages = ["index"] if rng.random() < 0.1 else rng.sample(TO_SHARDS, rng.randint(1, 3))
    for damage in damages:
        _damage(out, damage, rng)
    wanted = stub.finals(reference)
    sound = {file for file, data in stub.finals(out).items() if data == wanted.get(file)}
    untouched = {file: identity for file, identity in stub.identities(out).items() if file in sound}
    command = ["verify-cache", "--cache", str(out), "--repair"]
    for _ in range(rng.randint(0, MOST_KILLS)):
        call = rng.choice(("write", "fsync", "replace", "posix_fallocate", "unlink"))
        death = rng.choice((Death(call, rng.randint(1, 3), rng.choice(INSIDE[call])), rng.uniform(0, SLOWEST_KILL)))
        status = killed(command, out, death)
        if status not in (-signal.SIGKILL, 0):
            campaign.bad(f"{name}, {damages}, {death}: the command ended with {status}", keep=out)
            return
        campaign.tally.counts.update(["kills"] if status else [])
    status = children.wait(children.fork(lambda: stub.run_command(command)))
    problem = f"the last start ended with {status}" if status != 0 else _difference(out, reference, untouched)
    if problem:
        campaign.bad(f"{name}, {damages}: {problem}", silent=status == 0, keep=out)
    else:
        campaign.good("mended", *(f"after {damage}" for damage in damages))


def _damage(out: Path, damage: str, rng: random.Random) -> None:
    if damage == "index":
        (out / INDEX_NAME).write_bytes(b"nonsense")
        return
    paths = shard_paths(out)
    path = rng.choice(paths)
    data = bytearray(path.read_bytes())
    if damage == "flip" and data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[: rng.randrange(len(data) + 1)])
    elif damage == "other shard":
        path.write_bytes(rng.choice(paths).read_bytes())
    elif damage == "removal":
        path.unlink()


def _difference(out: Path, reference: Path, untouched: dict[str, tuple[int, int, str]]) -> str:
    """Say what is wrong with a mended cache."""
    if stub.finals(out) != stub.finals(reference):
        return "its shards are not those that were damaged, byte for byte"
    now = stub.identities(out)
    if written := [file for file, identity in untouched.items() if now[file] != identity]:
        return f"sound shards were written anew: {written}"
    if left := stub.temporaries(out):
        return f"temporary files left: {left}"
    return "" if stub.same(stub.contents(out), stub.contents(reference)) else "it reads back differently"
