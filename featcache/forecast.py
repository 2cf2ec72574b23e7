"""What an extraction will take, before it is started: views, bytes and time, from a few batches on this machine."""

import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .assemble import build_shard
from .backbones import Backbone
from .dataset import Dataset
from .errors import BadInput
from .extract import ExtractSettings, load_backbone, target_of
from .layout import Block
from .pipeline import LoadedImage, load_ahead
from .plan import existing_shards, make_plan, refuse_other_recipes
from .progress import duration
from .recipe import Target

_TIMED_BATCHES = 1  # LaMem with ResNet50 is to answer in ten seconds on two cores


@dataclass(frozen=True)
class Forecast:
    """views are to be computed, of images x views_per_image in all; bytes are raw, that is before compression.

    missing_weights is '' or why the extraction itself would stop now.
    """

    images: int
    views_per_image: int
    views: int
    views_already_there: int
    layers: dict[str, tuple[int, int, int]]
    raw_bytes_per_view: int
    raw_bytes: int
    free_bytes: int
    views_per_second: float
    seconds: float
    missing_weights: str

    def as_json(self) -> dict[str, Any]:
        """Return the forecast as a JSON object."""
        return asdict(self)


def forecast(dataset: Dataset, settings: ExtractSettings, out: Path) -> Forecast:
    """Time a batch of the dataset's own images and extrapolate; nothing is written.

    Weights that cannot be had do not stop it: their values change no time.
    """
    missing = ""
    try:
        backbone = load_backbone(settings)
    except BadInput as error:
        missing = str(error)
        backbone = load_backbone(_with_random_weights(settings))
    shards = [] if missing else existing_shards(out)
    target = target_of(backbone, settings, shards, dataset, sample=1)
    recipe = target.recipe
    refuse_other_recipes(shards, recipe, out)
    plan = make_plan(shards, dataset.names, dataset.root / "images", views=1 + settings.augs, recipe=recipe)
    rate = _views_per_second(dataset, backbone, target, 1 + settings.augs)
    total = len(plan.names) * plan.views
    return Forecast(
        images=len(plan.names),
        views_per_image=plan.views,
        views=plan.views_to_do,
        views_already_there=total - plan.views_to_do,
        layers={name: (height, width, channels) for name, height, width, channels in recipe.layers},
        raw_bytes_per_view=recipe.bytes_per_view(),
        raw_bytes=total * recipe.bytes_per_view(),
        free_bytes=shutil.disk_usage(_existing_parent(out)).free,
        views_per_second=rate,
        seconds=plan.views_to_do / rate,
        missing_weights=missing,
    )


def describe_forecast(result: Forecast) -> str:
    """Return a forecast as text."""
    layers = ", ".join(
        f"{name} {height}x{width}x{channels}" for name, (height, width, channels) in result.layers.items()
    )
    there = f" ({result.views_already_there:,} are there already)" if result.views_already_there else ""
    views = f"{result.images * result.views_per_image:,}: {result.views_per_image} per image{there}"
    return "\n".join(
        [
            f"images  {result.images:,}",
            f"views   {views}",
            f"layers  {layers}",
            f"bytes   {result.raw_bytes:,} raw, before compression: {result.raw_bytes / 1e9:,.1f} GB, "
            f"{result.raw_bytes_per_view:,} a view",
            f"disk    {result.free_bytes / 1e9:,.1f} GB free",
            f"time    {duration(result.seconds)} at {result.views_per_second:,.1f} views/s, timed here just now",
        ]
    )


def _with_random_weights(settings: ExtractSettings) -> ExtractSettings:
    return replace(settings, weights="random")


def _views_per_second(dataset: Dataset, backbone: Backbone, target: Target, views: int) -> float:
    """Time the real pipeline on the first images of the dataset, about one batch of views, after one to warm up."""
    images = max(1, _TIMED_BATCHES * backbone.batch_size // views)
    _build(dataset, 1, backbone, target, views)
    started = time.perf_counter()
    done = _build(dataset, min(images, len(dataset.names)), backbone, target, views)
    if not done:
        raise BadInput(f"{dataset.root}: none of the first {images} images can be decoded, so there is nothing to time")
    padded = -(-done // backbone.batch_size) * backbone.batch_size  # a long run pads one batch a shard at most
    return padded / (time.perf_counter() - started)


def _build(dataset: Dataset, rows: int, backbone: Backbone, target: Target, views: int) -> int:
    """Build a shard of the first rows and drop it; return how many views it has."""
    block = Block((0, rows), (0, views))
    work = [(name, block.views) for name in dataset.names[:rows]]
    done = 0

    def count(image: LoadedImage) -> None:
        nonlocal done
        done += len(image.views)

    images = load_ahead(dataset.root / "images", work, target.recipe)
    build_shard(images, block, backbone, target, on_image=count)
    return done


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in [path.absolute(), *path.absolute().parents] if parent.exists())
