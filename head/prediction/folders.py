"""Which files are to be scored: those that are named, and of folders those that are images; and why others are not."""

import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.base.errors import InvalidSettings, printable
from featcache.images.decode import SUFFIXES, holds_image
from featcache.images.notes import some_of

_COMPANION_OF = {  # what a system puts beside a user's files, in lower case; and macOS all whose name begins with ._
    **dict.fromkeys((".ds_store", "__macosx", ".appledouble", ".spotlight-v100", ".trashes", ".fseventsd"), "macOS"),
    **dict.fromkeys(("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin"), "Windows"),
    "@eadir": "Synology",
}
_CAMERA_RAW = {  # most are TIFFs by content, whose first page is a thumbnail
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".nef", ".nrw",
    ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw", ".x3f",
}  # fmt: skip


@dataclass(frozen=True)
class Folder:
    """The images of a folder, in order of path, and (path, reason) of all else in it."""

    path: Path
    images: list[Path]
    left_out: list[tuple[Path, str]]

    @property
    def found(self) -> int:
        """How many files it has."""
        return len(self.images) + len(self.left_out)

    def reasons(self) -> dict[str, int]:
        """Return how many files were left out for each reason."""
        return dict(sorted(Counter(reason for _, reason in self.left_out).items()))

    def describe_left_out(self, *, every: bool = False) -> str:
        """Return how many files were left out, by reason, with the first names or every one."""
        parts = []
        for reason, count in self.reasons().items():
            names = [self.shown(path) for path, why in self.left_out if why == reason]
            parts.append(f"{count:,} {reason} ({some_of(names, every=every)})")
        return f"{len(self.left_out):,} left out: {', '.join(parts)}"

    def shown(self, path: Path) -> str:
        """Return the path of a file below this folder, fit for a terminal."""
        return printable(str(path.relative_to(self.path)))


@dataclass(frozen=True)
class FoundImages:
    """The files to score, in order, and what was found in each folder among the arguments."""

    paths: list[Path]
    folders: list[Folder]


def find_images(arguments: Sequence[Path]) -> FoundImages:
    """Return the files among arguments, whatever they are, and the images in the folders among them, in order of path.

    Folders are gone through to the bottom, links to folders are not followed. Raises `InvalidSettings` that lists
    every argument that is not there, or a folder without images.
    """
    paths: list[Path] = []
    folders: list[Folder] = []
    problems = []
    for argument in arguments:
        if argument.is_dir():
            folder = _look_into(argument)
            folders.append(folder)
            paths += folder.images
            others = f"; {folder.describe_left_out()}" if folder.left_out else ""
            problems += [] if folder.images else [f"{argument} holds no {', '.join(SUFFIXES)} files{others}"]
        elif argument.exists():
            paths.append(argument)
        else:
            problems.append(f"{argument} does not exist")
    if problems:
        raise InvalidSettings("; ".join(problems))
    return FoundImages(paths, folders)


def _look_into(folder: Path) -> Folder:
    images: list[Path] = []
    left_out = []
    closed: list[OSError] = []
    for home, subfolders, files in os.walk(folder, onerror=closed.append):
        links = [name for name in subfolders if Path(home, name).is_symlink()]
        for path in (Path(home, name) for name in (*files, *links)):
            reason = _reason_against(path, path.relative_to(folder).parts)
            if reason:
                left_out.append((path, reason))
            else:
                images.append(path)
    images += [Path(error.filename) for error in closed]  # a folder that cannot be read is told like such an image
    return Folder(folder, sorted(images), sorted(left_out))


def _reason_against(path: Path, parts: Sequence[str]) -> str:
    """Return why a file, by parts of its path below the folder, is left out, '' if it is to be read.

    So is what cannot be looked at, such as a link to nothing, for its problem to be told.
    """
    systems = ["macOS" if part.startswith("._") else _COMPANION_OF.get(part.lower()) for part in parts]
    if any(systems):
        return f"{next(filter(None, systems))} companion"
    if any(part.startswith(".") for part in parts):
        return "hidden"
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return "link to a folder"
        if not stat.S_ISREG(mode):
            return "not a regular file"
        if path.suffix.lower() in _CAMERA_RAW:
            return "camera's raw file"
        known = path.suffix.lower() in SUFFIXES
        return "" if known or holds_image(path) else "not an image by its name or content"
    except OSError:
        return ""
