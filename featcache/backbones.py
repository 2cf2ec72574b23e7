"""Frozen backbones: pixels in, feature maps out. The registry of names is here; knows nothing of caches.

Whatever the name, a backbone is in evaluation and inference mode, its BatchNorm buffers never move, and
only the layers up to the last one asked for are kept and computed.
"""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import weights as weights_module
from .errors import BadInput, InvalidSettings, ResourceError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class _TorchvisionModel:
    default_layer: str
    arguments: tuple[tuple[str, Any], ...] = ()


# the default layer is the last map of stride 16: 14x14 at 224 pixels (13x13 for AlexNet)
_TORCHVISION = {
    "resnet50": _TorchvisionModel("layer3"),
    "resnet18": _TorchvisionModel("layer3"),
    "resnet101": _TorchvisionModel("layer3"),
    "vgg16": _TorchvisionModel("features.29"),
    "alexnet": _TorchvisionModel("features.11"),
    # as its published weights expect it: they hold auxiliary classifiers and normalise to mean and std 0.5
    "googlenet": _TorchvisionModel(
        "inception4e", (("aux_logits", True), ("init_weights", False), ("transform_input", True))
    ),
}
_LITE0 = "efficientnet_lite0"
_LITE0_IN_TIMM = "tf_efficientnet_lite0"
NAMES = (*_TORCHVISION, _LITE0, "timm:NAME")


@dataclass(frozen=True)
class LayerShape:
    """A feature map of height x width positions and channels D; L = height * width, row-major."""

    height: int
    width: int
    channels: int

    @property
    def positions(self) -> int:
        """L."""
        return self.height * self.width


@dataclass(frozen=True)
class _Extractor:
    """module holds exactly the weights that are used; maps gives one (B, D, height, width) for each layer."""

    module: nn.Module
    maps: Callable[[Tensor], Sequence[Tensor]]
    layers: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Backbone:
    """A frozen network on its device, ready to turn views into features; made by `build_backbone`."""

    def __init__(
        self,
        name: str,
        extractor: _Extractor,
        *,
        image_size: int,
        batch_size: int,
        device: torch.device,
        precision: str,
    ) -> None:
        self.name = name
        self.batch_size = batch_size
        self.layers = extractor.layers
        self.mean, self.std = extractor.mean, extractor.std
        self.image_size, self.device, self.precision = image_size, device, precision
        self.weights_sha256 = weights_module.digest_of_weights(extractor.module)
        self.module = extractor.module.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
        self._maps = extractor.maps
        self._mean = 255 * torch.tensor(self.mean, device=device)
        self._std = 255 * torch.tensor(self.std, device=device)
        self.shapes = self._probe()

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """Map pixels (B, S, S, 3) uint8 to {layer: features (B, L, D) float32} on the backbone's device.

        The network always runs on batch_size views, the last batch padded with black ones: libraries choose
        kernels by shape (measured: between batches of 12 and 16, one thread, 0.9% of EfficientNet-Lite0's float16
        features differ in their last bit), and a feature must not depend on the views it happens to be among.
        """
        batches = [self._features(batch) for batch in torch.split(pixels, self.batch_size)]
        return {layer: torch.cat([batch[layer] for batch in batches]) for layer in self.layers}

    def _features(self, pixels: Tensor) -> dict[str, Tensor]:
        B = len(pixels)
        maps = self._forward(functional.pad(pixels, (0, 0, 0, 0, 0, 0, 0, self.batch_size - B)))
        return {
            layer: fmap[:B].flatten(2).transpose(1, 2).float()  # (B, L, D)
            for layer, fmap in zip(self.layers, maps, strict=True)
        }

    @torch.inference_mode()
    def _forward(self, pixels: Tensor) -> Sequence[Tensor]:
        pixels = pixels.to(self.device, non_blocking=True)
        x = ((pixels - self._mean) / self._std).permute(0, 3, 1, 2)  # (B, 3, S, S), channels last in memory
        reduced = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        try:
            with torch.autocast(self.device.type, dtype=reduced, enabled=reduced is not None):
                return self._maps(x)
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                f"{self.device} is out of memory at a batch of {len(pixels)}; use a smaller --batch-size"
            ) from error

    def _probe(self) -> dict[str, LayerShape]:
        """Return the shape of each layer's map, from one black image; raise `InvalidSettings` if one is no map."""
        size = self.image_size
        try:
            maps = self._forward(torch.zeros(1, size, size, 3, dtype=torch.uint8))
        except (RuntimeError, AssertionError) as error:
            raise InvalidSettings(f"{self.name} does not take {size}x{size} pixels: {error}") from error
        shapes = {}
        for layer, fmap in zip(self.layers, maps, strict=True):
            if fmap.ndim != 4:
                raise InvalidSettings(f"layer {layer} of {self.name} gives {tuple(fmap.shape)}, not a feature map")
            shapes[layer] = LayerShape(fmap.shape[2], fmap.shape[3], fmap.shape[1])
        return shapes


def build_backbone(
    name: str,
    *,
    layers: Sequence[str] = (),
    weights: str = "imagenet",
    image_size: int = 224,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 16,
) -> Backbone:
    """Return the backbone called name, reading the given layers (default: the last map of stride 16).

    name is one of `NAMES`; weights is 'imagenet', a file, or 'random' (which depends on seed alone).
    Raises `InvalidSettings` for names and layers that do not exist, `BadInput` when the weights cannot be
    had, `Mismatch` when they do not fit.
    """
    if len(set(layers)) != len(layers):
        raise InvalidSettings(f"--layer names a layer twice: {', '.join(layers)}")
    target = resolve_device(device)
    build = _build_torchvision if name in _TORCHVISION else _build_timm
    extractor = weights_module.seeded(seed, lambda: build(name, tuple(layers), weights))
    return Backbone(
        name,
        extractor,
        image_size=image_size,
        batch_size=batch_size,
        device=target,
        precision=resolve_precision(precision, target),
    )


