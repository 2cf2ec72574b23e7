"""What a page holds instead of arrays and files: maps of one byte a place, thumbnails, both as text."""

import base64
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..style import LEAST_SCALE

QUALITY = 78  # of WebP; 80 photographs at 320 pixels take 12 KB each


@dataclass(frozen=True)
class PackedMaps:
    """Attention maps of one image, levels uint8 (T, H, W): level 0 is low and 255 is high, in all T alike."""

    levels: NDArray[np.uint8]
    low: float
    high: float

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object; low and high are in units of 1/L, what every place has without attention."""
        T, H, W = self.levels.shape
        return {
            "shape": [T, H, W],
            "levels": base64.b64encode(self.levels.tobytes()).decode(),
            "low": round(self.low * H * W, 4),
            "high": round(self.high * H * W, 4),
        }


@dataclass(frozen=True)
class Thumbnail:
    """A small WebP of an image that was width x height pixels; or none, and the problem that left it without."""

    data: bytes = b""
    problem: str = ""

    def as_text(self) -> str:
        """Return the file in base64."""
        return base64.b64encode(self.data).decode()


def pack_maps(maps: NDArray[np.float32]) -> PackedMaps:
    """Round the maps of one image (T, H, W) to 256 levels from 0 to their largest value, or twice an even share.

    A scale from the least to the largest value would make noise around an even share look like a decision.
    """
    high = max(float(maps.max()), LEAST_SCALE / (maps.shape[1] * maps.shape[2]))
    return PackedMaps(np.rint(maps.astype(np.float64) / high * 255).astype(np.uint8), 0.0, high)


def make_thumbnail(rgb: Image.Image, side: int) -> Thumbnail:
    """Return an image as WebP, its longer side at most so many pixels."""
    small = rgb.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    file = BytesIO()
    small.save(file, "WEBP", quality=QUALITY, method=4)
    return Thumbnail(file.getvalue())
