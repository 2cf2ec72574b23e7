"""From an image file to RGB pixels, in one stated way for every kind of file. Knows nothing of views.

Formats, by content and not by name: JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, and HEIC with an optional package; of
several frames the first. EXIF orientation is applied, colour profiles are not. Grey is repeated, palettes are looked
up, CMYK is converted by Pillow's formula, 16-bit grey is divided by 257, of 16-bit colour Pillow keeps the upper 8
bits, and transparency is laid over white.
"""

import hashlib
import os
import stat
import struct
import threading
import warnings
import zlib
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError, features

from featcache.base.errors import BadImage, InvalidSettings, ran_out_of_memory
from featcache.images.heif import HEAD_BYTES, coding_of, format_of
from featcache.images.notes import SIXTEEN_BIT, is_deep_colour, note_of_frames, notes_of_pixels

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")  # and HEIC
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif", ".tiff",
    ".avif", ".avifs", ".heic", ".heif", ".hif",
)  # fmt: skip
DECODED = ("jpeg", "webp", "tiff", "avif")  # the kinds of file whose pixels are up to a library outside of Pillow
MOST_PIXELS = 89_478_485  # Pillow's own limit, above which it warns of a decompression bomb
MOST_BYTES = 512 << 20
MOST_ELONGATED = 200
MOST_PAGES = 1000  # that are counted; each takes 0.3 ms, and a hostile TIFF may have a million
_SEQUENCES = ("GIF", "WEBP", "PNG", "TIFF", "AVIF", "HEIF")  # not a JPEG's MPO: its others are previews and depth maps
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
    TypeError, AttributeError, RuntimeError, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


@dataclass(frozen=True)
class DecodedImage:
    """An RGB Pillow image, upright, with the sha256 (64 hex digits) of its file, '' for no file, and its notes."""

    rgb: Image.Image
    sha256: str
    notes: tuple[str, ...] = ()


def decoders() -> dict[str, str]:
    """Return the library that decodes each kind of file here, with its version: other versions give other pixels."""
    turbo = bool(features.check("libjpeg_turbo"))
    libraries = ("libjpeg-turbo" if turbo else "libjpeg", "libwebp", "libtiff", "libavif")
    names = ("libjpeg_turbo" if turbo else "jpg", "webp", "libtiff", "avif")  # in Pillow
    versions = [features.version(name) for name in names]  # None of what this Pillow lacks
    found = zip(DECODED, libraries, versions, strict=True)
    return {kind: f"{library} {version}" for kind, library, version in found if version}


def decode_file(path: Path) -> DecodedImage:
    """Return the pixels of an image file; raise `BadImage` with the reason if it has none to give."""
    return decode_bytes(_read(path))


def decode_bytes(data: bytes, *, most_pixels: int = MOST_PIXELS) -> DecodedImage:
    """Return the pixels of an image file's bytes; raise `BadImage`, for one of more pixels before it is decoded."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise BadImage("truncated", "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on, which fills missing rows with grey")
    image = _open_header(BytesIO(data))
    decoded = decode_image(image, most_pixels=most_pixels)
    kind = image.format or ""
    frames = note_of_frames(_frames(image, data), decoded.rgb, kind=kind, most=MOST_PAGES)
    notes = (*decoded.notes, *([frames] if frames else []))
    return replace(decoded, sha256=hashlib.sha256(data).hexdigest(), notes=notes)


def decode_image(image: Image.Image, *, most_pixels: int = MOST_PIXELS) -> DecodedImage:
    """Return the pixels of a Pillow image, as of a file of the same ones; raise `BadImage`."""
    deep_colour = is_deep_colour(image)
    rgb = _rgb_of(image, most_pixels=most_pixels)
    return DecodedImage(rgb, "", notes_of_pixels(image, rgb, deep_colour=deep_colour))


def holds_image(path: Path) -> bool:
    """Whether a regular file is an image by its first bytes, whatever its name; raise `OSError` if it cannot be read.

    Only its header is looked at: its pixels may be damaged, or of a format that cannot be read here.
    """
    with path.open("rb") as file:
        try:
            _open_header(file)
        except BadImage as error:
            return error.reason in ("too-large", "unsupported")
    return True


def _rgb_of(image: Image.Image, *, most_pixels: int) -> Image.Image:
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
        if ran_out_of_memory(error):
            raise
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


def _open_header(file: BinaryIO) -> Image.Image:
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if not head:
        raise BadImage("unidentified", "the file is empty")
    with _header_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bombs: the size is checked by the caller
        coding = coding_of(head)
        try:
            return Image.open(file, formats=[format_of(coding)] if coding else FORMATS)
        except BadImage:
            raise
        except UnidentifiedImageError:
            raise BadImage("unidentified", f"not one of {', '.join(FORMATS)}, HEIC") from None
        except Image.DecompressionBombError as error:
            raise BadImage("too-large", f"more than {2 * MOST_PIXELS:,} pixels") from error
        except _DAMAGE as error:
            raise BadImage("damaged", _first_line(error)) from error


def _frames(image: Image.Image, data: bytes) -> int:
    """Return how many frames or pages the file of an image has, 1 if that cannot be told, at most one above MOST_PAGES.

    Those of GIF and TIFF are counted by going through the file, in an opening of its own.
    """
    if image.format not in ("GIF", "TIFF"):
        return getattr(image, "n_frames", 1) if image.format in _SEQUENCES else 1
    with _header_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            counted = Image.open(BytesIO(data), formats=[image.format])
            return _pages(counted) if image.format == "TIFF" else getattr(counted, "n_frames", 1)
        except _DAMAGE:
            return 1


def _pages(image: Image.Image) -> int:
    """Return how many pages of a TIFF can be read."""
    for page in range(1, MOST_PAGES + 1):
        try:
            image.seek(page)
        except _DAMAGE:  # EOFError behind the last one
            return page
    return MOST_PAGES + 1


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a loaded image, 1 (upright) where there is none to be read."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except _DAMAGE:  # a strange tag costs a photograph nothing but its orientation
        return 1
    return orientation if isinstance(orientation, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of mode 'RGB', as the head of this module states."""
    if image.mode in SIXTEEN_BIT:
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
