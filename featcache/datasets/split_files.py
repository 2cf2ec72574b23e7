"""Split files of the LaMem layout, {train,val,test}_K.txt with lines `NAME SCORE`, and what is wrong with them.

others_K.txt has the same lines: scores of the images of test_K.txt by other people than those whose scores are there.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from featcache.base.errors import BadInput
from featcache.datasets.splits import PARTS, natural_key

_SPLIT_FILE = re.compile(r"(train|val|test)_(\w+)\.txt")
_OTHERS_FILE = re.compile(r"others_(\w+)\.txt")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
LARGEST_SCORE = 1e15  # on either side of 0; squares and sums of larger ones leave the range of floats


class Line(NamedTuple):
    """An image and its score in one part of a split, and where that is written: file and line."""

    place: str
    name: str
    score: float


LineSplits = dict[str, dict[str, list[Line]]]


class SplitFiles(NamedTuple):
    """The good lines of each part of each split, in order; by split those of others_K.txt; the names of other files."""

    splits: LineSplits
    others: dict[str, list[Line]]
    ignored: tuple[str, ...]


def read_split_files(folder: Path, problems: list[str]) -> SplitFiles:
    """Return what is in the files of folder; append to problems what is wrong with the lines that are not good."""
    files = sorted(folder.iterdir())
    found = [(match[2], match[1], path) for path in files if (match := _SPLIT_FILE.fullmatch(path.name))]
    if not found:
        raise BadInput(f"{folder}: no file named {{train,val,test}}_K.txt")
    splits: LineSplits = {}
    for split, part, path in sorted(found, key=lambda file: (natural_key(file[0]), PARTS.index(file[1]))):
        splits.setdefault(split, {})[part] = _read_split_file(path, problems)
    by_others = {match[1]: path for path in files if (match := _OTHERS_FILE.fullmatch(path.name))}
    others = _read_others(by_others, splits, problems)
    read = {*(path for _, _, path in found), *by_others.values()}
    return SplitFiles(splits, others, tuple(path.name for path in files if path not in read))


def _read_others(paths: Mapping[str, Path], splits: LineSplits, problems: list[str]) -> dict[str, list[Line]]:
    """Return by split the good lines of others_K.txt, of images that test_K.txt has; tell of all others."""
    others = {}
    for split in sorted(paths, key=natural_key):
        if "test" in splits.get(split, {}):
            lines = _read_split_file(paths[split], problems)
            others[split] = _of_test(lines, splits[split]["test"], f"test_{split}.txt", problems)
        else:
            problems.append(f"{paths[split]}: there is no test_{split}.txt, of whose images these are other scores")
    return others


def _of_test(others: Sequence[Line], test: Sequence[Line], where: str, problems: list[str]) -> list[Line]:
    """Return those of others whose image is in test, called as it is there, maybe in another Unicode form."""
    named = {_composed(line.name): line.name for line in test} | {line.name: line.name for line in test}
    found = []
    for line in others:
        name = named.get(line.name, named.get(_composed(line.name)))
        if name is None:
            problems.append(f"{line.place}: {line.name} is in no good line of {where}")
        else:
            found.append(line._replace(name=name))
    return found


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _read_split_file(path: Path, problems: list[str]) -> list[Line]:
    """Return the good lines of a file; append what is wrong with the others, each with its place."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problems.append(f"{path}: not UTF-8 text (byte {error.start})")
        return []
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
        return []
    lines: list[Line] = []
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


def _parse_line(raw: str, place: str) -> Line | str:
    """Return the line, or what is wrong with it."""
    fields = raw.rsplit(maxsplit=1)
    if len(fields) != 2:
        return f"expected `NAME SCORE`, found {shown(raw)}"
    name, number = fields[0].strip(), fields[1]
    score = score_of(number)
    if score is None:
        return f"the score of {shown(name)} {why_no_score(number)}"
    problem = name_problem(name)
    return problem if problem else Line(place, name, score)


def name_problem(name: str) -> str | None:
    """Return why a name cannot be that of an image below a folder, None if it can."""
    folders = name.split("/")
    if name.startswith("/") or ".." in folders:
        return f"{shown(name)} leaves the images/ folder"
    if not name.isprintable() or "" in folders or "." in folders:
        return f"{shown(name)} is not a plain path inside images/"
    return None


def shown(text: str) -> str:
    """Return text as messages quote it, cut where it is long."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def score_of(text: str) -> float | None:
    """Return the number that text is, None if it is none; no NaN, no underscores, nothing above `LARGEST_SCORE`."""
    return float(text) if _NUMBER.fullmatch(text) and abs(float(text)) <= LARGEST_SCORE else None


def why_no_score(text: str) -> str:
    """Return what is wrong with a text of which `score_of` makes no score."""
    if _NUMBER.fullmatch(text) and float(text) not in (float("inf"), float("-inf")):
        return f"is beyond {LARGEST_SCORE:g}: {shown(text)}"
    return f"is not a finite decimal number: {shown(text)}"
