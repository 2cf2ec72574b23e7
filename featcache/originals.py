"""The photographs that a cache was made of, as long as they are still the same files."""

from pathlib import Path, PurePosixPath

from PIL import Image

from .errors import BadImage
from .images import decode_file
from .layout import ImageRow


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
