"""Every kind of head: what it is made of and reads, how it is fitted, and the name under which a run stores it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from featcache.base.commands import command
from featcache.base.errors import InvalidSettings, refuse
from featcache.recipe import LayerShape
from featcache.settings import VIEWS_LAYER
from featcache.store.cache import FeatureCache
from head.data.inputs import HeadInput
from head.models import amnet, banded, baselines, kernels, probes, published, svr
from head.settings import HEADS, TrainSettings

_Scale = tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class TargetScale:
    """Targets are (score - mean) / scale."""

    mean: float
    scale: float


def _to_deviation(scores: NDArray[np.float64]) -> TargetScale:
    """Return the scale to mean 0 and deviation 1."""
    return TargetScale(float(np.mean(scores)), float(np.std(scores)) or 1.0)


def _to_one(scores: NDArray[np.float64]) -> TargetScale:
    """Return the scale to [-1, 1] around the mean (section 3.5)."""
    mean = float(np.mean(scores))
    return TargetScale(mean, float(np.max(np.abs(scores - mean))) or 1.0)


def _recurrent_looks(shape: Any) -> str:
    return f"{shape.steps} looks, state of {shape.hidden_size}"


@dataclass(frozen=True)
class Kind:
    """One kind of head, and all that other files need to know of it.

    title is what a model card calls it. module is built of shape, whose fields are sizes and fields of settings. reads
    gives for settings the pooling of its `HeadInput`. scale gives for a module the mean and deviation by which it
    standardises its channels, None where it does not. attends is whether it has maps of where it looks, which baselines
    have not; without attention they are uniform, 1/L. looks says of a shape in words how it looks, and look is what one
    of its T steps is called. target gives the scale of training scores. coverage gives for T the constant of Eq. 15:
    how much attention a position should get in all T steps together. baseline is how scikit-learn fits it; a head
    without one is trained by gradients and, if it standardises, is told mean and deviation by its `set_feature_scale`.
    """

    title: str
    shape: type[Any]
    module: type[nn.Module]
    reads: Callable[[TrainSettings], str] = lambda settings: settings.pooling
    scale: Callable[[Any], _Scale] = lambda head: (head.standardise.mean, head.standardise.deviation)
    attends: bool = False
    looks: Callable[[Any], str] = lambda shape: ""
    look: str = "look"
    target: Callable[[NDArray[np.float64]], TargetScale] = _to_deviation
    coverage: Callable[[int], float] = lambda steps: 1.0
    baseline: baselines.Baseline | None = None


_LINEAR = Kind(
    "linear regression on pooled features", baselines.LinearShape, baselines.LinearHead, baseline=baselines.LINEAR
)
KINDS = {  # a run stores the first name of its kind
    "paper": Kind(
        "AMNet's head, Eq. 3-15 of the paper",
        amnet.HeadShape,
        amnet.AMNetHead,
        reads=lambda settings: "maps" if settings.attention else "mean",
        scale=lambda head: (head.feature_mean, head.feature_std),
        attends=True,
        looks=_recurrent_looks,
        target=_to_one,
    ),
    "published": Kind(
        "AMNet's head as its authors' code has it",
        published.PublishedShape,
        published.PublishedHead,
        reads=lambda settings: "maps",
        scale=lambda head: None,  # batch norm instead
        attends=True,
        looks=_recurrent_looks,
        target=lambda scores: TargetScale(published.TARGET_MEAN, published.TARGET_SCALE),
        coverage=lambda steps: published.COVERAGE_PER_STEP * steps,
    ),
    "ep": Kind(
        "efficient probing (Psomas et al., 2026)",
        probes.EfficientShape,
        probes.EfficientProbe,
        reads=lambda settings: "tokens",
        attends=True,
        looks=lambda shape: (
            f"{shape.queries} {'query' if shape.queries == 1 else 'queries'} of {shape.value_size} values"
        ),
        look="query",
    ),
    "probe": Kind(
        "attentive probing by a block of cross-attention, as of V-JEPA (Bardes et al., 2024)",
        probes.AttentiveShape,
        probes.AttentiveProbe,
        reads=lambda settings: "tokens",
        attends=True,
        looks=lambda shape: f"1 query, {shape.attention_heads} heads of attention",
    ),
    "linear": _LINEAR,
    "ridge": replace(_LINEAR, baseline=baselines.RIDGE),
    "banded-ridge": replace(
        _LINEAR, title="ridge regression on pooled features, a penalty a layer", baseline=banded.BANDED_RIDGE
    ),
    "lsvr": Kind(
        "linear support vector regression on pooled features, in the fixed setting of Khosla et al. (2012)",
        baselines.LinearShape,
        baselines.AffineHead,
        baseline=baselines.LINEAR_SVR,
    ),
    "svr": Kind(
        "support vector regression on pooled features",
        kernels.KernelShape,
        kernels.KernelHead,
        baseline=svr.KERNEL,
    ),
    "kernels": Kind(  # of the head "svr" as well, with other kernels than the Gaussian
        "support vector regression on pooled features", kernels.KernelProductShape, kernels.KernelProductHead
    ),
    "mlp": Kind(
        "a perceptron with one hidden layer on pooled features",
        baselines.PerceptronShape,
        baselines.PerceptronHead,
        baseline=baselines.PERCEPTRON,
    ),
}


def kind_name(module: nn.Module) -> str:
    """Return the name under which a run stores a head's kind."""
    return next(name for name, kind in KINDS.items() if type(module) is kind.module)


