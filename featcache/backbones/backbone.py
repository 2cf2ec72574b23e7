"""Frozen backbones: pixels in, features out. Knows nothing of caches, nor how each network is built or executed.

Whatever the name, a backbone is in evaluation and inference mode, and its BatchNorm buffers never move.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from featcache.backbones.execution import Execution, resolve_batch_size, resolve_precision, resolve_runtime
from featcache.backbones.families import weights as weights_module
from featcache.backbones.families.extractor import Extractor
from featcache.backbones.families.folding import fold_batch_norms
from featcache.backbones.networks import Asked, build_extractor, settled
from featcache.backbones.runner import start
from featcache.base.cores import usable_threads
from featcache.base.devices import memory_errors, resolve_device
from featcache.base.errors import InvalidSettings
from featcache.recipe import LayerShape
from featcache.settings import VIEWS_LAYER, ExtractSettings


class Backbone:
    """A frozen network on its device, ready to turn views into features; made by `build_backbone`.

    device, precision and streams are those of its execution: where it runs, its arithmetic (fp32, bf16 or fp16), and
    how many batches it computes side by side. Of layers those that are computed are all but `views`, the pixels
    themselves; where none is, the network is not run.
    """

    def __init__(
        self,
        name: str,
        extractor: Extractor,
        execution: Execution,
        *,
        image_size: int,
        batch_size: int,
        fall_back: bool = False,
    ) -> None:
        self.name, self.image_size, self.batch_size = name, image_size, batch_size
        self.layers, self.computed = extractor.layers, extractor.computed
        self.mean, self.std, self.final_norm = extractor.mean, extractor.std, extractor.final_norm
        self.weights_sha256 = weights_module.digest_of_weights(extractor.module)
        self.module = extractor.module.eval().requires_grad_(False)
        fold_batch_norms(self.module)
        network = _PixelsToMaps(extractor).eval()
        self.shapes = self._probe(network)
        example = torch.zeros(batch_size, image_size, image_size, 3, dtype=torch.uint8)
        what = f"{', '.join(self.computed)} of {name}{' behind its last norm' if self.final_norm else ''}"
        self._runner = start(network, execution, example, fall_back=fall_back, what=what)
        self.execution = self._runner.execution
        self.device, self.precision = self.execution.device, self.execution.precision
        self.streams = self.execution.streams
        self.pool = self._runner.pool  # a context that gives a pool of threads to call `maps` from
        self.stream = self._runner.stream  # one in which a GPU's work is queued in the calling thread's own stream

    @property
    def cuts_views(self) -> bool:
        """Whether views are cut and resized on the device, which then has more to give than the cores."""
        return self.device.type == "cuda"

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """Map pixels (B, S, S, 3) uint8 to {layer: features (B, L, D) float32} on the backbone's device.

        The layer `views` is the pixels (B, S * S, 3), uint8, where they are.
        The network always runs on batch_size views, the last batch padded with black ones: libraries choose
        kernels by shape (measured: between batches of 12 and 16, one thread, 0.9% of EfficientNet-Lite0's float16
        features differ in their last bit), and a feature must not depend on the views it happens to be among.
        """
        batches = []
        with self.stream():
            for part in torch.split(pixels, self.batch_size):
                maps = self.maps(functional.pad(part, (0, 0, 0, 0, 0, 0, 0, self.batch_size - len(part))))
                batches.append({layer: _kept(values[: len(part)]) for layer, values in maps.items()})
            return {layer: torch.cat([batch[layer] for batch in batches]) for layer in self.layers}

    def maps(self, pixels: Tensor) -> dict[str, Tensor]:
        """Map pixels (batch_size, S, S, 3) uint8 to {layer: features (batch_size, L, D)} in the type they come in.

        For any thread, best one of `pool`. The features may be overwritten by the same thread's next call.
        """
        with memory_errors(self.device, _batch(self.batch_size)):
            maps = dict(zip(self.computed, self._runner(pixels) if self.computed else (), strict=True))
        return {layer: maps[layer] if layer in maps else pixels.flatten(1, 2) for layer in self.layers}

    def _probe(self, network: "_PixelsToMaps") -> dict[str, LayerShape]:
        """Return the shape of each layer's map, from one black image; raise `InvalidSettings` if one is no map."""
        size = self.image_size
        shapes = {VIEWS_LAYER: LayerShape(size, size, 3)}
        try:
            with memory_errors(torch.device("cpu"), _batch(1)), torch.inference_mode():
                maps = network.raw_maps(torch.zeros(1, size, size, 3, dtype=torch.uint8))
        except (RuntimeError, AssertionError) as error:
            raise InvalidSettings(f"{self.name} does not take {size}x{size} pixels: {error}") from error
        for layer, fmap in zip(self.computed, maps, strict=True):
            if fmap.ndim != 4:
                raise InvalidSettings(f"layer {layer} of {self.name} gives {tuple(fmap.shape)}, not a feature map")
            shapes[layer] = LayerShape(fmap.shape[2], fmap.shape[3], fmap.shape[1])
        return {layer: shapes[layer] for layer in self.layers}


