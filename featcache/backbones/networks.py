"""The networks behind backbones: the registry of names, and which family builds each.

Only the layers up to the last one asked for are kept. Knows nothing of devices, batches or pixels.
"""

from collections.abc import Sequence

from featcache.backbones import weights as weights_module
from featcache.backbones.extractor import Extractor
from featcache.backbones.timm_networks import build_timm, timm_views
from featcache.backbones.torchvision_networks import TORCHVISION, build_torchvision
from featcache.settings import ViewSettings


def build_extractor(
    name: str, layers: Sequence[str], weights: str, *, seed: int, image_size: int = 224, final_norm: bool | None = None
) -> Extractor:
    """Return the extractor of a backbone of any family, for images of a size; random weights depend on seed alone."""

    def build() -> Extractor:
        if name in TORCHVISION:  # which take every size, and have no norm behind their last map
            return build_torchvision(name, tuple(layers), weights)
        return build_timm(name, tuple(layers), weights, image_size=image_size, final_norm=final_norm)

    return weights_module.seeded(seed, build)


def own_views(name: str) -> ViewSettings:
    """Return how the views were cut that a backbone's published weights are evaluated with."""
    return ViewSettings() if name in TORCHVISION else timm_views(name)
