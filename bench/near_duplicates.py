"""How many copies of photographs are found as near-duplicates, and how many pairs of different ones are taken for such.

Each photograph is copied three times: encoded anew at quality 60, resized to half its sides, and with 5% of its width
and of its height cropped off around. Photographs and copies become one cache, as `extract` makes it.

Example: python -m bench.near_duplicates --images photos/
"""

import tempfile
from pathlib import Path

import click
import numpy as np
from PIL import Image

from featcache.datasets.dataset import open_dataset
from featcache.extraction.extract import extract
from featcache.images.decode import SUFFIXES
from featcache.settings import ExtractSettings, ViewSettings
from featcache.store.cache import open_cache
from featcache.store.near_duplicates import ALIKE, comparable

THRESHOLDS = (0.70, 0.75, ALIKE, 0.80, 0.85, 0.90)
COPIES = ("quality 60", "half size", "5% cropped")


def write_copies(path: Path, stem: Path) -> None:
    """Write the photograph at path and its copies beside stem, with a number for each."""
    with Image.open(path) as opened:
        photo = opened.convert("RGB")
    width, height = photo.size
    left, top = round(0.025 * width), round(0.025 * height)
    photo.save(f"{stem}_0.png", compress_level=1)
    photo.save(f"{stem}_1.jpg", quality=60)
    photo.resize((width // 2, height // 2), Image.Resampling.LANCZOS).save(f"{stem}_2.jpg", quality=90)
    photo.crop((left, top, width - left, height - top)).save(f"{stem}_3.jpg", quality=90)


@click.command()
@click.option("--images", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Folder of different photographs.")  # fmt: skip
@click.option("--backbone", default="efficientnet_lite0", show_default=True)
@click.option("--eval-view", default="center", show_default=True, type=click.Choice(["center", "squash"]))
def main(images: Path, backbone: str, eval_view: str) -> None:
    """Print the share of copies found, and of pairs of different photographs taken for copies, by threshold."""
    paths = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        for k, path in enumerate(paths):
            write_copies(path, home / f"{k:06}")
        names = sorted(path.name for path in home.iterdir())
        table = home / "all.csv"
        table.write_text("path,score\n" + "".join(f"{name},{k}\n" for k, name in enumerate(names)))
        settings = ExtractSettings(backbone=backbone, augs=0, views=ViewSettings(eval_view=eval_view))
        extract(open_dataset(str(table)), settings, home / "cache")
        cache = open_cache(home / "cache")
        order = [image.name for image in cache.images]
        rows = [order.index(name) for name in names]
        vectors = comparable(cache.read_pooled(np.arange(cache.rows), 0)[:, 0])[rows]
    cosines = vectors @ vectors.T
    n = len(paths)
    of_copies = cosines[np.arange(0, 4 * n, 4)[:, None], np.arange(4 * n).reshape(n, 4)[:, 1:]]  # (n, 3)
    different = cosines[::4, ::4][np.triu_indices(n, 1)]
    click.echo(f"{n} photographs, {backbone}, {eval_view} view: {len(different):,} pairs of different ones")
    click.echo("cosine   " + "".join(f"{copy:>12}" for copy in COPIES) + "   all copies   false pairs")
    for threshold in THRESHOLDS:
        found = (of_copies >= threshold).mean(axis=0)
        false = int((different >= threshold).sum())
        cells = "".join(f"{share:12.1%}" for share in found)
        click.echo(f"{threshold:6.2f}   {cells}{found.mean():13.2%}{false:8} = {false / len(different):.4%}")


if __name__ == "__main__":
    main()
