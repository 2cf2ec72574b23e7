"""Networks of torchvision, and CaffeNet beside them, traced and cut behind the last layer asked for."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from featcache.backbones.families import caffenet
from featcache.backbones.families import weights as weights_module
from featcache.backbones.families.extractor import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Extractor,
    as_map,
    no_such_layer,
    state_of,
)
from featcache.backbones.families.rest import Uncut
from featcache.base.errors import InvalidSettings

_ARGUMENTS = {  # of models whose published weights expect other than torchvision's defaults
    # they hold auxiliary classifiers and normalise to mean and std 0.5
    "googlenet": {"aux_logits": True, "init_weights": False, "transform_input": True},
}


def _of_torchvision(name: str) -> nn.Module:
    from torchvision.models import get_model

    model: nn.Module = get_model(name, weights=None, **_ARGUMENTS.get(name, {}))
    return model


@dataclass(frozen=True)
class Named:
    """A network's default layer, the last map of stride 16 (14 x 14 at 224 pixels, AlexNet's 13 x 13), and names.

    others are the usual names of what is not called as its module is: fc6 and fc7 behind their ReLU, pooled what the
    classifier reads. maps are those that end its stages, in order. build and published give, for its name, the model
    and the weights that can be downloaded; mean and std normalise its images. auxiliary are its auxiliary classifiers,
    by the layer that each reads.
    """

    default: str
    others: Mapping[str, str]
    maps: tuple[str, ...]
    build: Callable[[str], nn.Module] = _of_torchvision
    published: Callable[[str], weights_module.State] = weights_module.torchvision_imagenet
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    auxiliary: Mapping[str, str] = field(default_factory=dict)


_OF_RESNET = {"pooled": "flatten"}, ("layer1", "layer2", "layer3", "layer4")
TORCHVISION = {
    "resnet50": Named("layer3", *_OF_RESNET),
    "resnet18": Named("layer3", *_OF_RESNET),
    "resnet101": Named("layer3", *_OF_RESNET),
    "vgg16": Named(
        "features.29",
        {"fc6": "classifier.1", "fc7": "classifier.4", "pooled": "classifier.4"},
        ("features.4", "features.9", "features.16", "features.23", "features.29"),
    ),
    "alexnet": Named(
        "features.11",
        {"fc6": "classifier.2", "fc7": "classifier.5", "pooled": "classifier.5"},
        ("features.2", "features.5", "features.11"),
    ),
    "googlenet": Named(
        "inception4e",
        {"pooled": "flatten"},
        ("conv3", "inception3b", "inception4e", "inception5b"),
        auxiliary={"inception4a": "aux1", "inception4d": "aux2"},
    ),
    "caffenet": Named(
        "conv5",
        {**caffenet.BLOBS, "pooled": caffenet.BLOBS["fc7"]},
        ("norm1", "norm2", "conv3", "conv5"),
        caffenet.build,
        caffenet.no_published_weights,
        std=caffenet.STD,
    ),
}


def build_torchvision(name: str, layers: tuple[str, ...], weights: str) -> Extractor:
    """Return an extractor of one of torchvision's models."""
    from torchvision.models.feature_extraction import create_feature_extractor

    named = TORCHVISION[name]
    layers = layers or (named.default,)
    nodes = {layer: named.others.get(layer, layer) for layer in layers}
    model = _model(name, weights)
    try:
        module = create_feature_extractor(model, list(nodes.values()), suppress_diff_warning=True)
    except ValueError:
        known = [*named.others, *(module for module, _ in model.named_modules() if module)]
        raise InvalidSettings(no_such_layer(name, layers, known)) from None
    _without_in_place_operations(module)
    if weights != "random":
        weights_module.load_into(module, _state(name, weights), weights)

    def maps(x: Tensor) -> list[Tensor]:
        found = module(x)  # in the graph's order, which need not be that of layers
        return [as_map(found[nodes[layer]]) for layer in layers]

    return Extractor(module, maps, layers, named.mean, named.std)


def uncut_torchvision(name: str, weights: str) -> Uncut:
    """Return one of torchvision's models whole, for what lies behind a layer of it to be cut out."""
    named = TORCHVISION[name]
    return Uncut(
        _model(name, weights),
        pooled=named.others["pooled"],
        nodes=named.others,
        layers=named.maps,
        state=None if weights == "random" else _state(name, weights),
    )


def auxiliary_torchvision(name: str, weights: str) -> nn.ModuleDict:
    """Return a model's auxiliary classifiers without their last layer: maps (B, C, H, W) to vectors (B, 1024).

    Raises `Mismatch` that names what the weights lack of them.
    """
    model = _model(name, weights)
    found = nn.ModuleDict({path: model.get_submodule(path) for path in TORCHVISION[name].auxiliary.values()})
    for classifier in found.values():
        classifier.fc2 = nn.Identity()
    if weights != "random":
        weights_module.load_into(found, _state(name, weights), weights)
    return found


def _model(name: str, weights: str) -> nn.Module:
    """Return a model, its weights drawn: as those that count where weights are 'random'."""
    model = TORCHVISION[name].build(name).eval()
    if weights == "random":
        _initialise(model)
    return model


def _state(name: str, weights: str) -> weights_module.State:
    return state_of(weights, lambda: TORCHVISION[name].published(name))


def _without_in_place_operations(module: Any) -> None:
    """Make a traced module keep each node's output: a later ReLU must not overwrite a layer asked for.

    `+=` needs nothing: it is traced as `+`.
    """
    for child in module.modules():
        if hasattr(child, "inplace"):
            child.inplace = False
    for node in module.graph.nodes:
        if "inplace" in node.kwargs:
            node.kwargs = {**node.kwargs, "inplace": False}
    module.recompile()


def _initialise(model: nn.Module) -> None:
    """Draw untrained weights whose features float16 can hold: GoogLeNet's own vanish, ResNet101's own overflow."""
    norms = {name: child for name, child in model.named_modules() if re.fullmatch(r"layer\d\.\d+\.bn[23]", name)}
    for name, child in norms.items():
        if name.endswith("bn3") or name.replace("bn2", "bn3") not in norms:
            nn.init.constant_(child.weight, 0.2)  # the last of each residual block
    for child in model.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, nonlinearity="relu")
