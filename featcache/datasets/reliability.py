"""How far ratings can be relied on: how many each score is the mean of, and what ceiling that sets to a model.

A prediction that knew the mean of endlessly many raters would still not agree with the mean of those who were asked:
the square root of the reliability of their means is how far it would, in rank. That is the ceiling here.
"""

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.base.agreement import FORMAT_VERSION, LARGEST_FILE, spearman_brown
from featcache.base.commands import amnet
from featcache.base.errors import BadInput, refuse

RELIABILITY_NAME = "reliability.json"  # in the folder of a dataset of split files
_VALUES = ("split_half", "full", "ceiling")
_EXAMPLE = '{"reliability": {"split_half": 0.68}}'


@dataclass(frozen=True)
class Raters:
    """Rows of the dataset with the number of ratings of each one's score and its standard error.

    int64 (n), int64 (n) and float64 (n); counts or errors is None where a table has no such column. The error of an
    image is NaN where its cell is empty, as that of a single rating is.
    """

    rows: NDArray[np.int64]
    counts: NDArray[np.int64] | None
    errors: NDArray[np.float64] | None


@dataclass(frozen=True)
class Reliability:
    """How far raters agree, and the ceiling of a model's rho with their means, each with its 95% interval if known.

    split_half is the rank correlation between the means of two halves of the raters, full that between the means of all
    of them and of as many others (Spearman-Brown, 2 r / (1 + r)), ceiling its square root. source says where it is
    from. Values that are not known are None.
    """

    ceiling: float
    source: str
    ceiling_low: float | None = None
    ceiling_high: float | None = None
    full: float | None = None
    full_low: float | None = None
    full_high: float | None = None
    split_half: float | None = None
    split_half_low: float | None = None
    split_half_high: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what is known as a JSON object."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def as_text(self) -> str:
        """Return ceiling and source in one phrase."""
        known = self.ceiling_low is not None and self.ceiling_high is not None
        interval = (
            f", 95% interval {self.ceiling_low:.3f} to {self.ceiling_high:.3f}" if known else ", without interval"
        )
        return f"{self.ceiling:.3f}{interval} ({self.source})"


def reliability_of(found: Any, source: str) -> Reliability | None:
    """Return the reliability that a JSON object says; None where it is null or not above 0, so there is no ceiling.

    It has split_half, full or ceiling, of which the first that is missing follows from the one before it, each with
    NAME_low and NAME_high if known; other keys are left alone. Raises `ValueError` in words for anything else.
    """
    if not isinstance(found, Mapping):
        raise ValueError(f'expected "reliability" to be an object, such as {_EXAMPLE}')
    values: dict[str, float | None] = {}
    for name in _VALUES:
        for key in (name, f"{name}_low", f"{name}_high"):
            values[key] = _correlation(key, found.get(key))
        low, high = values[f"{name}_low"], values[f"{name}_high"]
        if (low is None) != (high is None) or (low is not None and high is not None and low > high):
            raise ValueError(f"{name}_low and {name}_high must be there together, the lower first")
    if not any(name in found for name in _VALUES):
        raise ValueError(f"expected split_half, full or ceiling, such as {_EXAMPLE}")
    for before, name, step in (("split_half", "full", spearman_brown), ("full", "ceiling", _root)):
        if values[name] is None:
            for key in ("", "_low", "_high"):
                known = values[f"{before}{key}"]
                value = math.nan if known is None else step(known)
                values[f"{name}{key}"] = value if math.isfinite(value) else None
    for bounds in ((f"{name}_low", f"{name}_high") for name in _VALUES):
        if any(values[key] is None for key in bounds):  # a root or a step that cannot be taken
            values |= dict.fromkeys(bounds)
    ceiling = values.pop("ceiling")
    if not ceiling or ceiling < 0:
        return None
    return Reliability(ceiling, source, **values)


def _root(value: float) -> float:
    return math.sqrt(value) if value > 0 else math.nan


