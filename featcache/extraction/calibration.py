"""Which images the constants of a calibrated encoding are taken from."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import xxhash
from torch import Tensor

from featcache.backbones.backbone import Backbone
from featcache.backbones.of_recipe import recipe_of
from featcache.base.errors import BadInput
from featcache.datasets.dataset import Dataset
from featcache.images.loading import load_ahead
from featcache.recipe import Recipe, check_same
from featcache.settings import ENCODINGS, ExtractSettings
from featcache.store.cache import open_cache
from featcache.store.shards.encoding import Constants, calibrate, digest_of_constants
from featcache.store.shards.format import Target
from featcache.store.shards.shard import Shard

SAMPLE_IMAGES = 64
_SAMPLE_VIEWS = (0, 2)  # the evaluation view and one crop, however many a cache holds: it may grow


def settle_target(
    backbone: Backbone,
    settings: ExtractSettings,
    shards: Sequence[Shard],
    dataset: Dataset,
    *,
    sample: int = SAMPLE_IMAGES,
) -> Target:
    """Return what settings ask to be made, by the backbone, beside the shards that are there.

    Constants are those of the cache settings.calibrate_like, of the shards, or calibrated now on so many images.
    Raises `Mismatch` if that cache was made with another recipe, `BadInput` if no image can be decoded.
    """
    recipe = recipe_of(backbone, settings.views, settings.encoding)
    if not ENCODINGS[recipe.encoding].calibrated:
        return Target(recipe)
    if settings.calibrate_like:
        like = Path(settings.calibrate_like)
        cache = open_cache(like)
        check_same(
            replace(cache.recipe, calibration=""),
            recipe,
            where=str(like),
            way_out="Take the constants of a cache of the same recipe, or calibrate anew without --calibrate-like.",
        )
        constants = {layer: value for layer in recipe.layer_names if (value := cache.constants(layer)) is not None}
    elif shards:  # whether their recipe is the same in all else is for the caller to check
        return Target(replace(recipe, calibration=shards[0].recipe.calibration), shards[0].constants)
    else:
        constants = _calibrate(backbone, recipe, dataset, sample)
    return Target(replace(recipe, calibration=digest_of_constants(constants)), constants)


def sample_names(names: Sequence[str], *, seed: int, size: int = SAMPLE_IMAGES) -> list[str]:
    """Return `size` of names (all if there are fewer), drawn by (seed, name): independent of their order."""
    return sorted(names, key=lambda name: xxhash.xxh3_64_intdigest(f"{seed}\0{name}".encode()))[:size]


def _calibrate(backbone: Backbone, recipe: Recipe, dataset: Dataset, sample: int) -> dict[str, Constants]:
    work = [(name, _SAMPLE_VIEWS) for name in sample_names(dataset.names, seed=recipe.seed, size=sample)]
    pixels = [view for image in load_ahead(dataset.images, work, recipe) for view in image.pixels]
    if not pixels:
        raise BadInput(
            f"{dataset.images}: none of the {len(work)} images to calibrate {recipe.encoding} on can be decoded"
        )
    ends: dict[str, list[Tensor]] = {layer: [] for layer in recipe.layer_names}
    for start in range(0, len(pixels), backbone.batch_size):
        batch = torch.from_numpy(np.stack(pixels[start : start + backbone.batch_size]))
        for layer, features in backbone(batch).items():
            ends[layer].append(torch.stack([features.amin(dim=(0, 1)), features.amax(dim=(0, 1))])[None])  # (1, 2, D)
    return {layer: calibrate(values) for layer, values in ends.items()}
