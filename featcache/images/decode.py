"""From an image file to RGB pixels, in one stated way for every kind of file. Knows nothing of views.

Formats, by content and not by name: JPEG, PNG, WebP, BMP, GIF, TIFF; of several frames the first.
EXIF orientation is applied, colour profiles are not. Grey is repeated, palettes are looked up, CMYK is
converted by Pillow's formula, 16-bit grey is divided by 257, of 16-bit colour Pillow keeps the upper 8 bits,
and transparency is laid over white.
"""

import hashlib
import os
import stat
import struct
import threading
import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from featcache.base.errors import BadImage, InvalidSettings

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MOST_PIXELS = 89_478_485  # Pillow's own limit, above which it warns of a decompression bomb
MOST_BYTES = 512 << 20
MOST_ELONGATED = 200
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_CONVERTED = ("RGB", "L", "1", "P", "CMYK", "YCbCr", "RGBX", "HSV")
_TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_header_lock = threading.Lock()  # warnings.catch_warnings is not thread-safe
_DAMAGE = (  # what Pillow's decoders raise for damaged files; OSError and ValueError hold most of it
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, ArithmeticError, LookupError,
    TypeError, AttributeError, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


@dataclass(frozen=True)
class DecodedImage:
    """An RGB Pillow image, upright, with the sha256 (64 hex digits) of the file it came from."""

    rgb: Image.Image
    sha256: str


def decode_file(path: Path) -> DecodedImage:
    """Return the pixels of an image file; raise `BadImage` with the reason if it has none to give."""
    return decode_bytes(_read(path))


def decode_bytes(data: bytes, *, most_pixels: int = MOST_PIXELS) -> DecodedImage:
    """Return the pixels of an image file's bytes; raise `BadImage`, for one of more pixels before it is decoded."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise BadImage("truncated", "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on, which fills missing rows with grey")
    return DecodedImage(rgb_of(_open_header(data), most_pixels=most_pixels), hashlib.sha256(data).hexdigest())


def rgb_of(image: Image.Image, *, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """Return an image as one of mode 'RGB', upright, as the head of this module states; raise `BadImage`."""
    width, height = image.size
    if width * height > most_pixels:
        raise BadImage("too-large", f"{width} x {height} pixels; at most {most_pixels:,} are decoded")
    if not width * height or max(width, height) > MOST_ELONGATED * min(width, height):
        raise BadImage("degenerate", f"{width} x {height} pixels")
    try:
        image.load()
        rgb = _to_rgb(image)
        method = _UPRIGHT.get(_orientation(image))
        return rgb if method is None else rgb.transpose(method)
    except BadImage:
        raise
    except _DAMAGE as error:
        raise BadImage("truncated" if "truncated" in str(error) else "damaged", _first_line(error)) from error


def image_of_array(array: NDArray[Any]) -> Image.Image:
    """Return pixels (H, W, 3), (H, W, 4) or (H, W) uint8 as an image: RGB, RGBA or grey; raise `InvalidSettings`."""
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise InvalidSettings(
            f"an image's array must be uint8 (H, W, 3), (H, W, 4) or (H, W), found {array.dtype} {array.shape}"
            "; channels go last, floats have to be scaled to 0 to 255"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not block
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        raise BadImage("unreadable", getattr(error, "strerror", None) or str(error)) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise BadImage("not-a-file", "not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > MOST_BYTES:
            raise BadImage("too-large", f"{status.st_size:,} bytes; at most {MOST_BYTES:,} are read")
        try:
            return file.read()
        except OSError as error:
            raise BadImage("unreadable", error.strerror or str(error)) from error


def _open_header(data: bytes) -> Image.Image:
    if not data:
        raise BadImage("unidentified", "the file is empty")
    with _header_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bombs: the size is checked by the caller
        try:
            return Image.open(BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            raise BadImage("unidentified", f"not one of {', '.join(FORMATS)}") from None
        except Image.DecompressionBombError as error:
            raise BadImage("too-large", f"more than {2 * MOST_PIXELS:,} pixels") from error
        except _DAMAGE as error:
            raise BadImage("damaged", _first_line(error)) from error


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a loaded image, 1 (upright) where there is none to be read."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except _DAMAGE:  # a strange tag costs a photograph nothing but its orientation
        return 1
    return orientation if isinstance(orientation, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of mode 'RGB', as the head of this module states."""
    if image.mode in _SIXTEEN_BIT:
        return _sixteen_bit_to_rgb(image)
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, with_alpha).convert("RGB")
    if image.mode not in _CONVERTED:
        raise BadImage("unsupported", f"pixels of Pillow's mode {image.mode}")
    return image.convert("RGB")


def _sixteen_bit_to_rgb(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int32)
    if values.min() < 0 or values.max() > 65535:
        raise BadImage("unsupported", "integer pixels of more than 16 bits")
    values[values == image.info.get("transparency", -1)] = 65535  # the one transparent grey of a PNG
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")


def _first_line(error: BaseException) -> str:
    """Return the first line of what a library says, as it is: reasons are stored, so they decide bytes of shards."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]
