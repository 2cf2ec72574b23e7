"""How long, and in how much memory, ratings takes for a table of ten million responses: made up here, read as a file.

Example: python -m bench.ratings --score lag
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import polars as pl

from featcache.ratings.settings import OF_RATINGS, SCORES

IMAGES, WORKERS = 60_000, 10_000
_RUN = (
    "import sys, time, cli\n"
    "cli.main(sys.argv[1:], standalone_mode=False)\n"
    "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
    "print('peak', peak.split()[1], time.process_time(), file=sys.stderr)"
)


def write_ratings(path: Path, lines: int) -> None:
    """Write lines of image, worker, rating: 1 to 5, of a true score, a bias of the worker and noise."""
    rng = np.random.default_rng(0)
    image, worker = rng.integers(IMAGES, size=lines), rng.integers(WORKERS, size=lines)
    rating = rng.normal(3, 0.6, IMAGES)[image] + rng.normal(0, 0.5, WORKERS)[worker] + rng.normal(size=lines)
    _write(path, image, worker, rating=np.clip(np.round(rating), 1, 5).astype(np.int8))


def write_log(path: Path, lines: int) -> None:
    """Write a memory game's log: a third of the lines targets, a third their repeats, the rest fillers."""
    rng = np.random.default_rng(0)
    games = lines // 3
    image, worker = rng.integers(IMAGES, size=games), np.arange(games) * WORKERS // games
    first, lag = rng.integers(1, 500, games), rng.integers(5, 150, games)
    hit = rng.random(games) < rng.normal(0.7, 0.1, IMAGES)[image] - 0.05 * np.log(lag / 75)
    columns = {
        "condition": np.repeat(["target", "target repeat", "filler"], games),
        "response": np.concatenate([rng.random(games) < 0.1, hit, rng.random(games) < 0.1]).astype(np.int8),
        "trial": np.concatenate([first, first + lag, first + 1]),
    }
    fillers = IMAGES + np.arange(games) % IMAGES
    order = rng.permutation(3 * games)
    shuffled = {name: column[order] for name, column in columns.items()}
    _write(path, np.concatenate([image, image, fillers])[order], np.tile(worker, 3)[order], **shuffled)


def _write(path: Path, image: np.ndarray, worker: np.ndarray, **others: np.ndarray) -> None:
    names = {"image": pl.format("images/{}.jpg", pl.Series(image)), "worker": pl.format("worker-{}", pl.Series(worker))}
    pl.DataFrame(others).select(**names, **{name: pl.col(name) for name in others}).write_csv(path)


def measure(lines: int, score: str, folder: Path) -> dict[str, object]:
    """Return seconds, CPU seconds and peak megabytes (10**6 bytes) of one command, in a process of its own."""
    table = folder / "responses.csv"
    (write_ratings if score in OF_RATINGS else write_log)(table, lines)
    command = [
        sys.executable,
        "-c",
        _RUN,
        "ratings",
        table,
        "--score",
        score,
        "--out",
        folder / "ratings.csv",
        "--json",
    ]
    started = time.perf_counter()
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    facts, (kibibytes, busy) = json.loads(done.stdout), done.stderr.rsplit("peak", 1)[1].split()
    return {
        "score": score,
        "lines": lines,
        "file_mb": round(table.stat().st_size / 1e6),
        "responses": facts["responses"],
        "seconds": round(seconds, 1),
        "cpu_seconds": round(float(busy), 1),
        "peak_mb": round(int(kibibytes) * 1024 / 1e6),
        "processor": _processor(),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


@click.command()
@click.option("--lines", default=10_000_000, show_default=True)
@click.option("--score", default="mean", show_default=True, type=click.Choice(SCORES))
def main(lines: int, score: str) -> None:
    """Print one JSON line: seconds, CPU seconds, peak memory, processor; on Linux alone."""
    with tempfile.TemporaryDirectory() as folder:
        click.echo(json.dumps(measure(lines, score, Path(folder))))


if __name__ == "__main__":
    main()
