"""AVIF and HEIC, two codings in one container: told apart by a file's first bytes, and whether they can be read here.

Pillow reads AVIF itself; HEIC is read through the optional package pillow-heif.
"""

from PIL import Image, features

from featcache.base.commands import command, pip_install
from featcache.base.errors import BadImage

HEAD_BYTES = 64  # of a file, enough to tell
_AVIF = {b"avif", b"avis"}
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}


def coding_of(head: bytes) -> str:
    """Return 'AVIF' or 'HEIC' by the first bytes of a file, '' if it is neither."""
    if head[4:8] != b"ftyp":
        return ""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[k : k + 4] for k in range(16, end, 4))}
    return "AVIF" if brands & _AVIF else "HEIC" if brands & _HEIC else ""


def format_of(coding: str) -> str:
    """Return Pillow's name of the format that reads a coding; raise `BadImage` with the way out if none does here."""
    if coding == "AVIF":
        if not features.check("avif"):
            again = command("pip", "install", "--force-reinstall", "pillow")
            raise BadImage("unsupported", f"AVIF, which this Pillow was built without; {again}")
        return "AVIF"
    if "HEIF" not in Image.OPEN:
        try:
            from pillow_heif import register_heif_opener
        except ImportError as error:
            raise BadImage("unsupported", f"HEIC, which needs: {pip_install('heic')}") from error
        register_heif_opener()
    return "HEIF"
