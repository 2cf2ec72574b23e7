"""Files that are the same bytes under several names: found, told, and taken out of the parts that learn."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

import numpy as np

from featcache.datasets.splits import PARTS, Part, Splits

_START = 4096  # bytes that are compared before whole files are
_OTHERS = {"train": ("val", "test"), "val": ("test",)}  # a part, and those whose images it gives up


def find_duplicates(paths: Sequence[Path]) -> list[list[int]]:
    """Return the places in paths of files with the same content, each group in order.

    Empty files and those that cannot be read are left out.
    """
    groups = [[*range(len(paths))]]
    for same in (_size, _start, _whole):
        groups = [part for group in groups for part in _alike(group, paths, same)]
    return groups


def across_parts(splits: Splits, groups: Iterable[Sequence[int]]) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """Return by split and part the rows that train and val would give up, each with one of the same file elsewhere."""
    other_of = {row: [other for other in group if other != row] for group in groups for row in group}
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for split, parts in splits.items():
        rows = {part: set(values.rows.tolist()) for part, values in parts.items()}
        for part, others in _OTHERS.items():
            elsewhere = set().union(*(rows.get(other, set()) for other in others))
            pairs = [
                (row, next(other for other in other_of[row] if other in elsewhere))
                for row in (parts[part].rows.tolist() if part in parts else [])
                if row in other_of and elsewhere.intersection(other_of[row])
            ]
            if pairs:
                found[split, part] = pairs
    return found


def without_duplicates(splits: Splits, groups: Sequence[Sequence[int]]) -> Splits:
    """Return splits whose train and val parts have given up the images whose file is in a later part as well."""
    given_up = {key: [row for row, _ in pairs] for key, pairs in across_parts(splits, groups).items()}

    def kept(split: str, part: str, values: Part) -> Part:
        keep = ~np.isin(values.rows, given_up.get((split, part), []))
        return Part(values.rows[keep], values.scores[keep])

    return {
        split: {part: kept(split, part, parts[part]) for part in PARTS if part in parts}
        for split, parts in splits.items()
    }


def _alike(group: Iterable[int], paths: Sequence[Path], same: Callable[[Path], Hashable]) -> list[list[int]]:
    """Return those of a group that agree in something, two or more at a time."""
    found: dict[Hashable, list[int]] = defaultdict(list)
    for place in group:
        try:
            key = same(paths[place])
        except OSError:  # whoever decodes it says what is wrong with it
            continue
        if key:
            found[key].append(place)
    return [places for places in found.values() if len(places) > 1]


def _size(path: Path) -> int:
    return path.stat().st_size


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(_START)).digest()


def _whole(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
