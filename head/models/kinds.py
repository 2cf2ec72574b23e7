"""Every kind of head there is: what settings ask for, and the name under which a run stores it."""

from dataclasses import asdict
from typing import Any

from torch import nn

from featcache.store.cache import FeatureCache
from head.data.inputs import HeadInput
from head.models.amnet import AMNetHead, HeadShape
from head.models.baselines import KernelHead, KernelShape, LinearHead, LinearShape, PerceptronHead, PerceptronShape
from head.models.published import PublishedHead, PublishedShape
from head.settings import TrainSettings

KINDS: dict[str, tuple[type[Any], type[nn.Module]]] = {
    "paper": (HeadShape, AMNetHead),
    "published": (PublishedShape, PublishedHead),
    "linear": (LinearShape, LinearHead),
    "svr": (KernelShape, KernelHead),
    "mlp": (PerceptronShape, PerceptronHead),
}


def kind_of(module: nn.Module) -> str:
    """Return the name of a head's kind."""
    return next(kind for kind, (_, cls) in KINDS.items() if type(module) is cls)


def head_from_json(kind: str, shape: dict[str, Any]) -> nn.Module:
    """Return an untrained head; raise `KeyError` for an unknown kind, `TypeError` for another kind's shape."""
    shape_class, module_class = KINDS[kind]
    return module_class(shape_class(**shape))


def head_as_json(module: nn.Module) -> dict[str, Any]:
    """Return kind and shape, from which `head_from_json` builds a head for the same weights."""
    return {"kind": kind_of(module), "shape": asdict(module.shape)}  # type: ignore[call-overload]


def input_of(cache: FeatureCache, settings: TrainSettings) -> HeadInput:
    """Return what the head that settings ask for reads; raise `InvalidSettings` for a layer the cache does not have."""
    names = cache.recipe.layer_names if settings.layers == ("all",) else settings.layers
    layers = tuple(cache.layer(name) for name in names) or (cache.layer(),)
    if settings.head != "amnet":
        return HeadInput(layers, settings.pooling)
    return HeadInput(layers, "maps" if settings.attention or settings.recipe == "published" else "mean")


def untrained_head(cache: FeatureCache, settings: TrainSettings) -> AMNetHead | PublishedHead:
    """Return the head that settings ask for, with weights drawn from torch's generator."""
    grid = input_of(cache, settings).grid(cache.recipe)
    sizes: dict[str, Any] = {
        "positions": grid.positions,
        "channels": grid.channels,
        "steps": settings.steps,
        "hidden_size": settings.hidden_size,
        "regressor_size": settings.regressor_size,
        "attention": settings.attention,
        "dropout": settings.dropout,
    }
    if settings.recipe == "published":
        return PublishedHead(PublishedShape(**sizes))
    return AMNetHead(HeadShape(**sizes))


def has_maps(module: nn.Module) -> bool:
    """Whether a head is of a kind that looks, which baselines are not; without attention its maps are uniform, 1/L."""
    return isinstance(module, AMNetHead | PublishedHead)