def resolve_device(device: str) -> torch.device:
    """Return the device that 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps' means here; raise `ResourceError` if absent."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError:
        raise InvalidSettings(f"--device must be auto, cpu, cuda, cuda:N or mps, found {device!r}") from None
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(target.type, False) or (target.index or 0) >= max(1, torch.cuda.device_count()):
        raise ResourceError(f"--device {device}: no such device here; use --device auto")
    return target


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return 'fp32', 'bf16' or 'fp16'; auto is fp32, the precision that is the same everywhere."""
    if precision not in PRECISIONS:
        raise InvalidSettings(f"--precision must be one of {', '.join(PRECISIONS)}, found {precision!r}")
    if precision == "fp16" and device.type == "cpu":
        raise InvalidSettings("--precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
    return "fp32" if precision == "auto" else precision


def _build_torchvision(name: str, layers: tuple[str, ...], weights: str) -> _Extractor:
    from torchvision.models import get_model
    from torchvision.models.feature_extraction import create_feature_extractor

    spec = _TORCHVISION[name]
    layers = layers or (spec.default_layer,)
    model = get_model(name, weights=None, **dict(spec.arguments)).eval()
    if weights == "random":
        _initialise(model)
    try:
        module = create_feature_extractor(model, list(layers), suppress_diff_warning=True)
    except ValueError:
        raise InvalidSettings(_no_such_layer(name, layers, [n for n, _ in model.named_modules() if n])) from None
    _without_in_place_operations(module)
    _load(module, weights, lambda: weights_module.torchvision_imagenet(name))

    def maps(x: Tensor) -> list[Tensor]:
        found = module(x)  # in the graph's order, which need not be that of layers
        return [found[layer] for layer in layers]

    return _Extractor(module, maps, layers, IMAGENET_MEAN, IMAGENET_STD)


def _without_in_place_operations(module: Any) -> None:
    """Make a traced module keep each node's output: a later `+=` or ReLU must not overwrite a layer asked for."""
    for child in module.modules():
        if hasattr(child, "inplace"):
            child.inplace = False
    for node in module.graph.nodes:
        if node.target is operator.iadd:
            node.target = operator.add
        if "inplace" in node.kwargs:
            node.kwargs = {**node.kwargs, "inplace": False}
    module.recompile()


def _build_timm(name: str, layers: tuple[str, ...], weights: str) -> _Extractor:
    import timm

    timm_name = _LITE0_IN_TIMM if name == _LITE0 else name.removeprefix("timm:")
    if timm_name == name or not timm.is_model(timm_name):
        raise InvalidSettings(f"--backbone {name}: not one of {', '.join(NAMES)} (see timm.list_models())")
    pretrained = weights == "imagenet" and name != _LITE0
    model = _create_timm(timm_name, pretrained=pretrained)
    if not hasattr(model, "forward_intermediates") or not getattr(model, "feature_info", None):
        raise InvalidSettings(f"--backbone {name}: timm offers no feature maps of this model")
    known = [info["module"] for info in model.feature_info]
    layers = layers or (_default_timm_layer(model.feature_info),)
    if not set(layers) <= set(known):
        raise InvalidSettings(_no_such_layer(name, layers, known))
    indices = sorted(known.index(layer) for layer in layers)
    model.prune_intermediate_layers(indices, prune_norm=True, prune_head=True)
    if not pretrained:
        _load(model, weights, weights_module.efficientnet_lite0_imagenet, _renamed_for(name))

    def maps(x: Tensor) -> list[Tensor]:
        found = model.forward_intermediates(x, indices=indices, stop_early=True, intermediates_only=True)
        return [found[indices.index(known.index(layer))] for layer in layers]

    return _Extractor(model, maps, layers, *_timm_normalisation(model))


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
            f"timm's weights of {timm_name} cannot be downloaded: {str(error).splitlines()[0]}. "
            f"Bring {file} by other means and pass --weights FILE."
        ) from error


def _default_timm_layer(infos: Any) -> str:
    """Return the last map of stride 16, or the last map of all."""
    stride16 = [info["module"] for info in infos if info["reduction"] == 16]
    return str(stride16[-1] if stride16 else infos[-1]["module"])


def _timm_normalisation(model: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(model.pretrained_cfg["mean"]), tuple(model.pretrained_cfg["std"])


def _renamed_for(name: str) -> Callable[[weights_module.State], weights_module.State]:
    """Return what brings the names of a state dict to timm's: those of the package are matched by order."""

    def renamed(state: weights_module.State) -> weights_module.State:
        if name != _LITE0 or "_conv_stem.weight" not in state:
            return state
        return weights_module.with_names_of(_create_timm(_LITE0_IN_TIMM, pretrained=False), state)

    return renamed


def _load(
    module: nn.Module,
    weights: str,
    imagenet: Callable[[], weights_module.State],
    renamed: Callable[[weights_module.State], weights_module.State] = lambda state: state,
) -> None:
    if weights == "random":
        return
    state = imagenet() if weights == "imagenet" else weights_module.read_weights_file(Path(weights))
    weights_module.load_into(module, renamed(state), weights)


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
