"""What a page holds instead of arrays and files: maps of one byte a place, thumbnails, both as text."""

import base64
import math
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

QUALITY = 78  # of WebP; 80 photographs at 320 pixels take 12 KB each


@dataclass(frozen=True)
class PackedMaps:
    """Attention maps of one image, levels uint8 (T, H, W): 0 is none and 255 is high, in all T alike."""

    levels: NDArray[np.uint8]
    high: float

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object; high is in even shares, 1/L, which every place has without attention."""
        T, H, W = self.levels.shape
        return {
            "shape": [T, H, W],
            "levels": base64.b64encode(self.levels.tobytes()).decode(),
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


def text_bytes(levels: int) -> int:
    """Return how many bytes so many levels take in base64."""
    return -(-levels // 3) * 4


def pack_maps(maps: NDArray[np.float32]) -> PackedMaps | None:
    """Round the maps of one image (T, H, W), which sum to 1, to 256 levels from 0 to their largest value.

    None if they are not finite.
    """
    high = float(maps.max())
    if not math.isfinite(high):
        return None
    return PackedMaps(np.rint(maps.astype(np.float64) / high * 255).astype(np.uint8), high)


def make_thumbnail(rgb: Image.Image, side: int) -> Thumbnail:
    """Return an image as WebP, its longer side at most so many pixels."""
    small = rgb.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    file = BytesIO()
    small.save(file, "WEBP", quality=QUALITY, method=4)
    return Thumbnail(file.getvalue())
