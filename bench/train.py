"""Training on a cache against what else one could do: images per second, in rounds one after another in one run.

Features are 196 x 1024 float16, 70% zeros, in batches of 256. The ways: this program, from the cache, with the
cache's digests checked and its epochs' bookkeeping; the paper's equations in eager float32 with the keys computed
once (the same head, `fused_off`), from memory, and from a DataLoader with 2 workers over h5py; the published
architecture in eager float32, from memory; this program with its features held in memory, and without attention. The
limit is the products that no way around them is known for: K x and its weights' gradient, alone, in float32 and in
bfloat16. Figures are medians over rounds.

Seconds per epoch of LaMem's size (45,000 + 3,741 images) are extrapolated from these rates; with --lamem FOLDER an
epoch without attention is run in full, on drawn vectors with the real scores of train_1 and val_1.

Example: python -m bench.train
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from bench.cache import make_cache
from bench.features import CHANNELS, POSITIONS, drawn
from bench.read import H5pyViews
from featcache.base.devices import resolve_device
from featcache.base.progress import silent
from featcache.datasets.splits import Part
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.folder import INDEX_NAME
from head.data.batches import split_data
from head.models.amnet import AMNetHead, HeadShape, loss
from head.models.fused.switch import fused_off
from head.models.published import PublishedHead, PublishedShape
from head.settings import TrainSettings
from head.training.checkpoint import State
from head.training.job import TrainingJob
from head.training.trainer import Trainer

LAMEM_TRAIN, LAMEM_VAL = 45_000, 3_741
_READY = 3  # batches: the first, and one that each worker of a DataLoader has read by then
_FIRST_STEP = """
import sys, time
from pathlib import Path
from featcache.store.cache import open_cache
from head.settings import TrainSettings
from head.training.job import TrainingJob
from head.training.train import train
from head.training.trainer import Trainer
cache, folder, attention, device, started = sys.argv[1:]
settings, step = TrainSettings(epochs=2, attention=attention == "True"), Trainer.step
def timed(*arguments):
    before = time.time()
    value = step(*arguments)
    float(value)  # waits for a GPU
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

    def __init__(self, cache: FeatureCache, folder: Path, device: torch.device, *, resident: str = "no",
                 **changes: Any) -> None:  # fmt: skip
        settings = TrainSettings(epochs=10**5, patience=10**5, **changes)
        data = split_data(cache, "1", settings)
        self.images, self.val_images = len(data.train.rows), len(data.select.rows)
        job = TrainingJob(cache, "1", settings, folder, "bench", resident=resident)
        held, quiet = job.resident_features(data, device), {"on_progress": silent, "on_history": lambda _: None}
        trainer = Trainer(job, data, device=device, resident=held, **quiet)  # type: ignore[arg-type]
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


def eager_steps(head: AMNetHead | PublishedHead, batches: Iterator[Tensor], **constants: float) -> Callable[[], float]:
    """Return a function that trains on the next batch in eager float32 and returns images per second."""
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3, weight_decay=1e-6)
    device = next(head.parameters()).device

    def step() -> float:
        started = time.perf_counter()
        features = next(batches).to(device).float()
        with fused_off():
            value = loss(head(features), features.new_zeros(len(features)), **constants)  # type: ignore[arg-type]
        optimizer.zero_grad()
        torch.autograd.backward(value)
        optimizer.step()
        value.item()
        return len(features) / (time.perf_counter() - started)

    step()
    return step


def dataloader_rate(cache: FeatureCache, head: AMNetHead, batch: int, rounds: int) -> float:
    """Return images per second of eager training from a DataLoader with 2 workers, once none is read beforehand."""
    rows = np.random.default_rng(2).integers(0, batch, batch * (_READY + rounds))
    stored = H5pyViews(cache.path / INDEX_NAME, (rows, np.zeros_like(rows)))
    loader = iter(torch.utils.data.DataLoader(stored, batch, num_workers=2, prefetch_factor=1))
    step = eager_steps(head, loader, attention_weight=1e-4)  # takes a batch to warm up
    for _ in range(_READY - 1):
        step()
    started = time.perf_counter()
    for _ in range(rounds):
        step()
    return batch * rounds / (time.perf_counter() - started)


def matmul_limit(batch: int, dtype: torch.dtype, device: torch.device) -> Callable[[], float]:
    """Return a function that gives images per second of K x and its weight's gradient alone."""
    x, keys, out = (torch.rand(batch * POSITIONS, CHANNELS).to(device, dtype) for _ in range(3))
    weight = torch.rand(CHANNELS, CHANNELS).to(device, dtype)

    def measure() -> float:
        started = time.perf_counter()
        torch.mm(x, weight.t(), out=out)
        torch.mm(keys.t(), x, out=weight)
        weight[0, 0].item()  # waits for a GPU
        return batch / (time.perf_counter() - started)

    measure()
    return measure


