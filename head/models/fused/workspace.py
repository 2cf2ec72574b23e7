"""Large arrays that are used again in every batch: asking the system for new pages costs more than filling them."""

import math
import threading
from collections.abc import Sequence

import torch
from torch import Tensor


class Workspace:
    """Holds arrays that nobody uses at the moment, for any thread. A copy of it, pickled or not, is empty."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []  # flat
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["Workspace"], tuple[()]]:
        return Workspace, ()

    @property
    def bytes(self) -> int:
        """How many bytes the arrays take that nobody uses."""
        return sum(flat.untyped_storage().nbytes() for flat in self._free)

    def take(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return an array of any content, for one user until it is given back.

        Where none that is free is large enough, the free ones of its type make room for a new one: no more are ever
        kept than were in use at once.
        """
        size = math.prod(shape)
        with torch.inference_mode(False), self._lock:  # or what evaluation leaves could not be used in training
            alike = [flat for flat in self._free if flat.dtype == dtype and flat.device == device]
            found = min((flat for flat in alike if flat.numel() >= size), key=Tensor.numel, default=None)
            given = alike if found is None else [found]
            self._free = [flat for flat in self._free if not any(flat is other for other in given)]
            del alike, given  # the memory of those that were too small, before there is a larger one
            flat = torch.empty(size, dtype=dtype, device=device) if found is None else found
            return flat[:size].view(*shape)

    def give(self, *arrays: Tensor) -> None:
        """Take arrays of `take` back; each may be the front of a larger one."""
        with torch.inference_mode(False), self._lock:
            for array in arrays:
                whole = torch.empty(0, dtype=array.dtype, device=array.device)
                self._free.append(whole.set_(array.untyped_storage()))
