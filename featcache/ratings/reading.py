"""A table of responses as arrays of codes and numbers. Knows nothing of what the words in it mean.

Polars scans the text in pieces, so that memory holds some bytes of each line, never the text.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from featcache.base.errors import MOST_PROBLEMS_SHOWN, BadInput, first_line, refuse
from featcache.base.files import reading_errors
from featcache.ratings.columns import Columns, count_known, find_columns, shown
from featcache.ratings.settings import WITH_WORDS, RatingSettings
from featcache.ratings.words import MISSING

_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons"}
_NAMES = ("image", "worker")
_NUMBERS = ("rating", "trial", "first-trial", "lag")
_NEEDED = ("image", "worker", "condition", "showing", "trial")  # in each line; a response or rating may be missing
_LONGEST_HEADER = 1_000_000  # characters


class Codes(NamedTuple):
    """Texts in order, and which of them each of n lines has, int32; -1 where there is none."""

    texts: list[str]
    of: NDArray[np.int32]


class Table(NamedTuple):
    """n lines of the file at path: codes of images, workers and words, numbers (n) float64, NaN where missing.

    line (n) is where each stands in the file; notes is what was guessed.
    """

    path: Path
    codes: dict[str, Codes]
    numbers: dict[str, NDArray[np.float64]]
    columns: dict[str, str]
    line: NDArray[np.int32]
    notes: list[str]


def read_responses(path: Path, settings: RatingSettings) -> Table:
    """Read a table of columns separated by commas, tabs or semicolons; its order is that of the file.

    Raises `BadInput` for what is no such table, and for cells that are missing or no numbers, with their lines.
    """
    separator, header, columns = _header(path, settings)
    texts = {what: pl.nth(place).str.strip_chars() for what, place in columns.place.items()}
    kinds = {what: pl.Categories.random() for what in texts if what not in _NUMBERS}
    wanted = [_codes(texts[what], kind).alias(what) for what, kind in kinds.items()]
    for what in texts.keys() & set(_NUMBERS):
        wanted += [_number(texts[what], separator).alias(what), _is_bad(texts[what], separator).alias(f"bad {what}")]
    scan = pl.scan_csv(path, separator=separator, infer_schema=False)
    try:
        frame = scan.select(wanted).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        refuse(BadInput, f"{path}: not a table of {len(header)} columns:", list(_faults(path, separator, len(header))),
               "Mend these lines.")  # fmt: skip
        raise BadInput(f"{path}: cannot be read as a table: {first_line(error)}") from error
    codes = {what: _sorted_codes(frame[what], words=what in WITH_WORDS) for what in kinds}
    numbers = {what: frame[what].to_numpy() for what in texts if what in _NUMBERS}
    bad = {what: frame[f"bad {what}"].to_numpy() for what in numbers}
    blank = (codes["image"].of < 0) & (codes["worker"].of < 0)
    for what in columns.place.keys() - {"image", "worker"}:
        blank &= np.isnan(numbers[what]) & ~bad[what] if what in numbers else _is_empty(codes[what])
    _refuse_faults(path, separator, columns, codes, numbers, bad, blank)
    kept = ~blank
    if not kept.any():
        raise BadInput(f"{path}: no responses below the header")
    notes = [*columns.notes]
    if columns.ignored:
        notes.append(f"columns, ignored: {', '.join(map(shown, columns.ignored))}")
    if separator == ";":
        notes.append("columns are separated by semicolons, so numbers may have decimal commas")
    del frame, bad
    names = {what: header[place].strip() for what, place in columns.place.items()}
    line = np.arange(2, len(blank) + 2, dtype=np.int32)
    if kept.all():
        return Table(path, codes, numbers, names, line, notes)
    codes = {what: Codes(one.texts, one.of[kept]) for what, one in codes.items()}
    return Table(path, codes, {what: one[kept] for what, one in numbers.items()}, names, line[kept], notes)


def _header(path: Path, settings: RatingSettings) -> tuple[str, list[str], Columns]:
    """Return the separator that gives most known columns, the header's cells, and which column holds what."""
    with reading_errors(path), path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        start = file.readline(_LONGEST_HEADER)
    if not start.strip():
        raise BadInput(f"{path}:1: no header; the first line names the columns, such as image,worker,rating")
    headers = {one: next(csv.reader([start], delimiter=one)) for one in _SEPARATORS}
    known = {one: count_known(cells, settings.score, settings.columns) for one, cells in headers.items()}
    separator = max(_SEPARATORS, key=lambda one: (known[one], len(headers[one])))
    header = headers[separator]
    return separator, header, find_columns(header, settings.score, settings.columns, place=f"{path}:1")


