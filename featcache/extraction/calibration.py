"""What a sample of the dataset decides: the constants of a calibrated encoding, and which layers are compressed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from featcache.backbones.backbone import Backbone
from featcache.backbones.of_recipe import recipe_of
from featcache.base.errors import BadInput
from featcache.datasets.dataset import Dataset
from featcache.images.loading import load_ahead
from featcache.recipe import Recipe, check_same
from featcache.settings import ExtractSettings
from featcache.store.cache import open_cache, open_listed_shard
from featcache.store.shards.codec import Codec
from featcache.store.shards.encoding import Constants, calibrate, digest_of_constants, encode
from featcache.store.shards.format import Codecs, Target, codec_named, codecs_of
from featcache.store.shards.shard import Shard

SAMPLE_IMAGES = 64
COMPRESSED_IMAGES = 8  # of them; whether a layer can be compressed shows in a few
WORTH_IT = 1.1  # zstd is chosen where a layer would be larger by a tenth without it
_SAMPLE_VIEWS = (0, 2)  # the evaluation view and one crop, however many a cache holds: it may grow


@dataclass(frozen=True)
class _Sample:
    """Features of each layer: lowest and highest of each channel in batches (n, 2, D); some whole ones (m, L, D)."""

    ends: dict[str, Tensor]
    features: dict[str, Tensor]


def settle_target(
    backbone: Backbone,
    settings: ExtractSettings,
    shards: Sequence[Shard],
    dataset: Dataset,
    *,
    sample: int = SAMPLE_IMAGES,
) -> Target:
    """Return what settings ask to be made, by the backbone, beside the shards that are there.

    Constants are those of the cache settings.calibrate_like, of the shards, or calibrated now on so many images. Codecs
    are those that settings ask for, else those of the shards, of that cache, or what pays on a few images.
    Raises `Mismatch` if that cache was made with another recipe, `BadInput` if no image to calibrate on can be decoded.
    """
    recipe = recipe_of(backbone, settings.views, settings.encoding)
    calibrated = recipe.calibrated_layers
    like = _first_shard(settings.calibrate_like, recipe) if settings.calibrate_like else next(iter(shards), None)
    taken = None
    if like is None and (calibrated or settings.compression == "auto"):
        taken = _take_sample(backbone, recipe, dataset, sample if calibrated else min(sample, COMPRESSED_IMAGES))
    constants: Mapping[str, Constants] = {}
    if calibrated and like:  # whether their recipe is the same in all else is for the caller to check
        constants = like.constants
    elif calibrated and taken:
        constants = {layer: calibrate([taken.ends[layer]]) for layer in calibrated}
    codecs = _settle_codecs(recipe, settings.compression, shards[0] if shards else like, taken, constants)
    return Target(replace(recipe, calibration=digest_of_constants(constants)), codecs, constants)


def sample_names(names: Sequence[str], *, seed: int, size: int = SAMPLE_IMAGES) -> list[str]:
    """Return `size` of names (all if there are fewer), drawn by (seed, name): independent of their order."""
    return sorted(names, key=lambda name: xxhash.xxh3_64_intdigest(f"{seed}\0{name}".encode()))[:size]


def _first_shard(folder: str, recipe: Recipe) -> Shard:
    """Return a shard of the cache to be calibrated like; raise `Mismatch` if its recipe is another one."""
    cache = open_cache(folder)
    check_same(
        replace(cache.recipe, calibration=""),
        recipe,
        where=folder,
        way_out="Take the constants of a cache of the same recipe, or calibrate anew without --calibrate-like.",
    )
    return open_listed_shard(cache.path, cache.manifest.shards[0], cache.recipe)


def _take_sample(backbone: Backbone, recipe: Recipe, dataset: Dataset, images: int) -> _Sample:
    """Compute the features of a sample of so many images; raise `BadInput` if a calibrated encoding finds none."""
    work = [(name, _SAMPLE_VIEWS) for name in sample_names(dataset.names, seed=recipe.seed, size=images)]
    pixels = [view for image in load_ahead(dataset.images, work, recipe) for view in image.pixels]
    if not pixels and recipe.calibrated_layers:
        raise BadInput(
            f"{dataset.images}: none of the {len(work)} images to calibrate {recipe.encoding} on can be decoded"
        )
    ends: dict[str, list[Tensor]] = {layer: [] for layer in recipe.layer_names}
    kept: dict[str, list[Tensor]] = {layer: [] for layer in recipe.layer_names}
    for start in range(0, len(pixels), backbone.batch_size):
        batch = torch.from_numpy(np.stack(pixels[start : start + backbone.batch_size]))
        wanted = max(0, COMPRESSED_IMAGES * _SAMPLE_VIEWS[1] - start)  # of this batch
        for layer, features in backbone(batch).items():
            ends[layer].append(torch.stack([features.amin(dim=(0, 1)), features.amax(dim=(0, 1))])[None])  # (1, 2, D)
            kept[layer] += features[:wanted]
    if not pixels:
        return _Sample({}, {})
    return _Sample(
        {layer: torch.cat(values) for layer, values in ends.items()},
        {layer: torch.stack(values) for layer, values in kept.items()},
    )


def _settle_codecs(
    recipe: Recipe, compression: str, like: Shard | None, taken: _Sample | None, constants: Mapping[str, Constants]
) -> Codecs:
    """Return the codec of each array: of features as asked for, as in the shard like, or as pays on the sample.

    Which pooled vectors are stored is as in like. What neither says is compressed with zstd.
    """
    chosen: dict[str, Codec] = {}
    for layer in recipe.layer_names:
        zstd, none = (codec_named(name, recipe.encoding_of(layer)) for name in ("zstd", "none"))
        index = like.arrays.get(f"features/{layer}") if like else None
        if compression != "auto":
            chosen[layer] = codec_named(compression, recipe.encoding_of(layer))
        elif index and index.codec:
            chosen[layer] = index.codec
        else:
            features = taken.features.get(layer) if taken else None
            pays = features is None or gain(encode(features, constants.get(layer)).features, zstd) >= WORTH_IT
            chosen[layer] = zstd if pays else none
    pooled = [layer for layer in recipe.layer_names if f"pooled/{layer}" in like.arrays] if like else None
    return codecs_of(recipe, chosen, pooled)


def gain(stored: NDArray[np.generic], codec: Codec) -> float:
    """Return how many times as large as with codec chunks (n, L, D) are without any."""
    return stored.nbytes / sum(len(codec.encode(chunk)) for chunk in stored)
