"""The networks behind backbones: the registry of names, and how each is built, cut and given its weights.

Only the layers up to the last one asked for are kept. Knows nothing of devices, batches or pixels.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from featcache.backbones import weights as weights_module
from featcache.backbones.sizes import of_size
from featcache.base.errors import BadInput, InvalidSettings, first_line

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


TORCHVISION = {  # and the default layer: the last map of stride 16, 14x14 at 224 pixels (13x13 for AlexNet)
    "resnet50": "layer3",
    "resnet18": "layer3",
    "resnet101": "layer3",
    "vgg16": "features.29",
    "alexnet": "features.11",
    "googlenet": "inception4e",
}
_ARGUMENTS = {  # of models whose published weights expect other than torchvision's defaults
    # they hold auxiliary classifiers and normalise to mean and std 0.5
    "googlenet": {"aux_logits": True, "init_weights": False, "transform_input": True},
}
_LITE0 = "efficientnet_lite0"
_LITE0_IN_TIMM = "tf_efficientnet_lite0"
NAMES = (*TORCHVISION, _LITE0, "timm:NAME")


@dataclass(frozen=True)
class Extractor:
    """module holds exactly the weights that are used; maps gives one (B, D, height, width) for each layer."""

    module: nn.Module
    maps: Callable[[Tensor], Sequence[Tensor]]
    layers: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def build_extractor(name: str, layers: Sequence[str], weights: str, *, seed: int, image_size: int = 224) -> Extractor:
    """Return the extractor of a backbone of any family, for images of a size; random weights depend on seed alone."""

    def build() -> Extractor:
        if name in TORCHVISION:  # which take every size
            return build_torchvision(name, tuple(layers), weights)
        return build_timm(name, tuple(layers), weights, image_size=image_size)

    return weights_module.seeded(seed, build)


def build_torchvision(name: str, layers: tuple[str, ...], weights: str) -> Extractor:
    """Return an extractor of one of torchvision's models."""
    from torchvision.models import get_model
    from torchvision.models.feature_extraction import create_feature_extractor

    layers = layers or (TORCHVISION[name],)
    model = get_model(name, weights=None, **_ARGUMENTS.get(name, {})).eval()
    if weights == "random":
        _initialise(model)
    try:
        module = create_feature_extractor(model, list(layers), suppress_diff_warning=True)
    except ValueError:
        raise InvalidSettings(_no_such_layer(name, layers, [n for n, _ in model.named_modules() if n])) from None
    _without_in_place_operations(module)
    if weights != "random":
        state = _state(weights, lambda: weights_module.torchvision_imagenet(name))
        weights_module.load_into(module, state, weights)

    def maps(x: Tensor) -> list[Tensor]:
        found = module(x)  # in the graph's order, which need not be that of layers
        return [found[layer] for layer in layers]

    return Extractor(module, maps, layers, IMAGENET_MEAN, IMAGENET_STD)


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


def fold_batch_norms(module: nn.Module) -> None:
    """Multiply each batch norm behind a convolution into its weights, in place, where the module is a traced graph.

    Networks of timm are no graph; torch.compile and OpenVINO fold theirs.
    """
    if not isinstance(module, fx.GraphModule):
        return
    children = dict(module.named_modules())
    called = {node: children[node.target] for node in module.graph.nodes if node.op == "call_module"}
    for norm in [node for node, child in called.items() if isinstance(child, nn.BatchNorm2d)]:
        before: Any = norm.args[0]
        convolution = called.get(before)
        calls = [node for node, child in called.items() if child is convolution]
        if isinstance(convolution, nn.Conv2d) and len(before.users) == len(calls) == 1:
            folded = fuse_conv_bn_eval(convolution.eval(), called[norm].eval())
            module.set_submodule(before.target, folded.requires_grad_(False))
            norm.replace_all_uses_with(before)
            module.graph.erase_node(norm)
    module.recompile()


def build_timm(name: str, layers: tuple[str, ...], weights: str, *, image_size: int = 224) -> Extractor:
    """Return an extractor of efficientnet_lite0 or of timm:NAME."""
    import timm

    timm_name = _LITE0_IN_TIMM if name == _LITE0 else name.removeprefix("timm:")
    if timm_name == name or not timm.is_model(timm_name):
        raise InvalidSettings(f"--backbone {name}: not one of {', '.join(NAMES)} (see timm.list_models())")
    pretrained = weights == "imagenet" and name != _LITE0
    model = _create_timm(timm_name, pretrained=pretrained)
    if not hasattr(model, "forward_intermediates") or not getattr(model, "feature_info", None):
        raise InvalidSettings(f"--backbone {name}: timm offers no feature maps of this model")
    known = [info["module"] for info in model.feature_info]
    stride16 = [info["module"] for info in model.feature_info if info["reduction"] == 16]
    layers = layers or ((stride16 or known)[-1],)
    if not set(layers) <= set(known):
        raise InvalidSettings(_no_such_layer(name, layers, known))
    indices = sorted(known.index(layer) for layer in layers)
    model.prune_intermediate_layers(indices, prune_norm=True, prune_head=True)
    if not pretrained and weights != "random":
        state = _state(weights, weights_module.efficientnet_lite0_imagenet)
        if name == _LITE0 and "_conv_stem.weight" in state:  # as the package names its tensors, in timm's order
            state = weights_module.with_names_of(_create_timm(timm_name, pretrained=False), state)
        weights_module.load_into(model, state, weights)
    model = of_size(model, name, image_size, indices, trained=weights != "random")

    def maps(x: Tensor) -> list[Tensor]:
        found = model.forward_intermediates(x, indices=indices, stop_early=True, intermediates_only=True)
        return [found[indices.index(known.index(layer))] for layer in layers]

    return Extractor(model, maps, layers, tuple(model.pretrained_cfg["mean"]), tuple(model.pretrained_cfg["std"]))


def _create_timm(timm_name: str, *, pretrained: bool) -> Any:
    import timm

    try:
        return timm.create_model(timm_name, pretrained=pretrained)
    except (OSError, RuntimeError, ValueError) as error:
        if not pretrained:
            raise
        source = timm.get_pretrained_cfg(timm_name)
        file = (source and source.url) or f"model.safetensors of {source and source.hf_hub_id} on the Hugging Face Hub"
        raise BadInput(
            f"timm's weights of {timm_name} cannot be downloaded: {first_line(error)}. "
            f"Bring {file} by other means and pass --weights FILE."
        ) from error


def _state(weights: str, imagenet: Callable[[], weights_module.State]) -> weights_module.State:
    return imagenet() if weights == "imagenet" else weights_module.read_weights_file(Path(weights))


def _initialise(model: nn.Module) -> None:
    """Draw untrained weights whose features float16 can hold: GoogLeNet's own vanish, ResNet101's own overflow."""
    norms = {name: child for name, child in model.named_modules() if re.fullmatch(r"layer\d\.\d+\.bn[23]", name)}
    for name, child in norms.items():
        if name.endswith("bn3") or name.replace("bn2", "bn3") not in norms:
            nn.init.constant_(child.weight, 0.2)  # the last of each residual block
    for child in model.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, nonlinearity="relu")


def _no_such_layer(name: str, layers: Sequence[str], known: Sequence[str]) -> str:
    unknown = ", ".join(layer for layer in layers if layer not in known) or ", ".join(layers)
    shown = ", ".join(layer for layer in known if layer.count(".") < 2)
    return f"--layer {unknown}: {name} has no such feature map; it has {shown}"
