"""A table of responses as arrays of codes and numbers. Knows nothing of what the words in it mean.

Polars scans the text in pieces, so that memory holds some bytes of each line, never the text.
"""

import csv
import io
import itertools
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from featcache.base.errors import MOST_PROBLEMS_SHOWN, BadInput, counted, first_line, refuse
from featcache.ratings.columns import Columns, Header, find_columns, read_header, shown, suited_scores
from featcache.ratings.settings import WITH_WORDS, RatingSettings
from featcache.ratings.words import MISSING, is_number

_NUMBERS = ("rating", "trial", "first-trial", "lag")
_NEEDED = ("image", "worker", "condition", "showing", "trial")  # in each line; a response or rating may be missing
_LARGEST = 1e100  # whose squares are numbers, too
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")


class Codes(NamedTuple):
    """Texts in order, and which of them each of n lines has, int32; -1 where there is none."""

    texts: list[str]
    of: NDArray[np.int32]


class Table(NamedTuple):
    """n lines of the file at path: codes of images, workers and words, numbers (n) float64, NaN where missing.

    row (n) is where each stands below the header, counted from 0; notes is what was guessed.
    """

    path: Path
    codes: dict[str, Codes]
    numbers: dict[str, NDArray[np.float64]]
    columns: dict[str, str]
    row: NDArray[np.int32]
    notes: list[str]
    header: Header

    def lines_of(self, rows: Collection[int]) -> dict[int, int]:
        """Return the line of the file on which each of some rows begins; reads the file anew, so it is for errors."""
        return _lines(self.path, self.header, rows)


def read_responses(path: Path, settings: RatingSettings) -> Table:
    """Read a table of columns separated by commas, tabs or semicolons; its order is that of the file.

    Raises `BadInput` for what is no such table, and for cells that are missing or no numbers, with their lines.
    """
    header = read_header(path, settings.score, settings.columns)
    columns = find_columns(header.names, settings.score, settings.columns, place=f"{path}:{header.before + 1}")
    texts = {what: pl.nth(place).str.strip_chars() for what, place in columns.place.items()}
    kinds = {what: pl.Categories.random() for what in texts if what not in _NUMBERS}
    wanted = [_codes(texts[what], kind).alias(what) for what, kind in kinds.items()]
    for what in texts.keys() & set(_NUMBERS):
        wanted += [_number(texts[what], header).alias(what), _is_bad(texts[what], header).alias(f"bad {what}")]
        if header.separator == ";":
            wanted += [texts[what].str.contains(sign, literal=True).alias(f"{sign} {what}") for sign in ",."]
    try:
        frame = _scan(path, header).select(wanted).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        _refuse_lines(path, header)
        raise BadInput(f"{path}: cannot be read as a table: {first_line(error)}") from error
    codes = {what: _sorted_codes(frame[what], words=what in WITH_WORDS) for what in kinds}
    numbers = {what: frame[what].to_numpy() for what in texts if what in _NUMBERS}
    bad = {what: frame[f"bad {what}"].to_numpy() for what in numbers}
    blank = (codes["image"].of < 0) & (codes["worker"].of < 0)
    for what in columns.place.keys() - {"image", "worker"}:
        blank &= np.isnan(numbers[what]) & ~bad[what] if what in numbers else _is_empty(codes[what])
    cells = _Cells(path, header, columns)
    _refuse_faults(cells, settings, codes, numbers, bad, blank)
    if header.separator == ";":
        _refuse_mixed_decimals(cells, frame)
    kept = ~blank
    if not kept.any():
        raise BadInput(f"{path}: no responses below the header")
    notes = [*columns.notes]
    if columns.ignored:
        notes.append(f"columns, ignored: {', '.join(map(shown, columns.ignored))}")
    if header.separator == ";":
        notes.append("columns are separated by semicolons, so numbers may have decimal commas")
    del frame, bad
    names = {what: header.names[place].strip() for what, place in columns.place.items()}
    row = np.arange(len(blank), dtype=np.int32)
    if kept.all():
        return Table(path, codes, numbers, names, row, notes, header)
    codes = {what: Codes(one.texts, one.of[kept]) for what, one in codes.items()}
    return Table(path, codes, {what: one[kept] for what, one in numbers.items()}, names, row[kept], notes, header)


