"""A table of ratings, FILE.csv with a header: path, score, and which part each image is in, or splits drawn here."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from featcache.datasets.columns import Columns, find_columns, part_of
from featcache.datasets.drawing import Drawing
from featcache.datasets.reliability import Reliability, read_reliability
from featcache.datasets.split_files import Line, LineSplits, name_problem, score_of, shown, why_no_score
from featcache.datasets.splits import PARTS
from featcache.datasets.table import read_table

_FEW = 5  # repeated images that are named one by one
_AVERAGE = "average the scores of an image"
_FEWEST = {"n": ("number of ratings", "a whole number from 1"), "se": ("standard error", "a number from 0")}
Counted = Mapping[str, float]  # 'n' and 'se' of a score, of the columns that are there; an empty 'se' is NaN


class _Row(NamedTuple):
    line: Line  # whose score is that of the first target
    scores: dict[str, float | None]  # by target, None where it was not rated
    parts: dict[str, str]  # by split
    group: str
    written: str  # the path as it stands in the table
    counted: dict[str, Counted]  # by target

    def of_target(self, target: str) -> Line | None:
        """Return its line with the score of a target, None if it has none."""
        score = self.scores[target]
        return None if score is None else self.line._replace(score=score)


class ReadRatings(NamedTuple):
    """The images' folder, the parts of each split of each target, columns that were not read, what was read as what.

    Where there are no splits, ratings is empty and drawing is what they are drawn from. groups says by place of a line
    what is in its column 'group', where there is anything. others, of split files alone, are scores of the images of
    each split's test part by other people. counted says by target and place of a line what its columns 'n' and 'se'
    hold, reliability by target what a file beside it says.
    """

    images: Path
    ratings: dict[str, LineSplits]
    drawing: Drawing | None
    groups: dict[str, str]
    ignored: tuple[str, ...]
    notes: tuple[str, ...]
    others: Mapping[str, list[Line]]
    counted: Mapping[str, Mapping[str, Counted]]
    reliability: Mapping[str, Reliability]


def read_ratings(
    table: Path, problems: list[str], *, folder: Path, path_column: str = "", score_columns: Sequence[str] = ()
) -> ReadRatings:
    """Read a table whose paths are relative to folder, or absolute.

    Columns are path, score, and any of split or split_K: train, val or test, the image's part in split 1 or K. They may
    have other usual names, as `find_columns` knows them; path_column and score_columns say which where they do not.
    Several scores, in columns `score.NAME` or of the names given, are several targets; an image without a score of one
    is left out of that. Without a column of parts splits are to be drawn, which keep images with the same text in a
    column `group` in one part. Columns `n` and `se` give the number of ratings of a score and its standard error, and
    the .json file of the table's own name says how far raters agree, as `read_reliability` has it.
    The images' folder is folder, or, where images are elsewhere, what all of them have in common.
    Problems are appended, each with its line; raises `BadInput` for a file that is no such table, `InvalidSettings`
    for a column that it lacks.
    """
    header, lines, decimal_comma, notes = read_table(table, (path_column, *score_columns))
    columns = find_columns(
        header, [cells for _, cells in lines], place=f"{table}:1", path=path_column, scores=score_columns
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
    drawn = not columns.splits
    named = [row._replace(line=row.line._replace(name=os.path.relpath(row.line.name, images))) for row in found]
    problems += [f"{row.line.place}: {problem}" for row in named if (problem := name_problem(row.line.name))]
    notes += [*columns.notes, *_notes_of_cells([cells for _, cells in lines], columns, decimal_comma)]
    rated = {
        target: [(row, line) for row in named if (line := row.of_target(target)) is not None]
        for target in columns.scores
    }
    empty = [target for target, rows in rated.items() if named and not rows]
    notes += [f"target {target}: its column is empty, ignored" for target in empty]
    rated = {target: rows for target, rows in rated.items() if target not in empty}
    ratings = {} if drawn else {target: _listed(rows, columns.splits) for target, rows in rated.items()}
    if columns.group is not None:
        notes += _notes_of_groups(named, ratings, drawn=drawn)
    drawing = Drawing(
        {target: [line for _, line in rows] for target, rows in rated.items()},
        {row.line.place: f"group {row.group}" if row.group else row.written for row in named},
    )
    groups = {row.line.place: row.group for row in named if row.group}
    counted = {
        target: {row.line.place: row.counted[target] for row, _ in rated[target]}
        for target in columns.raters
        if target in rated
    }
    reliability = read_reliability(table.with_suffix(".json"), problems, notes, table=table, targets=tuple(rated))
    return ReadRatings(
        images=images,
        ratings=ratings,
        drawing=drawing if drawn else None,
        groups=groups,
        ignored=columns.ignored,
        notes=tuple(notes),
        others={},
        counted=counted,
        reliability=reliability,
    )


def _row(
    place: str, cells: list[str], columns: Columns, folder: Path, *, width: int, decimal_comma: bool
) -> _Row | str:
    """Return a row whose line has its image's absolute path for a name, or what is wrong with it."""
    if len(cells) != width:
        return f"expected {width} columns, found {len(cells)}"
    path = cells[columns.path].strip()
    if not path or "\0" in path:
        return "no path of an image"
    scores: dict[str, float | None] = {}
    for target, column in columns.scores.items():
        scores[target] = _score(cells[column].strip(), decimal_comma)
        if scores[target] is None and (cells[column].strip() or len(columns.scores) == 1):
            which = f"score of {target}" if len(columns.scores) > 1 else "score"
            return f"the {which} of {shown(path)} {why_no_score(cells[column].strip())}"
    first = next((score for score in scores.values() if score is not None), None)
    if first is None:
        return f"{shown(path)} has no score"
    parts = {}
    for split, column in columns.splits.items():
        part = part_of(cells[column])
        if part is None:
            return f"the part of {shown(path)} is not train, val or test: {shown(cells[column].strip().lower())}"
        parts[split] = part
    counted = _counted(cells, columns, scores, decimal_comma)
    if isinstance(counted, str):
        return f"of {shown(path)} {counted}"
    group = "" if columns.group is None else cells[columns.group].strip()
    return _Row(Line(place, _absolute(folder / path), first), scores, parts, group, path, counted)


