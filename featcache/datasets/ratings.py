"""A table of ratings, FILE.csv with a header: path, score, and which part each image is in, or splits drawn here."""

import csv
import hashlib
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from featcache.base.errors import BadInput
from featcache.datasets.split_files import Line, Splits, name_problem, score_of, shown
from featcache.datasets.splits import PARTS

DRAWN_SPLITS = 5
TEST_SHARE, VAL_SHARE = 0.2, 0.1  # of the images, in a drawn split
_SPLIT_COLUMN = re.compile(r"split(?:_(\w+))?")
_FEWEST = 2  # images in a part that is to select an epoch
_FEW = 5  # repeated images that are named one by one
_AVERAGE = "average the scores of an image"


class _Row(NamedTuple):
    line: Line
    parts: dict[str, str]  # by split
    written: str  # the path as it stands in the table


def read_ratings(table: Path, problems: list[str], *, folder: Path) -> tuple[Path, Splits, tuple[str, ...]]:
    """Return the images' folder, the parts of each split, and the columns that were not read.

    Columns are path (relative to folder, or absolute), score, and any of split or split_K: train, val or test, the
    image's part in split 1 or K. Without such a column there are five splits of 70% train, 10% val and 20% test, drawn
    from the paths alone, so the same table always gives the same, and an added image moves few others.
    The images' folder is folder, or, where images are elsewhere, what all of them have in common.
    Problems are appended, each with its line; raises `BadInput` for a file that is no such table.
    """
    header, rows = _read(table)
    columns = {name.strip().lower(): i for i, name in enumerate(header)}
    splits = {match[1] or "1": columns[name] for name in columns if (match := _SPLIT_COLUMN.fullmatch(name))}
    _check_header(table, header, columns)
    found: list[_Row] = []
    repeats: list[str] = []
    first: dict[str, str] = {}
    for place, cells in rows:
        row = _row(place, cells, columns, splits, folder, width=len(header))
        if isinstance(row, str):
            problems.append(f"{place}: {row}")
        elif row.line.name in first:
            repeats.append(f"{place}: {shown(row.written)} is already at {first[row.line.name]}; {_AVERAGE}")
        else:
            first[row.line.name] = place
            found.append(row)
    if len(repeats) > _FEW:  # a table of raters, not a slip
        repeats[_FEW:] = [
            f"{table}: {len(repeats) + len(first):,} lines for {len(first):,} images; {_AVERAGE}, in one line"
        ]
    problems += repeats
    if not found and not problems:
        problems.append(f"{table}: no images below the header")
    images = _common_folder([row.line.name for row in found], Path(_absolute(folder)))
    named = [row._replace(line=row.line._replace(name=os.path.relpath(row.line.name, images))) for row in found]
    problems += [f"{row.line.place}: {problem}" for row in named if (problem := name_problem(row.line.name))]
    used = {"path", "score", *(name for name in columns if _SPLIT_COLUMN.fullmatch(name))}
    ignored = tuple(name for name in header if name.strip().lower() not in used)
    return images, _listed(named, splits) if splits else _drawn(named), ignored


def _read(table: Path) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the header and each line's place and cells; raise `BadInput` for what is no table."""
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{table}: not UTF-8 text (byte {error.start}); save it as CSV in UTF-8") from error
    except OSError as error:
        raise BadInput(f"{table}: cannot be read: {error.strerror}; a table of ratings has {_COLUMNS}") from error
    start = text.lstrip().partition("\n")[0].strip()
    for separator, called in ((";", "semicolons"), ("\t", "tabs")):
        if separator in start and "," not in start:
            raise BadInput(
                f"{table}:1: separated by {called}, {shown(start)}; save it with commas, and numbers with points"
            )
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = [(f"{table}:{reader.line_num}", cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise BadInput(f"{table}:{reader.line_num}: not a line of CSV: {error}") from error
    if not rows:
        raise BadInput(f"{table}: the file is empty; a table of ratings has {_COLUMNS}")
    return rows[0][1], rows[1:]


_COLUMNS = "a header with the columns path, score and, if wanted, split, separated by commas"


def _check_header(table: Path, header: Sequence[str], columns: Mapping[str, int]) -> None:
    missing = [name for name in ("path", "score") if name not in columns]
    if missing or len(columns) != len(header) or {"split", "split_1"} <= set(columns):
        what = f"no column {' and no column '.join(missing)}" if missing else "a column twice (split is split_1)"
        raise BadInput(f"{table}:1: {what} in {shown(','.join(header))}; expected {_COLUMNS}")


def _row(
    place: str, cells: list[str], columns: Mapping[str, int], splits: Mapping[str, int], folder: Path, *, width: int
) -> _Row | str:
    """Return a row whose line has its image's absolute path for a name, or what is wrong with it."""
    if len(cells) != width:
        return f"expected {width} columns, found {len(cells)}"
    path, score = cells[columns["path"]].strip(), score_of(cells[columns["score"]].strip())
    if not path or "\0" in path:
        return "no path of an image"
    if score is None:
        return f"the score of {shown(path)} is not a finite decimal number: {shown(cells[columns['score']])}"
    parts = {split: cells[column].strip().lower() for split, column in splits.items()}
    for part in parts.values():
        if part not in PARTS:
            return f"the part of {shown(path)} is not train, val or test: {shown(part)}"
    return _Row(Line(place, _absolute(folder / path), score), parts, path)


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100  resolve() would follow links, and take them apart


def _common_folder(paths: Sequence[str], folder: Path) -> Path:
    """Return folder if all paths are below it, else the nearest folder that all are below."""
    if all(Path(path).is_relative_to(folder) for path in paths):
        return folder
    return Path(os.path.commonpath([str(Path(path).parent) for path in paths]))


def _listed(rows: Sequence[_Row], splits: Mapping[str, int]) -> Splits:
    return {
        split: {part: lines for part in PARTS if (lines := [row.line for row in rows if row.parts[split] == part])}
        for split in splits
    }


def _drawn(rows: Sequence[_Row]) -> Splits:
    """Return splits drawn from paths as written: in order of a digest of split and path, test first, then val."""
    found: Splits = {}
    for split in map(str, range(1, DRAWN_SPLITS + 1)):
        digests = [hashlib.sha256(f"{split} {row.written}".encode(errors="surrogateescape")).digest() for row in rows]
        order = [row.line for _, row in sorted(zip(digests, rows, strict=True))]
        test = max(_FEWEST, round(TEST_SHARE * len(order)))
        val = round(VAL_SHARE * len(order))
        val = val if val >= _FEWEST else 0  # too few to select by; training holds some of train out instead
        parts = {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}
        found[split] = {part: parts[part] for part in PARTS if parts[part]}
    return found
