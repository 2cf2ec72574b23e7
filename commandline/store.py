"""Commands of datasets and the feature store: fetch, extract, cache-info, merge-caches, project-cache, verify-cache."""

from pathlib import Path
from typing import Any

import click

from commandline import options
from commandline.options import DIRECTORY, EXISTING_DIRECTORY, EXISTING_FILE, FILE, progress_bar, show_report, tell
from featcache import settings
from featcache.base.errors import InvalidSettings


@click.command()
@click.option("--dataset", "name", required=True, type=click.Choice(["lamem", "sun"]), help="Which one.")
@click.option("--root", type=DIRECTORY, help="Folder that gets images/ and splits/.  [default: data/NAME]")
@click.option("--url", default="", help="Mirror to download from.  [default: where its authors publish it]")
@click.option("--file", type=FILE, metavar="ARCHIVE", help="Unpack this tar, tar.gz or zip; download nothing.")
@click.option("--sha256", default="", metavar="DIGEST", help="Refuse an archive with another digest.")
@click.option("--keep", is_flag=True, help="Keep the downloaded archive in ROOT.")
@options.JSON
def fetch(name: str, root: Path | None, url: str, file: Path | None, sha256: str, keep: bool, as_json: bool) -> None:
    """Download and unpack a public dataset, as extract wants it.

    A cut connection is taken up where it ended; a killed command goes on when it is run again. A hostile archive is
    refused before anything is unpacked. Read docs/fetch.md for what comes from where.

    Example: amnet fetch --dataset lamem
    """
    from featcache.datasets.fetch.fetch import fetch as run_fetch

    with progress_bar() as progress:
        done = run_fetch(name, root, url=url, file=file, sha256=sha256, keep=keep, on_progress=progress)
    show_report(done, as_json)
    if done.sha256 and not sha256 and not as_json:
        tell("no digest was given to check against; note the one above and pass it as --sha256 next time")


@click.command()
@click.option("--dataset", required=True, metavar="NAME_OR_PATH",
              help="lamem, sun, a folder with images/ and splits/, or FILE.csv of path,score,split.")  # fmt: skip
@options.of_dataset
@click.option("--root", type=DIRECTORY,
              help="Folder with images/ and splits/ of lamem or sun, or of a CSV's paths.  "
              "[default: data/NAME; the CSV's]")  # fmt: skip
@click.option("--augs", default=0, show_default=True, metavar="K", help="Augmented views per image.")
@click.option("--backbone", default="resnet50", show_default=True,
              help="resnet50, efficientnet_lite0, timm:NAME, ..., or descriptors:gist,sift,..., or "
              "NETWORK+descriptors:...")  # fmt: skip
@options.layer_option("Maps to keep, or cls, registers, pooled, embedding, modules, or views: the pixels themselves.  "
                      "[default: last map of stride 16]")  # fmt: skip
@click.option("--final-norm/--no-final-norm", default=None,
              help="Keep the last map as the network's own last norm leaves it.  "
              "[default: where it has one]")  # fmt: skip
@click.option("--image-size", type=int,
              help="Side of a view in pixels.  [default: 224; the model's own with --recipe model]")  # fmt: skip
@click.option("--weights", default="imagenet", show_default=True,
              help="imagenet, a weights file, or random; of descriptors a dictionary, by default learnt.")  # fmt: skip
@click.option("--recipe", default="paper", show_default=True, type=click.Choice(settings.VIEW_RECIPES),
              help="Views as in the paper, as in its authors' code, which squashes images first, or as the "
              "model's weights expect them: size, crop, interpolation.")  # fmt: skip
@click.option("--eval-view", type=click.Choice(settings.EVAL_VIEWS),
              help="View 0: central square, or the whole image squashed; wins over --recipe.  "
              "[default: center; squash if published]")  # fmt: skip
@click.option("--crop-scale", nargs=2, type=float, default=(0.08, 1.0), show_default=True,
              help="Range of area of an augmented crop, as fractions.")  # fmt: skip
@click.option("--precision", default="auto", show_default=True, type=click.Choice(settings.PRECISIONS),
              help="Arithmetic of the backbone; auto is bf16 or fp16 where the hardware has it.")  # fmt: skip
@click.option("--runtime", default="auto", show_default=True, type=click.Choice(settings.RUNTIMES),
              help="What runs the backbone; auto is the fastest there is for so many views.")  # fmt: skip
@click.option("--encoding", default="float16", show_default=True, type=click.Choice(settings.ENCODINGS),
              help="How features are stored; uint8 is half the size and not exact.")  # fmt: skip
@click.option("--compression", default="auto", show_default=True, type=click.Choice(settings.COMPRESSIONS),
              help="How features are compressed; auto is as the cache has it, else zstd for each layer that it makes "
              "a tenth smaller.")  # fmt: skip
@click.option("--calibrate-like", default="", metavar="DIR",
              help="Take uint8's constants from that cache, to merge later.")  # fmt: skip
@options.DEVICE
@click.option("--batch-size", type=options.NumberOrAuto(), default="auto", show_default=True, metavar="auto|N",
              help="Views per call of the network; auto is 16 on a CPU, up to 64 on a GPU, by its memory.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Decides the augmented views, and random weights.")
@click.option("--out", type=DIRECTORY, help="Folder of the cache.  [default: cache/NAME]")
@click.option("--on-bad-image", default="skip", show_default=True, type=click.Choice(settings.BAD_IMAGE_POLICIES),
              help="Leave a bad image out and go on, or stop at the first.")  # fmt: skip
@click.option("--jobs", default=1, show_default=True, metavar="J",
              help="Processes here, one a GPU if there are several.")  # fmt: skip
@options.CLUSTER
@click.option("--force", is_flag=True,
              help="Start although the disk seems too small; it may stop half-way, with nothing lost.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print images, views, bytes and time, and write nothing.")
