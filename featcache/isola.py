"""The public archive of "What makes an image memorable?" (Isola et al., CVPR 2011) as a dataset in the LaMem layout.

Its README: Data/Image data/target_images.mat holds the images, Data/Random splits/ the 25 halves and the hit rates of
the paper, of one half of the participants for train (subject_hrs1) and of the other for test (subject_hrs2).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import CorruptFile
from .files import make_folder, storage_errors
from .matfile import read_array
from .members import FILE, Member
from .progress import OnProgress, Progress, silent

_IMAGES = "Image data/target_images.mat"
_INDICES = {part: f"Random splits/image_{part}_indices.mat" for part in ("train", "test")}
_SCORES = {"train": "Random splits/subject_hrs1.mat", "test": "Random splits/subject_hrs2.mat"}
_FILES = (_IMAGES, *_INDICES.values(), *_SCORES.values())
_SPLITS = 25
_MOST_PIXELS, _MOST_NUMBERS = 1 << 30, 1 << 27  # bytes; the images take 472 MB


def isola_members(members: Sequence[Member]) -> dict[Member, str]:
    """Return the members that the dataset is made of, under short names; empty if this is another archive."""
    found = {}
    for member in members:
        for name in _FILES:
            if member.kind == FILE and f"/{member.name}".endswith(f"/{name}") and "__MACOSX" not in member.name:
                found[member] = name
    return found if len(set(found.values())) == len(found) == len(_FILES) else {}


def make_isola_dataset(source: Path, target: Path, *, on_progress: OnProgress = silent) -> None:
    """Write target/images and target/splits from the unpacked .mat files in source.

    Image i of target_images.mat (from 1) becomes images/000i.png, without loss; the score of an image in train_K is
    row K of subject_hrs1, in test_K row K of subject_hrs2: hits / (hits + misses) of half of the participants, false
    alarms not counted. Raises `CorruptFile` for a .mat file that is not what the archive's README says.
    """
    pixels = _pixels(source / _IMAGES)
    indices = {part: _matrix(source / name, name) for part, name in _INDICES.items()}
    scores = {part: _matrix(source / name, name) for part, name in _SCORES.items()}
    used = _used(indices, scores, pixels.shape[3])
    make_folder(target / "splits")
    for part in ("train", "test"):
        for split in range(_SPLITS):
            rows = indices[part][split].astype(np.int64)
            lines = [f"{row:04d}.png {scores[part][split, row - 1]:.6f}\n" for row in rows.tolist()]
            with storage_errors(target / "splits"):
                (target / "splits" / f"{part}_{split + 1}.txt").write_text("".join(lines))
    _write_images(pixels, make_folder(target / "images"), used, on_progress)


def _used(
    indices: Mapping[str, NDArray[np.float64]], scores: Mapping[str, NDArray[np.float64]], images: int
) -> list[int]:
    """Return the numbers of all images that stand in a split; raise `CorruptFile` for matrices that do not fit."""
    for part in ("train", "test"):
        rows, rates = indices[part], scores[part]
        largest = min(images, rates.shape[1])
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
