"""The header of a table of responses: which columns hold what, as the user named them or by their usual names."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from featcache.base.commands import command
from featcache.base.errors import BadInput, InvalidSettings, printable, refuse
from featcache.base.files import reading_errors
from featcache.ratings.settings import OF_LOGS, OF_RATINGS, REQUIRED, USED_BY

_OF_ONE = r"(?:name|id|path|file|code|number|nr|no|the|of)"
_IMAGE = "image|img|picture|pic|photograph|photo|stimulus|stimuli|stim|video|scene|frame|file"
_WORKER = "worker|subject|subj|participant|rater|user|observer|annotator|person|player|evaluator|assessor"


def _of(words: str, others: str = _OF_ONE) -> str:
    return f"{others}*(?:{words})s?(?:{words}|{others})*"


_NAMES = {  # earlier ones are preferred
    "image": (_of(_IMAGE), "item|item?id|name|filename"),
    "worker": (_of(_WORKER), "sub|ppt|pid|sid|uid"),
    "rating": ("ratings?|scores?|judge?ments?", "(?:image|user|beauty|aesthetic|quality)?(?:rating|score)",
               "response|answer|value|label|vote"),
    "condition": ("conditions?|cond", "(?:trial|image|stim|stimulus|item|picture)(?:type|condition|role)",
                  "type|role|kind"),
    "showing": ("showings?|presentations?|occurrences?|exposures?|appearances?",
                "(?:presentation|showing|occurrence|exposure|repetition)(?:number|nr|no|index)",
                "(?:is|was)?(?:a)?(?:repeat|repeated|repetition|old)s?"),
    "response": ("responses?|resp|answers?", "keypress|keypressed|pressed|press|pressedkey|clicked|responded",
                 "key|hit"),
    "trial": ("trials?", "(?:trial|slot|stimulus)?(?:index|number|nr|no|num|position|order)|trial(?:id|count)",
              "(?:image|video|item)?position(?:second|repeat|2)"),
    "first-trial": ("firsttrial|trialfirst|(?:image|video|item)?(?:position(?:first|1)|firstposition)",),
    "lag": ("lags?|lagtrials?|lagintrials|repeatlag",),
}  # fmt: skip


_SEPARATORS = (",", "\t", ";")
_SAYS_SEPARATOR = re.compile(
    r'"?sep=([,;\t])"?[,;\t ]*\r?\n', re.IGNORECASE
)  # what Excel takes as no line of the table
_LONGEST_HEADER = 1_000_000  # bytes
_SAVE = "in Excel as 'CSV UTF-8 (Comma delimited)'"
_OF_A_GAME = ("condition", "showing", "trial", "first-trial", "lag")  # beside the response, in a memory game's log


class Header(NamedTuple):
    """The names of columns, what separates cells, and how many lines of the file are before the header."""

    names: list[str]
    separator: str
    before: int


class Columns(NamedTuple):
    """The place in the header of each column by what it holds, the names of those not read, what was guessed."""

    place: dict[str, int]
    ignored: tuple[str, ...]
    notes: tuple[str, ...]


def read_header(path: Path, score: str, given: dict[str, str]) -> Header:
    """Return the header of a table, cells separated as gives most columns that a score is made of.

    Raises `BadInput` for a file without, and for one that is no text in UTF-8, with what it is by its first bytes;
    `StorageError` for one that is not there.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise BadInput(f"{path}: is a pipe or device, and tables are read more than once; write it to a file")
    with reading_errors(path), path.open("rb") as file:
        start = file.read(_LONGEST_HEADER)
    if what := _no_text(path, start):
        raise BadInput(f"{path}: {what}")
    text = start.decode("utf-8-sig", errors="replace")
    says = _SAYS_SEPARATOR.match(text)
    record = _first_record(text[says.end() :] if says else text)
    place = f"{path}:{2 if says else 1}"
    if not record.strip():
        raise BadInput(f"{place}: no header; the first line names the columns, such as image,worker,rating")
    if "\ufffd" in record:
        raise BadInput(f"{place}: the header is not UTF-8 text; save the table as CSV in UTF-8, {_SAVE}")
    if record.count('"') % 2:
        raise BadInput(f"{place}: a quotation mark of the header is not closed")
    headers = {one: next(csv.reader(io.StringIO(record, newline=""), delimiter=one)) for one in _SEPARATORS}
    known = {one: _count_known(cells, score, given) for one, cells in headers.items()}
    separator = says[1] if says else max(_SEPARATORS, key=lambda one: (known[one], len(headers[one])))
    return Header(headers[separator], separator, int(bool(says)))


