"""Training on a cache against what else one could do: images per second, in rounds one after another in one run.

Features are 196 x 1024 float16, 70% zeros, in batches of 256. The ways, each in a process of its own (`bench.ways`):
this program, from the cache, with the cache's digests checked and its epochs' bookkeeping, from memory, and with its
features held in memory (`--resident yes`); the same without attention; the paper's equations from memory, in eager
float32 with the keys computed once (the same head, `fused_off`) and by torch.compile under autocast to bfloat16; eager
ones from a DataLoader with 2 workers over h5py; the published architecture in eager float32, from memory. The limit is
the products that no way around them is known for: K x and its weights' gradient, alone, in float32 and in bfloat16.
Figures are medians over rounds. With --against CHECKOUT, a folder with another commit of this program that has this
file, as `git worktree add CHECKOUT COMMIT` makes it, its training is measured in the same rounds.

Seconds per epoch of LaMem's size (45,000 + 3,741 images) are extrapolated from these rates; with --lamem FOLDER an
epoch without attention is run in full, on drawn vectors with the real scores of train_1 and val_1.

Example: python -m bench.train
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import torch

from bench.cache import make_cache
from bench.features import CHANNELS, POSITIONS, drawn
from bench.ways import OTHERS, Sizes, Way, other_way, own_training
from featcache.base.devices import resolve_device
from featcache.base.progress import silent
from featcache.datasets.splits import Part
from featcache.store.cache import FeatureCache, open_cache
from head.data.batches import split_data
from head.settings import TrainSettings
from head.training.gradients.checkpoint import State
from head.training.gradients.trainer import Trainer
from head.training.job import TrainingJob

LAMEM_TRAIN, LAMEM_VAL = 45_000, 3_741
_STARTS = ("attention", "no_attention")
OWN = {  # names of ways, and settings of them
    "own": {"in_memory": False},
    "own_in_memory": {"in_memory": True},
    "own_resident": {"resident": "yes"},
    "no_attention": {"attention": False},
}
_FIRST_STEP = """
import sys, time
from pathlib import Path
from featcache.store.cache import open_cache
from head.settings import TrainSettings
from head.training.job import TrainingJob
from head.training.train import train
from head.training.gradients.trainer import Trainer
cache, folder, attention, device, started = sys.argv[1:]
settings, step = TrainSettings(epochs=2, attention=attention == "True"), Trainer.step
def timed(*arguments):
    before = time.time()
    value = step(*arguments)
    print(before - float(started), time.time() - float(started), flush=True)
    return value
Trainer.step = timed
train(TrainingJob(open_cache(cache), "first", settings, Path(folder), "first", device=device))
"""


def draw_cache(folder: Path, images: int, batch: int) -> FeatureCache:
    """Return a cache of so many training images, a batch to validate on, and a split 'first' of a single batch."""
    features = drawn(images + batch)
    scores = np.random.default_rng(1).uniform(0.2, 1, len(features))
    rows = np.arange(len(features))

    def part(chosen: Any) -> Part:
        return Part(rows[chosen], scores[chosen])

    splits = {
        "1": {"train": part(slice(images)), "val": part(slice(images, None))},
        "first": {"train": part(slice(batch)), "val": part(slice(images, images + 2))},
    }
    return open_cache(make_cache(folder, features, views=1, splits=splits))


class Epochs:
    """Epochs of this program's own training, one at a time."""

    def __init__(
        self, cache: FeatureCache, folder: Path, *, device: str = "cpu", resident: str = "no", **changes: Any
    ) -> None:
        settings, place = TrainSettings(epochs=10**5, patience=10**5, **changes), resolve_device(device)
        data = split_data(cache, "1", settings)
        self.images, self.val_images = len(data.train.rows), len(data.select.rows)
        job = TrainingJob(cache, "1", settings, folder, "bench", device=device, resident=resident)
        how: dict[str, Any] = {"device": place, "on_progress": silent, "on_history": lambda _: None}
        trainer = Trainer(job, data, resident=job.resident_features(data, place), **how)
        self.products, self.state = trainer.products, State(0, [], {})
        self._epochs = trainer.epochs(self.state)
        self.next()  # compiles

    def next(self) -> dict[str, float]:
        """Train an epoch; return images per second of training and of evaluation, and the share of waiting."""
        next(self._epochs)
        last = self.state.history[-1]
        training = self.images / last["images_per_second"]
        return {
            "train": last["images_per_second"],
            "evaluate": self.val_images / (last["seconds"] - training),
            "waiting": last["waiting_seconds"] / last["seconds"],
        }


def first_step(cache: FeatureCache, folder: Path, device: str, *, attention: bool) -> dict[str, float]:
    """Return seconds from the start of a fresh process to its first step and to that step's end, and of the second."""
    arguments = [str(cache.path), str(folder), str(attention), device, str(time.time())]
    output = subprocess.check_output([sys.executable, "-c", _FIRST_STEP, *arguments], text=True)
    first, second = (tuple(map(float, line.split())) for line in output.splitlines())
    return {
        "to_the_first_step": round(first[0], 2),
        "to_the_end_of_the_first_step": round(first[1], 2),
        "the_second_step": round(second[1] - second[0], 2),
    }


