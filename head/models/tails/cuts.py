"""What a tail reads of a cache: the layer behind which the network is cut, and the tokens before its positions."""

import functools
from dataclasses import replace

from featcache.backbones.families.descriptor_networks import parts_of_name
from featcache.backbones.families.rest import Cut
from featcache.backbones.networks import build_rest
from featcache.base.commands import command
from featcache.base.errors import InvalidSettings, first_line
from featcache.recipe import Recipe
from featcache.settings import PREFIX, VIEWS_LAYER
from featcache.store.cache import FeatureCache
from head.data.inputs import HeadInput
from head.models.tails.trained import check_statistics, choose_trained
from head.settings import TrainSettings

_SIDE = 256  # of views that crops of 224 and 227 pixels are cut from


def cut_of(recipe: Recipe, layer: str, *, crop: int = 0) -> Cut:
    """Return where a network is cut for a layer of a cache; crop is the side of what is cut from views, 0 for all."""
    shape, size = recipe.layer_shape(layer), crop or recipe.image_size
    places = (size, size) if layer == VIEWS_LAYER else (shape.height, shape.width)
    return Cut(recipe.backbone, layer, *places, size, recipe.final_norm, recipe.mean, recipe.std)


def read_cut(cache: FeatureCache, settings: TrainSettings, layers: tuple[str, ...]) -> HeadInput:
    """Return what a tail reads: one layer, and where the network has tokens before its positions those as well.

    Raises `InvalidSettings` if the network cannot be cut there, has nothing behind it that settings train, or the cache
    lacks those tokens.
    """
    if cache.recipe.projection:
        raise InvalidSettings(
            f"{cache.path}: made by project-cache, and {command('--head', settings.head)} goes on from features as the "
            "network gave them; train it on the cache that this one was made of"
        )
    named = [layer for layer in layers if not layer.endswith(PREFIX)]
    if len(named) != 1:
        raise InvalidSettings(
            f"{command('--head', settings.head)} goes on from one layer, found {', '.join(layers)}; name one with "
            "--layer"
        )
    layer = named[0]
    _check_crop(cache, settings, layer)
    crop = settings.crop if layer == VIEWS_LAYER else 0
    prefix = f"{layer}{PREFIX}"
    if others := [name for name in layers if name not in (layer, prefix)]:
        raise InvalidSettings(f"--layer {', '.join(others)}: tokens of another layer than {layer}; leave them out")
    tokens = _tokens_of(cut_of(cache.recipe, layer, crop=crop), settings.train, settings.batch_norm)
    if not tokens:
        return HeadInput((layer,), "maps")
    if prefix not in cache.recipe.layer_names:
        both, some = command("--layer", f"{layer},{prefix}"), "1 token" if tokens == 1 else f"{tokens} tokens"
        raise InvalidSettings(
            f"{cache.path}: {cache.recipe.backbone} goes on from {layer} with {some} before its positions as well "
            f"(class token, registers), which this cache does not have; extract {both}"
        )
    return HeadInput((layer, prefix), "tokens")


def read_views(
    cache: FeatureCache,
    settings: TrainSettings,
    layers: tuple[str, ...],
    *,
    networks: tuple[str, ...],
    outputs: tuple[str, ...] = (),
) -> HeadInput:
    """Return the views of a cache whose backbone is one of some networks, whichever of its layers is the last.

    outputs are modules of the network whose outputs are read as well.

    Raises `InvalidSettings` for another backbone or layer, or a cache without views.
    """
    title = f"{command('--head', settings.head)} reads the {VIEWS_LAYER} of {' or '.join(networks)}"
    network, found = parts_of_name(cache.recipe.backbone).network, cache.recipe.layer_names
    if network not in networks:
        ways = [_extraction(name, settings) for name in networks]
        raise InvalidSettings(f"{title}, and {cache.path} is of {cache.recipe.backbone}; {' or '.join(ways)}")
    if settings.layers and layers != (VIEWS_LAYER,):
        raise InvalidSettings(f"{title}, found --layer {','.join(layers)}; leave it out")
    if VIEWS_LAYER not in found:
        way_out = _extraction(network, settings)
        raise InvalidSettings(f"{title}, and {cache.path} has {', '.join(found)}; {way_out}")
    _check_crop(cache, settings, VIEWS_LAYER)
    cut = cut_of(cache.recipe, VIEWS_LAYER, crop=settings.crop)
    _tokens_of(replace(cut, outputs=outputs), settings.train, settings.batch_norm)
    return HeadInput((VIEWS_LAYER,), "maps")


def _extraction(network: str, settings: TrainSettings) -> str:
    return f"extract {command('--backbone', network, *_options_of_views(settings))}"


def _options_of_views(settings: TrainSettings) -> tuple[str, ...]:
    """Return how whole images are extracted from which crops can be cut."""
    side = max(settings.crop, _SIDE)
    return ("--layer", VIEWS_LAYER, "--image-size", str(side), "--eval-view", "squash")


def _check_crop(cache: FeatureCache, settings: TrainSettings, layer: str) -> None:
    side = cache.recipe.image_size
    if layer != VIEWS_LAYER and (settings.crop or settings.eval_view != "center"):
        raise InvalidSettings(
            f"--crop and --eval-view cut pixels, and {layer} of {cache.path} is features; leave them out, or name "
            f"{command('--layer', VIEWS_LAYER)}"
        )
    if settings.crop > side:
        raise InvalidSettings(
            f"--crop {settings.crop}: views of {cache.path} have {side} pixels a side; take no more, or extract "
            f"{command(*_options_of_views(settings))}"
        )
    if settings.eval_view != "center" and not settings.crop:
        raise InvalidSettings(f"--eval-view {settings.eval_view} is of crops; say how large with --crop")


@functools.lru_cache(maxsize=64)
def _tokens_of(cut: Cut, train: str, batch_norm: str) -> int:
    """Return how many tokens a network has before the positions of a layer; raise what building a tail of it raises."""
    try:
        rest = build_rest(cut, "random", seed=0)
    except RuntimeError as error:  # of a network that halves its maps more often than they have pixels
        size = cut.image_size
        raise InvalidSettings(
            f"{cut.name} does not take {size} x {size} pixels: {first_line(error)}; use a larger --crop"
        ) from error
    choose_trained(rest.network, train, cut.name)
    check_statistics(rest.network, batch_norm, train, cut.name)
    return rest.tokens