def _scan(path: Path, header: Header, **options: Any) -> pl.LazyFrame:
    return pl.scan_csv(path, separator=header.separator, skip_lines=header.before, infer_schema=False, **options)


def _codes(text: pl.Expr, kind: pl.Categories) -> pl.Expr:
    return text.cast(pl.Categorical(kind))


def _number(text: pl.Expr, header: Header) -> pl.Expr:
    plain = text.str.replace(",", ".", literal=True) if header.separator == ";" else text
    return plain.cast(pl.Float64, strict=False).fill_null(float("nan"))


def _is_bad(text: pl.Expr, header: Header) -> pl.Expr:
    missing = text.is_null() | text.str.to_lowercase().is_in(MISSING)
    return ~missing & ~(_number(text, header).abs() <= _LARGEST)


def _sorted_codes(series: pl.Series, *, words: bool) -> Codes:
    """Return codes of sorted texts; words may be empty, names may not."""
    found = series.drop_nulls().unique()
    text_of = dict(zip(found.to_physical().to_list(), found.cast(pl.String).to_list(), strict=True))
    texts = sorted({*text_of.values(), ""} if words else {*text_of.values()} - {""})
    place = {text: code for code, text in enumerate(texts)}
    null = max(text_of, default=-1) + 1
    codes = np.full(null + 1, place.get("", -1), np.int32)
    for physical, text in text_of.items():
        codes[physical] = place.get(text, -1)
    return Codes(texts, codes[series.to_physical().fill_null(null).to_numpy()])


def _is_empty(codes: Codes) -> NDArray[np.bool_]:
    empty: NDArray[np.bool_] = codes.of == (codes.texts.index("") if "" in codes.texts else -1)
    return empty


class _Cells(NamedTuple):
    """The cells of a table as they stand in the file, read anew to say what is wrong with some."""

    path: Path
    header: Header
    columns: Columns

    def of(self, rows: Collection[int]) -> dict[int, dict[str, str]]:
        """Return by row the texts of its cells, '' for those that it lacks, by what they are."""
        columns = self.columns.place.items()
        wanted = [pl.nth(0).alias("row"), *(pl.nth(place + 1).alias(what) for what, place in columns)]
        scan = _scan(self.path, self.header, row_index_name="row").select(wanted)
        frame = scan.filter(pl.col("row").is_in(sorted(rows))).collect(engine="streaming")
        return {line.pop("row"): {what: text or "" for what, text in line.items()} for line in frame.to_dicts()}

    def places(self, rows: Collection[int]) -> dict[int, str]:
        """Return by row its path and line."""
        return {row: f"{self.path}:{line}" for row, line in _lines(self.path, self.header, rows).items()}


def _refuse_faults(
    cells: _Cells,
    settings: RatingSettings,
    codes: dict[str, Codes],
    numbers: dict[str, NDArray[np.float64]],
    bad: dict[str, NDArray[np.bool_]],
    blank: NDArray[np.bool_],
) -> None:
    """Raise `BadInput` that names the lines whose cells are needed and missing, or are no numbers."""
    found = {(what, True): one for what, one in bad.items()}
    for what in cells.columns.place.keys() & set(_NEEDED):
        empty = np.isnan(numbers[what]) & ~bad[what] if what in numbers else _is_empty(codes[what])
        found[what, False] = empty & ~blank
    total = sum(int(np.count_nonzero(one)) for one in found.values())
    if not total:
        return
    faults = sorted(
        (row, what, is_bad)
        for (what, is_bad), one in found.items()
        for row in np.flatnonzero(one)[:MOST_PROBLEMS_SHOWN].tolist()
    )[:MOST_PROBLEMS_SHOWN]
    others = suited_scores(cells.header.names, settings.score)
    if others and "rating" in bad and 2 * np.count_nonzero(bad["rating"]) > np.count_nonzero(~blank):
        row = int(np.argmax(bad["rating"]))
        column = shown(cells.header.names[cells.columns.place["rating"]].strip())
        word = shown(cells.of([row])[row]["rating"])
        raise BadInput(f"{cells.path}: column {column} has words such as {word}, which are no ratings. {others}")
    _refuse_cells(cells, faults, total)


