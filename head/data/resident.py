"""Features that training reads again and again, held where it computes, as the cache stores them.

Each is read, and its digest checked, once: in the batch that asks for it first. What a batch holds, and its order, are
what they are without; so are the weights.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.base.errors import InvalidSettings, ResourceError
from featcache.base.memory import free_bytes
from featcache.store.cache import FeatureCache
from featcache.store.reading import ahead
from head.data.batches import EVAL_VIEW, SplitData
from head.data.inputs import AHEAD, HeadInput, Pairs
from head.settings import RESIDENT

_SHARE = 0.5  # of the free memory that 'auto' takes at most, for all processes together
_GIGABYTE = 1e9
_NOWHERE = -1


@dataclass(frozen=True)
class Wanted:
    """Which views of which rows a training reads, True in pairs (N, V), and how often at least it reads them all.

    processes are how many of such trainings share the device's memory.
    """

    pairs: NDArray[np.bool_]
    reads: int
    processes: int = 1


def wanted_by(cache: FeatureCache, data: SplitData, *, epochs: int, processes: int = 1) -> Wanted:
    """Return what so many epochs on a split read: augmented views to train on, if there are any, view 0 to select."""
    pairs = np.zeros((cache.rows, cache.views), bool)
    pairs[data.train.rows, 1 if cache.views > 1 else EVAL_VIEW :] = True
    pairs[data.select.rows, EVAL_VIEW] = True
    return Wanted(pairs, epochs * (len(data.train.rows) + len(data.select.rows)), processes)


class Resident:
    """Holds stored features of the (row, view) pairs of a cache on a device; those not read yet are uninitialised."""

    def __init__(self, cache: FeatureCache, source: HeadInput, pairs: NDArray[np.bool_], device: torch.device) -> None:
        self.cache, self.source, self.device = cache, source, device
        self._constants = {name: torch.from_numpy(one).to(device) for name, one in source.codes(cache).items()}
        self._place = np.where(pairs, np.cumsum(pairs.ravel()).reshape(pairs.shape) - 1, _NOWHERE)
        self._held = np.zeros(np.count_nonzero(pairs), bool)
        kinds = source.stored(cache, *(np.argwhere(pairs)[:1].T))
        self._arrays = {
            layer: torch.empty((len(self._held), *like.shape[1:]), dtype=like.dtype, device=device)
            for layer, like in kinds.items()
        }

    @property
    def bytes(self) -> int:
        """How many bytes it takes when all is read."""
        return sum(array.nbytes for array in self._arrays.values())

    def batches(self, pairs: Pairs) -> Iterator[Tensor]:
        """Yield what `HeadInput.batches` does for each (rows, views), on the device.

        What is not held yet is read ahead, in a thread. Raises what `FeatureCache.read` does, `ValueError` for a pair
        that was not among those to hold.
        """
        listed = list(pairs)
        places = [self._place[rows, views] for rows, views in listed]
        if any((one == _NOWHERE).any() for one in places):
            raise ValueError("a view is asked for that was not to be held")
        missing = [~self._held[one] for one in places]
        wanted = [(rows[new], views[new]) for (rows, views), new in zip(listed, missing, strict=True) if new.any()]
        read = ahead(wanted, lambda _, pair: self.source.stored(self.cache, *pair), prefetch=AHEAD)
        where = torch.split(_joined(places).to(self.device), [len(one) for one in places])  # one copy for all batches
        for place, new, on_device in zip(places, missing, where, strict=True):
            if new.any():
                self._take(place[new], next(read))
            stored = {layer: array.index_select(0, on_device) for layer, array in self._arrays.items()}
            yield self.source.of_stored(stored, self._constants, self.cache.recipe)

    def _take(self, places: NDArray[np.int64], stored: dict[str, Tensor]) -> None:
        index = torch.from_numpy(places).to(self.device)
        for layer, values in stored.items():
            self._arrays[layer].index_copy_(0, index, values.to(self.device))
        self._held[places] = True


def resident_for(
    asked: str, cache: FeatureCache, source: HeadInput, wanted: Wanted, device: torch.device
) -> Resident | None:
    """Return what holds the features that are wanted, as 'yes', 'no' or 'auto' was asked for; None for nothing.

    'auto' holds them if they take no more than half of the free memory of the device, and some are read twice. Raises
    `ResourceError` if 'yes' takes more than is free.
    """
    if asked not in RESIDENT:
        raise InvalidSettings(f"--resident must be {' or '.join(RESIDENT)}, found {asked!r}")
    if asked == "no" or not wanted.pairs.any():
        return None
    needed, free = wanted.processes * _bytes_of(cache, source, wanted.pairs), free_on(device)
    if asked == "auto" and (needed > _SHARE * free or wanted.reads <= np.count_nonzero(wanted.pairs)):
        return None
    if needed > free:
        raise ResourceError(
            f"--resident yes: the features of {np.count_nonzero(wanted.pairs):,} views that training reads take "
            f"{needed / _GIGABYTE:,.3g} GB{_of_processes(wanted.processes)}, and {free / _GIGABYTE:,.3g} GB are free "
            f"on {device}; use --resident no"
        )
    return Resident(cache, source, wanted.pairs, device)


def free_on(device: torch.device) -> int:
    """Return the bytes of memory that are free on a device; of one that shares the machine's, what is free there.

    On CUDA what PyTorch's allocator keeps of an earlier training, and no tensor has, is free to this process.
    """
    if device.type != "cuda":
        return free_bytes()
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def _bytes_of(cache: FeatureCache, source: HeadInput, pairs: NDArray[np.bool_]) -> int:
    one = source.stored(cache, *(np.argwhere(pairs)[:1].T))
    return int(np.count_nonzero(pairs)) * sum(values.nbytes for values in one.values())


def _joined(places: Sequence[NDArray[np.int64]]) -> Tensor:
    return torch.from_numpy(np.concatenate(places) if places else np.zeros(0, np.int64))


def _of_processes(count: int) -> str:
    return f" in {count} processes" if count > 1 else ""
