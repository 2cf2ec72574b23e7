"""A table of ratings, FILE.csv with a header: path, score, and which part each image is in, or splits drawn here."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from featcache.datasets.columns import Columns, find_columns, part_of
from featcache.datasets.split_files import Line, Splits, name_problem, score_of, shown
from featcache.datasets.splits import FEWEST_IMAGES, PARTS
from featcache.datasets.table import read_table

DRAWN_SPLITS = 5
TEST_SHARE, VAL_SHARE = 0.2, 0.1  # of the images, in a drawn split
FEWEST_DRAWN = 2 * FEWEST_IMAGES  # to test, and to train
_FEW = 5  # repeated images that are named one by one
_AVERAGE = "average the scores of an image"


class _Row(NamedTuple):
    line: Line
    parts: dict[str, str]  # by split
    written: str  # the path as it stands in the table


class ReadRatings(NamedTuple):
    """The images' folder, the parts of each split, the columns that were not read, and what was read as what.

    drawn says that the splits are not the table's own.
    """

    images: Path
    splits: Splits
    drawn: bool
    ignored: tuple[str, ...]
    notes: tuple[str, ...]


def read_ratings(
    table: Path, problems: list[str], *, folder: Path, path_column: str = "", score_column: str = ""
) -> ReadRatings:
    """Read a table whose paths are relative to folder, or absolute.

    Columns are path, score, and any of split or split_K: train, val or test, the image's part in split 1 or K. They may
    have other usual names, as `find_columns` knows them; path_column and score_column say which, '' if none of them
    has to. Without a column of parts there are five splits of 70% train, 10% val and 20% test, drawn
    from the paths alone, so the same table always gives the same, and an added image moves few others.
    The images' folder is folder, or, where images are elsewhere, what all of them have in common.
    Problems are appended, each with its line; raises `BadInput` for a file that is no such table, `InvalidSettings`
    for a column that it lacks.
    """
    header, lines, decimal_comma, notes = read_table(table, (path_column, score_column))
    columns = find_columns(
        header, [cells for _, cells in lines], place=f"{table}:1", path=path_column, score=score_column
    )
    found: list[_Row] = []
    repeats: list[str] = []
    first: dict[str, str] = {}
    for place, cells in lines:
        row = _row(place, cells, columns, folder, width=len(header), decimal_comma=decimal_comma)
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
    problems += _mixed_decimals(lines, columns) if decimal_comma else []
    if not found and not problems:
        problems.append(f"{table}: no images below the header")
    images = _common_folder([row.line.name for row in found], Path(_absolute(folder)))
    named = [row._replace(line=row.line._replace(name=os.path.relpath(row.line.name, images))) for row in found]
    problems += [f"{row.line.place}: {problem}" for row in named if (problem := name_problem(row.line.name))]
    splits = _listed(named, columns.splits) if columns.splits else _drawn(named)
    notes += [*columns.notes, *_notes_of_cells([cells for _, cells in lines], columns, decimal_comma)]
    return ReadRatings(images, splits, not columns.splits, columns.ignored, tuple(notes))


def _row(
    place: str, cells: list[str], columns: Columns, folder: Path, *, width: int, decimal_comma: bool
) -> _Row | str:
    """Return a row whose line has its image's absolute path for a name, or what is wrong with it."""
    if len(cells) != width:
        return f"expected {width} columns, found {len(cells)}"
    path = cells[columns.path].strip()
    if not path or "\0" in path:
        return "no path of an image"
    (column,) = columns.scores.values()
    score = _score(cells[column].strip(), decimal_comma)
    if score is None:
        return f"the score of {shown(path)} is not a finite decimal number: {shown(cells[column])}"
    parts = {}
    for split, column in columns.splits.items():
        part = part_of(cells[column])
        if part is None:
            return f"the part of {shown(path)} is not train, val or test: {shown(cells[column].strip().lower())}"
        parts[split] = part
    return _Row(Line(place, _absolute(folder / path), score), parts, path)


def _score(text: str, decimal_comma: bool) -> float | None:
    return score_of(text.replace(",", ".") if decimal_comma and text.count(",") == 1 and "." not in text else text)


def _mixed_decimals(lines: Sequence[tuple[str, list[str]]], columns: Columns) -> list[str]:
    """Return that a column has numbers with a comma and with a point, of which one kind would be misread."""
    problems = []
    for column in columns.scores.values():
        numbers = [(place, cells[column].strip()) for place, cells in lines if column < len(cells)]
        one_sign = [(place, number) for place, number in numbers if ("," in number) != ("." in number)]
        commas = [f"{shown(number)} at {place}" for place, number in one_sign if "," in number]
        points = [f"{shown(number)} at {place}" for place, number in one_sign if "." in number]
        if commas and points:
            problems.append(f"{commas[0]} has a decimal comma, {points[0]} a decimal point; use one of them")
    return problems


def _notes_of_cells(lines: Sequence[Sequence[str]], columns: Columns, decimal_comma: bool) -> list[str]:
    """Return which words were read as which part, and that commas were read as points."""
    notes = []
    for column in columns.splits.values():
        words = dict.fromkeys(cells[column].strip().lower() for cells in lines if column < len(cells))
        notes += [
            f"part {shown(word)} is read as {part}" for word in words if (part := part_of(word)) not in (None, word)
        ]
    numbers = [cells[column].strip() for column in columns.scores.values() for cells in lines if column < len(cells)]
    comma = next((number for number in numbers if "," in number), None) if decimal_comma else None
    return [*dict.fromkeys(notes), *([f"numbers have decimal commas: {shown(comma)}"] if comma else [])]


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
        test = max(FEWEST_IMAGES, round(TEST_SHARE * len(order)))
        val = round(VAL_SHARE * len(order))
        val = val if val >= FEWEST_IMAGES else 0  # too few to select by; training cross-validates train instead
        parts = {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}
        found[split] = {part: parts[part] for part in PARTS if parts[part]}
    return found