def lamem_epochs(folder: Path, splits: Path, epochs: int, device: str) -> list[dict[str, float]]:
    """Return rates of epochs without attention on drawn vectors with the real scores of train_1 and val_1."""
    parts, rows = {}, 0
    for part in ("train", "val"):
        scores = np.array([float(line.split()[1]) for line in (splits / f"{part}_1.txt").read_text().splitlines()])
        parts[part] = Part(np.arange(rows, rows + len(scores)), scores)
        rows += len(scores)
    vectors = np.random.default_rng(0).random((2 * rows, 1, CHANNELS), np.float32).astype(np.float16)
    cache = open_cache(make_cache(folder, vectors, views=2, rows_per_shard=4096, splits={"1": parts}))
    training = Epochs(cache, folder, device=device, attention=False)
    return [{**training.next(), "seconds": training.state.history[-1]["seconds"]} for _ in range(epochs)]


def start_ways(names: list[str], sizes: Sizes, folder: Path, precision: str, against: Path | None) -> dict[str, Way]:
    """Return the ways of these names, ready to be measured."""
    ways = {}
    for name in names:
        own, _, other = name.partition("_of_")
        if own in OWN:
            changes = {"precision": precision, **OWN[own]}
            ways[name] = own_training(sizes, folder / name, checkout=against if other else None, **changes)
        elif name == "compiled_bf16" and not shutil.which("g++"):
            click.echo("compiled_bf16: not measured, as there is no C++ compiler", err=True)
        else:
            ways[name] = other_way(name, sizes)
    return ways


def ratios(rounds: list[dict[str, dict[str, float]]], way: str) -> dict[str, float]:
    """Return the median over rounds of one way's rate over each other's of the same round."""
    others = [name for name in rounds[0] if name != way]
    return {name: round(median(one[way]["train"] / one[name]["train"] for one in rounds), 2) for name in others}


def epoch_seconds(rounds: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    """Return seconds for an epoch of LaMem's size, with evaluation where a way's round has some."""
    seconds = {}
    for name in rounds[0]:
        train, evaluate = (median(one[name].get(key, np.inf) for one in rounds) for key in ("train", "evaluate"))
        seconds[name] = round(LAMEM_TRAIN / train + LAMEM_VAL / evaluate, 1)
    return seconds


@click.command()
@click.option("--images", default=1024, show_default=True, help="Images to train on.")
@click.option("--batch", default=256, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True)
@click.option("--ways", "named", default=",".join([*OWN, *OTHERS]), show_default=True, help="What is measured.")
@click.option("--against", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Another checkout.")
@click.option("--starts/--no-starts", default=True, show_default=True, help="Time the first steps of new processes.")
@click.option("--lamem", type=click.Path(path_type=Path, exists=True), help="Folder with train_1.txt and val_1.txt.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
def main(
    images: int,
    batch: int,
    rounds: int,
    precision: str,
    named: str,
    against: Path | None,
    starts: bool,
    lamem: Path | None,
    device: str,
) -> None:
    """Print images per second of each way, ratios, and what they make of an epoch of LaMem's size."""
    names = [name for name in named.split(",") if name]
    if unknown := [name for name in names if name not in {*OWN, *OTHERS}]:
        raise click.BadParameter(f"no way is called {', '.join(unknown)}; there are {', '.join([*OWN, *OTHERS])}")
    if against is not None:
        names += [f"{name}_of_against" for name in ("own", "own_in_memory")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = draw_cache(folder / "drawn", images, batch)
        sizes = Sizes(images, batch, POSITIONS, CHANNELS, str(cache.path), str(resolve_device(device)))
        started = {}
        if starts:
            started = {way: first_step(cache, folder / way, device, attention=way == "attention") for way in _STARTS}
        ways = start_ways(names, sizes, folder, precision, against)
        results = [{way: running.measure() for way, running in ways.items()} for _ in range(rounds)]
        for running in ways.values():
            running.end()
        lamem_results = lamem_epochs(folder / "lamem", lamem, rounds, device) if lamem else []
    report = {
        "device": sizes.device,
        "products": {way: running.ready["products"] for way, running in ways.items() if running.ready},
        "threads": torch.get_num_threads(),
        "images_per_second": {way: round(median(one[way]["train"] for one in results), 1) for way in ways},
        "over": {way: ratios(results, way) for way in ways if way in OWN},
        "waiting_for_data": {
            way: round(median(one[way]["waiting"] for one in results), 4)
            for way in ways
            if "waiting" in results[0][way]
        },
        "lamem_epoch_seconds_extrapolated": epoch_seconds(results),
        "lamem_no_attention_epochs": lamem_results,
        "start": started,
    }
    click.echo(json.dumps(report))


if __name__ == "__main__":
    main()
