"""Frozen backbones: pixels in, features out. Knows nothing of caches, nor how each network is built.

Whatever the name, a backbone is in evaluation and inference mode, and its BatchNorm buffers never move.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from . import weights as weights_module
from .errors import InvalidSettings, ResourceError
from .networks import TORCHVISION, Extractor, build_timm, build_torchvision

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


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


class Backbone:
    """A frozen network on its device, ready to turn views into features; made by `build_backbone`."""

    def __init__(
        self,
        name: str,
        extractor: Extractor,
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
        with _memory_errors(self.device, self.batch_size):
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
        with torch.autocast(self.device.type, dtype=reduced, enabled=reduced is not None):
            return self._maps(x)

    def _probe(self) -> dict[str, LayerShape]:
        """Return the shape of each layer's map, from one black image; raise `InvalidSettings` if one is no map."""
        size = self.image_size
        try:
            with _memory_errors(self.device, 1):
                maps = self._forward(torch.zeros(1, size, size, 3, dtype=torch.uint8))
        except ResourceError:
            raise
        except (RuntimeError, AssertionError) as error:
            raise InvalidSettings(f"{self.name} does not take {size}x{size} pixels: {error}") from error
        shapes = {}
        for layer, fmap in zip(self.layers, maps, strict=True):
            if fmap.ndim != 4:
                raise InvalidSettings(f"layer {layer} of {self.name} gives {tuple(fmap.shape)}, not a feature map")
            shapes[layer] = LayerShape(fmap.shape[2], fmap.shape[3], fmap.shape[1])
        return shapes


@contextlib.contextmanager
def _memory_errors(device: torch.device, views: int) -> Iterator[None]:
    """Turn the block's running out of memory into a `ResourceError`."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; on a CPU only the message tells
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise ResourceError(f"{device} is out of memory at a batch of {views}; use a smaller --batch-size") from error


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

    name is one of `networks.NAMES`; weights is 'imagenet', a file, or 'random' (which depends on seed alone).
    Raises `InvalidSettings` for names and layers that do not exist, `BadInput` when the weights cannot be
    had, `Mismatch` when they do not fit.
    """
    if len(set(layers)) != len(layers):
        raise InvalidSettings(f"--layer names a layer twice: {', '.join(layers)}")
    target = resolve_device(device)
    build = build_torchvision if name in TORCHVISION else build_timm
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
