"""JPEG files in, finished cache out: extract against a plain loop, and against its own backbone alone.

The plain loop (bench/plain.py) has a DataLoader with 2 workers that decodes each image once (with --per-view: once for
every view), cuts the same views with torchvision's transforms, runs the same network in eager float32 on 16 views at a
time, and writes float16 with gzip. The limit is the backbone as extract runs it, on pixels in memory: nothing is
decoded, encoded or written. Each side has a process of its own, one after another in every round, so that what else
the machine does hits all alike; figures are medians over rounds. Imports are not counted; start-up, which is building,
converting and compiling the network, is, but for the figures called steady. Of few images extract has decoded most by
then, so that its steady figure is too good. No round finds what another one converted. The file cache is warm.

Example: python -m bench.extract --images data/lamem --limit 200
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click
import numpy as np

if TYPE_CHECKING:
    from featcache.datasets.dataset import Dataset
    from featcache.settings import ExtractSettings

SIDES = ("plain", "ours", "limit")
LIMIT_BATCHES = 24
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Case:
    """What every side computes: 1 + augs views of the first `limit` images of the dataset in folder (0: of all)."""

    folder: str
    backbone: str
    augs: int
    image_size: int
    limit: int
    per_view: bool
    device: str = "auto"

    def dataset(self) -> "Dataset":
        """Return the dataset, cut off behind its first images."""
        from featcache.datasets.dataset import open_dataset
        from featcache.datasets.splits import Part

        whole = open_dataset(self.folder)
        limit = self.limit or len(whole.names)

        def first(part: Part) -> Part:
            return Part(part.rows[part.rows < limit], part.scores[part.rows < limit])

        splits = {split: {name: first(part) for name, part in parts.items()} for split, parts in whole.splits.items()}
        return replace(whole, names=whole.names[:limit], ratings={"": splits})

    def settings(self) -> "ExtractSettings":
        """Return extract's default settings, but for weights that would have to be downloaded."""
        from featcache.settings import ExtractSettings, ViewSettings

        weights = "imagenet" if self.backbone == "efficientnet_lite0" else "random"
        views = ViewSettings(image_size=self.image_size, eval_view="squash")
        return ExtractSettings(augs=self.augs, backbone=self.backbone, weights=weights, views=views, device=self.device)


