"""Features to measure storage on: drawn ones, 70% zeros as behind a ReLU, and real ones of real photographs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.settings import ENCODINGS

POSITIONS, CHANNELS = 196, 1024  # ResNet50 layer3
RELU_OF_LITE0 = "blocks.4.1.bn2.act"  # 14x14x672, trained, 70% zeros


def drawn(views: int, *, zeros: float = 0.7, seed: int = 0) -> NDArray[np.float16]:
    """Return (views, L, D): a normal variable, cut off so that a share of zeros is left below."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((views, POSITIONS, CHANNELS), dtype=np.float32)
    threshold = np.quantile(values[: min(views, 4)], zeros)
    return np.maximum(values - threshold, 0).astype(np.float16)


def constants_of(features: NDArray[np.float16]) -> Any:
    """Return the uint8 constants (2, D) calibrated on the features themselves: the best case."""
    import torch

    from featcache.store.shards.encoding import calibrate

    return calibrate([torch.from_numpy(features).float()])


def as_encoding(features: NDArray[np.float16], encoding: str) -> NDArray[Any]:
    """Return features as they are stored in an encoding."""
    import torch

    from featcache.store.shards.encoding import quantize

    if not ENCODINGS[encoding].calibrated:
        return features
    codes: NDArray[Any] = quantize(torch.from_numpy(features).float(), constants_of(features)).numpy()
    return codes


def photographs(folder: Path | None, views: int) -> NDArray[np.uint8]:
    """Return pixels (views, 224, 224, 3) of crops of the photographs in a folder, or of two that scikit-learn has."""
    from PIL import Image

    from featcache.images.views import render, view_of
    from featcache.settings import ViewSettings

    if folder is None:
        from sklearn.datasets import load_sample_images

        images = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    else:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        images = [Image.open(path).convert("RGB") for path in paths[:views]]
    pixels = []
    for number in range(views):
        image = images[number % len(images)]
        cut = view_of(ViewSettings(), str(number), 1, width=image.width, height=image.height)
        pixels.append(render(image, cut, ViewSettings()))
    return np.stack(pixels)


def real(folder: Path | None, views: int) -> Mapping[str, NDArray[np.float16]]:
    """Return features (views, L, D) of photographs: EfficientNet-Lite0 (trained), ResNet50 and a transformer (not)."""
    import torch

    from featcache.backbones.backbone import build_backbone

    pixels = torch.from_numpy(photographs(folder, views))
    lite0 = build_backbone("efficientnet_lite0")
    relu: list[torch.Tensor] = []
    lite0.module.get_submodule(RELU_OF_LITE0).register_forward_hook(lambda _, __, output: relu.append(output.clone()))
    last = lite0(pixels)
    hidden = torch.cat(relu)[:views].flatten(2).transpose(1, 2)  # (views, L, D)
    resnet50 = build_backbone("resnet50", weights="random")(pixels)
    transformer = build_backbone("timm:vit_tiny_patch16_224", weights="random")(pixels)
    found = {
        "efficientnet_lite0, last map of stride 16": last[lite0.layers[0]],
        "efficientnet_lite0, a ReLU6 of stride 16": hidden,
        "resnet50 layer3, untrained": resnet50["layer3"],
        "vit_tiny_patch16_224, last block, untrained": transformer["blocks.11"],
    }
    return {name: values.half().contiguous().numpy() for name, values in found.items()}
