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
_OF_RATERS = {"n": "number of ratings", "se": "standard error"}
_LONGEST_NAME = 200  # characters of a column's name, or of a cell, that are looked at
_PARTS = {
    "train": ("train", "training", "trainset", "trainingset"),
    "val": ("val", "valid", "validate", "validation", "valset", "validationset", "dev", "devset", "development"),
    "test": ("test", "testing", "testset", "testingset"),
}
_PART_OF = {word: part for part, words in _PARTS.items() for word in words}


@dataclass(frozen=True)
class Columns:
    """Where in a line the path, the score of each target, the part in each split and the group stand.

    The target of one score alone is ''; group is None where there is no such column. raters says by target which
    column is the number of its ratings, 'n', and which their standard error, 'se', of those that are there. ignored are
    the names of the other columns, notes what was read as what.
    """

    path: int
    scores: Mapping[str, int]
    splits: Mapping[str, int]
    group: int | None
    raters: Mapping[str, Mapping[str, int]]
    ignored: tuple[str, ...]
    notes: tuple[str, ...]


def find_columns(
    header: Sequence[str],
    lines: Collection[Sequence[str]],
    *,
    place: str,
    path: str = "",
    scores: Sequence[str] = (),
) -> Columns:
    """Return which column holds what; path and scores are the names that the user gave, none for those to be found.

    Columns `score.NAME` are the scores of targets of these names, and so are those of several names that were given.
    Columns `n` and `se`, of several scores `NAME_n` and `NAME_se`, say how many ratings a score is the mean of, and its
    standard error. Raises `BadInput` for a header in which a column is missing, is there twice, or could be any of
    several, and `InvalidSettings` for a given name that the header lacks.
    """
    names = [_plain(name) for name in header]
    targets = _targets(header, scores, place)
    given = {"path": path, "score": scores[0] if scores else ""}
    found = {what: _given(header, what, name, place) for what, name in given.items() if name}
    if targets:
        found["score"] = next(iter(targets.values()))
    free = [name for column, name in enumerate(header) if column not in (*found.values(), *targets.values())]
    found |= {what: _known(header, free, what, place) for what in given if what not in found}
    splits = split_columns(header)
    missing = [what for what in given if found[what] is None]
    if missing or len(set(names)) != len(names) or {"split", "split_1"} <= set(names):
        what = f"no column {' and no column '.join(missing)}" if missing else "a column twice (split is split_1)"
        options = " and ".join(f"--{name}-column NAME" for name in missing)
        way_out = f", or columns that you name with {options}" if missing else ""
        raise BadInput(f"{place}: {what} in {shown(','.join(header))}; expected {EXPECTED}{way_out}")
    used = {what: column for what, column in found.items() if column is not None}
    if used["path"] in (used["score"], *targets.values()):
        raise BadInput(f"{place}: column {shown(header[used['path']])} cannot be both the path and the score")
    told = {what: column for what, column in used.items() if not given[what] and names[column] != what}
    notes = []
    if targets:
        told.pop("score", None)
        notes = [f"{len(targets)} ratings of each image: {', '.join(targets)}"] if len(targets) > 1 else []
    group = names.index("group") if "group" in names else None
    taken = {*used.values(), *targets.values(), *([] if group is None else [group])}
    if not splits and (column := _column_of_parts(header, lines, [*taken], place)) is not None:
        splits, told["split"] = {"1": column}, column
    rated = targets or {"": used["score"]}
    raters = _columns_of_raters(names, rated)
    taken |= {*splits.values(), *(column for columns in raters.values() for column in columns.values())}
    return Columns(
        path=used["path"],
        scores=rated,
        splits=splits,
        group=group,
        raters=raters,
        ignored=tuple(name for column, name in enumerate(header) if column not in taken),
        notes=(
            *(f"column {shown(header[column].strip())} is read as the {what}" for what, column in told.items()),
            *notes,
            *(
                f"column {shown(header[column].strip())} is read as the {_OF_RATERS[what]} of "
                f"{shown(header[rated[target]].strip())}"
                for target, columns in raters.items()
                for what, column in columns.items()
            ),
        ),
    )


def _columns_of_raters(names: Sequence[str], scores: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return by target the columns of the number of its ratings and of their standard error, if there are any."""
    found: dict[str, dict[str, int]] = {}
    for target, column in scores.items():
        for what in _OF_RATERS:
            called = [f"{names[column]}_{what}", *([f"{target.lower()}_{what}"] if target else [])]
            called += [what] if len(scores) == 1 else []
            if there := [name for name in called if name in names]:
                found.setdefault(target, {})[what] = names.index(there[0])
    return found


def _targets(header: Sequence[str], given: Sequence[str], place: str) -> dict[str, int]:
    """Return the column of each target: of several names that were given or, without any, of score.NAME and score."""
    if given:
        columns = [column for name in given if (column := _given(header, "score", name, place)) is not None]
        named = {_target_of(header[column]): column for column in columns} if len(given) > 1 else {}
        if len(given) > 1 and len(named) != len(given):
            raise InvalidSettings(f"--score-column {', '.join(given)}: targets of these names are not told apart")
        return named
    names = [_plain(name) for name in header]
    of_raters = {f"{name}_{what}" for name in names for what in _OF_RATERS}
    dotted = {
        _target_of(header[column]): column
        for column, name in enumerate(names)
        if name.startswith("score.") and name not in of_raters
    }
    plain = [column for column, name in enumerate(names) if name == "score"]
    return (dict(zip(["score"], plain, strict=False)) | dotted) if dotted else {}


def _target_of(name: str) -> str:
    """Return the target of a column, a word that can name a folder: `beauty` of `score.beauty`, `MOS_z` of `MOS z`."""
    return re.sub(r"\W+", "_", re.sub(r"(?i)^score\.", "", name.strip())).strip("_") or "score"


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
