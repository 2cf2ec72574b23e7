"""How many images a second each hand-made descriptor takes, words counted, on one thread, and all of them on two.

Photographs are squashed to a square of 256 pixels and decoded beforehand; a bag's 200 words are learned from them.

Example: python -m bench.descriptors --images photos/
"""

import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featcache.backbones.descriptors.descriptors import DESCRIPTORS, Descriptor
from featcache.backbones.descriptors.hog import hog2x2
from featcache.backbones.descriptors.pixels import Pixels
from featcache.backbones.descriptors.sift import dense_sift
from featcache.backbones.descriptors.words import WORDS, bag_of_words, learn_words, sample_of
from featcache.images.decode import SUFFIXES

SIDE = 256
STEPS = (1, 2, 4, 8)
Vector = NDArray[np.float32]


def photographs(folder: Path, count: int) -> list[Pixels]:
    """Return the first photographs of a folder, (SIDE, SIDE, 3) uint8 each."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)[:count]
    opened = (Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR) for path in paths)
    return [np.asarray(image) for image in opened]


def whole(descriptor: Descriptor, pixels: list[Pixels]) -> Callable[[Pixels], Vector]:
    """Return what makes the final vector of an image, its words learned from these images."""
    if descriptor.word_channels is None:
        return descriptor.describe
    grids = (descriptor.describe(one) for one in pixels)
    words = learn_words(np.concatenate([sample_of(grid, 200, seed) for seed, grid in enumerate(grids)]), WORDS)
    return lambda one: bag_of_words(descriptor.describe(one), words)


def milliseconds(work: Callable[[Pixels], Any], pixels: list[Pixels]) -> float:
    """Return the median over images of this thread's processor time, which other programs hardly lengthen."""
    times = []
    for one in (pixels[0], *pixels):
        started = time.thread_time()
        work(one)
        times.append(1000 * (time.thread_time() - started))
    return statistics.median(times[1:])


def per_second(works: list[Callable[[Pixels], Vector]], pixels: list[Pixels], threads: int) -> float:
    """Return how many images a second get all their vectors, each image in one of some threads."""
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        for _ in pool.map(lambda one: [work(one) for work in works], pixels):
            pass
    return len(pixels) / (time.perf_counter() - started)


@click.command()
@click.option("--images", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Folder of photographs.")  # fmt: skip
@click.option("--limit", default=32, show_default=True, type=click.IntRange(min=2), help="How many of them.")
def main(images: Path, limit: int) -> None:
    """Print one JSON line: milliseconds and images a second, alone and together, and what the grid's step changes."""
    pixels = photographs(images, limit)
    works = {name: whole(descriptor, pixels) for name, descriptor in DESCRIPTORS.items()}
    alone = {name: milliseconds(work, pixels) for name, work in works.items()}
    grids = {"hog2x2": hog2x2, "sift": dense_sift}
    together = {f"{threads}_threads": per_second(list(works.values()), pixels, threads) for threads in (1, 2)}
    found = {
        "images": len(pixels),
        "milliseconds": {name: round(value, 2) for name, value in alone.items()},
        "images_per_second": {name: round(1000 / value, 1) for name, value in alone.items()},
        "milliseconds_before_words": {
            name: round(milliseconds(descriptor.describe, pixels), 2)
            for name, descriptor in DESCRIPTORS.items()
            if descriptor.word_channels
        },
        "milliseconds_by_step": {
            name: {step: round(milliseconds(lambda one, f=grid, s=step: f(one, s), pixels), 2) for step in STEPS}
            for name, grid in grids.items()
        },
        "all_images_per_second": {name: round(value, 2) for name, value in together.items()},
    }
    click.echo(json.dumps(found))


if __name__ == "__main__":
    main()
