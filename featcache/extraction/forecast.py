"""What an extraction will take, before it is started: views, bytes and time, from a few batches on this machine."""

import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from featcache.backbones.backbone import Backbone, load_backbone
from featcache.backbones.execution import explain_execution
from featcache.backbones.networks import Asked, settled
from featcache.base.errors import BadInput
from featcache.base.progress import duration
from featcache.datasets.dataset import Dataset, refuse_untrainable
from featcache.extraction.calibration import COMPRESSED_IMAGES, settle_target
from featcache.extraction.dictionary import settle_dictionary
from featcache.extraction.extract import follow
from featcache.extraction.pipeline import build_shards, load_for
from featcache.extraction.plan import make_plan
from featcache.settings import ExtractSettings
from featcache.store.folder import existing_shards, refuse_other_recipes
from featcache.store.shards.format import Block, Target


@dataclass(frozen=True)
class Forecast:
    """views are to be computed, of images x views_per_image in all.

    codecs say how each layer is to be compressed. raw_bytes is before that, bytes what they take at the encoding, by
    the share that a few views took; both count all views, bytes_to_write those to be computed. execution says how the
    backbone runs and why. missing_weights is '' or why the extraction itself would stop now. dataset_notes are those of
    the dataset.
    """

    images: int
    views_per_image: int
    views: int
    views_already_there: int
    layers: dict[str, tuple[int, int, int]]
    raw_bytes_per_view: int
    raw_bytes: int
    encoding: str
    codecs: dict[str, str]
    bytes: int
    bytes_to_write: int
    free_bytes: int
    views_per_second: float
    seconds: float
    start_seconds: float
    execution: str
    missing_weights: str
    dataset_notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the forecast as a JSON object."""
        return asdict(self)

    def as_text(self) -> str:
        """Return the forecast as lines for a person."""
        sizes = self.layers.items()
        layers = ", ".join(f"{name} {height}x{width}x{channels}" for name, (height, width, channels) in sizes)
        there = f" ({self.views_already_there:,} are there already)" if self.views_already_there else ""
        too_small = ", which is too little" if self.bytes_to_write > self.free_bytes else ""
        lines = [
            f"images  {self.images:,}",
            f"views   {self.images * self.views_per_image:,}: {self.views_per_image} per image{there}",
            f"layers  {layers}",
            f"bytes   {self.raw_bytes:,} raw, before compression: {self.raw_bytes / 1e9:,.1f} GB, "
            f"{self.raw_bytes_per_view:,} a view",
            f"        about {self.bytes / 1e9:,.1f} GB as {self.encoding}, stored as the views timed here",
            *(f"stored  {name} {codec}" for name, codec in self.codecs.items()),
            f"disk    {self.free_bytes / 1e9:,.1f} GB free{too_small}",
            f"runs    {self.execution}",
            f"time    {duration(self.seconds)} at {self.views_per_second:,.1f} views/s, timed here just now, "
            f"and {self.start_seconds:.0f} s to start",
        ]
        return "\n".join(lines)

    def warnings(self) -> list[str]:
        """Return why the extraction itself would stop."""
        return [f"warning: extract itself would stop: {self.missing_weights}"] if self.missing_weights else []


def forecast(dataset: Dataset, settings: ExtractSettings, out: Path) -> Forecast:
    """Time a batch of the dataset's own images and extrapolate; nothing is written.

    Weights that cannot be had do not stop it: their values change no time. Raises `BadInput` as `extract` does.
    """
    refuse_untrainable(dataset)
    settings, started = settle_dictionary(follow(settings, out), dataset, out, learn=False), time.perf_counter()
    views, missing = len(dataset.names) * (1 + settings.augs), ""
    try:
        backbone = load_backbone(settings, views=views)
    except BadInput as error:
        backbone, missing = load_backbone(replace(settings, weights="random"), views=views), str(error)
    start_seconds = time.perf_counter() - started
    asked = settled(settings.backbone, settings.layers, Asked(settings.device, settings.precision, settings.runtime))
    shards = [] if missing else existing_shards(out)
    target = settle_target(backbone, settings, shards, dataset, sample=COMPRESSED_IMAGES)
    recipe = target.recipe
    refuse_other_recipes(shards, recipe, out)
    plan = make_plan(shards, dataset.names, dataset.images, views=1 + settings.augs, recipe=recipe)
    views_per_second, bytes_per_view = _time_sample(dataset, backbone, target, 1 + settings.augs)
    total = len(plan.names) * plan.views
    there = next(parent for parent in [out.absolute(), *out.absolute().parents] if parent.exists())
    return Forecast(
        images=len(plan.names),
        views_per_image=plan.views,
        views=plan.views_to_do,
        views_already_there=total - plan.views_to_do,
        layers={name: (height, width, channels) for name, height, width, channels in recipe.layers},
        raw_bytes_per_view=recipe.bytes_per_view(),
        raw_bytes=total * recipe.bytes_per_view(),
        encoding=" and ".join(dict.fromkeys(recipe.dtype_of(layer).name for layer in recipe.layer_names)),
        codecs={layer: str(target.codecs[f"features/{layer}"]) for layer in recipe.layer_names},
        bytes=round(total * bytes_per_view),
        bytes_to_write=round(plan.views_to_do * bytes_per_view),
        free_bytes=shutil.disk_usage(there).free,
        views_per_second=views_per_second,
        seconds=plan.views_to_do / views_per_second,
        start_seconds=start_seconds,
        execution=explain_execution(backbone.execution, asked.precision, asked.runtime, total)
        if backbone.computed
        else "no network: views are stored as they are cut",
        missing_weights=missing,
        dataset_notes=dataset.notes,
    )


def _time_sample(dataset: Dataset, backbone: Backbone, target: Target, views: int) -> tuple[float, float]:
    """Return views per second and bytes per view of the first images of the dataset, after one batch to warm up."""
    batch = backbone.streams * backbone.batch_size  # one: LaMem with ResNet50 is to answer in ten seconds on two cores
    images = min(len(dataset.names), max(1, batch // views))
    _build(dataset, 1, backbone, target, views)
    started = time.perf_counter()
    done, size = _build(dataset, images, backbone, target, views)
    seconds = time.perf_counter() - started
    if not done:
        raise BadInput(f"{dataset.images}: none of the first {images} images can be decoded, so nothing can be timed")
    padded = -(-done // backbone.batch_size) * backbone.batch_size  # a long run pads next to nothing
    return padded / seconds, size / done


def _build(dataset: Dataset, rows: int, backbone: Backbone, target: Target, views: int) -> tuple[int, int]:
    """Build a shard of the first rows and drop it; return how many views it has, and how many bytes."""
    block = Block((0, rows), (0, views))
    work = [(name, block.views) for name in dataset.names[:rows]]
    loaded = load_for(backbone, dataset.images, work, target.recipe)
    built = next(build_shards(loaded, [block], backbone, target))
    return views * sum(not image.absent for image in built.rows), len(built.data)
