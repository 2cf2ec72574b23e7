"""The whole pipeline on drawn images: a dataset in the LaMem layout whose score can be learnt, then every step on it.

Each picture is a textured scene with clutter and one face. The larger and the more vivid the face, the higher
the score; the more clutter, the lower. The face may be anywhere, so attention has something to find.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from featcache.base.commands import amnet
from featcache.base.errors import InvalidSettings
from featcache.base.files import make_folder, read_json, write_durably
from featcache.base.progress import OnProgress, Progress, silent
from featcache.datasets.dataset import open_dataset
from featcache.extraction.extract import extract
from featcache.settings import ExtractSettings
from featcache.store.cache import open_cache
from head.evaluation.score import Scored, score_run, write_scores
from head.evaluation.summary import summaries_of
from head.evaluation.text import format_table
from head.settings import TrainSettings
from head.training.job import TrainingJob
from head.training.train import train

BACKBONE = "efficientnet_lite0"
SPLITS = 3
FEWEST_IMAGES = 60
_SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


@dataclass(frozen=True)
class Scene:
    """What decides a picture's score: face_size and clutter from 0 to 1, vividness of the face from 0 to 1."""

    face_size: float
    vividness: float
    clutter: float

    def score(self, noise: float) -> float:
        """Return the score in [0, 1] of a picture of this scene."""
        return min(1.0, max(0.0, 0.3 + 0.45 * self.face_size + 0.2 * self.vividness - 0.25 * self.clutter + noise))


@dataclass(frozen=True)
class DemoReport:
    """The test results of each split, and the folder of everything that was made."""

    out: Path
    scored: Sequence[Scored]

    def as_json(self) -> dict[str, Any]:
        """Return the results and their summary as a JSON object."""
        summary = [head.as_json() for head in summaries_of(self.scored)]
        return {"runs": [result.as_json() for result in self.scored], "summary": summary}

    def as_text(self) -> str:
        """Return the table of results, and commands to go on with."""
        run, cache = self.scored[0].run.folder, self.out / "cache" / "demo"
        commands = (
            amnet("predict", "--head", run, "YOUR_IMAGES/"),
            amnet("train-head", "--cache", cache, "--runs", self.out / "runs", "--split", "all", "--no-attention"),
            amnet("cache-info", "--cache", cache),
        )
        return f"{format_table(self.scored)}\n\nNext: {(chr(10) + ' ' * 6).join(commands)}"


def run_demo(
    out: Path, *, images: int = 360, augs: int = 4, seed: int = 0, on_progress: OnProgress = silent
) -> DemoReport:
    """Make the dataset, extract, train and score under out; return the test results of each split."""
    dataset_folder = make_dataset(out / "demo", images=images, seed=seed, on_progress=on_progress)
    cache_folder = out / "cache" / "demo"
    settings = ExtractSettings(augs=augs, backbone=BACKBONE)
    extract(open_dataset(str(dataset_folder)), settings, cache_folder, on_progress=on_progress)
    cache = open_cache(cache_folder)
    scored = []
    train_settings = TrainSettings(seed=seed)
    name = train_settings.default_name()
    for split in cache.splits:
        folder = out / "runs" / cache.name / name / f"split-{split}"
        run = train(TrainingJob(cache, split, train_settings, folder, name), on_progress)
        scored.append(score_run(run, cache))
        write_scores(scored[-1])
    return DemoReport(out, scored)


def make_dataset(folder: Path, *, images: int, seed: int, on_progress: OnProgress = silent) -> Path:
    """Draw images and write their splits in the LaMem layout; return folder. A picture depends on (seed, i) alone."""
    if not FEWEST_IMAGES <= images <= 100_000:
        raise InvalidSettings(f"--images must be {FEWEST_IMAGES} to 100,000, found {images}")
    parameters = {"images": images, "seed": seed}
    stamp = folder / "demo.json"
    if stamp.is_file() and read_json(stamp, largest=1 << 10) != parameters:
        raise InvalidSettings(f"{folder}: holds the demo of other settings; give another folder with --out")
    make_folder(folder / "images")
    make_folder(folder / "splits")
    write_durably(stamp, json.dumps(parameters).encode())
    names, scores = [], []
    for i in range(images):
        picture, score = draw(np.random.default_rng([seed, i]))
        names.append(f"{i:05d}.jpg")
        scores.append(score)
        picture.save(folder / "images" / names[-1], quality=90)
        on_progress(Progress("draw", i + 1, images, "images"))
    _write_splits(folder / "splits", names, scores, seed)
    return folder