def _codes(text: pl.Expr, kind: pl.Categories) -> pl.Expr:
    return text.cast(pl.Categorical(kind))


def _number(text: pl.Expr, separator: str) -> pl.Expr:
    plain = text.str.replace(",", ".", literal=True) if separator == ";" else text
    return plain.cast(pl.Float64, strict=False).fill_null(float("nan"))


def _is_bad(text: pl.Expr, separator: str) -> pl.Expr:
    missing = text.is_null() | text.str.to_lowercase().is_in(MISSING)
    return ~missing & ~_number(text, separator).is_finite()


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


def _refuse_faults(
    path: Path,
    separator: str,
    columns: Columns,
    codes: dict[str, Codes],
    numbers: dict[str, NDArray[np.float64]],
    bad: dict[str, NDArray[np.bool_]],
    blank: NDArray[np.bool_],
) -> None:
    """Raise `BadInput` that names the lines whose cells are needed and missing, or are no numbers."""
    faults: list[tuple[int, str, bool]] = []
    total = 0
    for what in columns.place:
        cells = [(bad[what], True)] if what in numbers else []
        if what in _NEEDED:
            empty = np.isnan(numbers[what]) & ~bad[what] if what in numbers else _is_empty(codes[what])
            cells.append((empty & ~blank, False))
        for faulty, is_bad in cells:
            rows = np.flatnonzero(faulty)
            total += len(rows)
            faults += [(row, what, is_bad) for row in rows[:MOST_PROBLEMS_SHOWN].tolist()]
    if not faults:
        return
    faults = sorted(faults)[:MOST_PROBLEMS_SHOWN]
    texts = _cells(path, separator, columns, {row for row, _, _ in faults})
    problems = [
        f"{path}:{row + 2}: the {what} {shown(texts[row][what] or '')} is no number" if is_bad
        else f"{path}:{row + 2}: no {what}"
        for row, what, is_bad in faults
    ]  # fmt: skip
    refuse(BadInput, f"{path}: cells that cannot be used, {total:,} in all:", problems, "Mend them, or take them out.")


def _cells(path: Path, separator: str, columns: Columns, rows: set[int]) -> dict[int, dict[str, str | None]]:
    """Return the texts of some rows below the header, by row and what they are."""
    scan = pl.scan_csv(path, separator=separator, infer_schema=False, row_index_name="row")
    wanted = [pl.nth(0).alias("row"), *(pl.nth(place + 1).alias(what) for what, place in columns.place.items())]
    frame = scan.select(wanted).filter(pl.col("row").is_in(sorted(rows))).collect(engine="streaming")
    return {line.pop("row"): line for line in frame.to_dicts()}


def _faults(path: Path, separator: str, width: int) -> Iterator[str]:
    """Give the lines that have more cells than the header, or are no UTF-8 text."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        try:
            for cells in reader:
                if len(cells) > width:
                    yield f"{path}:{reader.line_num}: {len(cells)} cells"
                if any("\udc80" <= char <= "\udcff" for cell in cells for char in cell):
                    yield f"{path}:{reader.line_num}: not UTF-8 text; save it as CSV in UTF-8"
        except csv.Error as error:
            yield f"{path}:{reader.line_num}: not a line of CSV: {error}"
