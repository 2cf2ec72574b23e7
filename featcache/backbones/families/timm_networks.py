"""Networks of timm: maps of their stages or blocks, and vectors: class token, pooled features, projected embedding."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from featcache.backbones.families import weights as weights_module
from featcache.backbones.families.extractor import Extractor, as_map, no_such_layer, state_of
from featcache.backbones.families.rest import Uncut
from featcache.backbones.families.sizes import SCHEMES, of_size
from featcache.backbones.families.torchvision_networks import TORCHVISION
from featcache.base.errors import BadInput, InvalidSettings, first_line
from featcache.settings import PREFIX, ViewSettings

LITE0 = "efficientnet_lite0"
_LITE0_IN_TIMM = "tf_efficientnet_lite0"
_OTHERS = ("timm:NAME", "hf-hub:OWNER/NAME", "local-dir:FOLDER", "descriptors:NAME,...", "NETWORK+descriptors:NAME,...")
NAMES = (*TORCHVISION, LITE0, *_OTHERS)
_INTERPOLATIONS = {"bilinear": "bilinear-antialias", "bicubic": "bicubic-antialias"}


def build_timm(
    name: str, layers: tuple[str, ...], weights: str, *, image_size: int = 224, final_norm: bool | None = None
) -> Extractor:
    """Return an extractor of efficientnet_lite0, timm:NAME, hf-hub:OWNER/NAME or local-dir:FOLDER.

    final_norm gives the last map as the network's own last norm leaves it; None does so where there is such a norm.
    """
    model, state = _started(name, weights)
    if not hasattr(model, "forward_intermediates") or not getattr(model, "feature_info", None):
        raise InvalidSettings(f"--backbone {name}: timm offers no feature maps of this model")
    known = [info["module"] for info in model.feature_info]
    stride16 = [info["module"] for info in model.feature_info if info["reduction"] == 16]
    layers = layers or ((stride16 or known)[-1],)
    taps = _Taps(layers, tuple(known), _applies_final_norm(model, name, layers, known[-1], final_norm))
    taps.check(model, name)
    taps.prune(model)
    if state is not None:
        weights_module.load_into(model, state, weights)
    model = of_size(model, name, image_size, taps, trained=weights != "random")
    config = model.pretrained_cfg
    return Extractor(
        model, functools.partial(taps.read, model), layers, tuple(config["mean"]), tuple(config["std"]), taps.final_norm
    )


def uncut_timm(name: str, weights: str, *, image_size: int) -> Uncut:
    """Return a network of timm whole, for what lies behind a layer of it to be cut out."""
    import timm

    model, state = _started(name, weights)
    known = tuple(info["module"] for info in model.feature_info)
    if not hasattr(model, "reset_classifier"):
        raise InvalidSettings(f"--backbone {name}: timm does not say what its classifier reads, so it cannot be cut")
    taps = _Taps(("pooled",), known, final_norm=False)
    taps.prune(model)
    if state is not None:
        weights_module.load_into(model, state, weights)
    return Uncut(
        of_size(model, name, image_size, taps, trained=weights != "random"),
        channels_last=getattr(model, "output_fmt", "NCHW") == "NHWC",
        layers=known,
        leaf_modules=timm.layers.get_notrace_modules(),  # type: ignore[attr-defined,no-untyped-call]
        leaf_functions=timm.layers.get_notrace_functions(),  # type: ignore[attr-defined,no-untyped-call]
    )


def _started(name: str, weights: str) -> tuple[Any, weights_module.State | None]:
    """Return a network, and the weights that are still to be loaded into it; None where it has its own."""
    timm_name = _name_in_timm(name)
    pretrained = weights == "imagenet" and name != LITE0
    model = _create(timm_name, pretrained=pretrained)
    if pretrained or weights == "random":
        return model, None
    state = state_of(weights, weights_module.efficientnet_lite0_imagenet)
    if name == LITE0 and "_conv_stem.weight" in state:  # as the package names its tensors, in timm's order
        state = weights_module.with_names_of(model, state)
    return model, state


@dataclass(frozen=True)
class _Taps:
    """The layers that are wanted of a network: known are its maps in order, final_norm is for the last of them.

    Others are `VECTORS`, or modules by their own names.
    """

    layers: tuple[str, ...]
    known: tuple[str, ...]
    final_norm: bool

    @property
    def indices(self) -> list[int]:
        """The maps that are wanted; of a network that is computed to its end the last one in any case."""
        wanted = {self.known.index(layer) for layer in (*self.layers, *self.prefixed) if layer in self.known}
        return sorted(wanted | ({len(self.known) - 1} if self.to_the_end else set()))

    @property
    def vectors(self) -> list[str]:
        """The layers with a name of their own."""
        return [layer for layer in self.layers if layer in VECTORS]

    @property
    def prefixed(self) -> list[str]:
        """The maps whose tokens before the positions are wanted."""
        named = [layer.removesuffix(PREFIX) for layer in self.layers if layer.endswith(PREFIX)]
        return [layer for layer in named if layer in self.known]

    @property
    def modules(self) -> list[str]:
        """The layers that are modules."""
        others = (*self.known, *VECTORS, *(f"{layer}{PREFIX}" for layer in self.prefixed))
        return [layer for layer in self.layers if layer not in others]

    @property
    def to_the_end(self) -> bool:
        """Whether more is computed than the maps."""
        return self.final_norm or bool(self.vectors or self.modules)

    def check(self, model: Any, name: str) -> None:
        """Raise `InvalidSettings` for layers that a model does not have."""
        own = [layer for layer, vector in VECTORS.items() if vector.is_there(model)]
        modules = [module for module, _ in model.named_modules() if module]
        if _class_tokens(model) + _registers(model):
            own += [f"{layer}{PREFIX}" for layer in self.prefixed]
        if missing := [layer for layer in self.layers if layer not in (*self.known, *own, *modules)]:
            raise InvalidSettings(no_such_layer(name, missing, [*own, *self.known]))

    def prune(self, model: Any) -> None:
        """Take out of a model what these layers do not need."""
        if self.modules:
            return
        of_head = {"pooled", "embedding"} & set(self.vectors)
        model.prune_intermediate_layers(self.indices, prune_norm=not self.to_the_end, prune_head=not of_head)
        if of_head == {"pooled"}:
            model.reset_classifier(0)

    def read(self, model: Any, x: Tensor) -> list[Tensor]:
        """Return the layers of a model, one (B, D, height, width) each."""
        with _outputs_of(model, [*self.modules, *self.prefixed]) as outputs:
            if self.to_the_end:
                final, found = model.forward_intermediates(x, indices=self.indices)
            else:
                found = model.forward_intermediates(x, indices=self.indices, stop_early=True, intermediates_only=True)
            if self.modules:
                model.forward_head(final)
        side = found[-1].shape[2:]
        maps = {self.known[index]: values for index, values in zip(self.indices, found, strict=True)}
        if self.final_norm:
            maps[self.known[-1]] = _as_image(model, final, side)
        maps |= {layer: VECTORS[layer].of(model, final) for layer in self.vectors}
        maps |= {module: _as_image(model, outputs[module], side) for module in self.modules}
        maps |= {f"{layer}{PREFIX}": _prefix(outputs[layer], side) for layer in self.prefixed}
        return [as_map(maps[layer]) for layer in self.layers]


@contextlib.contextmanager
def _outputs_of(model: nn.Module, modules: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Keep what modules give, by their names, until the block ends; other threads may call the model meanwhile."""
    outputs: dict[str, Tensor] = {}
    caller = threading.get_ident()

    def keeper(module: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def keep(_: nn.Module, inputs: Any, output: Tensor) -> None:
            if threading.get_ident() == caller:
                outputs[module] = output

        return keep

    handles = [model.get_submodule(module).register_forward_hook(keeper(module)) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class _Vector:
    """A layer that is not a map of a stage: whether a model has it, and how it comes from the last features."""

    is_there: Callable[[Any], bool]
    of: Callable[[Any, Tensor], Tensor]


def _class_tokens(model: Any) -> int:
    return int(getattr(model, "cls_token", None) is not None)


def _registers(model: Any) -> int:
    return int(getattr(model, "num_prefix_tokens", 0) or 0) - _class_tokens(model)


def _has_embedding(model: Any) -> bool:
    """Whether a model ends in a projection or a pooling to an embedding, as CLIP's and SigLIP's do, and no classifier.

    timm calls what a CLIP model projects to its classes.
    """
    config = model.pretrained_cfg
    of_clip = "clip" in str(config.get("architecture")) and "_ft_" not in f"_{config.get('tag') or ''}"
    return bool(of_clip and model.num_classes) or bool(model.num_classes == 0 and getattr(model, "attn_pool", None))


VECTORS = {
    "cls": _Vector(lambda model: _class_tokens(model) == 1, lambda model, final: final[:, 0]),
    "registers": _Vector(
        lambda model: _registers(model) > 0,
        lambda model, final: final[:, _class_tokens(model) : model.num_prefix_tokens].transpose(1, 2)[..., None],
    ),
    "pooled": _Vector(
        lambda model: hasattr(model, "forward_head"), lambda model, final: model.forward_head(final, pre_logits=True)
    ),
    "embedding": _Vector(_has_embedding, lambda model, final: model.forward_head(final)),
}


def _as_image(model: Any, values: Tensor, side: Sequence[int]) -> Tensor:
    """Return tokens (B, N, D), or a map with channels last, as (B, D, height, width); tokens before positions go."""
    if values.ndim == 3:
        places = values[:, values.shape[1] - side[0] * side[1] :]
        return places.transpose(1, 2).reshape(
            values.shape[0], -1, *side
        )  # len would fix the size of batches in an export
    last = values.ndim == 4 and getattr(model, "output_fmt", "NCHW") == "NHWC"
    return values.permute(0, 3, 1, 2) if last else values


def _prefix(values: Tensor, side: Sequence[int]) -> Tensor:
    """Return the n tokens before the positions (B, N, D) of a map as (B, D, n, 1)."""
    return values[:, : values.shape[1] - side[0] * side[1]].transpose(1, 2)[..., None]


def _applies_final_norm(model: Any, name: str, layers: Sequence[str], last: str, final_norm: bool | None) -> bool:
    norm = getattr(model, "norm", None)
    there = isinstance(norm, nn.Module) and not isinstance(norm, nn.Identity)
    if final_norm and not (there and last in layers):
        lacks = f"--layer {last} is not asked for" if there else f"{name} has none behind its last map"
        raise InvalidSettings(f"--final-norm: {lacks}; leave it out")
    return there and last in layers and final_norm is not False


def timm_views(name: str) -> ViewSettings:
    """Return how the views were cut that timm evaluates a model's weights with."""
    import timm

    timm_name = _name_in_timm(name)
    elsewhere = timm_name.startswith(SCHEMES)
    listed = None if elsewhere else timm.get_pretrained_cfg(timm_name)
    config = vars(listed) if listed else _create(timm_name, pretrained=False).pretrained_cfg
    _, height, width = config["input_size"]
    mode, share = config.get("crop_mode") or "center", float(config.get("crop_pct") or 1.0)
    interpolation = _INTERPOLATIONS.get(str(config.get("interpolation")))
    if height != width or mode not in ("center", "squash") or interpolation is None:
        raise InvalidSettings(
            f"--recipe model: {name} expects {height} x {width} pixels, {mode} crops, {config.get('interpolation')}, "
            "which is not done here; use another --recipe"
        )
    if mode == "squash":
        mode = "squash" if share == 1 else "squash-center"
    return ViewSettings(height, mode, interpolation=interpolation, center_fraction=share)


def _name_in_timm(name: str) -> str:
    """Return timm's name of a backbone; raise `InvalidSettings` if it has none."""
    import timm

    timm_name = _LITE0_IN_TIMM if name == LITE0 else name.removeprefix("timm:")
    if not timm_name.startswith(SCHEMES) and (timm_name == name or not timm.is_model(timm_name)):
        raise InvalidSettings(f"--backbone {name}: not one of {', '.join(NAMES)} (see timm.list_models())")
    return timm_name


def _create(timm_name: str, *, pretrained: bool) -> Any:
    import timm

    try:
        return timm.create_model(timm_name, pretrained=pretrained)
    except (OSError, RuntimeError, ValueError) as error:
        if timm_name.startswith(SCHEMES):
            raise BadInput(f"--backbone {timm_name}: {first_line(error)}") from error
        if not pretrained:
            raise
        source = timm.get_pretrained_cfg(timm_name)
        file = (source and source.url) or f"model.safetensors of {source and source.hf_hub_id} on the Hugging Face Hub"
        raise BadInput(
            f"timm's weights of {timm_name} cannot be downloaded: {first_line(error)}. "
            f"Bring {file} by other means and pass --weights FILE."
        ) from error
