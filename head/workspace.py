"""Large arrays that are used again in every batch: asking the system for new pages costs more than filling them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Workspace:
    """Holds arrays that nobody uses at the moment; never more of them than were in use at once."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []  # flat

    def take(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return an array of any content, for one user until it is given back."""
        size = math.prod(shape)
        with torch.inference_mode(False):  # or what evaluation leaves could not be used in training
            for k, flat in enumerate(self._free):
                if flat.dtype == dtype and flat.device == device and flat.numel() >= size:
                    return self._free.pop(k)[:size].view(*shape)
            return torch.empty(size, dtype=dtype, device=device).view(*shape)

    def give(self, *arrays: Tensor) -> None:
        """Take arrays of `take` back; each may be the front of a larger one."""
        with torch.inference_mode(False):
            for array in arrays:
                whole = torch.empty(0, dtype=array.dtype, device=array.device)
                self._free.append(whole.set_(array.untyped_storage()))

    def __deepcopy__(self, memo: object) -> "Workspace":
        return Workspace()