def _refuse_cells(cells: _Cells, faults: list[tuple[int, str, bool]], total: int) -> None:
    """Raise `BadInput` that names cells by row, what they are, and whether they are no numbers or are empty."""
    rows = {row for row, _, _ in faults}
    texts, places, decimal_comma = cells.of(rows), cells.places(rows), cells.header.separator == ";"
    problems, way_out = [], "Mend them, or take them out."
    for row, what, is_bad in faults:
        text = texts[row][what]
        too_large = is_bad and is_number(text.replace(",", ".") if decimal_comma else text)
        of_number = f"the {what} {shown(text)} is {f'beyond {_LARGEST:g}' if too_large else 'no number'}"
        problems.append(f"{places[row]}: {of_number if is_bad else f'no {what}'}")
    if not decimal_comma and any(is_bad and _DECIMAL_COMMA.fullmatch(texts[row][what]) for row, what, is_bad in faults):
        way_out += " Decimal commas are read where semicolons separate columns; elsewhere numbers have decimal points."
    refuse(BadInput, f"{cells.path}: cells that cannot be used, {total:,} in all:", problems, way_out, total=total)


def _refuse_mixed_decimals(cells: _Cells, frame: pl.DataFrame) -> None:
    """Raise `BadInput` where a column has numbers with commas and others with points, of which one kind is misread."""
    problems = []
    for what in [name[2:] for name in frame.columns if name.startswith(", ")]:
        signs = [frame[f"{sign} {what}"].fill_null(value=False).to_numpy() for sign in ",."]
        if all(sign.any() for sign in signs):
            rows = [int(sign.argmax()) for sign in signs]
            texts, places = cells.of(rows), cells.places(rows)
            comma, point = (f"{shown(texts[row][what])} at {places[row]}" for row in rows)
            problems.append(f"{comma} has a decimal comma, {point} a decimal point")
    refuse(BadInput, f"{cells.path}: numbers of two kinds in one column:", problems, "Use one of them.")


def _lines(path: Path, header: Header, rows: Collection[int]) -> dict[int, int]:
    """Return by row below the header, counted from 0, the line of the file on which it begins."""
    left, found = set(rows), {}
    for row, (line, _) in enumerate(_records(path, header), start=-1):
        if row in left:
            found[row] = line
            left.remove(row)
        if not left:
            break
    return found


def _records(path: Path, header: Header) -> Iterator[tuple[int, bytes]]:
    """Give the header and each row as the line where it begins and its text, which may go on for several lines."""
    begun, texts, inside = 0, list[bytes](), False
    with path.open("rb") as file:
        for line, text in enumerate(file, start=1):
            if line <= header.before:
                continue
            if not texts:
                begun = line
            texts.append(text)
            inside ^= text.count(b'"') % 2 == 1
            if not inside:
                yield begun, b"".join(texts)
                texts.clear()
    if texts:
        yield begun, b"".join(texts)


def _refuse_lines(path: Path, header: Header) -> None:
    """Raise `BadInput` that names the first lines that are none of such a table, and counts the others."""
    faults = _faults(path, header)
    first = list(itertools.islice(faults, MOST_PROBLEMS_SHOWN))  # every line may be at fault, and be 10^7
    total = len(first) + sum(1 for _ in faults)
    title = f"{path}: not a table of {counted(len(header.names), 'column')}:"
    refuse(BadInput, title, first, "Mend these lines.", total=total)


def _faults(path: Path, header: Header) -> Iterator[str]:
    """Give the lines that have more cells than the header, are no UTF-8 text, or in which a quotation mark is lost."""
    for line, record in _records(path, header):
        try:
            text = record.decode("utf-8")
        except UnicodeDecodeError:
            yield f"{path}:{line}: not UTF-8 text; save it as CSV in UTF-8"
            continue
        if text.count('"') % 2:
            yield f"{path}:{line}: a quotation mark that no other closes; in a cell in quotation marks, double it"
            continue
        try:
            rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=header.separator, strict=True))
        except csv.Error as error:
            yield f"{path}:{line}: not a line of CSV: {error}"
            continue
        if len(rows) > 1:
            yield f"{path}:{line}: a quotation mark inside a cell; put the cell in quotation marks, and double it"
        elif rows and len(rows[0]) > len(header.names):
            yield f"{path}:{line}: {counted(len(rows[0]), 'cell')}"
