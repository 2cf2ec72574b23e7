"""What every family of networks is made into: a module that gives the layers asked for, one tensor each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from featcache.backbones.families import weights as weights_module
from featcache.settings import VIEWS_LAYER

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Extractor:
    """module holds exactly the weights that are used; maps gives one (B, D, height, width) for each computed layer.

    A vector of an image is a map of 1 x 1. layers are all that were asked for, `views` too, which is for those to give
    who have the pixels. Where no layer of a network is computed module is the network to its pooled output all the
    same. final_norm is whether the last map is as the network's own last norm left
    it.
    """

    module: nn.Module
    maps: Callable[[Tensor], Sequence[Tensor]]
    layers: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    final_norm: bool = False

    @property
    def computed(self) -> tuple[str, ...]:
        """The layers that maps gives, in its order."""
        return tuple(layer for layer in self.layers if layer != VIEWS_LAYER)


def state_of(weights: str, imagenet: Callable[[], weights_module.State]) -> weights_module.State:
    """Return the tensors that weights names: imagenet(), or those of a file."""
    return imagenet() if weights == "imagenet" else weights_module.read_weights_file(Path(weights))


def no_such_layer(name: str, layers: Sequence[str], known: Sequence[str]) -> str:
    """Return that a network has no such layers, and which it has."""
    unknown = ", ".join(layer for layer in layers if layer not in known) or ", ".join(layers)
    shown = ", ".join(layer for layer in known if layer.count(".") < 2)
    return f"--layer {unknown}: {name} has no such layer; it has {shown}"


def as_map(values: Tensor) -> Tensor:
    """Return a vector (B, D) as a map (B, D, 1, 1), anything else as it is."""
    return values[:, :, None, None] if values.ndim == 2 else values
