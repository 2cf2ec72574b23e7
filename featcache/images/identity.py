"""Who an image is, row by row, and its photograph as long as that is still the same file."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from featcache.base.errors import BadImage
from featcache.images.decode import decode_file


@dataclass(frozen=True)
class ImageRow:
    """An image's identity; absent is '' or the reason why it has no features. Sizes in pixels, upright."""

    name: str
    sha256: str = ""
    width: int = 0
    height: int = 0
    absent: str = ""


def original(image: ImageRow, folder: Path) -> Image.Image:
    """Return the upright RGB photograph of a row; folder has the dataset's images.

    Raises `BadImage` if its name leaves the folder, or its file is gone, unreadable or not the one that was extracted.
    """
    place = PurePosixPath(image.name)
    if place.is_absolute() or ".." in place.parts:
        raise BadImage("unsafe", "its name leaves the folder of images")
    decoded = decode_file(folder / place)
    if decoded.sha256 != image.sha256:
        raise BadImage("changed", "not the file that was extracted")
    return decoded.rgb


def is_same_image(a: ImageRow, b: ImageRow) -> bool:
    """Whether two rows are one image: the same name and, unless one is absent, the same file."""
    return a.name == b.name and (a.sha256 == b.sha256 or bool(a.absent or b.absent))