@options.JSON
def extract(dataset: str, root: Path | None, out: Path | None, dry_run: bool, as_json: bool, **given: Any) -> None:
    """Fill a cache with the features of a dataset; run it again to resume, or to add views and images.

    Example: amnet extract --dataset lamem --root data/lamem --augs 10
    """
    from featcache.base.jobs import Workers
    from featcache.datasets.dataset import open_dataset
    from featcache.settings import ExtractSettings, view_settings_of

    workers = Workers(given.pop("jobs"), given.pop("cluster"))
    how_cut = {name: given.pop(name) for name in ("image_size", "eval_view", "crop_scale", "seed")}
    columns = {name: given.pop(name) for name in ("path_column", "score_columns", "drop_duplicates")}
    recipe = given.pop("recipe")
    own = None
    if recipe == "model":
        from featcache.backbones.networks import own_views

        own = own_views(given["backbone"])
    settings = ExtractSettings(views=view_settings_of(recipe, own=own, **how_cut), **given)
    found = open_dataset(dataset, root=root, **columns)
    options.tell_of_dataset(found)
    folder = out or Path("cache") / found.name
    if dry_run:
        from featcache.extraction.forecast import forecast

        show_report(forecast(found, settings, folder), as_json)
        if workers != Workers():
            tell("the time is that of this process alone; --jobs and --cluster share it out")
        return
    from featcache.extraction.extract import extract as run_extract

    with progress_bar() as progress:
        report = run_extract(found, settings, folder, workers=workers, on_progress=progress)
    show_report(report, as_json)
    if report.absent:
        tell(report.count())
        raise SystemExit(3)


@click.command("cache-info")
@click.option("--cache", type=DIRECTORY, help="Cache to describe.  [default: the only one in cache/]")
@options.JSON
def cache_info(cache: Path | None, as_json: bool) -> None:
    """Say what a cache holds: images, views, layers, splits, recipe, and what is missing.

    Example: amnet cache-info --cache cache/lamem
    """
    from featcache.maintenance.info import read_info
    from featcache.store.cache import find_cache

    info = read_info(find_cache(cache))
    options.show(info.as_json() if as_json else info.as_text())


@click.command("merge-caches")
@click.argument("out", type=DIRECTORY)
@click.argument("inputs", nargs=-1, required=True, type=EXISTING_DIRECTORY)
@options.JSON
def merge_caches(out: Path, inputs: tuple[Path, ...], as_json: bool) -> None:
    """Join caches of one recipe, extracted on different machines, into the new cache OUT.

    Parts of one extraction keep their rows; other images follow one another. Splits are joined by name.

    Example: amnet merge-caches cache/all cache/machine-1 cache/machine-2
    """
    from featcache.maintenance.merge import merge_caches as run_merge

    with progress_bar() as progress:
        report = run_merge(out, inputs, on_progress=progress)
    show_report(report, as_json)
    if not report.complete:
        raise SystemExit(4)


@click.command("project-cache")
@click.argument("cache", type=EXISTING_DIRECTORY)
@click.option("--channels", required=True, type=int, metavar="C", help="How many each layer is to have.")
@click.option("--out", required=True, type=DIRECTORY, help="Folder of the new cache.")
@click.option("--split", default="", metavar="K",
              help="Find directions from its train part.  [default: images in no test part of any split]")  # fmt: skip
@options.layer_option("Layers to take along, each projected by itself.  [default: the cache's last]")
@click.option("--seed", default=0, show_default=True, help="Draws views to find directions from, if there are many.")
@options.JSON
def project_cache(cache: Path, out: Path, as_json: bool, **given: Any) -> None:
    """Make a smaller cache of CACHE: its features projected on their first C principal directions.

    Heads trained on it take new images as all heads do. Run it again to go on where it was killed, or to make anew what
    is damaged.

    Example: amnet project-cache cache/lamem --channels 256 --split 1 --out cache/lamem-256
    """
    from featcache.maintenance.project import project_cache as run_project

    with progress_bar() as progress:
        report = run_project(cache, out, on_progress=progress, **given)
    show_report(report, as_json)


@click.command("verify-cache")
@click.option("--cache", type=DIRECTORY, help="Cache to check.  [default: the only one in cache/]")
@click.option("--repair", is_flag=True, help="Extract damaged and missing rows again; sound shards stay as they are.")
@click.option("--root", type=EXISTING_DIRECTORY, help="The dataset's folder, or a CSV's paths', if it has moved.")
@click.option("--weights", type=EXISTING_FILE, help="Weights file of the backbone, if not where extract found it.")
@options.DEVICE
@options.JSON
def verify_cache(
    cache: Path | None, repair: bool, root: Path | None, weights: Path | None, device: str, as_json: bool
) -> None:
    """Check every file of a cache against the manifest and every stored chunk against its digest.

    Exit status 5 says that damage was found and not repaired, 4 that the cache is sound but not complete.

    Example: amnet verify-cache --cache cache/lamem --repair
    """
    from featcache.maintenance.verify import verify_cache as run_verify
    from featcache.store.cache import find_cache

    if not repair and (root or weights or device != "auto"):
        raise InvalidSettings("--root, --weights and --device go with --repair")
    folder = find_cache(cache)
    with progress_bar() as progress:
        if repair:
            from featcache.maintenance.repair import repair_cache

            weights_file = str(weights) if weights else None
            report: Any = repair_cache(folder, root=root, weights=weights_file, device=device, on_progress=progress)
            left = report.now
        else:
            left = report = run_verify(folder, on_progress=progress)
    show_report(report, as_json)
    if not left.ok:
        raise SystemExit(5)
    if not left.complete:
        raise SystemExit(4)