class _PixelsToMaps(nn.Module):
    """The whole way: pixels (B, S, S, 3) uint8, normalised, through the network, to one (B, L, D) for each layer."""

    mean: Tensor
    std: Tensor

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.network = extractor.module
        self._maps = extractor.maps
        self.register_buffer("mean", 255 * torch.tensor(extractor.mean))
        self.register_buffer("std", 255 * torch.tensor(extractor.std))

    def raw_maps(self, pixels: Tensor) -> Sequence[Tensor]:
        """Return the maps (B, D, height, width)."""
        x = ((pixels - self.mean) / self.std).permute(0, 3, 1, 2)  # (B, 3, S, S), channels last in memory
        return self._maps(x)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return [fmap.flatten(2).transpose(1, 2) for fmap in self.raw_maps(pixels)]  # (B, L, D)


def _kept(values: Tensor) -> Tensor:
    """Return values that outlast what they were computed in: as float32, or pixels as they are."""
    return (values if values.dtype == torch.uint8 else values.float()).clone()


def _batch(views: int) -> str:
    return f"at a batch of {views}; use a smaller --batch-size"


def build_backbone(
    name: str,
    *,
    layers: Sequence[str] = (),
    weights: str = "imagenet",
    image_size: int = 224,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    runtime: str = "auto",
    batch_size: int | None = None,
    views: int = 1,
    threads: int | None = None,
    final_norm: bool | None = None,
) -> Backbone:
    """Return the backbone called name, reading the given layers (default: the last map of stride 16).

    The layer `views` is the pixels themselves; with no other the network is built, for its weights, and not run.
    name is one of `timm_networks.NAMES`, or has descriptors behind it as `descriptor_networks` says; weights is
    'imagenet', a file, or 'random' (which depends on seed alone).
    views is how many there are to compute in all, which decides what runtime 'auto' is; threads defaults to the cores.
    batch_size and final_norm are as `ExtractSettings` has them.
    Raises `InvalidSettings` for names and layers that do not exist, `BadInput` when the weights cannot be
    had, `Mismatch` when they do not fit.
    """
    if len(set(layers)) != len(layers):
        raise InvalidSettings(f"--layer names a layer twice: {', '.join(layers)}")
    device, precision, runtime = settled(name, layers, Asked(device, precision, runtime))
    target = resolve_device(device)
    resolved = resolve_precision(precision, target)
    execution = Execution(target, resolved, resolve_runtime(runtime, target, views, resolved), usable_threads(threads))
    extractor = build_extractor(name, layers, weights, seed=seed, image_size=image_size, final_norm=final_norm)
    size = resolve_batch_size(batch_size, target, image_size)
    return Backbone(name, extractor, execution, image_size=image_size, batch_size=size, fall_back=runtime == "auto")


def loader_threads(backbone: Backbone) -> int:
    """Return how many threads decode: half the cores where the backbone needs them too, else all."""
    cores = backbone.execution.threads
    return max(1, cores if backbone.cuts_views else -(-cores // 2))


def load_backbone(settings: ExtractSettings, *, views: int = 1, threads: int | None = None) -> Backbone:
    """Return the backbone that settings ask for, to compute so many views in all on so many cores."""
    return build_backbone(
        settings.backbone,
        layers=settings.layers,
        weights=settings.weights,
        image_size=settings.views.image_size,
        seed=settings.views.seed,
        device=settings.device,
        precision=settings.precision,
        runtime=settings.runtime,
        batch_size=settings.batch_size,
        views=views,
        threads=threads,
        final_norm=settings.final_norm,
    )