def _no_text(path: Path, start: bytes) -> str:
    """Return what a file is that is no table in UTF-8, by its first bytes, and the way out; '' if nothing speaks."""
    new = "NEW.csv"
    for name, mark, even in (("UTF-16LE", b"\xff\xfe", 1), ("UTF-16BE", b"\xfe\xff", 0)):
        if start.startswith(mark) or (len(start) > 3 and not any(start[even : len(start) // 2 * 2 : 2][:16])):
            code = "UTF-16" if start.startswith(mark) else name
            way_out = command("iconv", "-f", code, "-t", "UTF-8", path)
            return f"is UTF-16 text, not UTF-8; save it as CSV in UTF-8, {_SAVE}, or {way_out} > {new}"
    if start.startswith(b"PK\x03\x04"):
        return f"is an Excel workbook or another zip archive, no text; save its sheet as CSV in UTF-8, {_SAVE}"
    if start.startswith(b"\xd0\xcf\x11\xe0"):
        return f"is an Excel workbook of the old kind, no text; save its sheet as CSV in UTF-8, {_SAVE}"
    if start.startswith(b"\x1f\x8b"):
        return f"is compressed with gzip; {command('gzip', '-dc', path)} > {new}"
    if b"\r" in start.strip() and b"\n" not in start:
        lines = f"{command('tr', chr(92) + 'r', chr(92) + 'n')} < {command(path)} > {new}"
        return f"has lines that end in a carriage return alone; save it as CSV in UTF-8, {_SAVE}, or {lines}"
    return ""


def _first_record(text: str) -> str:
    """Return the text before the first line feed that stands in no quotation marks; the first line if none does."""
    place, inside = 0, False
    for line in text.split("\n"):
        inside ^= bool(line.count('"') % 2)
        place += len(line) + 1
        if not inside:
            return text[: place - 1].removesuffix("\r")
    return text.partition("\n")[0]


def find_columns(header: Sequence[str], score: str, given: dict[str, str], *, place: str) -> Columns:
    """Return where the columns are that a score is made of; given are the names that the user said.

    Raises `InvalidSettings` for names that the header lacks, and `BadInput` for columns that are missing or could be
    any of several, each with all of them.
    """
    named = {what: _named(header, name) for what, name in given.items()}
    there = f"there are {', '.join(map(shown, header))}"
    problems = [
        f"--{what}-column {shown(given[what])}: {'several columns are' if len(found) > 1 else 'no column is'} called so"
        for what, found in named.items()
        if len(found) != 1
    ]
    places = [found[0] for found in named.values() if len(found) == 1]
    problems += [
        f"{' and '.join(f'--{what}-column' for what, found in named.items() if found == [one])} name one column, "
        f"{shown(header[one])}"
        for one in dict.fromkeys(places)
        if places.count(one) > 1
    ]
    refuse(InvalidSettings, f"{place}: columns that were named:", problems, there[0].upper() + there[1:] + ".")
    found = {what: places[0] for what, places in named.items()}
    guessed = []
    for what in USED_BY[score]:
        if what in found:
            continue
        free = [column for column in range(len(header)) if column not in found.values()]
        places = _known(header, free, what)
        if len(places) > 1:
            problems.append(f"the {what} could be any of {', '.join(shown(header[k]) for k in places)}: "
                            f"{_ways(what, [header[column].strip() for column in places])}")  # fmt: skip
        elif not places and what in REQUIRED:
            problems.append(f"no column is called as {_one(what)} is: --{what}-column NAME")
        elif places and what == "rating" and (beside := _of_a_game(header, places[0])):
            problems.append(f"{shown(header[places[0]])} may be the response of a memory game, as {beside} is there; "
                            f"if it is a rating: {_ways(what, [header[places[0]].strip()])}")  # fmt: skip
        elif places:
            found[what] = places[0]
            if _spelt(header[places[0]]) != what.replace("-", ""):
                guessed.append(f"column {shown(header[places[0]])} is read as the {what}")
    if score == "lag" and not {"trial", "lag"} & found.keys():
        problems.append("no column is called as a trial or a lag is: --trial-column NAME or --lag-column NAME")
    way_out = f"Say which; {there}."
    if problems and (others := suited_scores(header, score)):
        way_out += f" {others}"
    refuse(BadInput, f"{place}: columns of --score {score}:", problems, way_out)
    ignored = tuple(name.strip() for column, name in enumerate(header) if column not in found.values())
    return Columns(found, tuple(filter(None, ignored)), tuple(guessed))


def shown(text: str) -> str:
    """Return a name or word from a file in quotation marks, shortened."""
    return f"'{printable(text[:80])}{'...' if len(text) > 80 else ''}'"


def suited_scores(header: Sequence[str], score: str) -> str:
    """Return in a sentence which scores a header is made for, where these are others than asked for; '' otherwise."""
    every = range(len(header))
    known = {what: found for what in USED_BY["hits"] + USED_BY["mean"] if (found := _known(header, every, what))}
    if score in OF_RATINGS and "response" in known and (some := [what for what in _OF_A_GAME if what in known]):
        columns = ", ".join(shown(header[known[what][0]]) for what in ("response", *some))
        return f"The columns {columns} are those of a memory game's log: {options_of(OF_LOGS)}."
    if score in OF_LOGS and "response" not in known and "rating" in known:
        return f"Column {shown(header[known['rating'][0]])} is one of ratings: {options_of(OF_RATINGS)}."
    return ""


def options_of(scores: Sequence[str]) -> str:
    """Return in words how one of some scores is asked for: '--score mean or zmean'."""
    return f"--score {', '.join(scores[:-1])} or {scores[-1]}"


def _of_a_game(header: Sequence[str], column: int) -> str:
    """Return which column says that this one may be the response of a memory game, not a rating; '' if none does."""
    every = range(len(header))
    if column not in _known(header, every, "response"):
        return ""
    kinds = [header[found[0]] for what in _OF_A_GAME if what != "trial" and (found := _known(header, every, what))]
    return shown(kinds[0]) if kinds else ""


def _ways(what: str, names: Sequence[str]) -> str:
    """Return the options that choose between columns, or that those of one name cannot be told apart."""
    if len(set(names)) < len(names):
        return "rename all but one, as several are called alike"
    return " or ".join(command(f"--{what}-column", name) for name in names)


def _one(what: str) -> str:
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"


def _count_known(header: Sequence[str], score: str, given: dict[str, str]) -> int:
    names = {name.strip() for name in given.values()}
    every = range(len(header))
    return sum(name.strip() in names for name in header) + sum(bool(_known(header, every, w)) for w in USED_BY[score])


def _named(header: Sequence[str], name: str) -> list[int]:
    exact = [column for column, one in enumerate(header) if one.strip() == name.strip()]
    return exact or [column for column, one in enumerate(header) if _spelt(one) == _spelt(name) != ""]


def _known(header: Sequence[str], free: Sequence[int], what: str) -> list[int]:
    for names in (re.escape(what.replace("-", "")), *_NAMES[what]):
        found = [column for column in free if re.fullmatch(names, _spelt(header[column]))]
        if found:
            return found
    return []


def _spelt(name: str) -> str:
    return re.sub(r"[\W_]+", "", name[:200].casefold())