def _correlation(key: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1 <= value <= 1:
        raise ValueError(f"{key} must be a number from -1 to 1, found {value!r}")
    return float(value)


def read_reliability(
    path: Path, problems: list[str], notes: list[str], *, table: Path | None = None, targets: Collection[str] = ("",)
) -> dict[str, Reliability]:
    """Return by target what a .json file says of the ratings beside it, nothing where there is no such file.

    table is the table that it must belong to if it says which: its table_sha256 is that of the table's bytes. Of
    several targets, "score" names the one it is of. A file beside a table that says nothing of a reliability is left
    alone. What is wrong is appended to problems, what to tell to notes.
    """
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"it has more than {LARGEST_FILE:,} bytes")
        body = json.loads(path.read_bytes())
        if not isinstance(body, dict) or "reliability" not in body:
            raise ValueError(f"it does not say a reliability; expected {_EXAMPLE}")
    except (OSError, ValueError, RecursionError) as error:  # text that is not UTF-8 is a ValueError, too
        if table is None:
            problems.append(f"{path}: {error}")
        else:
            notes.append(f"{path.name} beside the table says nothing of its reliability, ignored")
        return {}
    if problem := _other_table(path, body, table):
        problems.append(problem)
        return {}
    try:
        target = _target_of(body, targets)
        found = reliability_of(body["reliability"], path.name)
    except ValueError as error:
        problems.append(f"{path}: {error}")
        return {}
    of = f" of {target}" if target else ""
    if found is None:
        notes.append(f"warning: {path.name}: raters are not known to agree{of}, so there is no ceiling")
        return {}
    notes.append(f"ceiling of a model's rho{of}: {found.as_text()}")
    return {target: found}


def _target_of(body: Mapping[str, Any], targets: Collection[str]) -> str:
    if len(targets) == 1:
        return next(iter(targets))
    if body.get("score") not in targets:
        raise ValueError(f'there are several ratings; expected "score" to be one of {", ".join(targets)}')
    return str(body["score"])


def _other_table(path: Path, body: Mapping[str, Any], table: Path | None) -> str:
    """Return why a file cannot be taken to be of a table, '' if it can."""
    version = body.get("ratings_format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        return f"{path}: ratings format {version!r}, this program reads {FORMAT_VERSION}; upgrade it"
    if table is None or "table_sha256" not in body:
        return ""
    if body["table_sha256"] == hashlib.sha256(table.read_bytes()).hexdigest():
        return ""
    return (
        f"{path}: it is of another table than {table.name} is now, whose sha256 is not its table_sha256; make both "
        f"anew with {amnet('ratings')}, or move this file away to go on without a ceiling"
    )


_LAMEM = reliability_of({"split_half": 0.68}, "published: Khosla et al. 2015, between halves of the raters")
PUBLISHED = {"lamem": _LAMEM} if _LAMEM else {}


def published_reliability(source: Mapping[str, str]) -> Reliability | None:
    """Return what was published of a dataset of that name; source is as a cache's manifest has it."""
    return None if "images" in source else PUBLISHED.get(source.get("dataset", ""))


def merge_raters(
    inputs: Sequence[tuple[Mapping[str, Raters], Mapping[int, str]]], row_of: Mapping[str, int]
) -> dict[str, Raters]:
    """Return by target the union of raters, each input with the names of its rows, as rows of another cache.

    Numbers, or errors, that an input with the target lacks are left out of all. Raises `BadInput` that lists every
    image that has other ones in two inputs.
    """
    found: dict[str, Raters] = {}
    problems: list[str] = []
    for target in dict.fromkeys(target for raters, _ in inputs for target in raters):
        parts = [(raters[target], names) for raters, names in inputs if target in raters]
        columns = [
            _joined("number of ratings", [(one.rows, one.counts, names) for one, names in parts], problems),
            _joined("standard error", [(one.rows, one.errors, names) for one, names in parts], problems),
        ]
        known = next((column for column in columns if column is not None), None)
        if known is not None:
            counts, errors = (None if column is None else np.array([*column.values()]) for column in columns)
            rows = np.array([row_of[name] for name in known], np.int64)
            found[target] = Raters(rows, counts, errors)
    refuse(BadInput, "the ratings of the inputs contradict each other:", problems, "Extract one of them anew.")
    return found


def _joined(
    what: str,
    parts: Sequence[tuple[NDArray[np.int64], NDArray[Any] | None, Mapping[int, str]]],
    problems: list[str],
) -> dict[str, Any] | None:
    """Return the number of each image, None if a part has none; append what is another in another part."""
    joined: dict[str, Any] = {}
    for rows, numbers, names in parts:
        if numbers is None:
            return None
        for row, number in zip(rows.tolist(), numbers.tolist(), strict=True):
            there = joined.setdefault(names[row], number)
            if there != number and not (math.isnan(there) and math.isnan(number)):
                problems.append(f"{names[row]} has two: {what} {there:g} and {number:g}")
    return joined


def merge_reliability(inputs: Sequence[Mapping[str, Reliability]], notes: list[str]) -> dict[str, Reliability]:
    """Return by target what all inputs say alike; note what is left out, as it is of a part of the images alone."""
    found: dict[str, Reliability] = {}
    for target in dict.fromkeys(target for known in inputs for target in known):
        said = [known.get(target) for known in inputs]
        first = said[0]
        if first is not None and all(one == first for one in said):
            found[target] = first
        else:
            of = f" of {target}" if target else ""
            notes.append(f"warning: the inputs do not have one reliability{of} in common, so the cache has no ceiling")
    return found
