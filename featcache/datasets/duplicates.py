"""Files that are the same under several names, and images that look alike: told, and taken out of what learns."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from featcache.base.errors import counted
from featcache.datasets.splits import PARTS, Part, Splits

Member = TypeVar("Member", int, str)  # a row, or a name
_START = 4096  # bytes that are compared before whole files are
_OTHERS = {"train": ("val", "test"), "val": ("test",)}  # a part, and those whose images it gives up


class Likeness(NamedTuple):
    """How images are alike, in words: of a group, of one of them, and the sign between two."""

    group: str
    one: str
    sign: str

    def notes(self, names: Sequence[str], groups: Sequence[Sequence[int]]) -> list[str]:
        """Return how many images are alike another, and a few of their names."""
        if not groups:
            return []
        few = ", ".join(f" {self.sign} ".join(names[row] for row in group[:3]) for group in groups[:3])
        number = sum(map(len, groups))
        several = "s" if len(groups) > 1 else ""
        counted = self.group.format(images=f"{number:,} images", groups=f"{len(groups):,}", s=several)
        return [f"{counted}: {few}{', ...' if len(groups) > 3 else ''}"]


SAME_FILE = Likeness("{images} are {groups} file{s} under several names", "of the same file as", "=")
LOOK_ALIKE = Likeness("{images} look like another, in {groups} group{s} (near-duplicates)", "that look like", "~")


def find_duplicates(paths: Sequence[Path]) -> list[list[int]]:
    """Return the places in paths of files with the same content, each group in order.

    Empty files and those that cannot be read are left out.
    """
    groups = [[*range(len(paths))]]
    for same in (_size, _start, _whole):
        groups = [part for group in groups for part in _alike(group, paths, same)]
    return groups


def joined(groups: Iterable[Iterable[Member]]) -> list[tuple[Member, ...]]:
    """Return groups, of rows or names, those that have a member in common made one; each group and all are in order."""
    group_of: dict[Member, set[Member]] = {}
    for group in groups:
        members = set(group)
        known: dict[int, set[Member]] = {id(group_of[one]): group_of[one] for one in members if one in group_of}
        together: set[Member] = max(known.values(), key=len, default=members)  # the others move: each row seldom
        moved: list[set[Member]] = [found for found in known.values() if found is not together]
        together.update(members, *moved)
        group_of.update(dict.fromkeys(members.union(*moved), together))
    distinct = {id(found): found for found in group_of.values()}.values()
    return sorted(tuple(sorted(found)) for found in distinct)


def across_parts(splits: Splits, groups: Iterable[Sequence[int]]) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """Return by split and part the rows that train and val would give up, each with one like it elsewhere."""
    group_of = {row: number for number, group in enumerate(groups) for row in group}
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for split, parts in splits.items():
        rows = {part: [row for row in values.rows.tolist() if row in group_of] for part, values in parts.items()}
        for part, others in _OTHERS.items():
            elsewhere = {group_of[row]: row for other in reversed(others) for row in reversed(rows.get(other, []))}
            pairs = [(row, elsewhere[group_of[row]]) for row in rows.get(part, []) if group_of[row] in elsewhere]
            if pairs:
                found[split, part] = pairs
    return found


def of_parts(names: Sequence[str], splits: Splits, groups: Sequence[Sequence[int]], likeness: Likeness) -> list[str]:
    """Return warnings of images that are alike one in a later part of a split."""
    return [
        f"warning: split {split}: {part} holds {counted(len(pairs), 'image')} {likeness.one} one of a later part, "
        f"first {names[pairs[0][0]]} {likeness.sign} {names[pairs[0][1]]}; what a head learns from cannot judge it: "
        f"leave them out of {part} with --drop-duplicates of extract"
        for (split, part), pairs in across_parts(splits, groups).items()
    ]


def dropped(before: Splits, after: Splits) -> list[str]:
    """Return how many images of train and val were taken out, split by split."""
    return [
        f"split {split}: {counted(count, 'image')} taken out of {part}, as a later part has "
        f"{'it' if count == 1 else 'them'}"
        for split, parts in before.items()
        for part, found in parts.items()
        if (count := len(found.rows) - len(after[split][part].rows))
    ]


def without_duplicates(splits: Splits, groups: Sequence[Sequence[int]]) -> Splits:
    """Return splits whose train and val parts have given up the images that are alike one in a later part."""
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