class Clock:
    """Views per second: whole from the clock's making, steady from the first note."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._first: tuple[float, int] | None = None

    def note(self, done: int) -> None:
        """Note that so many views are done."""
        self._first = self._first or (time.perf_counter(), done)

    def figures(self, views: int) -> dict[str, Any]:
        """Return the figures, now that all views are done."""
        now = time.perf_counter()
        at, done = self._first or (self._started, 0)
        return {"whole": views / (now - self._started), "steady": (views - done) / (now - at)}


def run_plain(case: Case, out: Path) -> dict[str, Any]:
    """Extract as a plain loop does; return its figures."""
    from bench.plain import extract_plainly

    dataset, settings, clock = case.dataset(), case.settings(), Clock()
    extract_plainly(dataset, settings, out, per_view=case.per_view, on_views=clock.note)
    return clock.figures(len(dataset.names) * (1 + case.augs))


def run_ours(case: Case, out: Path) -> dict[str, Any]:
    """Extract into the folder out; return figures, peak memory, and what the time went to."""
    from featcache.extraction.extract import extract

    dataset, settings, clock = case.dataset(), case.settings(), Clock()
    report = extract(dataset, settings, out, on_progress=lambda _: clock.note(0))  # told before views are computed
    return {
        **clock.figures(report.views_computed),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1),  # Linux counts kibibytes
        "runtime": report.runtime,
        "precision": report.precision,
        "bottleneck": report.bottleneck,
        "stages": {stage: round(share, 4) for stage, share in report.stages.items()},
    }


def run_limit(case: Case) -> dict[str, Any]:
    """Return figures of the backbone alone, on random pixels in memory, while all its streams are busy."""
    import torch

    from featcache.backbones.backbone import load_backbone

    settings = case.settings()
    backbone = load_backbone(settings, views=len(case.dataset().names) * (1 + case.augs))
    shape = (backbone.batch_size, case.image_size, case.image_size, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8).to(backbone.device)

    def compute(_: int) -> float:
        for features in backbone.maps(pixels).values():
            features[:1, :1, :1].cpu()  # waits for a GPU
        return time.perf_counter()

    with backbone.pool() as pool:
        ends = sorted(pool.map(compute, range(LIMIT_BATCHES + 2 * backbone.streams)))
    steady = ends[backbone.streams : -backbone.streams]  # warm, and no stream idle
    return {"steady": (len(steady) - 1) * backbone.batch_size / (steady[-1] - steady[0])}


def run_side(side: str, case: Case, out: Path) -> dict[str, Any]:
    """Return the figures of a side, run in this process."""
    if side == "limit":
        return run_limit(case)
    return run_plain(case, out) if side == "plain" else run_ours(case, out)


def run_task(text: str) -> None:
    """Run the side that a JSON text asks for and print its figures; all that a process of a side does."""
    task = json.loads(text)
    click.echo(json.dumps(run_side(task["side"], Case(**task["case"]), Path(task["out"]))))


def in_process(side: str, case: Case, out: Path) -> dict[str, Any]:
    """Return the figures of a side in a process of its own, whose threads wait as the command line makes them wait."""
    task = json.dumps({"side": side, "case": asdict(case), "out": str(out)})
    command = [sys.executable, "-c", "import sys; from bench.extract import run_task; run_task(sys.argv[1])", task]
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "XDG_CACHE_HOME": str(out.parent.resolve() / "kept")}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT, env=environment)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def least_cosine(case: Case, plain: Path, ours: Path) -> float:
    """Return the least cosine similarity of the two sides' features of a view, over the first images."""
    import h5py

    from featcache.store.cache import open_cache

    cache, cosines = open_cache(ours), []
    row_of = {image.name: row for row, image in enumerate(cache.images)}
    with h5py.File(plain) as file:
        for i, name in enumerate(case.dataset().names[:8]):
            for view in range(1 + case.augs):
                a = file["features"][i * (1 + case.augs) + view].astype(float).ravel()
                b = cache.read(row_of[name], view).astype(float).ravel()
                cosines.append(float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
    return min(cosines)


def one_round(case: Case, home: Path) -> dict[str, Any]:
    """Return the figures of every side, run one after another, and how alike their features are."""
    found: dict[str, Any] = {side: in_process(side, case, home / side) for side in SIDES}
    return {**found, "least_cosine": least_cosine(case, home / "plain", home / "ours")}


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians over rounds, with the start and without it, and the ratios of the medians.

    The limit has no start: it is the backbone once it runs.
    """
    found: dict[str, Any] = {}
    for kind in ("whole", "steady"):
        speed = {side: median(one[side]["steady" if side == "limit" else kind] for one in rounds) for side in SIDES}
        found["with_start" if kind == "whole" else "steady"] = {
            "views_per_second": {side: round(value, 2) for side, value in speed.items()},
            "times_plain": round(speed["ours"] / speed["plain"], 3),
            "of_limit": round(speed["ours"] / speed["limit"], 3),
        }
    ours = [one["ours"] for one in rounds]
    return {
        **found,
        "least_cosine_to_plain": round(min(one["least_cosine"] for one in rounds), 6),
        "peak_mb": max(figures["peak_mb"] for figures in ours),
        **{name: ours[-1][name] for name in ("runtime", "precision", "bottleneck", "stages")},
    }


def draw_dataset(folder: Path, images: int) -> Path:
    """Draw JPEGs of about the size of a photograph, 480 x 400, in the LaMem layout; return folder."""
    from PIL import Image

    from head.demo import draw

    for name in ("images", "splits"):
        (folder / name).mkdir(parents=True)
    lines = []
    for i in range(images):
        rng = np.random.default_rng([0, i])
        picture, score = draw(rng)
        width, height = (side + int(rng.integers(-40, 41)) for side in (480, 400))
        pixels = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
        grainy = np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(grainy).save(folder / "images" / f"{i:05d}.jpg", quality=90)
        lines.append(f"{i:05d}.jpg {score:.6f}\n")
    (folder / "splits" / "train_1.txt").write_text("".join(lines))
    return folder


def processor() -> str:
    """Return the processor's name and how many cores of it there are."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


@click.command()
@click.option("--backbone", default="resnet50", show_default=True)
@click.option(
    "--images", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Dataset; default: drawn."
)
@click.option("--limit", default=96, show_default=True, help="How many images; 0 for all of --images.")
@click.option("--augs", default=10, show_default=True)
@click.option("--image-size", default=224, show_default=True)
@click.option("--per-view", is_flag=True, help="The plain loop decodes an image again for each of its views.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--device", default="auto", show_default=True, help="As extract takes it.")
def main(images: Path | None, limit: int, rounds: int, **options: Any) -> None:
    """Print one JSON line: views/s of every side, ours over plain and over the limit, with the start and then without
    it, and peak megabytes."""
    from featcache.extraction.seal import versions

    found = []
    with tempfile.TemporaryDirectory() as home:
        folder = images or draw_dataset(Path(home, "drawn"), limit or 96)
        case = Case(str(folder.resolve()), limit=limit, **options)
        count = len(case.dataset().names)
        for _ in range(rounds):
            with tempfile.TemporaryDirectory(dir=home) as room:
                found.append(one_round(case, Path(room)))
    about = {"images": count, "drawn": images is None, "rounds": rounds, "cpu": processor(), "versions": versions()}
    click.echo(json.dumps({**summary(found), **options, **about}))


if __name__ == "__main__":
    main()
