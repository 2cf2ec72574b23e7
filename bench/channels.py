"""What fewer channels bring: images per second of training, and what they do to test rho.

Without --cache, images per second of AMNet's head on drawn features, 196 x 1024 float16, 70% zeros, in batches of 256:
with all channels from the cache; projected while it is trained (`train-head --channels`), the first epoch, in which
directions are found and everything is projected, apart from the others; and on a cache of that many channels made
beforehand (`project-cache`). But for what is projected, features are read from the cache in every epoch, or with
--resident held as `train-head --resident` does. Ways take turns in rounds of one run, figures are medians over rounds.
Seconds of an epoch of LaMem's size (45,000 + 3,741 images) are extrapolated from these rates.

With --cache, the paired difference of mean test rho over splits, by seed, of heads with so many channels and with all,
with the interval of Student's t over seeds. Runs are those of `amnet train-head --channels 0,C`: what is there is not
trained again.

Example: python -m bench.channels --channels 256
         python -m bench.channels --channels 128 --cache cache/photos --layer all --seeds 7 --epochs 12
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import torch

from bench.cache import make_cache
from bench.encodings import mean_rho, paired
from bench.features import drawn
from featcache.base.progress import silent
from featcache.datasets.splits import Part
from featcache.maintenance.project import project_cache
from featcache.store.cache import FeatureCache, open_cache
from head.data.batches import split_data
from head.settings import RESIDENT, TrainSettings
from head.training.gradients.checkpoint import State
from head.training.gradients.trainer import Trainer
from head.training.job import TrainingJob

TRAIN, VAL = 45_000, 3_741  # of a split of LaMem
EPOCHS = 40  # of which a whole training is said


def drawn_cache(folder: Path, images: int, batch: int) -> FeatureCache:
    """Return a cache of so many training images and a batch to validate on."""
    features = drawn(images + batch)
    scores, rows = np.random.default_rng(1).uniform(0.2, 1, len(features)), np.arange(len(features))
    parts = {"train": Part(rows[:images], scores[:images]), "val": Part(rows[images:], scores[images:])}
    return open_cache(make_cache(folder, features, views=1, splits={"1": parts}))


def epochs(cache: FeatureCache, folder: Path, resident: str, **settings: Any) -> Iterator[dict[str, float]]:
    """Yield seconds before the first epoch, then images per second of each epoch's training and evaluation."""
    wanted = TrainSettings(epochs=10**5, patience=10**5, **settings)
    data = split_data(cache, "1", wanted)
    started = time.perf_counter()
    job, device = TrainingJob(cache, "1", wanted, folder, "bench", resident=resident), torch.device("cpu")
    how: dict[str, Any] = {"device": device, "on_progress": silent, "on_history": lambda _: None}
    trainer = Trainer(job, data, resident=job.resident_features(data, device), **how)
    yield {"start": time.perf_counter() - started, "images": len(data.train.rows)}
    state = State(0, [], {})
    for _ in trainer.epochs(state):
        last = state.history[-1]
        seconds = len(data.train.rows) / last["images_per_second"]
        evaluated = len(data.select.rows) / (last["seconds"] - seconds)
        yield {"train": last["images_per_second"], "evaluate": evaluated}


def rates(channels: int, images: int, batch: int, rounds: int, resident: str) -> dict[str, Any]:
    """Return images per second of each way, how long what comes before takes, and what LaMem's size would take."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = drawn_cache(folder / "drawn", images, batch)
        started = time.perf_counter()
        project_cache(cache.path, folder / "projected", channels=channels, split="1")
        made = time.perf_counter() - started
        derived = open_cache(folder / "projected")
        ways = {
            "all": epochs(cache, folder, resident, batch_size=batch),
            "channels": epochs(cache, folder, resident, batch_size=batch, channels=channels),
            "derived": epochs(derived, folder, resident, batch_size=batch),
        }
        starts = {way: next(of) for way, of in ways.items()}
        for of in ways.values():
            next(of)  # compiles, and reads what is to be kept
        found = [{way: next(of) for way, of in ways.items()} for _ in range(rounds)]
    rate = {way: {key: median(one[way][key] for one in found) for key in ("train", "evaluate")} for way in ways}
    epoch = {way: TRAIN / one["train"] + VAL / one["evaluate"] for way, one in rate.items()}
    before = starts["channels"]["start"] - starts["all"]["start"]
    return {
        "channels": channels,
        "resident": resident,
        "threads": torch.get_num_threads(),
        "images_per_second": {way: round(one["train"], 1) for way, one in rate.items()},
        "over_all": {way: round(rate[way]["train"] / rate["all"]["train"], 2) for way in ("channels", "derived")},
        "rounds_over_all": [round(one["channels"]["train"] / one["all"]["train"], 2) for one in found],
        "start_seconds": {way: round(one["start"], 2) for way, one in starts.items()},
        "found_and_projected_images_per_second": round(images / before, 1),
        "project_cache_images_per_second": round((images + batch) / made, 1),
        "lamem_epoch_seconds_extrapolated": {way: round(seconds, 1) for way, seconds in epoch.items()},
        f"lamem_{EPOCHS}_epochs_minutes_extrapolated": {
            way: round(EPOCHS * seconds / 60, 1) for way, seconds in epoch.items()
        },
    }


def differences(cache: FeatureCache, runs: Path, channels: int, seeds: int, **settings: Any) -> dict[str, Any]:
    """Return mean test rho with all channels and with so many, and the paired difference."""

    def of(kept: int) -> list[float]:
        found: Callable[..., float] = mean_rho
        return [found(cache, runs / cache.name, seed=seed, channels=kept, **settings) for seed in range(seeds)]

    rho = {kept: of(kept) for kept in (0, channels)}
    means = {name: round(float(np.mean(rho[kept])), 4) for name, kept in (("all", 0), ("channels", channels))}
    found = paired([b - a for a, b in zip(rho[0], rho[channels], strict=True)])
    return {"cache": cache.name, "splits": len(cache.splits), "channels": channels, **settings, "rho": means, **found}


@click.command()
@click.option("--channels", default=256, show_default=True)
@click.option("--images", default=1024, show_default=True, help="Images to train on, drawn.")
@click.option("--batch", default=256, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--resident", type=click.Choice(RESIDENT), default="no", show_default=True, help="As of train-head.")
@click.option("--cache", "folder", type=click.Path(path_type=Path), help="Measure rho on this cache instead.")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
@click.option("--layer", "layers", multiple=True, help="Repeated, or all.")
@click.option("--seeds", default=7, show_default=True)
@click.option("--epochs", "most", default=60, show_default=True, help="At most so many.")
def main(
    channels: int, images: int, batch: int, rounds: int, resident: str, folder: Path | None, runs: Path,
    layers: tuple[str, ...], seeds: int, most: int,
) -> None:  # fmt: skip
    """Print one JSON line: rates, or with --cache the paired difference of test rho (fewer channels - all)."""
    if folder is None:
        click.echo(json.dumps(rates(channels, images, batch, rounds, resident)))
        return
    click.echo(json.dumps(differences(open_cache(folder), runs, channels, seeds, layers=layers, epochs=most)))


if __name__ == "__main__":
    main()
