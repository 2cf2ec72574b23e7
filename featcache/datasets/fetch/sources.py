"""Where public datasets come from, and how their archives become images/ and splits/. Knows nothing of downloads.

The archive of "What makes an image memorable?" (Isola et al., CVPR 2011) has a layout of its own. Its README says:
Data/Image data/target_images.mat holds the images, Data/Random splits/ the 25 halves and the hit rates of the paper,
of one half of the participants for train (subject_hrs1) and of the other for test (subject_hrs2). What the first half
says of the test images is kept in others_K.txt: how far people agree with people.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache.base.errors import BadInput, CorruptFile
from featcache.base.files import make_folder, storage_errors
from featcache.base.progress import OnProgress, Progress, silent
from featcache.datasets.fetch.archive_members import FILE, Limits, Member
from featcache.datasets.fetch.matfile import read_array
from featcache.datasets.fetch.unpack import unpack

FOLDERS = ("images", "splits")
_SPLIT = re.compile(r"(.*/)?splits/(?:train|val|test)_\w+\.txt")
_IMAGES = "Image data/target_images.mat"
_INDICES = {part: f"Random splits/image_{part}_indices.mat" for part in ("train", "test")}
_SCORES = {"train": "Random splits/subject_hrs1.mat", "test": "Random splits/subject_hrs2.mat"}
_FILES = (_IMAGES, *_INDICES.values(), *_SCORES.values())
_SPLITS = 25
_MOST_PIXELS, _MOST_NUMBERS = 1 << 30, 1 << 27  # bytes; the images take 472 MB


@dataclass(frozen=True)
class Source:
    """Where a dataset is published, and how many images and splits it has."""

    url: str
    images: int
    splits: int


SOURCES = {
    "lamem": Source("http://memorability.csail.mit.edu/lamem.tar.gz", 58_741, 5),
    "sun": Source("http://web.mit.edu/phillipi/Public/WhatMakesAnImageMemorable/cvpr_memorability_data.zip", 2_222, 25),
}


def unpack_dataset(
    name: str, archive: Path, members: Sequence[Member], work: Path, limits: Limits | None, on_progress: OnProgress
) -> None:
    """Make work/unpacked/{images,splits} of an archive in the LaMem layout or, for SUN, of its authors' own."""
    isola = isola_members(members) if name == "sun" else {}
    if isola:
        unpack(archive, isola, work / "raw", limits=limits, on_progress=on_progress)
        make_isola_dataset(work / "raw", work / "unpacked", on_progress=on_progress)
        with storage_errors(work / "raw"):
            shutil.rmtree(work / "raw")
        return
    wanted = dataset_members(members)
    if not wanted:
        also = " or the .mat files of Isola et al. (CVPR 2011)," if name == "sun" else ""
        shown = ", ".join(sorted({member.name.split("/")[0] for member in members})[:10])
        raise BadInput(
            f"{archive}: expected,{also} in one folder or at the top, images/ and splits/{{train,val,test}}_K.txt with "
            f"lines `NAME SCORE`, once; found {len(members):,} members under {shown or 'no name'}. "
            "Nothing was put in place."
        )
    unpack(archive, wanted, work / "unpacked", limits=limits, on_progress=on_progress)


def dataset_members(members: Sequence[Member]) -> dict[Member, str]:
    """Return the files of images/ and splits/, under these names; empty unless exactly one folder holds both."""
    files = [member for member in members if member.kind == FILE and not _is_from_macos(member.name)]
    homes = {match[1] or "" for member in files if (match := _SPLIT.fullmatch(member.name))}
    homes = {home for home in homes if any(member.name.startswith(f"{home}images/") for member in files)}
    if len(homes) != 1:
        return {}
    (home,) = homes
    starts = tuple(f"{home}{part}/" for part in FOLDERS)
    return {member: member.name.removeprefix(home) for member in files if member.name.startswith(starts)}


def _is_from_macos(name: str) -> bool:
    """Return whether a file is what macOS leaves in archives."""
    steps = name.split("/")
    return "__MACOSX" in steps or steps[-1] == ".DS_Store" or steps[-1].startswith("._")