def _write_splits(folder: Path, names: list[str], scores: list[float], seed: int) -> None:
    for split in range(1, SPLITS + 1):
        order = np.random.default_rng([seed, 1_000_003, split]).permutation(len(names))
        stops = np.cumsum([round(share * len(order)) for share in _SHARES.values()])[:-1]  # the last has what is left
        for part, chosen in zip(_SHARES, np.split(order, stops), strict=True):
            lines = "".join(f"{names[i]} {scores[i]:.6f}\n" for i in chosen)
            write_durably(folder / f"{part}_{split}.txt", lines.encode())


def draw(rng: np.random.Generator) -> tuple[Image.Image, float]:
    """Return a picture and its score."""
    scene = Scene(*rng.uniform(size=3))
    width, height = (int(side) for side in rng.integers(256, 400, size=2))
    picture = _background(rng, width, height)
    canvas = ImageDraw.Draw(picture)
    for _ in range(round(3 + 30 * scene.clutter)):
        _draw_clutter(canvas, rng, width, height)
    _draw_face(canvas, rng, scene, width, height)
    return picture, scene.score(float(rng.normal(0, 0.03)))


def _background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A colour gradient under soft noise."""
    corners = rng.integers(40, 200, size=(2, 2, 3)).astype(np.uint8)
    gradient = Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)
    grain = Image.fromarray(rng.integers(0, 256, size=(height // 4, width // 4, 3), dtype=np.uint8))
    grain = grain.resize((width, height), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))
    return Image.blend(gradient, grain, float(rng.uniform(0.1, 0.35)))


def _draw_clutter(canvas: ImageDraw.ImageDraw, rng: np.random.Generator, width: int, height: int) -> None:
    """A rectangle, a triangle or a line of a muted colour."""
    colour = tuple(int(value) for value in rng.integers(60, 190, size=3))
    x, y, size = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(10, 50)
    kind = rng.integers(3)
    if kind == 0:
        canvas.rectangle([x, y, x + size, y + size * rng.uniform(0.3, 1.5)], fill=colour, outline="black")
    elif kind == 1:
        angle = rng.uniform(0, 2 * math.pi)
        corners = [(x + size * math.cos(angle + k * 2.1), y + size * math.sin(angle + k * 2.1)) for k in range(3)]
        canvas.polygon(corners, fill=colour, outline="black")
    else:
        canvas.line([x, y, x + rng.uniform(-90, 90), y + rng.uniform(-90, 90)], fill=colour, width=3)


def _draw_face(canvas: ImageDraw.ImageDraw, rng: np.random.Generator, scene: Scene, width: int, height: int) -> None:
    """A smiling face somewhere in the middle seven tenths of the picture."""
    radius = (0.05 + 0.17 * scene.face_size) * min(width, height)
    x, y = width * rng.uniform(0.25, 0.75), height * rng.uniform(0.25, 0.75)
    grey = np.array([150.0, 150.0, 150.0])
    colour = tuple(int(c) for c in grey + scene.vividness * (np.array([255.0, 200.0, 40.0]) - grey))
    canvas.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour, outline="black", width=2)
    eye = radius * 0.14
    for side in (-1, 1):
        ex, ey = x + side * radius * 0.38, y - radius * 0.25
        canvas.ellipse([ex - eye, ey - eye, ex + eye, ey + eye], fill="black")
    mouth = radius * 0.55
    canvas.arc([x - mouth, y - mouth, x + mouth, y + mouth], 20, 160, fill="black", width=max(2, round(radius / 10)))
