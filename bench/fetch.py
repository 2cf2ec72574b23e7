"""Does fetch bear cut connections without a byte downloaded twice, and refuse every hostile archive? All on loopback.

A dataset of random bytes in a tar is served by a server that cuts connections at drawn offsets and counts what it
sends for each offset; then it is fetched by a process that is killed on the way and started again; then every hostile
archive is fetched, and everything outside the work folder is compared with what was there before.

Example: python -m bench.fetch --megabytes 200 --cuts 20
"""

import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from bench.cutting_server import Served, serving
from bench.hostile_archives import hostile_archives, tar_of


def dataset_archive(megabytes: int, seed: int) -> bytes:
    """Return a tar of some 10**6 * megabytes bytes: 100 images of random bytes, one split."""
    rng = random.Random(seed)
    images = {f"lamem/images/{i:03d}.jpg": rng.randbytes(megabytes * 10_000) for i in range(100)}
    lines = "".join(f"{i:03d}.jpg {i / 100:.2f}\n" for i in range(100))
    return tar_of(images | {"lamem/splits/train_1.txt": lines.encode()})


def cut_connections(data: bytes, cuts: int, seed: int, folder: Path) -> dict[str, Any]:
    """Fetch through a server that cuts so many connections; return what it sent and what came out."""
    from featcache.datasets.fetch.download import Patience
    from featcache.datasets.fetch.fetch import fetch

    offsets = sorted(random.Random(seed).sample(range(1, len(data)), cuts))
    served = Served(data, cuts=offsets)
    started = time.perf_counter()
    with serving(served) as url:
        done = fetch("lamem", folder, url=f"{url}/lamem.tar", patience=Patience(first_wait=0.01))
    return {
        "bytes": len(data),
        "connections_cut": cuts,
        "requests": len(served.requests),
        "bytes_sent": sum(end - first for first, end in served.sent),
        "bytes_sent_more_than_once": served.sent_more_than_once(),
        "bytes_received": done.received,
        "sha256_right": done.sha256 == hashlib.sha256(data).hexdigest(),
        "images": done.images,
        "left_over": sorted({path.name for path in folder.iterdir()} - {"images", "splits"}),
        "seconds": round(time.perf_counter() - started, 2),
    }


def killed_process(data: bytes, kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """Fetch by a process that is killed so many times at drawn offsets, then let it end."""
    offsets = sorted(random.Random(seed).sample(range(1, len(data)), kills))
    served = Served(data, hang=True, cuts=list(offsets))
    code = (
        "import sys\nfrom featcache.datasets.fetch.fetch import fetch\n"
        "print(fetch('lamem', sys.argv[1], url=sys.argv[2]).sha256)"
    )
    with serving(served) as url:
        command = [sys.executable, "-c", code, str(folder), f"{url}/lamem.tar"]
        for number in range(kills):
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
                while len(served.at) <= number or served.at[number] < offsets[number]:
                    time.sleep(0.01)
                time.sleep(0.2)  # what was sent last has arrived
                process.send_signal(signal.SIGKILL)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {
        "kills": kills,
        "bytes_sent_more_than_once": served.sent_more_than_once(),
        "sha256_right": done.stdout.strip() == hashlib.sha256(data).hexdigest(),
    }


def hostile(folder: Path) -> dict[str, Any]:
    """Fetch every hostile archive; return what came of each and what changed outside the work folder."""
    from featcache.base.errors import CorruptFile, HostileFile
    from featcache.datasets.fetch.fetch import WORK, fetch

    outcomes: dict[str, int] = {}
    folder.mkdir(parents=True)
    root = folder / "a" / "b" / "dataset"
    archive = folder / "archive"
    slowest, written = 0.0, []
    for data in hostile_archives().values():
        archive.write_bytes(data)
        before = _everything(folder)
        started = time.perf_counter()
        try:
            fetch("lamem", root, file=archive)
            outcome = "accepted"
        except (HostileFile, CorruptFile) as error:
            outcome = type(error).__name__
        slowest = max(slowest, time.perf_counter() - started)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        fresh = {path for path in _everything(folder) - before if not path.startswith(str(root / WORK))}
        written += sorted(fresh - {str(path) for path in (root, *root.parents)})
    return {
        "archives": sum(outcomes.values()),
        "outcomes": outcomes,
        "written_outside": written,
        "slowest_seconds": round(slowest, 2),
    }


def _everything(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


@click.command()
@click.option("--megabytes", default=200, show_default=True)
@click.option("--cuts", default=20, show_default=True)
@click.option("--kills", default=3, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(megabytes: int, cuts: int, kills: int, seed: int) -> None:
    """Print one JSON line with what came of each."""
    data = dataset_archive(megabytes, seed)
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "cuts": cut_connections(data, cuts, seed, Path(folder, "cuts")),
            "kills": killed_process(data, kills, seed, Path(folder, "kills")),
            "hostile": hostile(Path(folder, "hostile")),
        }
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
