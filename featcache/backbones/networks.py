"""The networks behind backbones: the registry of names, and which family builds each.

Only the layers up to the last one asked for are kept. Beside its own layers every backbone has `views`, the pixels
that it is given. Knows nothing of devices or batches.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import nn

from featcache.backbones.families import weights as weights_module
from featcache.backbones.families.descriptor_networks import (
    VIEWS,
    beside,
    build_descriptors,
    check_size,
    described_layers,
    located_weights,
    parts_of_name,
    parts_of_weights,
)
from featcache.backbones.families.extractor import Extractor, no_such_layer
from featcache.backbones.families.rest import Cut, Rest, rest_of
from featcache.backbones.families.timm_networks import build_timm, timm_views, uncut_timm
from featcache.backbones.families.torchvision_networks import (
    TORCHVISION,
    auxiliary_torchvision,
    build_torchvision,
    uncut_torchvision,
)
from featcache.base.errors import InvalidSettings
from featcache.settings import VIEWS_LAYER, ExtractSettings, ViewSettings

WHOLE = "pooled"  # the layer before the classifier, which every network has


def build_extractor(
    name: str, layers: Sequence[str], weights: str, *, seed: int, image_size: int = 224, final_norm: bool | None = None
) -> Extractor:
    """Return the extractor of a backbone of any family, for images of a size; random weights depend on seed alone.

    With `views` and no layer of the network its weights are those down to its pooled output, so that what they were
    is known to whoever begins with the pixels; descriptors that are not computed have none.
    """
    network, sources = parts_of_name(name).network, parts_of_weights(name, weights)
    described = described_layers(name, layers)
    others = tuple(layer for layer in layers if layer not in (*described, VIEWS_LAYER))
    _refuse_layers(name, layers, described, others)
    if described:
        check_size(image_size)

    def build_network() -> Extractor:
        whole = bool(layers) and not others
        wanted = (WHOLE,) if whole else others
        if network in TORCHVISION:  # which take every size, and have no norm behind their last map
            found = build_torchvision(network, wanted, sources.network)
        else:
            found = build_timm(network, wanted, sources.network, image_size=image_size, final_norm=final_norm)
        return replace(found, maps=lambda x: (), layers=()) if whole else found

    def build() -> Extractor:
        if not network:
            return build_descriptors(described, sources.described)
        found = build_network()
        if not described:
            return found
        hand_made = build_descriptors(described, sources.described, mean=found.mean, std=found.std)
        computed = tuple(layer for layer in layers if layer != VIEWS_LAYER)
        return beside(found, hand_made, computed or (*described, *found.layers))

    found = weights_module.seeded(seed, build)
    return replace(found, layers=tuple(layers) or found.layers)


def build_rest(cut: Cut, weights: str, *, seed: int) -> Rest:
    """Return what lies behind a layer of a network, with the weights that `build_extractor` would give all of it.

    Raises `InvalidSettings` with the layers that can be if the network cannot be cut there.
    """
    network = parts_of_name(cut.name).network
    if not network or described_layers(cut.name, (cut.layer,)):
        raise InvalidSettings(f"--layer {cut.layer}: no network lies behind a descriptor; name a layer of a network")
    source = parts_of_weights(cut.name, weights).network

    def build() -> Rest:
        if network in TORCHVISION:
            uncut = uncut_torchvision(network, source)
        else:
            uncut = uncut_timm(network, source, image_size=cut.image_size)
        return rest_of(uncut, replace(cut, name=network))

    return weights_module.seeded(seed, build)


def auxiliary_layers(name: str) -> tuple[str, ...]:
    """Return the layers of a network that its auxiliary classifiers read, in order; most have none."""
    network = parts_of_name(name).network
    return tuple(TORCHVISION[network].auxiliary) if network in TORCHVISION else ()


def build_auxiliary(name: str, weights: str, *, seed: int) -> nn.ModuleDict:
    """Return the classifiers that read `auxiliary_layers`, all but their last layer; random ones depend on seed alone.

    Raises `Mismatch` that names what the weights lack of them.
    """
    network, source = parts_of_name(name).network, parts_of_weights(name, weights).network
    return weights_module.seeded(seed, lambda: auxiliary_torchvision(network, source))


def _refuse_layers(name: str, layers: Sequence[str], described: Sequence[str], others: Sequence[str]) -> None:
    """Raise `InvalidSettings` for layers that are not there, or leave out the network or all descriptors."""
    network, named = parts_of_name(name)
    if network and layers and not others and VIEWS_LAYER not in layers:
        raise InvalidSettings(f"--layer {', '.join(layers)}: none is of {network}; leave it out of --backbone")
    if network and named and layers and not described:
        raise InvalidSettings(
            f"--layer {', '.join(layers)}: no descriptor of {name}; name one as well, or take {network} alone"
        )
    if others and not network:
        raise InvalidSettings(no_such_layer(name, others, described_layers(name, ())))


class Asked(NamedTuple):
    """Where and how a backbone is asked to run; each may be 'auto'."""

    device: str
    precision: str
    runtime: str


def settled(name: str, layers: Sequence[str], asked: Asked) -> Asked:
    """Return what is left to choose for layers of a backbone.

    Hand-made descriptors run beside PyTorch, alone in float32 on CPUs. Views alone are not computed, so whatever would
    run the network they are the same: they count as float32 by PyTorch. Raises `InvalidSettings` for what cannot be.
    """
    network, described = parts_of_name(name)
    if set(layers) == {VIEWS_LAYER}:
        fixed, what = Asked(asked.device, "fp32", "torch"), f"--layer {VIEWS_LAYER}: pixels that no network computes"
    elif described:
        fixed = Asked(asked.device, asked.precision, "torch") if network else Asked("cpu", "fp32", "torch")
        what = f"--backbone {name}: descriptors"
    else:
        return asked
    wrong = [
        f"--{field} {found}"
        for field, found, only in zip(Asked._fields, asked, fixed, strict=True)
        if found not in ("auto", only)
    ]
    if wrong:
        raise InvalidSettings(f"{what} cannot have {', '.join(wrong)}; leave it out")
    return fixed


def layers_that_know(name: str, layers: Sequence[str], weights: str) -> list[str]:
    """Return the layers in which copies of an image are near each other and nothing else is: a trained network's.

    To random weights all images look alike; hand-made descriptors, and pixels, are as near in images of the same kind.
    """
    if parts_of_weights(name, weights).network == "random":
        return []
    return [layer for layer in layers if layer not in (*described_layers(name, layers), VIEWS_LAYER)]


def own_views(name: str) -> ViewSettings:
    """Return how the views were cut that a backbone's published weights are evaluated with."""
    network = parts_of_name(name).network
    if not network:
        return VIEWS
    return ViewSettings() if network in TORCHVISION else timm_views(network)


def source_of_weights(settings: ExtractSettings) -> str:
    """Return the weights of settings: 'imagenet', 'random', or a file by its absolute path; and so of a dictionary."""
    return located_weights(settings.backbone, settings.weights, lambda file: Path(file).resolve())
