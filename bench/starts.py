"""What a command costs a user who has few images: seconds to its first word on stderr, and to its end, as processes.

Each is beside the time that `import torch` takes on the same machine, in the same round; and, with --against, beside
that of another checkout of this project, the two by turns.

Example: python -m bench.starts --images photos/ --against ../older
"""

import csv
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from PIL import Image

RATED, NEW, SPLITS = 150, 13, 5
_PARTS = ("test", "train", "train", "val", "train", "train", "test", "train", "train", "train")
_HERE = Path(__file__).resolve().parent.parent
_EXTRACT = ("extract", "--dataset", "own.csv", "--backbone", "efficientnet_lite0", "--eval-view", "squash")
_TRAIN = ("train-head", "--split", "all", "--cache", "cache/own")
_PREDICT = ("predict", "--head", "runs/own/paper/split-1", "new")  # as older versions take it, too


class Timed(NamedTuple):
    """Seconds from the start of a process to its first byte on stderr, None if it printed none, and to its end."""

    first_word: float | None
    end: float


def timed(command: Sequence[str], checkout: Path, folder: Path) -> Timed:
    """Return how long a command takes in folder, by the code of a checkout; raise `RuntimeError` if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0
    )
    with process:
        said = process.stderr.read(1) if process.stderr else b""
        first = time.perf_counter() - started if said else None
        rest = process.stderr.read() if process.stderr else b""
        process.wait()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} in {checkout}: {(said + rest).decode()}")
    return Timed(first, time.perf_counter() - started)


def amnet(*arguments: str) -> list[str]:
    """Return a command of the checkout that PYTHONPATH names."""
    return [sys.executable, "-m", "cli", *arguments]


def prepare(images: Sequence[Path], folder: Path) -> None:
    """Write a table of most images, their brightness the score, five splits with val; and a folder of `NEW` others."""
    rated, new = images[: min(RATED, len(images) - NEW)], images[-NEW:]
    with (folder / "own.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "score", *(f"split_{split}" for split in range(1, SPLITS + 1))])
        for row, path in enumerate(rated):
            with Image.open(path) as image:
                score = float(np.asarray(image.convert("L").resize((32, 32))).mean()) / 255
            parts = [_PARTS[(row + 2 * split) % len(_PARTS)] for split in range(SPLITS)]
            table.writerow([path.resolve(), f"{score:.6f}", *parts])
    (folder / "new").mkdir()
    for path in new:
        shutil.copy(path, folder / "new")
    timed(amnet(*_EXTRACT), _HERE, folder)
    timed(amnet(*_TRAIN, "--head", "amnet,ridge,svr"), _HERE, folder)


def commands() -> Iterator[tuple[str, list[str], tuple[str, ...]]]:
    """Yield each command's name, itself, and the folders that it makes."""
    yield "import torch", [sys.executable, "-c", "import torch"], ()
    yield "--help", amnet("--help"), ()
    yield "score-cache", amnet("score-cache", "--cache", "cache/own"), ()
    yield f"predict {NEW} images", amnet(*_PREDICT), ()
    yield f"predict {NEW} images with maps", amnet(*_PREDICT, "--maps", "maps"), ("maps",)
    yield "extract", amnet(*_EXTRACT, "--out", "again"), ("again",)
    yield f"train-head, {SPLITS} splits", amnet(*_TRAIN, "--runs", "trained"), ("trained",)


def measure(checkouts: dict[str, Path], folder: Path, rounds: int) -> dict[str, dict[str, list[Timed]]]:
    """Return the times of every command and checkout; a first round, which warms the file system, is not counted."""
    found: dict[str, dict[str, list[Timed]]] = {}
    for number, (name, command, made) in itertools.product(range(rounds + 1), commands()):
        for whose, checkout in checkouts.items():
            for one in made:
                shutil.rmtree(folder / one, ignore_errors=True)
            one_time = timed(command, checkout, folder)
            if number:
                found.setdefault(name, {}).setdefault(whose, []).append(one_time)
    return found


def summary(found: dict[str, dict[str, list[Timed]]]) -> dict[str, Any]:
    """Return medians over rounds: seconds, and ratios to importing torch and to the other checkout."""

    def end_of(name: str, whose: str) -> float:
        return statistics.median(one.end for one in found[name][whose])

    figures: dict[str, Any] = {}
    for name, by_checkout in found.items():
        for whose, times in by_checkout.items():
            first = [one.first_word for one in times if one.first_word is not None]
            figures.setdefault(name, {})[whose] = {
                "first_word": round(statistics.median(first), 2) if first else None,
                "end": round(end_of(name, whose), 2),
                "times_importing_torch": round(end_of(name, whose) / end_of("import torch", whose), 2),
            }
        if "older" in by_checkout:
            figures[name]["of_older"] = round(end_of(name, "here") / end_of(name, "older"), 2)
    return figures


@click.command()
@click.option("--images", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path),
              help=f"Folder of photographs; {RATED} and {NEW} are used.")  # fmt: skip
@click.option("--against", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Another checkout.")
@click.option("--rounds", default=3, show_default=True, help="Times each command runs, after once for nothing.")
def main(images: Path, against: Path | None, rounds: int) -> None:
    """Print the figures as JSON."""
    files = sorted(path for path in images.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if len(files) < 3 * NEW:
        raise click.ClickException(f"{images}: expected {3 * NEW} images or more, found {len(files)}")
    checkouts = {"here": _HERE, **({"older": against} if against else {})}
    with tempfile.TemporaryDirectory() as folder:
        prepare(files, Path(folder))
        click.echo(json.dumps(summary(measure(checkouts, Path(folder), rounds)), indent=1))


if __name__ == "__main__":
    main()