def kind_of(module: nn.Module) -> Kind:
    """Return a head's kind."""
    return KINDS[kind_name(module)]


def kind_for(settings: TrainSettings) -> Kind:
    """Return the kind that settings ask for: that of their head, or of its recipe where it has one."""
    return KINDS[settings.recipe if "recipe" in HEADS[settings.head] else settings.head]


def head_from_json(kind: str, shape: dict[str, Any]) -> nn.Module:
    """Return an untrained head; raise `KeyError` for an unknown kind, `TypeError` for another kind's shape."""
    module = KINDS[kind].module(KINDS[kind].shape(**shape))
    if kind_name(module) != kind:
        raise KeyError(kind)
    return module


def head_as_json(module: nn.Module) -> dict[str, Any]:
    """Return kind and shape, from which `head_from_json` builds a head for the same weights."""
    return {"kind": kind_name(module), "shape": asdict(module.shape)}  # type: ignore[call-overload]


def input_of(cache: FeatureCache, settings: TrainSettings) -> HeadInput:
    """Return what the head that settings ask for reads; raise `InvalidSettings` for layers that it cannot read.

    One that reads tokens and is given maps alone reads 'maps', which is the same.
    """
    names = cache.recipe.layer_names if settings.layers == ("all",) else settings.layers
    layers = tuple(cache.layer(name) for name in names) or (cache.layer(),)
    kind = kind_for(settings)
    if kind.attends and VIEWS_LAYER in layers:  # without attention too: its uniform maps have all these positions
        raise InvalidSettings(_of_pixels(cache, settings, layers))
    pooling = kind.reads(settings)
    if pooling in ("maps", "tokens"):
        shapes = {layer: cache.recipe.layer_shape(layer) for layer in layers}
        _check_layers(cache, settings, shapes, as_tokens=pooling == "tokens")
        pooling = "maps" if all(shape.is_map for shape in shapes.values()) else pooling
    return HeadInput(layers, pooling)


def _of_pixels(cache: FeatureCache, settings: TrainSettings, layers: tuple[str, ...]) -> str:
    """Return that no head looks at pixels, and the way out: other layers of the cache, or heads on pooled colours."""
    named = [layer for layer in layers if layer != VIEWS_LAYER]
    maps = [name for name in cache.recipe.layer_names if cache.recipe.layer_shape(name).is_map and name != VIEWS_LAYER]
    fitting = named or maps[-1:]
    shape = cache.recipe.layer_shape(VIEWS_LAYER)
    other = f"name {command('--layer', ','.join(fitting))}" if fitting else "extract a layer of the network as well"
    return (
        f"a head of the kind {settings.head} looks at features, and {VIEWS_LAYER} of {cache.path} is the pixels of "
        f"views themselves, {shape.height} x {shape.width} positions of 3 colours: {other}, or use --head ridge, svr "
        "or mlp, which read mean and deviation of each colour"
    )


def _check_layers(
    cache: FeatureCache, settings: TrainSettings, shapes: dict[str, LayerShape], *, as_tokens: bool
) -> None:
    """Raise `InvalidSettings` unless a head has a map to look at, and can read the vectors that are named with it."""
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


def shape_of(cache: FeatureCache, settings: TrainSettings) -> Any:
    """Return the shape of the head that settings ask for; raise `InvalidSettings` if what it reads cannot have it."""
    kind, map_shape = kind_for(settings), input_of(cache, settings).map_shape(cache.recipe)
    sizes = {"positions": map_shape.positions, "channels": map_shape.channels, **vars(settings)}
    return kind.shape(**{field.name: sizes[field.name] for field in fields(kind.shape) if field.name in sizes})


def untrained_head(cache: FeatureCache, settings: TrainSettings) -> nn.Module:
    """Return the head that settings ask for, with weights drawn from torch's generator."""
    return kind_for(settings).module(shape_of(cache, settings))
