"""A table as text: its separator, its header and its lines. Knows nothing of what the columns hold."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from featcache.base.errors import BadInput
from featcache.datasets.columns import EXPECTED, count_known
from featcache.datasets.split_files import shown

SUFFIXES = (".csv", ".tsv", ".txt")
_CALLED = {",": "commas", "\t": "tabs", ";": "semicolons"}
_USUAL = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_LONGEST_HEADER = 10_000  # characters that are looked at for separators
_SAYS_SEPARATOR = re.compile(r'"?sep=([,;\t])"?[ ,;]*\r?\n?', re.IGNORECASE)  # a first line that Excel obeys


class Table(NamedTuple):
    """The header, and each line's place and cells; lines are as wide as the header, but for faulty ones.

    decimal_comma says that numbers may have one. notes is what there is to tell of how the table was read.
    """

    header: list[str]
    lines: list[tuple[str, list[str]]]
    decimal_comma: bool
    notes: list[str]


def is_table(name_or_path: str) -> bool:
    """Say whether a dataset is a table by its name; FILE.txt is one if it is a file."""
    suffix = Path(name_or_path).suffix.lower()
    return suffix in (".csv", ".tsv") or (suffix in SUFFIXES and Path(name_or_path).is_file())


def read_table(table: Path, chosen: Sequence[str] = ()) -> Table:
    """Read a table of columns separated by commas, tabs or semicolons; chosen are names its header should have.

    Columns without a name and without content are left out, and lines without content. Raises `BadInput` for what is
    no table, and for content in a column without a name, unless that counts the lines.
    """
    text = _text(table)
    said = _SAYS_SEPARATOR.match(text)
    if said:
        text = "\n" + text[said.end() :]
    separator = said[1] if said else _separator(text, chosen, _USUAL.get(table.suffix.lower(), ","))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    try:
        rows = [(f"{table}:{reader.line_num}", cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise BadInput(f"{table}:{reader.line_num}: not a line of CSV: {error}") from error
    if not rows:
        raise BadInput(f"{table}: the file is empty; a table of ratings has {EXPECTED}")
    notes = [] if separator == _USUAL.get(table.suffix.lower()) else [f"columns are separated by {_CALLED[separator]}"]
    (place, header), lines = rows[0], rows[1:]
    header, lines = _without_nameless(place, header, lines, notes)
    return Table(header, lines, separator == ";", notes)


def _text(table: Path) -> str:
    try:
        return table.read_bytes().decode("utf-8-sig").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise BadInput(f"{table}: not UTF-8 text (byte {error.start}); save it as CSV in UTF-8") from error
    except OSError as error:
        raise BadInput(f"{table}: cannot be read: {error.strerror}; a table of ratings has {EXPECTED}") from error


def _separator(text: str, chosen: Sequence[str], usual: str) -> str:
    """Return what separates the header into most known columns, or into most columns; the usual one in doubt."""
    start = next((line for line in text.split("\n") if line.strip(' ,;\t\r"')), "").rstrip("\r")[:_LONGEST_HEADER]
    headers = {one: next(csv.reader([start], delimiter=one), []) for one in (usual, *_CALLED)}
    return max(headers, key=lambda one: (count_known(headers[one], chosen), len(headers[one])))


def _without_nameless(
    place: str, header: list[str], lines: list[tuple[str, list[str]]], notes: list[str]
) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return header and lines without empty columns that have no name, and without a first one of line numbers."""
    width = max((column for column, name in enumerate(header, start=1) if name.strip()), default=0)
    named = [column for column in range(width) if header[column].strip()]
    nameless = [column for column in range(len(header)) if column not in named]
    dropped, table = list(nameless), place.rpartition(":")[0]
    if 0 in nameless and _counts([cells[0].strip() for _, cells in lines]):
        nameless.remove(0)
        notes.append("the first column has no name and numbers the lines, ignored")
    for where, cells in lines:
        for column in nameless:
            if column < len(cells) and cells[column].strip():
                raise BadInput(
                    f"{place}: column {column + 1} has no name, but line {where.removeprefix(f'{table}:')} "
                    f"has {shown(cells[column].strip())} there; name it, or empty it"
                )
    if nameless:
        notes.append(f"empty columns without a name, ignored: {', '.join(str(column + 1) for column in nameless)}")
    return [header[column] for column in named], [(where, _kept(cells, dropped, width)) for where, cells in lines]


def _kept(cells: list[str], dropped: Sequence[int], width: int) -> list[str]:
    """Return a line's cells without those of dropped columns, and without empty ones beyond the header's width."""
    while len(cells) > width and not cells[-1].strip():
        cells = cells[:-1]
    return [cell for column, cell in enumerate(cells) if column not in dropped]


def _counts(cells: Sequence[str]) -> bool:
    """Say whether cells are distinct whole numbers, as pandas writes them in front of a table."""
    return bool(cells) and all(map(str.isdecimal, cells)) and len(set(cells)) == len(cells)
