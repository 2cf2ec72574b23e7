"""A limit on file size, and a small file system, that the real extract command really fills.

It must end with exit status 8 and a message that says so, leave nothing half written, keep what was complete,
and be done once there is room.
"""

import os
import random
import re
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from faults.harness import children, stub
from faults.harness.trial import Campaign
from featcache.base.errors import StorageError

IMAGES = 8
ROOM_FOR_FOLDERS = 24 << 10
PAGE = 4096


def run(campaign: Campaign) -> None:
    """Fill up at every one of some sizes, by both means."""
    dataset = stub.make_dataset(campaign.folder("data") / "drawn", images=IMAGES)
    reference = campaign.scratch / "reference"
    children.undisturbed(lambda: stub.run_command(stub.command(dataset, reference)))
    sizes = [path.stat().st_size for path in reference.rglob("*") if path.is_file()]
    wanted = stub.checked_contents(reference), stub.finals(reference)
    for limit in _spread(max(sizes), campaign.size.file_limits, campaign.random("limits")):
        _with_limit(campaign, dataset, limit, wanted)
    _with_small_disks(campaign, dataset, sum(sizes), wanted)


def _spread(largest: int, count: int, rng: random.Random) -> list[int]:
    """Return sizes from 0 to a little more than what is needed, one at random in each of equal steps."""
    step = (largest + PAGE) / count
    return [0, *(int((i + rng.random()) * step) for i in range(1, count))]


Wanted = tuple[stub.Contents, dict[str, bytes]]


def _with_limit(campaign: Campaign, dataset: Path, limit: int, wanted: Wanted) -> None:
    out = campaign.scratch / "cache"
    shutil.rmtree(out, ignore_errors=True)

    def limited() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        return stub.run_command(stub.command(dataset, out))

    _fill(campaign, f"limit of {limit}", limited, lambda: None, dataset, out, wanted)


def _fill(
    campaign: Campaign,
    what: str,
    limited: Callable[[], int],
    make_room: Callable[[], object],
    dataset: Path,
    out: Path,
    wanted: Wanted,
) -> None:
    """Run into the limit, look at what is left, make room, and run again."""
    said = campaign.scratch / "stderr"
    said.unlink(missing_ok=True)
    status = children.wait(children.fork(limited, stderr=said))
    problem = _wrong_end(status, "" if what.startswith("limit") else said.read_text()) or _wrong_state(out, wanted)
    seen = stub.identities(out)
    make_room()
    if not problem:
        again = children.wait(children.fork(lambda: stub.run_command(stub.command(dataset, out))))
        problem = f"the next run ended with {again}" if again != 0 else ""
    if not problem and any(stub.identities(out).get(name) != identity for name, identity in seen.items()):
        problem = "the next run wrote complete shards anew"
    if not problem and not (stub.finals(out) == wanted[1] and stub.same(stub.contents(out), wanted[0])):
        problem = "the next run did not end in the exact cache"
    if problem:
        campaign.bad(f"{what}: {problem}", keep=out if out.is_dir() else None)
    else:
        campaign.good(f"{what.split()[0]}: exit {status}")


def _wrong_end(status: object, said: str) -> str:
    """Say what is wrong with an end; said is '' where the limit may have cut the message short too."""
    if status not in (0, StorageError.exit_code):
        return f"ended with {status}, expected {StorageError.exit_code}"
    if status and said and not re.search(r"error: .*(cannot write|are needed)", said):
        return f"said {said!r}"
    return ""


def _wrong_state(out: Path, wanted: Wanted) -> str:
    wrong = [name for name, data in stub.finals(out).items() if wanted[1].get(name) != data]
    if wrong:
        return f"not whole under its final name: {wrong}"
    if left := stub.temporaries(out):
        return f"temporary files left: {left}"
    return ""


def _with_small_disks(campaign: Campaign, dataset: Path, needed: int, wanted: Wanted) -> None:
    if not campaign.size.disk_sizes:
        campaign.tally.skipped["small file systems"] = f"not in --{campaign.size.name}"
        return
    mount = campaign.folder("disk")
    if os.geteuid() != 0 or not _mount(mount, PAGE * 4):
        campaign.tally.skipped["small file systems"] = "mounting a tmpfs needs root"
        return
    subprocess.run(["umount", mount], check=True)
    for size in _spread(needed + ROOM_FOR_FOLDERS, campaign.size.disk_sizes, campaign.random("disks")):
        _with_disk(campaign, dataset, mount, max(PAGE * 2, size), wanted)


def _mount(folder: Path, size: int, *options: str) -> bool:
    option = ",".join([*options, f"size={size}"])
    return subprocess.run(["mount", "-t", "tmpfs", "-o", option, "faults", folder], check=False).returncode == 0


def _with_disk(campaign: Campaign, dataset: Path, mount: Path, size: int, wanted: Wanted) -> None:
    out = mount / "cache"
    if not _mount(mount, size):
        raise RuntimeError(f"{mount}: cannot be mounted any more")
    try:
        _fill(
            campaign,
            f"disk of {size}",
            lambda: stub.run_command(stub.command(dataset, out)),
            lambda: _mount(mount, size * 2 + (1 << 20), "remount"),
            dataset,
            out,
            wanted,
        )
    finally:
        subprocess.run(["umount", mount], check=True)
