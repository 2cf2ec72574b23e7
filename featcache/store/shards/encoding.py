"""How a feature becomes a stored number and back: float16, or uint8 with a scale and a zero point for each channel.

Pixels, which are uint8 to begin with, stay what they are.

Knows nothing of files. 8 bits are asymmetric affine quantisation per channel: x = scale * (q - zero), so that a
feature of 0, the most frequent one behind a ReLU, is stored exactly.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.base.devices import to_host
from featcache.base.errors import BadInput

LEVELS = 255
_SCALE_BITS = 8  # of a scale's mantissa: the last bits of features, which differ between machines, must not show
Constants = NDArray[np.float32]  # (2, D): scale, then zero point (a whole number in [0, 255]), of each channel


def calibrate(batches: Iterable[Tensor]) -> Constants:
    """Return the constants (2, D) that span each channel's range in batches of features (B, L, D).

    The whole range of the sample and 0 are representable; what lies outside is stored as the nearest end. Raises
    `BadInput` for features that are NaN or infinite.
    """
    low = high = torch.zeros(())
    for features in batches:
        low = torch.minimum(low, features.amin(dim=(0, 1)).cpu())
        high = torch.maximum(high, features.amax(dim=(0, 1)).cpu())
    if not torch.isfinite(high - low).all():
        raise BadInput("uint8 cannot be calibrated: the backbone gave a feature that is NaN or infinite")
    scale = _rounded_up(((high - low) / LEVELS).double().numpy())
    zero = np.round(-low.double().numpy() / scale)
    return np.stack([scale, zero]).astype("<f4")


def _rounded_up(scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round to few bits, upwards, so that the range still fits; a channel that is always 0 gets a scale of 1."""
    mantissa, exponent = np.frexp(np.where(scale > 0, scale, 1.0))
    rounded: NDArray[np.float64] = np.ldexp(np.ceil(mantissa * 2**_SCALE_BITS) / 2**_SCALE_BITS, exponent)
    return rounded


def digest_of_constants(constants: Mapping[str, Constants]) -> str:
    """Return the sha256 over each layer's name and constants, in order of names; '' if there are none."""
    if not constants:
        return ""
    digest = hashlib.sha256()
    for layer, values in sorted(constants.items()):
        digest.update(f"{layer}\0{values.shape}\0".encode() + values.astype("<f4").tobytes())
    return digest.hexdigest()


def quantize(features: Tensor, constants: Constants | Tensor) -> Tensor:
    """Return features (..., D) float32 as uint8 codes."""
    scale, zero = torch.as_tensor(constants, device=features.device)
    return features.div(scale).round_().add_(zero).clamp_(0, LEVELS).to(torch.uint8)


def decode(stored: Tensor | NDArray[Any], constants: Constants | Tensor | None) -> Tensor:
    """Return stored features (..., D) as new float32 ones, on the device where they are.

    Without constants they are float16, or pixels, which become 0 to 255. Constants that lie on the device already,
    as a tensor, are not copied there again.
    """
    stored = torch.as_tensor(stored)
    if constants is None:
        return stored.float()
    scale, zero = torch.as_tensor(constants, device=stored.device)
    return stored.float().sub_(zero).mul_(scale)


@dataclass(frozen=True)
class Encoded:
    """A batch as it is stored: features (B, L, D), mean and deviation over L of what they decode to (B, 2, D) float32.

    Features are float16 or uint8.
    storable (B) is False where a feature is NaN or infinite or, for float16, too large (above 65,504).
    """

    features: NDArray[np.generic]
    pooled: NDArray[np.float32]
    storable: NDArray[np.bool_]


def encode(features: Tensor, constants: Constants | None) -> Encoded:
    """Encode features (B, L, D): rounded to the nearest float16, or quantised where there are constants.

    Those that come as uint8 are pixels, and stored as they are.
    View by view, so that what is decoded again to be pooled stays in the processor's cache.
    """
    there = None if constants is None else torch.as_tensor(constants, device=features.device)  # once for all views
    views = [_encode_view(values, there) for values in features]
    stored, pooled, storable = (torch.stack(column) for column in zip(*views, strict=True))
    return Encoded(*to_host([stored, pooled, storable]))


def _encode_view(values: Tensor, constants: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return features (L, D) of one view as stored (L, D), mean and deviation (2, D), and whether they can be."""
    if values.dtype == torch.uint8:
        stored = values
    else:
        stored = values.to(torch.float16) if constants is None else quantize(values.float(), constants)
    stored = stored.contiguous()  # the order in memory decides the last bits of the sums
    pooled = pool(stored, constants)
    finite = torch.isfinite(pooled[0] if constants is None else values.float().mean(dim=0)).all()  # NaN and inf spread
    return stored, pooled, finite


def pool(stored: Tensor, constants: Constants | Tensor | None) -> Tensor:
    """Return mean and standard deviation (divisor L) over positions, (2, D) float32, of stored features (L, D).

    They are the same bits for the same features in row-major order, whether before they are written or after.
    """
    decoded = decode(stored, constants)
    mean = decoded.mean(dim=0)
    return torch.stack([mean, decoded.sub_(mean).square_().mean(dim=0).sqrt_()])
