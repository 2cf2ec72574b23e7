"""What an epoch by shards saves in reading, and what it costs in rho, against an epoch in random order.

Reading: the epochs of a training on drawn features are read from files that are not in the file cache. Of each order
the figures are the files opened and the calls that read, in all, and images/s; the two take turns. On a disk of one's
own they hardly differ. Where each opening and each call waits for a network, their numbers are what counts.

Rho (with --cache): heads of the same seeds are trained in both orders for every split; the difference of a seed is that
of its mean test rho over splits, and the interval Student's t over seeds. --window says how many shards are mixed,
fewer than the program has where the cache is small.

Example: python -m bench.orders
Example: python -m bench.orders --cache cache/complexity --window 1 --seeds 6
"""

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import click
import numpy as np

import head.data.batches
from bench.cache import make_cache
from bench.encodings import mean_rho, paired
from bench.features import drawn
from featcache.datasets.splits import Part
from featcache.settings import COMPRESSIONS
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.folder import shard_path
from head.data.batches import epoch_batches
from head.settings import ORDERS


def forget(cache: FeatureCache) -> None:
    """Take the shards of a cache out of the file cache."""
    for entry in cache.manifest.shards:
        descriptor = os.open(shard_path(cache.path, entry.file), os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the system's calls that open and read files in the block."""
    found: Counter[str] = Counter()

    def counting(name: str) -> Any:
        plain = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            found[name] += 1
            return plain(*args, **kwargs)

        return mock.patch.object(os, name, call)

    with counting("open"), counting("pread"), counting("preadv"):
        yield found


def read_epoch(cache: FeatureCache, order: str, *, epoch: int, batch: int) -> dict[str, float]:
    """Read an epoch of all images from files that are not in memory; return its figures."""
    part = Part(np.arange(cache.rows), np.zeros(cache.rows))
    shards_of = cache.shards_of if order == "shards" else None
    how = {"seed": 0, "epoch": epoch, "batch_size": batch, "shards_of": shards_of}
    pairs = [(rows, views) for rows, views, _ in epoch_batches(part, views=cache.views, **how)]
    forget(cache)
    with counted() as calls:
        started = time.perf_counter()
        for _ in cache.batches(pairs):
            pass
        seconds = time.perf_counter() - started
    return {
        "opened": calls["open"],
        "reads": calls["pread"] + calls["preadv"],
        "images_per_second": cache.rows / seconds,
    }


def compare_reading(*, images: int, views: int, rows_per_shard: int, batch: int, rounds: int, compression: str) -> Any:
    """Return the medians over epochs of what each order takes."""
    found: dict[str, list[dict[str, float]]] = {order: [] for order in ORDERS}
    with tempfile.TemporaryDirectory() as folder:
        path = make_cache(Path(folder, "c"), drawn(images * views), views=views, rows_per_shard=rows_per_shard,
                          compression=compression)  # fmt: skip
        cache = open_cache(path)
        cache.read(np.arange(cache.rows), 0)  # opens every shard's tables
        for epoch in range(1, rounds + 1):
            for order in ORDERS:
                found[order].append(read_epoch(cache, order, epoch=epoch, batch=batch))
    return {
        "files": -(-images // rows_per_shard),
        **{
            order: {name: round(median(one[name] for one in epochs), 1) for name in epochs[0]}
            for order, epochs in found.items()
        },
    }


def compare_rho(cache: FeatureCache, *, window: int, seeds: int, **settings: Any) -> Any:
    """Return the paired difference (shards - random) of test rho."""
    with tempfile.TemporaryDirectory() as runs, mock.patch.object(head.data.batches, "WINDOW", window):
        rho = {
            order: [mean_rho(cache, Path(runs, order), seed=seed, order=order, **settings) for seed in range(seeds)]
            for order in ORDERS
        }
    differences = [b - a for a, b in zip(rho["random"], rho["shards"], strict=True)]
    means = {f"test_rho_{order}": round(float(np.mean(values)), 4) for order, values in rho.items()}
    return {"shards": len(cache.manifest.shards), "window": window, **settings, **means, **paired(differences)}


@click.command()
@click.option("--cache", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Compare rho on a cache.")
@click.option("--window", default=head.data.batches.WINDOW, show_default=True, help="Shards that are mixed, for rho.")
@click.option("--seeds", default=6, show_default=True)
@click.option("--epochs", default=60, show_default=True)
@click.option("--hidden-size", default=1024, show_default=True)
@click.option("--images", default=1536, show_default=True, help="Drawn images, for reading.")
@click.option("--views", default=2, show_default=True)
@click.option("--rows-per-shard", default=32, show_default=True)
@click.option("--batch", default=64, show_default=True, help="Images a step.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--compression", default="none", show_default=True, type=click.Choice(COMPRESSIONS[1:]))
def main(cache: Path | None, window: int, seeds: int, epochs: int, hidden_size: int, batch: int, **how: Any) -> None:
    """Print one JSON line of figures."""
    if cache:
        settings = {"epochs": epochs, "hidden_size": hidden_size, "batch_size": batch}
        result = compare_rho(open_cache(cache), window=window, seeds=seeds, **settings)
    else:
        result = {**how, "batch": batch, **compare_reading(batch=batch, **how)}
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