def _counted(
    cells: Sequence[str], columns: Columns, scores: Mapping[str, float | None], decimal_comma: bool
) -> dict[str, Counted] | str:
    """Return by target the number of ratings and the standard error of a line's scores, or what is wrong with them."""
    found: dict[str, Counted] = {}
    for target, of in columns.raters.items():
        if scores[target] is None:
            continue
        texts = {what: cells[column].strip() for what, column in of.items()}
        values = {what: _score(text, decimal_comma) for what, text in texts.items()}
        if "se" in texts and not texts["se"]:
            values["se"] = math.nan
        for what, value in values.items():
            if value is None or value < 0 or (what == "n" and (value < 1 or value != int(value))):
                name, expected = _FEWEST[what]
                which = f"{name} of {target}" if target else name
                return f"the {which} is not {expected}: {shown(texts[what])}; rename its column if it is something else"
        found[target] = {what: value for what, value in values.items() if value is not None}
    return found


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


def _listed(rated: Sequence[tuple[_Row, Line]], splits: Mapping[str, int]) -> LineSplits:
    return {
        split: {part: lines for part in PARTS if (lines := [line for row, line in rated if row.parts[split] == part])}
        for split in splits
    }


def _notes_of_groups(rows: Sequence[_Row], ratings: Mapping[str, LineSplits], *, drawn: bool) -> list[str]:
    """Return that groups are kept together or, in splits of the table's own, which are not."""
    groups = {row.line.name: row.group for row in rows if row.group}
    if drawn:
        return [f"column 'group': the images of each of {len(set(groups.values())):,} groups are in one part together"]
    cut: dict[tuple[str, str], set[str]] = {}
    for splits in ratings.values():
        for split, parts in splits.items():
            for part, lines in parts.items():
                for line in lines:
                    if line.name in groups:
                        cut.setdefault((split, groups[line.name]), set()).add(part)
    found = {(split, group): parts for (split, group), parts in cut.items() if len(parts) > 1}
    if not found:
        return []
    (split, group), several = next(iter(found.items()))
    number = f"{len(found):,} groups are" if len(found) > 1 else "1 group is"
    return [
        f"warning: {number} in several parts of a split, first {shown(group)} in {' and '.join(sorted(several))} of "
        f"split {split}: what is known of one image then helps with another, and test scores flatter"
    ]
