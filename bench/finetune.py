"""Training further from a cache, by where the network is cut, against the loop that reads JPEG files in each epoch.

The plain loop is what a competent user writes: a DataLoader with 2 workers that decodes each image and cuts a random
view, a network of timm with one linear output, eager PyTorch, Adam on the squared error, statistics of batch norms as
they are. It trains all weights in float32 and under bfloat16 autocast, and those behind the first cut alone while what
lies before it runs without gradients. Each way runs in a process of its own, one after another, in rounds: medians of
images per second in an epoch that was begun after another, ratios to the plain loop's two, and the peak memory of the
process and, of the plain loop, of each worker.

Example: python -m bench.finetune --images DATASET --layers blocks.4,blocks.2,views
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import click
import timm
import torch
from torch import nn
from torchvision.transforms.v2 import Normalize

from bench.plain import WORKERS, Views
from featcache.backbones.families.timm_networks import LITE0
from featcache.backbones.families.weights import efficientnet_lite0_imagenet, with_names_of
from featcache.base.progress import silent
from featcache.datasets.dataset import open_dataset
from featcache.extraction.extract import extract
from featcache.settings import ExtractSettings, ViewSettings
from featcache.store.cache import open_cache
from head.data.batches import split_data
from head.settings import settings_of
from head.training.gradients.trainer import Trainer
from head.training.job import TrainingJob

BATCH = 32
PLAIN = ("plain fp32", "plain bf16")
BEHIND = "plain bf16 behind "
VIEWS = ViewSettings(crop_scale=(0.5, 1.0))


def train_plainly(dataset: Path, images: int, way: str) -> dict[str, float]:
    """Return images per second of the plain loop's second epoch over so many images."""
    settings = ExtractSettings(augs=1, backbone=LITE0, views=VIEWS)
    network = timm.create_model("tf_efficientnet_lite0")
    network.load_state_dict(with_names_of(network, efficientnet_lite0_imagenet()))
    network.classifier = nn.Linear(network.num_features, 1)
    if way.startswith(BEHIND):
        freeze_down_to(network, way.removeprefix(BEHIND))
    network.eval()  # statistics of batch norms stay
    config = network.pretrained_cfg
    views = Views(open_dataset(dataset), settings, Normalize(config["mean"], config["std"]), per_view=True)
    chosen = torch.utils.data.Subset(views, range(1, 2 * images, 2))
    loader = torch.utils.data.DataLoader(chosen, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)
    optimizer = torch.optim.Adam([one for one in network.parameters() if one.requires_grad], lr=1e-4)
    autocast = "bf16" in way

    def epoch() -> float:
        started = time.perf_counter()
        for batch in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                value = network(batch[:, 0]).float().square().mean()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        return images / (time.perf_counter() - started)

    epoch()
    return {"rate": epoch(), "worker_mb": peak(resource.RUSAGE_CHILDREN)}


def freeze_down_to(network: Any, layer: str) -> None:
    """Let the network compute down to a layer without gradients."""
    position = int(layer.rpartition(".")[2]) + 1
    before = [network.conv_stem, network.bn1, *network.blocks[:position]]
    for module in before:
        module.requires_grad_(False)


def train_tail(cache: Path, layer: str) -> dict[str, float]:
    """Return images per second of this program's second epoch over the training part of a cache's split 1."""
    opened = open_cache(cache)
    settings = settings_of(head="tail", layers=(layer,), batch_size=BATCH)
    data = split_data(opened, "1", settings)
    with tempfile.TemporaryDirectory() as folder:
        job = TrainingJob(opened, "1", settings, Path(folder), "bench")
        trainer = Trainer(job, data, device=torch.device("cpu"), on_progress=silent, on_history=lambda _: None)
        trainer.train_epoch(1)
        started = time.perf_counter()
        trainer.train_epoch(2)
    seconds = time.perf_counter() - started
    return {"rate": len(data.train.rows) / seconds, "waiting": trainer.waited / seconds}


def peak(whose: int) -> float:
    """Return peak resident memory in MB."""
    return resource.getrusage(whose).ru_maxrss / 1000


def ways_of(layers: list[str]) -> Iterator[str]:
    """Yield the ways that are compared, in the order in which they run."""
    cut = [layer for layer in layers if layer != "views"]
    yield from (*PLAIN, *(f"{BEHIND}{layer}" for layer in cut), *layers)


def run_way(way: str, dataset: Path, cache: Path, images: int) -> dict[str, float]:
    """Return what a way reached, in a process of its own."""
    command = [sys.executable, "-m", "bench.finetune", "--images", str(dataset), "--limit", str(images)]
    done = subprocess.run([*command, "--way", way, "--cache", str(cache)], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def summary(ways: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return medians over rounds, and how many times as fast as each of the plain loops each way is."""
    middle = {way: {key: median(one[key] for one in rounds) for key in rounds[0]} for way, rounds in ways.items()}
    against = {plain: middle[plain]["rate"] for plain in PLAIN}
    return {
        way: {key: round(value, 3) for key, value in found.items()}
        | {f"times {plain}": round(found["rate"] / rate, 2) for plain, rate in against.items()}
        for way, found in middle.items()
    }


@click.command()
@click.option("--images", "dataset", required=True, type=click.Path(exists=True, path_type=Path),
              help="A dataset with splits.")  # fmt: skip
@click.option("--limit", default=0, help="Images of the plain loop; 0: as many as a split trains on.")
@click.option("--layers", default="blocks.4,blocks.2,views", show_default=True, help="Where the network is cut.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--way", hidden=True)
@click.option("--cache", hidden=True, type=click.Path(path_type=Path))
def main(dataset: Path, limit: int, layers: str, rounds: int, way: str | None, cache: Path | None) -> None:
    """Print one JSON line of what each way reached."""
    if way and cache:
        plain = way.startswith("plain")
        found = train_plainly(dataset, limit, way) if plain else train_tail(cache, way)
        click.echo(json.dumps({**found, "peak_mb": peak(resource.RUSAGE_SELF)}))
        return
    names = layers.split(",")
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder, "cache")
        settings = ExtractSettings(augs=1, backbone=LITE0, layers=tuple(names), views=VIEWS)
        extract(open_dataset(dataset), settings, cache)
        images = limit or len(split_data(open_cache(cache), "1", settings_of(head="tail")).train.rows)
        ways: dict[str, list[dict[str, float]]] = {one: [] for one in ways_of(names)}
        for _ in range(rounds):
            for one, results in ways.items():
                results.append(run_way(one, dataset, cache, images))
        size = {layer: open_cache(cache).recipe.layer_shape(layer) for layer in names}
    click.echo(json.dumps({"images": images, "layers": {k: asdict(v) for k, v in size.items()}, "ways": summary(ways)}))


if __name__ == "__main__":
    main()