def first_step(cache: FeatureCache, folder: Path, device: torch.device, *, attention: bool) -> dict[str, float]:
    """Return seconds from the start of a fresh process to its first step and to that step's end, and of the second."""
    arguments = [str(cache.path), str(folder), str(attention), str(device), str(time.time())]
    output = subprocess.check_output([sys.executable, "-c", _FIRST_STEP, *arguments], text=True)
    first, second = (tuple(map(float, line.split())) for line in output.splitlines())
    return {
        "to_the_first_step": round(first[0], 2),
        "to_the_end_of_the_first_step": round(first[1], 2),
        "the_second_step": round(second[1] - second[0], 2),
    }


def lamem_epochs(folder: Path, splits: Path, epochs: int, device: torch.device) -> list[dict[str, float]]:
    """Return rates of epochs without attention on drawn vectors with the real scores of train_1 and val_1."""
    parts, rows = {}, 0
    for part in ("train", "val"):
        scores = np.array([float(line.split()[1]) for line in (splits / f"{part}_1.txt").read_text().splitlines()])
        parts[part] = Part(np.arange(rows, rows + len(scores)), scores)
        rows += len(scores)
    vectors = np.random.default_rng(0).random((2 * rows, 1, CHANNELS), np.float32).astype(np.float16)
    cache = open_cache(make_cache(folder, vectors, views=2, rows_per_shard=4096, splits={"1": parts}))
    training = Epochs(cache, folder, device, attention=False)
    return [{**training.next(), "seconds": training.state.history[-1]["seconds"]} for _ in range(epochs)]


@click.command()
@click.option("--images", default=1024, show_default=True, help="Images to train on.")
@click.option("--batch", default=256, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--lamem", type=click.Path(path_type=Path, exists=True), help="Folder with train_1.txt and val_1.txt.")
@click.option("--device", "place", default="auto", show_default=True, help="As train-head takes it.")
def main(images: int, batch: int, rounds: int, lamem: Path | None, place: str) -> None:
    """Print images per second of each way, ratios, and what they make of an epoch of LaMem's size."""
    device = resolve_device(place)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = draw_cache(folder / "drawn", images, batch)
        starts = {
            "attention": first_step(cache, folder / "a", device, attention=True),
            "no_attention": first_step(cache, folder / "b", device, attention=False),
        }
        in_memory = cycle([torch.from_numpy(cache.read(np.arange(batch), 0)).to(device)])
        shape = {"positions": POSITIONS, "channels": CHANNELS}
        own, held, without = (
            Epochs(cache, folder, device, batch_size=batch),
            Epochs(cache, folder, device, batch_size=batch, resident="yes"),
            Epochs(cache, folder, device, batch_size=batch, attention=False),
        )
        ways: dict[str, Callable[[], Any]] = {
            "own": own.next,
            "own_resident": held.next,
            "no_attention": without.next,
            "plain": eager_steps(AMNetHead(HeadShape(**shape)).to(device), in_memory, attention_weight=1e-4),
            "published": eager_steps(
                PublishedHead(PublishedShape(**shape)).to(device), in_memory, attention_weight=1e-5, coverage=0.6
            ),
            "limit_fp32": matmul_limit(batch, torch.float32, device),
            "limit_bf16": matmul_limit(batch, torch.bfloat16, device),
        }
        results = [{way: measure() for way, measure in ways.items()} for _ in range(rounds)]
        loaded = dataloader_rate(cache, AMNetHead(HeadShape(**shape)).to(device), batch, rounds)
        lamem_results = lamem_epochs(folder / "lamem", lamem, rounds, device) if lamem else []
    own_rate, own_eval, waiting = (median(r["own"][key] for r in results) for key in ("train", "evaluate", "waiting"))
    epochs = ("own", "own_resident", "no_attention")
    rates = {way: median(r[way] for r in results) for way in ways if way not in epochs}
    rates |= {
        "plain_dataloader": loaded,
        "own": own_rate,
        "own_resident": median(r["own_resident"]["train"] for r in results),
        "no_attention": median(r["no_attention"]["train"] for r in results),
    }
    report = {
        "device": str(device),
        "products": own.products,
        "threads": torch.get_num_threads(),
        "images_per_second": {way: round(rate, 1) for way, rate in rates.items()},
        "own_over": {way: round(own_rate / rates[way], 2) for way in rates if way != "own"},
        "no_attention_over_own": round(rates["no_attention"] / own_rate, 2),
        "waiting_for_data": round(waiting, 4),
        "lamem_epoch_seconds_extrapolated": {
            "own": round(LAMEM_TRAIN / own_rate + LAMEM_VAL / own_eval, 1),
            "no_attention": round(
                LAMEM_TRAIN / rates["no_attention"]
                + LAMEM_VAL / median(r["no_attention"]["evaluate"] for r in results),
                1,
            ),
            "plain": round(LAMEM_TRAIN / rates["plain"], 1),
            "published": round(LAMEM_TRAIN / rates["published"], 1),
        },
        "lamem_no_attention_epochs": lamem_results,
        "start": starts,
    }
    click.echo(json.dumps(report))


if __name__ == "__main__":
    main()
