"""Datasets: which images there are, and which score each has in which part of which split.

Knows nothing of pixels. A score belongs to (split, part, image): in LaMem the same image has another
score in another split.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featcache.base.errors import BadInput, refuse
from featcache.datasets.ratings import read_ratings
from featcache.datasets.split_files import Line, read_split_files
from featcache.datasets.splits import PARTS, Part, Ratings

KNOWN = ("lamem", "sun")


@dataclass(frozen=True)
class Dataset:
    """names[i] is the image of row i, relative to the folder images; splits[split][part] says which rows it holds.

    root is the folder of images/ and splits/, None for a table of ratings. ignored names what was not read: other
    files in splits/, other columns of a table.
    """

    name: str
    images: Path
    names: tuple[str, ...]
    splits: dict[str, dict[str, Part]]
    root: Path | None = None
    ignored: tuple[str, ...] = ()

    def path(self, row: int) -> Path:
        """Return where the image of a row lies."""
        return self.images / self.names[row]

    @property
    def ratings(self) -> Ratings:
        """The splits by target."""
        return {"": self.splits}

    @property
    def source(self) -> dict[str, str]:
        """Where the images are, for the cache's manifest; `images_of` finds them again."""
        if self.root is None:
            return {"dataset": self.name, "root": str(self.images.resolve()), "images": str(self.images.resolve())}
        return {"dataset": self.name, "root": str(self.root.resolve())}


def images_of(source: Mapping[str, str], root: Path | None = None) -> Path:
    """Return the folder of a dataset's images from its `source`; root is where the dataset is now, if not there."""
    table = "images" in source
    folder = root or Path(source["images"] if table else source["root"])
    return folder if table else folder / "images"


def open_dataset(name_or_path: str, *, root: str | Path | None = None) -> Dataset:
    """Read every score of a dataset; rows are the distinct image names, sorted.

    name_or_path is 'lamem' or 'sun', found in root (default: data/NAME), a folder that holds images/ and
    splits/{train,val,test}_K.txt with lines `NAME SCORE`, or a table FILE.csv as
    `featcache.datasets.ratings` reads it, its paths relative to root (default: the table's folder). Raises
    `BadInput` with every problem of every file, each with file and line.
    """
    problems: list[str] = []
    if name_or_path.lower().endswith(".csv"):
        table = Path(name_or_path)
        name, folder = table.stem, None
        images, splits, ignored = read_ratings(table, problems, folder=Path(root) if root is not None else table.parent)
    else:
        folder = _find(name_or_path, root)
        name = name_or_path if name_or_path in KNOWN else _name_of(folder)
        images = folder / "images"
        splits, ignored = read_split_files(folder / "splits", problems)
    for parts in splits.values():
        problems += _images_in_two_parts(parts)
    lines = [line for parts in splits.values() for part_lines in parts.values() for line in part_lines]
    problems += _missing_images(images, lines)
    title = f"{name_or_path if folder is None else folder}: {len(problems):,} problems in the dataset:"
    way_out = "Mend or remove these lines, then run the same command again; nothing was computed."
    refuse(BadInput, title, problems, way_out)
    names = tuple(sorted({line.name for line in lines}))
    row_of = {name: row for row, name in enumerate(names)}
    found = {
        split: {part: _part(parts[part], row_of) for part in PARTS if part in parts} for split, parts in splits.items()
    }
    return Dataset(name, images, names, found, folder, ignored)


def _find(name_or_dir: str, root: str | Path | None) -> Path:
    known = name_or_dir in KNOWN
    folder = Path(root) if root is not None else Path("data", name_or_dir) if known else Path(name_or_dir)
    missing = [sub for sub in ("images", "splits") if not (folder / sub).is_dir()]
    if missing:
        hint = f"Pass --root DIR, the folder that holds {name_or_dir}'s images/ and splits/." if known else ""
        raise BadInput(
            f"{folder}: no {' and no '.join(f'{sub}/' for sub in missing)} folder. A dataset is a folder with images/ "
            f"and splits/{{train,val,test}}_K.txt, lines `NAME SCORE`. {hint}".rstrip()
        )
    return folder


def _images_in_two_parts(parts: dict[str, list[Line]]) -> list[str]:
    place_of: dict[str, str] = {}
    problems = []
    for lines in parts.values():
        for line in lines:
            first = place_of.setdefault(line.name, line.place)
            if first != line.place:
                problems.append(f"{line.place}: {line.name} is in another part of the same split, {first}")
    return problems


def _missing_images(images: Path, lines: list[Line]) -> list[str]:
    """List each image that is not there once, at the first line that names it."""
    first_line: dict[str, Line] = {}
    for line in lines:
        first_line.setdefault(line.name, line)
    present: dict[str, set[str]] = {}
    problems = []
    for name, line in first_line.items():
        parent, _, base = name.rpartition("/")
        if parent not in present:
            present[parent] = set()
            if (images / parent).is_dir():
                with os.scandir(images / parent) as entries:
                    present[parent] = {entry.name for entry in entries if not entry.is_dir()}
        if base not in present[parent]:
            problems.append(f"{line.place}: no such image: {images / name}")
    return problems


def _part(lines: list[Line], row_of: dict[str, int]) -> Part:
    rows = np.array([row_of[line.name] for line in lines], dtype=np.int64)
    return Part(rows, np.array([line.score for line in lines], dtype=np.float64))


def _name_of(folder: Path) -> str:
    """Return the folder's name as it was typed, though it be a link; that of '.' and '..' is the real one."""
    return folder.absolute().name if folder.name not in ("", "..") else folder.resolve().name
