"""Networks of timm at an image size that is not their own. Knows nothing of names, layers or where weights come from.

Most networks with position embeddings are built for one size. timm builds them for another, and resamples weights.
"""

import sys
from typing import Any, Protocol

import torch
from torch import Tensor

from featcache.base.devices import memory_errors
from featcache.base.errors import InvalidSettings, first_line

_REFUSALS = (
    RuntimeError,
    AssertionError,
    LookupError,
    ValueError,
    TypeError,
)  # of models, at a size that is not theirs


SCHEMES = ("hf-hub:", "local-dir:")  # of names that timm looks up elsewhere than in its own list


class Taps(Protocol):
    """The layers that are wanted of a model: cut off what they do not need, and read them."""

    def prune(self, model: Any) -> None: ...

    def read(self, model: Any, x: Tensor) -> list[Tensor]: ...


def of_size(model: Any, name: str, image_size: int, taps: Taps, *, trained: bool) -> Any:
    """Return model, cut to taps, built anew with its weights resampled if it does not take images of image_size pixels.

    A model that takes them is returned as it is, so that its features stay what they were. Raises `InvalidSettings`
    that says which sizes can be had.
    """
    own = int(model.pretrained_cfg["input_size"][-1])
    refusal = "" if image_size == own else _refusal(model, image_size, taps)
    if not refusal:
        return model
    title = f"{name} does not take {image_size}x{image_size} pixels"
    patch = int(model.feature_info[0]["reduction"])
    if image_size % patch:
        below = image_size // patch * patch
        near = " or ".join(str(size) for size in (below, below + patch) if size)
        raise InvalidSettings(
            f"{title}: {refusal}. It takes multiples of its patch of {patch} pixels, such as --image-size {near}, "
            f"and its own size, --image-size {own}"
        )
    way_out = f"Give it its own size, --image-size {own}"
    try:
        resized = _built_anew(model, name, image_size)
    except _REFUSALS:
        raise InvalidSettings(f"{title}: {refusal}. {way_out}") from None
    lacking = _take_weights(resized, model)
    if lacking and trained:
        shown = ", ".join(lacking[:3])
        raise InvalidSettings(f"{title}: timm does not resample its trained weights ({shown}) to them. {way_out}")
    taps.prune(resized)
    if refusal := _refusal(resized, image_size, taps):
        raise InvalidSettings(f"{title}: {refusal}. {way_out}")
    return resized


def _refusal(model: Any, image_size: int, taps: Taps) -> str:
    """Return why a model does not take images of a size, tried with a black one; '' if it does."""
    black = torch.zeros(1, 3, image_size, image_size)
    try:
        with memory_errors(torch.device("cpu"), f"at {image_size}x{image_size} pixels"), torch.no_grad():
            taps.read(model.eval(), black)
    except _REFUSALS as error:
        return first_line(error).removesuffix(".")
    return ""


def _built_anew(model: Any, name: str, image_size: int) -> Any:
    import timm

    if name.startswith(SCHEMES):
        return timm.create_model(name, img_size=image_size)
    config = model.pretrained_cfg
    tag = f".{config['tag']}" if config.get("tag") else ""
    return timm.create_model(f"{config['architecture']}{tag}", img_size=image_size)


def _take_weights(resized: Any, model: Any) -> list[str]:
    """Load the weights of model into resized, by timm's own resampling; return the names of those that do not fit."""
    own = resized.state_dict()
    state = {**own, **model.state_dict()}  # model may be cut, and what it lacks will be cut off resized, too
    resample = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if resample is not None:
        state = resample(state, resized)
    fitting = {name: tensor for name, tensor in state.items() if name in own and tensor.shape == own[name].shape}
    resized.load_state_dict(fitting, strict=False)
    return [name for name in state if name in own and name not in fitting]
