"""Attention and occlusion maps as files: .npy under names that neither meet nor leave their folder."""

import hashlib
import io
import os
from collections.abc import Sequence, Set
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from featcache.base.commands import command
from featcache.base.errors import InvalidSettings
from featcache.base.files import make_folder, write_durably

_OCCLUSION = ".occlusion.npy"
_LONGEST_NAME = 120  # bytes; a file system takes 255, with what a temporary name adds


def map_files(folder: Path, paths: Sequence[Path], arguments: Sequence[Path], *, occlusion: bool = False) -> list[Path]:
    """Return the file in folder for each image's maps: its path below the argument it was found in, and .npy.

    Of occlusion maps names end in .occlusion.npy.

    Where two would be the same, the later one has a number behind its name, and where a folder would be another's
    file, it goes to the top. A function of the arguments alone.
    Raises `InvalidSettings` if one, or the drawing beside it, under the same name with .png, would take an image's
    place, or be among the images of the same command later.
    """
    given = set(arguments)
    files: set[str] = set()
    folders: set[str] = set()
    numbers: dict[str, int] = {}
    names, end = [], _OCCLUSION if occlusion else ".npy"
    for path in paths:
        wanted = _relative(path, given)
        wanted = wanted.with_name(_shortened(wanted.name))
        home = PurePath() if any(_key(parent) in files for parent in wanted.parents) else wanted.parent
        name, number = wanted.with_name(f"{wanted.name}{end}"), numbers.get(_key(wanted), 1)
        while (key := _key(name)) in files or key in folders or any(_key(parent) in files for parent in name.parents):
            number += 1
            name = home / f"{wanted.name}-{number}{end}"
        numbers[_key(wanted)] = number
        files.add(key)
        folders |= {_key(parent) for parent in name.parents}
        names.append(folder / name)
    images, home = {path.resolve() for path in paths}, folder.resolve()
    replaced = [file for file in names if images & {file.resolve(), file.with_suffix(".png").resolve()}]
    if replaced:
        raise InvalidSettings(
            f"{command('--maps', folder)}: {replaced[0]} or its .png would replace an image; give another folder"
        )
    inside = [argument for argument in arguments if argument.is_dir() and home.is_relative_to(argument.resolve())]
    if inside:
        raise InvalidSettings(
            f"{command('--maps', folder)}: drawings there would be scored with {inside[0]} the next time; give another"
        )
    return names


def is_occlusion(path: Path) -> bool:
    """Return whether a file of `map_files` is for occlusion maps."""
    return path.name.endswith(_OCCLUSION)


def write_maps(path: Path, maps: NDArray[np.float32]) -> None:
    """Write the maps of one image (T, H, W), or of several (n, T, H, W), at once, durably; tokens are not in them."""
    data = io.BytesIO()
    np.save(data, np.ascontiguousarray(maps, np.float32), allow_pickle=False)
    make_folder(path.parent)
    write_durably(path, data.getvalue())


def _relative(path: Path, given: Set[Path]) -> PurePath:
    """Return path below the nearest of the folders given that it is in, its name alone if there is none."""
    below = (path.relative_to(parent) for parent in path.parents if parent in given)
    return next((relative for relative in below if ".." not in relative.parts), PurePath(path.name))


def _shortened(name: str) -> str:
    data = os.fsencode(name)
    if len(data) <= _LONGEST_NAME:
        return name
    return f"{os.fsdecode(data[: _LONGEST_NAME - 17])}-{hashlib.sha256(data).hexdigest()[:16]}"


def _key(name: PurePath) -> str:
    return str(name).casefold()  # some file systems take A and a for the same