def isola_members(members: Sequence[Member]) -> dict[Member, str]:
    """Return the members that the dataset is made of, under short names; empty if this is another archive."""
    files = [member for member in members if member.kind == FILE and "__MACOSX" not in member.name]
    found = {member: name for member in files for name in _FILES if f"/{member.name}".endswith(f"/{name}")}
    return found if len(set(found.values())) == len(found) == len(_FILES) else {}


def make_isola_dataset(source: Path, target: Path, *, on_progress: OnProgress = silent) -> None:
    """Write target/images and target/splits from the unpacked .mat files in source.

    Image i of target_images.mat (from 1) becomes images/000i.png, without loss; the score of an image in train_K is
    row K of subject_hrs1, in test_K row K of subject_hrs2: hits / (hits + misses) of half of the participants, false
    alarms not counted. others_K has the images of test_K with row K of subject_hrs1, where that is a number. Raises
    `CorruptFile` for a .mat file that is not what the archive's README says.
    """
    pixels = _pixels(source / _IMAGES)
    indices = {part: _matrix(source / name, name) for part, name in _INDICES.items()}
    scores = {part: _matrix(source / name, name) for part, name in _SCORES.items()}
    used = _used(indices, scores, pixels.shape[3])
    make_folder(target / "splits")
    for file, part, people in (("train", "train", "train"), ("test", "test", "test"), ("others", "test", "train")):
        for split in range(_SPLITS):
            rows, rates = indices[part][split].astype(np.int64), scores[people][split]
            kept = rows[np.isfinite(rates[rows - 1])] if file == "others" else rows
            lines = [f"{row:04d}.png {rates[row - 1]:.6f}\n" for row in kept.tolist()]
            if file == "others" and not lines:  # of no image they have a rate
                continue
            with storage_errors(target / "splits"):
                (target / "splits" / f"{file}_{split + 1}.txt").write_text("".join(lines))
    _write_images(pixels, make_folder(target / "images"), used, on_progress)


def _used(
    indices: Mapping[str, NDArray[np.float64]], scores: Mapping[str, NDArray[np.float64]], images: int
) -> list[int]:
    """Return the numbers of all images that stand in a split; raise `CorruptFile` for matrices that do not fit."""
    for part in ("train", "test"):
        rows, rates = indices[part], scores[part]
        largest = min(images, *(found.shape[1] for found in scores.values()))
        if len(rows) < _SPLITS or len(rates) < _SPLITS or not rows.size:
            raise CorruptFile(
                f"{_INDICES[part]}, {_SCORES[part]}: expected {_SPLITS} rows or more, "
                f"found {rows.shape} and {rates.shape}"
            )
        if not np.all((rows >= 1) & (rows <= largest) & (rows == np.floor(rows))):
            raise CorruptFile(f"{_INDICES[part]}: expected numbers of images from 1 to {largest}")
    return sorted({int(row) for part in indices.values() for row in part[:_SPLITS].ravel()})


def _matrix(path: Path, name: str) -> NDArray[np.float64]:
    """Return the matrix of the file's own name as float64 (splits, images)."""
    found = read_array(path, Path(name).stem, most=_MOST_NUMBERS)
    if found.ndim != 2:
        raise CorruptFile(f"{path}: expected a matrix, found an array of shape {found.shape}")
    return found.astype(np.float64)


def _pixels(path: Path) -> NDArray[np.uint8]:
    """Return the images as (H, W, 3, N) uint8."""
    found = read_array(path, "img", most=_MOST_PIXELS)
    if found.ndim != 4 or found.shape[2] != 3 or found.dtype != np.uint8 or not found.size:
        raise CorruptFile(f"{path}: expected img, (H, W, 3, N) uint8; found {found.dtype} {found.shape}")
    return found


def _write_images(pixels: NDArray[np.uint8], folder: Path, used: Sequence[int], on_progress: OnProgress) -> None:
    from PIL import Image

    for done, row in enumerate(used, start=1):
        with storage_errors(folder), (folder / f"{row:04d}.png").open("wb") as file:
            Image.fromarray(np.ascontiguousarray(pixels[..., row - 1])).save(file, "PNG", compress_level=3)
        on_progress(Progress("convert", done, len(used), "images"))
