"""Datasets in the LaMem layout: which images there are, and which score each has in which part of which split.

Knows nothing of pixels. A score belongs to (split, part, image): in LaMem the same image has another
score in another split.
"""

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import BadInput, list_problems

PARTS = ("train", "val", "test")
KNOWN = ("lamem", "sun")
_SPLIT_FILE = re.compile(r"(train|val|test)_(\w+)\.txt")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Part:
    """Rows of the dataset and their scores in one part of one split: int64 (n), float64 (n)."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class Dataset:
    """names[i] is the image of row i, relative to root/images; splits[split][part] says which rows it holds.

    ignored names the files in splits/ that are none.
    """

    name: str
    root: Path
    names: tuple[str, ...]
    splits: dict[str, dict[str, Part]]
    ignored: tuple[str, ...] = ()

    def path(self, row: int) -> Path:
        """Return where the image of a row lies."""
        return self.root / "images" / self.names[row]


class _Line(NamedTuple):
    place: str
    name: str
    score: float


def open_dataset(name_or_dir: str, *, root: str | Path | None = None) -> Dataset:
    """Read every split file of a dataset; rows are the distinct image names, sorted.

    name_or_dir is 'lamem' or 'sun', found in root (default: data/NAME), or a folder that holds
    images/ and splits/{train,val,test}_K.txt with lines `NAME SCORE`. Raises `BadInput` with every
    problem of every file, each with file and line.
    """
    folder = _find(name_or_dir, root)
    problems: list[str] = []
    splits: dict[str, dict[str, list[_Line]]] = defaultdict(dict)
    for split, part, path in _split_files(folder):
        splits[split][part] = _read_split_file(path, problems)
    for parts in splits.values():
        problems += _images_in_two_parts(parts)
    lines = [line for parts in splits.values() for part_lines in parts.values() for line in part_lines]
    problems += _missing_images(folder / "images", lines)
    if problems:
        raise BadInput(
            list_problems(
                f"{folder}: {len(problems):,} problems in the dataset:",
                problems,
                "Mend or remove these lines, then run the same command again; nothing was computed.",
            )
        )
    names = tuple(sorted({line.name for line in lines}))
    row_of = {name: row for row, name in enumerate(names)}
    return Dataset(
        name=name_or_dir if name_or_dir in KNOWN else _name_of(folder),
        root=folder,
        names=names,
        splits={
            split: {part: _part(parts[part], row_of) for part in PARTS if part in parts}
            for split, parts in splits.items()
        },
        ignored=tuple(sorted(p.name for p in (folder / "splits").iterdir() if not _SPLIT_FILE.fullmatch(p.name))),
    )


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


def _split_files(folder: Path) -> list[tuple[str, str, Path]]:
    """Return (split, part, path) of each split file, splits in natural order, parts as in PARTS."""
    found = []
    for path in (folder / "splits").iterdir():
        match = _SPLIT_FILE.fullmatch(path.name)
        if match:
            found.append((match[2], match[1], path))
    if not found:
        raise BadInput(f"{folder / 'splits'}: no file named {{train,val,test}}_K.txt")
    return sorted(found, key=lambda file: (natural_key(file[0]), PARTS.index(file[1])))


def natural_key(split: str) -> tuple[int, int, str]:
    """Sort key that puts split '2' before split '10', and numbers before words."""
    return (0, int(split), "") if split.isdecimal() else (1, 0, split)


def _read_split_file(path: Path, problems: list[str]) -> list[_Line]:
    """Return the good lines of a file; append what is wrong with the others, each with its place."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problems.append(f"{path}: not UTF-8 text (byte {error.start})")
        return []
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
        return []
    lines: list[_Line] = []
    first_place: dict[str, int] = {}
    for number, raw in enumerate(text.rstrip().split("\n") if text.strip() else [], start=1):
        place = f"{path}:{number}"
        line = _parse_line(raw.rstrip("\r"), place)
        if isinstance(line, str):
            problems.append(f"{place}: {line}")
        elif line.name in first_place:
            problems.append(f"{place}: {line.name} is already on line {first_place[line.name]}")
        else:
            first_place[line.name] = number
            lines.append(line)
    if not text.strip():
        problems.append(f"{path}: the file is empty")
    return lines


def _parse_line(raw: str, place: str) -> _Line | str:
    """Return the line, or what is wrong with it."""
    fields = raw.rsplit(maxsplit=1)
    if len(fields) != 2:
        return f"expected `NAME SCORE`, found {_shown(raw)}"
    name, number = fields[0].strip(), fields[1]
    if not _NUMBER.fullmatch(number) or not math.isfinite(float(number)):
        return f"the score of {_shown(name)} is not a finite decimal number: {_shown(number)}"
    problem = _name_problem(name)
    return problem if problem else _Line(place, name, float(number))


def _name_problem(name: str) -> str | None:
    folders = name.split("/")
    if name.startswith("/") or ".." in folders:
        return f"{_shown(name)} leaves the images/ folder"
    if not name.isprintable() or "" in folders or "." in folders:
        return f"{_shown(name)} is not a plain path inside images/"
    return None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _images_in_two_parts(parts: dict[str, list[_Line]]) -> list[str]:
    place_of: dict[str, str] = {}
    problems = []
    for lines in parts.values():
        for line in lines:
            if line.name in place_of:
                problems.append(
                    f"{line.place}: {line.name} is in another part of the same split, {place_of[line.name]}"
                )
            else:
                place_of[line.name] = line.place
    return problems


def _missing_images(images: Path, lines: list[_Line]) -> list[str]:
    """List each image that is not there once, at the first line that names it."""
    first_line: dict[str, _Line] = {}
    for line in lines:
        first_line.setdefault(line.name, line)
    present: dict[str, set[str]] = {}
    problems = []
    for name, line in first_line.items():
        parent, _, base = name.rpartition("/")
        if parent not in present:
            folder = images / parent
            present[parent] = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if base not in present[parent]:
            problems.append(f"{line.place}: no such image: {images / name}")
    return problems


def _part(lines: list[_Line], row_of: dict[str, int]) -> Part:
    rows = np.array([row_of[line.name] for line in lines], dtype=np.int64)
    return Part(rows, np.array([line.score for line in lines], dtype=np.float64))


def _name_of(folder: Path) -> str:
    """Return the folder's name as it was typed, though it be a link; that of '.' and '..' is the real one."""
    return folder.absolute().name if folder.name not in ("", "..") else folder.resolve().name
