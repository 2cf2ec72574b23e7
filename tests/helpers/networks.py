"""Small backbones, the pixels to feed them, and weights as they are on disk."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from featcache.backbones.backbone import Backbone, build_backbone

SIZE = 64


def pixels(count: int, size: int = SIZE) -> Tensor:
    """Return random pictures (B, S, S, 3) uint8, coarse so that they differ after pooling too."""
    generator = torch.Generator().manual_seed(count)
    coarse = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return nn.functional.interpolate(coarse, size=(size, size)).permute(0, 2, 3, 1).contiguous()


def build(name: str, *layers: str, **options: Any) -> Backbone:
    """Return a backbone of random weights for 64 pixels, three views at a time, unless options say otherwise."""
    return build_backbone(name, layers=layers, **{"weights": "random", "image_size": SIZE, "batch_size": 3, **options})


def with_lively_norms(model: nn.Module) -> nn.Module:
    """Return the model with statistics and scales of its BatchNorms as if it had been trained."""
    torch.manual_seed(11)
    with torch.no_grad():
        for norm in (child for child in model.modules() if isinstance(child, nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.1)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
    return model.eval()


def saved(model: nn.Module, path: Path) -> str:
    """Save the weights of a model as safetensors and return their path."""
    safetensors.torch.save_file(model.state_dict(), path)
    return str(path)
