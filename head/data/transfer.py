"""Batches on the device that computes with them, and what of the work is done there.

On CUDA maps are read, as they are stored, into pinned memory, copied while the batch before is computed with, and
decoded and joined on the GPU. Elsewhere they are decoded where they are read, in threads.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.store.cache import FeatureCache
from head.data.channels import ProjectedInput
from head.data.inputs import HeadInput, Pairs
from head.data.several import AnyInput


def decodes_there(device: torch.device, source: AnyInput | ProjectedInput) -> bool:
    """Whether what is read is decoded on device: maps on CUDA are, of which uint8 halves the bytes that are copied."""
    return device.type == "cuda" and isinstance(source, HeadInput) and not source.pooled


def batches_on(
    device: torch.device, source: AnyInput | ProjectedInput, cache: FeatureCache, pairs: Pairs
) -> Iterator[Tensor]:
    """Yield on device what `source.batches` gives for each (rows, views); valid until the next is asked for."""
    if decodes_there(device, source) and isinstance(source, HeadInput):
        yield from _decoded_there(device, source, cache, pairs)
    else:
        for features in source.batches(cache, pairs):
            yield features.to(device)


def _decoded_there(device: torch.device, source: HeadInput, cache: FeatureCache, pairs: Pairs) -> Iterator[Tensor]:
    """Yield batches that are copied as they are stored, and decoded on device."""
    constants, allocate = source.codes(cache), pinned if device.type == "cuda" else np.empty
    for stored in source.stored_batches(cache, pairs, allocate):
        there = {layer: codes.to(device, non_blocking=True) for layer, codes in stored.items()}
        copied = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
        yield source.of_stored(there, constants, cache.recipe)
        if copied is not None:  # or the next batch would be read into memory that is still being copied from
            copied.synchronize()


def pinned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array in pinned memory, from which a GPU fetches without waiting."""
    like = torch.from_numpy(np.empty(0, dtype))
    return torch.empty(shape, dtype=like.dtype, pin_memory=True).numpy()
