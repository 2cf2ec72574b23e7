"""What to know of an image that is read all the same: data of few bits, several frames, hardly any pixels.

A note is 'KIND: detail', as the reason of a bad image is. It changes no pixel, and is told and not stored.
"""

from collections.abc import Iterable

import numpy as np
from PIL import Image

from featcache.base.errors import printable

FEWEST_PIXELS = 16  # on the shorter side of an image that is not small
MOST_NAMED = 3
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # Pillow's modes of grey
_KINDS = {  # what images of a kind are, and what to do about it
    "few-bits": (
        "with data of fewer bits than their 16-bit files have room for",
        "All 16-bit data are read alike: grey is divided by 257, of colour the upper 8 bits are kept. "
        "Save such images scaled to the whole range (12-bit data times 16), or as 8 bits.",
    ),
    "frames": ("with several frames or pages", "Save the one that is meant as a file of its own."),
    "small": (
        f"of fewer than {FEWEST_PIXELS} pixels on the shorter side",
        "Views of them are enlarged from next to nothing; use larger originals.",
    ),
}


def is_deep_colour(image: Image.Image) -> bool:
    """Whether an image that is not loaded yet has colour of 16 bits a band, of which Pillow will keep 8."""
    return image.mode not in SIXTEEN_BIT and any(";16" in str(tile[3]) for tile in getattr(image, "tile", []))


def notes_of_pixels(image: Image.Image, rgb: Image.Image, *, deep_colour: bool) -> tuple[str, ...]:
    """Return the notes of a loaded image and the RGB made of it; deep_colour is what `is_deep_colour` said before."""
    notes = []
    most = _largest_value(image, deep_colour=deep_colour)
    if 0 < most < 1 << 15:
        notes.append(
            f"few-bits: no value above {most:,} of 65,535, as in {most.bit_length()}-bit data; read as 16-bit data"
        )
    if min(rgb.size) < FEWEST_PIXELS:
        notes.append(f"small: {rgb.width} x {rgb.height} pixels")
    return tuple(notes)


def note_of_frames(count: int, rgb: Image.Image, *, kind: str, most: int) -> str:
    """Return the note of a file of that many frames, '' for one; rgb is the frame that is read, kind Pillow's format.

    A count above most says that there are more.
    """
    if count < 2:
        return ""
    shown = f"more than {most:,}" if count > most else f"{count:,}"
    frames = "pages" if kind == "TIFF" else "frames"
    which = "the main one" if kind == "HEIF" else "the first"
    blank = rgb.getcolors(1) is not None
    return f"frames: {shown} {frames}, {which} is read{', which is of one colour' if blank else ''}"


def describe(notes: Iterable[tuple[str, str]], *, every: bool = False) -> list[str]:
    """Return a warning for each kind among (name, note): how many images, the first names or every one, the way out."""
    of_kind: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    for name, note in notes:
        kind, _, detail = note.partition(": ")
        of_kind[kind].append(f"{printable(name)} ({detail.partition(';')[0]})")
    return [
        f"warning: {len(named):,} image{'s' * (len(named) > 1)} {_KINDS[kind][0]}: "
        f"{some_of(named, every=every)}. {_KINDS[kind][1]}"
        for kind, named in of_kind.items()
        if named
    ]


def in_full(note: str) -> str:
    """Return a note on an image that is not named: what there is to know, and what to do about it."""
    kind, _, detail = note.partition(": ")
    return f"{detail[0].upper()}{detail[1:]}. {_KINDS[kind][1]}"


def some_of(names: list[str], *, every: bool = False) -> str:
    """Return names with commas between: the first few and how many more there are, or every one."""
    few = names if every else names[:MOST_NAMED]
    rest = f" and {len(names) - len(few):,} more" if len(few) < len(names) else ""
    return f"{', '.join(few)}{rest}"


def _largest_value(image: Image.Image, *, deep_colour: bool) -> int:
    """Return the largest value of 16-bit data, for colour an upper bound; 0 for other images."""
    if image.mode in SIXTEEN_BIT:
        values = np.asarray(image)
        return int(values[values != image.info.get("transparency", -1)].max(initial=0))
    if not deep_colour:
        return 0
    largest = np.reshape(image.getextrema(), (-1, 2))[:, 1]  # (bands)
    return 255 + 256 * int(largest[[band not in "Aa" for band in image.getbands()]].max())
