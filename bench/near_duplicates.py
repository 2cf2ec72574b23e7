"""How many copies of photographs are found as near-duplicates, and how many different photographs are taken for such.

Each photograph is copied three times: encoded anew at quality 60, resized to half its sides, and with 5% of its width
and of its height cropped off around. Photographs and copies become one cache, as `extract` makes it.

Example: python -m bench.near_duplicates --images photos/
"""

import json
import tempfile
from pathlib import Path

import click
from PIL import Image

from commandline.options import layer_option
from featcache.datasets.dataset import open_dataset
from featcache.extraction.extract import extract
from featcache.images.decode import SUFFIXES
from featcache.settings import ExtractSettings, ViewSettings
from featcache.store.cache import open_cache

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
@click.option("--image-size", default=224, show_default=True)
@layer_option()
def main(images: Path, backbone: str, eval_view: str, image_size: int, layers: tuple[str, ...]) -> None:
    """Print one JSON line: the share of copies in a group with their photograph, and pairs of different photographs."""
    paths = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        for k, path in enumerate(paths):
            write_copies(path, home / f"{k:06}")
        names = sorted(path.name for path in home.iterdir())
        table = home / "all.csv"
        table.write_text("path,score\n" + "".join(f"{name},{k}\n" for k, name in enumerate(names)))
        views = ViewSettings(image_size=image_size, eval_view=eval_view)
        settings = ExtractSettings(backbone=backbone, augs=0, views=views, layers=layers)
        extract(open_dataset(str(table)), settings, home / "cache")
        cache = open_cache(home / "cache")
    group_of = {
        Path(cache.images[row].name).stem: number
        for number, group in enumerate(cache.manifest.near_duplicates or ())
        for row in group
    }
    n = len(paths)
    found = {
        copy: sum(group_of.get(f"{k:06}_0", -1) == group_of.get(f"{k:06}_{kind}", -2) for k in range(n)) / n
        for kind, copy in enumerate(COPIES, start=1)
    }
    photographs: dict[int, set[str]] = {}
    for stem, number in group_of.items():
        photographs.setdefault(number, set()).add(stem.partition("_")[0])
    false = sum(len(some) * (len(some) - 1) // 2 for some in photographs.values())
    click.echo(
        json.dumps(
            {
                "photographs": n,
                "found": sum(found.values()) / len(found),
                **found,
                "false_pairs": false,
                "pairs": n * (n - 1) // 2,
            }
        )
    )


if __name__ == "__main__":
    main()
