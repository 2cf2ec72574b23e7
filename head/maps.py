"""Attention maps as files: one .npy for each image, under names that neither meet nor leave their folder."""

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray
from torch import nn

from featcache.files import make_folder, write_durably

from .model import AMNetHead
from .published import PublishedHead

_LONGEST_NAME = 120  # bytes; a file system takes 255, with what a temporary name adds


def has_maps(module: nn.Module) -> bool:
    """Whether a head looks at positions one by one; those on pooled features do not."""
    return isinstance(module, AMNetHead | PublishedHead)


def map_files(folder: Path, paths: Sequence[Path], arguments: Sequence[Path]) -> list[Path]:
    """Return the file in folder for each image's maps: its path below the argument it was found in, and .npy.

    Where two would be the same, the later one has a number behind its name. A function of the arguments alone.
    """
    files: set[str] = set()
    folders: set[str] = set()
    names = []
    for path in paths:
        relative = _relative(path, arguments)
        relative = relative.with_name(_shortened(relative.name))
        name, number = relative.with_name(f"{relative.name}.npy"), 1
        while _key(name) in files | folders or any(_key(parent) in files for parent in name.parents):
            number += 1
            name = PurePath(f"{relative.name}-{number}.npy")
        files.add(_key(name))
        folders |= {_key(parent) for parent in name.parents}
        names.append(folder / name)
    return names


def write_map(path: Path, maps: NDArray[np.float32]) -> None:
    """Write the maps of one image (T, H, W) at once, durably."""
    data = io.BytesIO()
    np.save(data, np.ascontiguousarray(maps, np.float32), allow_pickle=False)
    make_folder(path.parent)
    write_durably(path, data.getvalue())


def _relative(path: Path, arguments: Sequence[Path]) -> PurePath:
    below = [path.relative_to(argument) for argument in arguments if path != argument and path.is_relative_to(argument)]
    inside = [relative for relative in below if ".." not in relative.parts]
    return min(inside, key=lambda relative: len(relative.parts), default=PurePath(path.name))


def _shortened(name: str) -> str:
    data = os.fsencode(name)
    if len(data) <= _LONGEST_NAME:
        return name
    return f"{os.fsdecode(data[: _LONGEST_NAME - 17])}-{hashlib.sha256(data).hexdigest()[:16]}"


def _key(name: PurePath) -> str:
    return str(name).casefold()  # some file systems take A and a for the same
