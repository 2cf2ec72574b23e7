"""Extraction as a competent user writes it in an afternoon: a DataLoader, an eager network, an HDF5 file with gzip.

Same images, same boxes, same network and weights as extract's; knows nothing of shards, digests or restarts.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import Normalize, functional

from featcache.backbones.families.extractor import Extractor
from featcache.backbones.networks import build_extractor
from featcache.base.devices import resolve_device
from featcache.datasets.dataset import Dataset
from featcache.images.views import View, view_of
from featcache.settings import ExtractSettings

BATCH = 16
WORKERS = 2


class Views(torch.utils.data.Dataset[Tensor]):
    """A map-style dataset: item k is the views (V, 3, S, S) float32 of image k; per_view, one view (1, 3, S, S)."""

    def __init__(self, dataset: Dataset, settings: ExtractSettings, normalise: Normalize, *, per_view: bool) -> None:
        self.dataset, self.recipe, self.views = dataset, settings.views, 1 + settings.augs
        self.normalise = normalise
        self.per_item = 1 if per_view else self.views

    def __len__(self) -> int:
        return len(self.dataset.names) * self.views // self.per_item

    def __getitem__(self, k: int) -> Tensor:
        row, first = divmod(k * self.per_item, self.views)
        name = self.dataset.names[row]
        image = ImageOps.exif_transpose(Image.open(self.dataset.path(row))).convert("RGB")
        numbers = range(first, first + self.per_item)
        views = [view_of(self.recipe, name, v, width=image.width, height=image.height) for v in numbers]
        return torch.stack([self.normalise(cut(image, view, self.recipe.image_size)) for view in views])


def cut(image: Image.Image, view: View, size: int) -> Tensor:
    """Return a view (3, size, size) float32, 0 to 1, of an image."""
    left, top, right, bottom = view.box
    part = functional.resized_crop(image, top, left, bottom - top, right - left, [size, size], antialias=True)
    pixels = functional.pil_to_tensor(functional.horizontal_flip(part) if view.flip else part)
    scaled: Tensor = functional.to_dtype(pixels, torch.float32, scale=True)
    return scaled


def network(settings: ExtractSettings) -> Extractor:
    """Return extract's network with its weights, as PyTorch builds it, in evaluation mode."""
    extractor = build_extractor(
        settings.backbone, (), settings.weights, seed=settings.views.seed, image_size=settings.views.image_size
    )
    extractor.module.eval()
    return extractor


def compute(dataset: Dataset, settings: ExtractSettings, *, per_view: bool) -> Iterator[NDArray[np.float16]]:
    """Yield features (B, L, D) of all views of all images, in order."""
    frozen = network(settings)
    device = resolve_device(settings.device)
    frozen.module.to(device)
    views = Views(dataset, settings, Normalize(frozen.mean, frozen.std), per_view=per_view)
    loader = torch.utils.data.DataLoader(views, BATCH, num_workers=WORKERS)
    for loaded in loader:
        for x in loaded.flatten(0, 1).split(BATCH):  # (B, 3, S, S)
            with torch.inference_mode():
                fmap = frozen.maps(x.to(device))[0]  # (B, D, height, width)
            yield fmap.flatten(2).transpose(1, 2).half().cpu().numpy()  # (B, L, D)


def extract_plainly(
    dataset: Dataset, settings: ExtractSettings, out: Path, *, per_view: bool, on_views: Callable[[int], None]
) -> None:
    """Write /features (N * V, L, D) float16 to the HDF5 file out; on_views is told how many views are written."""
    total, done = len(dataset.names) * (1 + settings.augs), 0
    with h5py.File(out, "w") as file:
        stored: Any = None
        for features in compute(dataset, settings, per_view=per_view):
            if stored is None:
                shape, chunk = ((count, *features.shape[1:]) for count in (total, 1))
                options = {"chunks": chunk, "compression": "gzip", "compression_opts": 4}
                stored = file.create_dataset("features", shape, np.float16, **options)
            stored[done : done + len(features)] = features
            done += len(features)
            on_views(done)
