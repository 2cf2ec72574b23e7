"""What a kind of head reads of a cache's layers: maps, tokens beside them, or vectors pooled over positions."""

from featcache.base.commands import command
from featcache.base.errors import InvalidSettings, refuse
from featcache.recipe import LayerShape
from featcache.settings import VIEWS_LAYER
from featcache.store.cache import FeatureCache
from head.data.inputs import HeadInput
from head.settings import HEADS, TrainSettings


def read_pooled(cache: FeatureCache, settings: TrainSettings, layers: tuple[str, ...]) -> HeadInput:
    """Return layers pooled as settings say."""
    return HeadInput(layers, settings.pooling)


def read_maps(cache: FeatureCache, settings: TrainSettings, layers: tuple[str, ...]) -> HeadInput:
    """Return layers as maps, with vectors joined at every position; raise `InvalidSettings` for others."""
    _check_layers(cache, settings, layers, as_tokens=False)
    return HeadInput(layers, "maps")


def read_steps(cache: FeatureCache, settings: TrainSettings, layers: tuple[str, ...]) -> HeadInput:
    """Return what `read_maps` does, or their mean where settings say that no attention is paid."""
    if settings.attention:
        return read_maps(cache, settings, layers)
    _refuse_pixels(cache, settings, layers)  # its uniform maps would have all these positions
    return HeadInput(layers, "mean")


def read_tokens(cache: FeatureCache, settings: TrainSettings, layers: tuple[str, ...]) -> HeadInput:
    """Return layers as maps with vectors as tokens behind them, of maps alone 'maps', which is the same."""
    _check_layers(cache, settings, layers, as_tokens=True)
    only_maps = all(cache.recipe.layer_shape(layer).is_map for layer in layers)
    return HeadInput(layers, "maps" if only_maps else "tokens")


def _refuse_pixels(cache: FeatureCache, settings: TrainSettings, layers: tuple[str, ...]) -> None:
    """Raise `InvalidSettings` for pixels, with the way out: other layers, or heads on pooled colours."""
    if VIEWS_LAYER not in layers:
        return
    named = [layer for layer in layers if layer != VIEWS_LAYER]
    maps = [name for name in cache.recipe.layer_names if cache.recipe.layer_shape(name).is_map and name != VIEWS_LAYER]
    fitting = named or maps[-1:]
    shape = cache.recipe.layer_shape(VIEWS_LAYER)
    other = f"name {command('--layer', ','.join(fitting))}" if fitting else "extract a layer of the network as well"
    raise InvalidSettings(
        f"a head of the kind {settings.head} looks at features, and {VIEWS_LAYER} of {cache.path} is the pixels of "
        f"views themselves, {shape.height} x {shape.width} positions of 3 colours: {other}, or use --head ridge, svr "
        "or mlp, which read mean and deviation of each colour"
    )


def _check_layers(cache: FeatureCache, settings: TrainSettings, layers: tuple[str, ...], *, as_tokens: bool) -> None:
    """Raise `InvalidSettings` unless a head has a map to look at, and can read the vectors that are named with it."""
    _refuse_pixels(cache, settings, layers)
    shapes = {layer: cache.recipe.layer_shape(layer) for layer in layers}
    vectors = {layer: shape for layer, shape in shapes.items() if not shape.is_map}
    others = [name for name in cache.recipe.layer_names if name != VIEWS_LAYER]
    maps = {name: shape for name in others if (shape := cache.recipe.layer_shape(name)).is_map}
    if len(vectors) == len(shapes):
        raise InvalidSettings(_without_map(cache, settings, vectors, maps))
    if as_tokens:
        read = {layer: shape.channels for layer, shape in shapes.items() if shape.is_map}
        width, parts = sum(read.values()), " + ".join(f"{layer} {channels}" for layer, channels in read.items())
        problems = [_unfit(layer, shape, maps) for layer, shape in vectors.items() if shape.channels != width]
        title = f"{settings.head} reads vectors as tokens beside a map, of as many channels as that, {width} ({parts}):"
        way_out = "Name layers that fit. Heads amnet, ridge, svr and mlp join vectors of any width."
    else:
        problems = [f"{layer}: {shape.positions} vectors" for layer, shape in vectors.items() if shape.positions > 1]
        title = f"{settings.head} reads no more than one vector of a layer, at every position of a map:"
        way_out = "Leave it out, or use --head ep or probe, which read each vector as a token."
    refuse(InvalidSettings, f"{cache.path}: {title}", problems, way_out)


def _without_map(
    cache: FeatureCache, settings: TrainSettings, vectors: dict[str, LayerShape], maps: dict[str, LayerShape]
) -> str:
    """Return that layers are vectors alone, which have no place to look at, and the way out."""
    widths = {shape.channels for shape in vectors.values()}
    fitting = [name for name, shape in maps.items() if {shape.channels} == widths] or list(maps)
    named = command("--layer", ",".join([*vectors, *fitting[-1:]]))
    way_out = f"name a map as well, {named}" if maps else "extract a map as well"
    plain = "use --head ridge, svr or mlp" + (", or --no-attention" if "attention" in HEADS[settings.head] else "")
    return (
        f"a head of the kind {settings.head} looks at places, and {', '.join(vectors)} of {cache.path} has none, as "
        f"vectors of an image: {way_out}, or {plain}"
    )


def _unfit(layer: str, shape: LayerShape, maps: dict[str, LayerShape]) -> str:
    fitting = [name for name, other in maps.items() if other.channels == shape.channels]
    fits = f"fits one of these maps alone: {', '.join(fitting)}" if fitting else "no map of this cache has as many"
    return f"{layer} has {shape.channels}; {fits}"
