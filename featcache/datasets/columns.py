"""Which columns of a table hold what: known words for paths, scores and parts, however they are spelt."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from featcache.base.commands import command
from featcache.base.errors import BadInput, InvalidSettings
from featcache.datasets.split_files import shown

EXPECTED = "a header with the columns path, score and, if wanted, split, separated by commas"


def _made_of(core: str, others: str) -> re.Pattern[str]:
    """Return what matches names of nothing but these words, at least one of which is of the core."""
    return re.compile(f"(?:(?:{core})s?|{others})*(?:{core})s?(?:(?:{core})s?|{others})*")


_IMAGE = "image|img|picture|pic|photograph|photo|stimulus|stimuli|file|path|frame"
_JUDGEMENT = "score|d?mos|rating|mean|average|avg|hitrate|memorability|aesthetic|quality|beauty|attractiveness"
_NAMES_OF = {  # what a column may be called beside path and score; earlier ones are preferred
    "path": (_made_of(_IMAGE, "name|the|of|full|relative"), _made_of(f"{_IMAGE}|name", "id|the|of")),
    "score": (_made_of(_JUDGEMENT, "z|mem|of|the|image|img|human|opinion|overall|final|normali[sz]ed"),),
}
_NAMES_OF_SPLIT = re.compile(r"split(?:[ _-]+(\w+)|(\d+))?")
_NAMES_OF_PARTS = re.compile(r"(?:data|sub)?sets?|partitions?|parts?|phase|fold|datasplit")  # if nothing else is there
_LONGEST_NAME = 200  # characters of a column's name, or of a cell, that are looked at
_PARTS = {
    "train": ("train", "training", "trainset", "trainingset"),
    "val": ("val", "valid", "validate", "validation", "valset", "validationset", "dev", "devset", "development"),
    "test": ("test", "testing", "testset", "testingset"),
}
_PART_OF = {word: part for part, words in _PARTS.items() for word in words}


@dataclass(frozen=True)
class Columns:
    """Where in a line the path, each score by its column's name, and the part in each split stand.

    ignored are the names of the other columns, notes what was read as what.
    """

    path: int
    scores: Mapping[str, int]
    splits: Mapping[str, int]
    ignored: tuple[str, ...]
    notes: tuple[str, ...]


def find_columns(
    header: Sequence[str], lines: Collection[Sequence[str]], *, place: str, path: str = "", score: str = ""
) -> Columns:
    """Return which column holds what; path and score are the names that the user gave, '' for those to be found.

    Raises `BadInput` for a header in which a column is missing, is there twice, or could be any of several, and
    `InvalidSettings` for a given name that the header lacks.
    """
    given = {"path": path, "score": score}
    found = {what: _given(header, what, name, place) for what, name in given.items() if name}
    free = [name for column, name in enumerate(header) if column not in found.values()]
    found |= {what: _known(header, free, what, place) for what in given if what not in found}
    names = [_plain(name) for name in header]
    splits = split_columns(header)
    missing = [what for what in given if found[what] is None]
    if missing or len(set(names)) != len(names) or {"split", "split_1"} <= set(names):
        what = f"no column {' and no column '.join(missing)}" if missing else "a column twice (split is split_1)"
        options = " and ".join(f"--{name}-column NAME" for name in missing)
        way_out = f", or columns that you name with {options}" if missing else ""
        raise BadInput(f"{place}: {what} in {shown(','.join(header))}; expected {EXPECTED}{way_out}")
    used = {what: column for what, column in found.items() if column is not None}
    if used["path"] == used["score"]:
        raise BadInput(f"{place}: column {shown(header[used['path']])} cannot be both the path and the score")
    told = {what: column for what, column in used.items() if not given[what] and names[column] != what}
    if not splits and (column := _column_of_parts(header, lines, [*used.values()], place)) is not None:
        splits, told["split"] = {"1": column}, column
    taken = {*used.values(), *splits.values()}
    return Columns(
        path=used["path"],
        scores=score_columns(header, [used["score"]]),
        splits=splits,
        ignored=tuple(name for column, name in enumerate(header) if column not in taken),
        notes=tuple(f"column {shown(header[column].strip())} is read as the {what}" for what, column in told.items()),
    )


def score_columns(header: Sequence[str], columns: Iterable[int]) -> dict[str, int]:
    """Return the columns of scores by their names."""
    return {header[column].strip(): column for column in columns}


def split_columns(header: Sequence[str]) -> dict[str, int]:
    """Return the columns `split` and `split_K` by K, which is '1' where there is none."""
    matches = [_NAMES_OF_SPLIT.fullmatch(_plain(name)) for name in header]
    return {match[1] or match[2] or "1": column for column, match in enumerate(matches) if match}


def count_known(header: Sequence[str], chosen: Iterable[str] = ()) -> int:
    """Return how many columns have a name that says what they hold, or one of those chosen."""
    wanted = {"path", "score", *(_spelt(name) for name in chosen if name)}
    patterns = [pattern for names in _NAMES_OF.values() for pattern in names]
    spelt = [_spelt(name) for name in header]
    known = sum(name in wanted or any(pattern.fullmatch(name) for pattern in patterns) for name in spelt)
    return known + len(split_columns(header))


def part_of(cell: str) -> str | None:
    """Return train, val or test for a word that means it, None for any other."""
    return _PART_OF.get(_spelt(cell))


def _given(header: Sequence[str], what: str, given: str, place: str) -> int | None:
    """Return the column of the name that the user gave."""
    exact = [name for name in header if name.strip() == given.strip()]
    found = exact or [name for name in header if _spelt(name) == _spelt(given)]
    if not found:
        raise InvalidSettings(
            f"{place}: no column {shown(given)} for --{what}-column; there are {', '.join(map(shown, header))}"
        )
    return _only(header, found, what, place)


def _known(header: Sequence[str], free: Sequence[str], what: str, place: str) -> int | None:
    """Return the one of the free columns that is called as such columns are, None if there is none."""
    wanted = [[name for name in free if _plain(name) == what], [name for name in free if _spelt(name) == what]]
    wanted += [[name for name in free if pattern.fullmatch(_spelt(name))] for pattern in _NAMES_OF[what]]
    found = next((names for names in wanted if names), [])
    return _only(header, found, what, place) if found else None


def _only(header: Sequence[str], found: Sequence[str], what: str, place: str) -> int:
    if len({_plain(name) for name in found}) > 1:
        ways = " or ".join(command(f"--{what}-column", name.strip()) for name in found)
        raise BadInput(f"{place}: the {what} could be any of {', '.join(map(shown, found))}; say which with {ways}")
    return header.index(found[0])


def _column_of_parts(
    header: Sequence[str], lines: Collection[Sequence[str]], taken: Sequence[int], place: str
) -> int | None:
    """Return the column that is no split by its name, but holds nothing but train, val and test."""
    found = [
        column
        for column, name in enumerate(header)
        if column not in taken
        and _NAMES_OF_PARTS.fullmatch(_spelt(name))
        and lines
        and all(part_of(cells[column]) for cells in lines if column < len(cells))
    ]
    if len(found) > 1:
        names = ", ".join(shown(header[column]) for column in found)
        raise BadInput(f"{place}: the split could be any of {names}; call one of them split, and remove the other")
    return found[0] if found else None


def _plain(name: str) -> str:
    return name.strip().lower()


def _spelt(name: str) -> str:
    """Return a name without what does not matter: case, spaces, hyphens, underscores, what is in parentheses."""
    return re.sub(r"\(.*?\)|[^\w(]+|[_(]", "", name[:_LONGEST_NAME].casefold())
