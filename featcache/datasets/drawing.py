"""Splits drawn where a table gives none: parts stratified by score, groups never cut, the same for the same table."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from featcache.datasets.duplicates import joined
from featcache.datasets.split_files import Line, LineSplits
from featcache.datasets.splits import FEWEST_IMAGES, FEWEST_TO_SELECT, PARTS, Splits

DRAWN_SPLITS = 5
_ATTEMPTS = 10  # at another test part than those of earlier splits; of few groups there may be no other
TEST_SHARE, VAL_SHARE = 0.2, 0.1  # of the images, in a drawn split
STRATA = 5  # of equal numbers of images, by score; more would move more images where one is added
FEWEST_DRAWN = 2 * FEWEST_IMAGES  # to test, and to train


@dataclass(frozen=True)
class Drawing:
    """What splits are drawn from: lines[target] are those rated, keys the group or the written path of each by place.

    Lines with one key are in one part together.
    """

    lines: Mapping[str, Sequence[Line]]
    keys: Mapping[str, str]

    def draw(self, same: Iterable[Sequence[str]] = ()) -> dict[str, LineSplits]:
        """Return the splits of each target; same are names of images that are in one part as well, with their groups.

        A target that was not rated has no splits.
        """
        names = [*same]
        return {
            target: draw_splits(units_of(lines, [self.keys[line.place] for line in lines], same=names)) if lines else {}
            for target, lines in self.lines.items()
        }


@dataclass(frozen=True)
class Unit:
    """Images that are in one part together: those of a group, or one alone. key is the group's name or the path."""

    key: str
    lines: tuple[Line, ...]

    @property
    def score(self) -> float:
        """Their mean score."""
        return sum(line.score for line in self.lines) / len(self.lines)


def units_of(lines: Sequence[Line], keys: Sequence[str], *, same: Iterable[Sequence[str]] = ()) -> list[Unit]:
    """Return what is drawn together: lines of one key and, with theirs, images whose names are in one of same."""
    key_of = {line.name: key for line, key in zip(lines, keys, strict=True)}
    together = joined([key_of[name] for name in names if name in key_of] for names in same)
    united = {key: found[0] for found in together for key in found}
    members: dict[str, list[Line]] = {}
    for line, key in zip(lines, keys, strict=True):
        members.setdefault(united.get(key, key), []).append(line)
    return [Unit(key, tuple(found)) for key, found in members.items()]


def draw_splits(units: Sequence[Unit]) -> LineSplits:
    """Return `DRAWN_SPLITS` splits: a fifth of the images to test, a tenth to select by, the others to train on.

    Their test parts differ: of few units there are fewer. Units in order of score are cut into `STRATA`, and of each
    those of the smallest digests of split and key are taken, so an added image moves few others. A val part of fewer
    than `FEWEST_TO_SELECT` images is not drawn: train is cross-validated instead. Where scores differ, train has
    different ones, and test too where that can be.
    """
    splits: LineSplits = {}
    tested = set()
    for split in map(str, range(1, DRAWN_SPLITS + 1)):
        for attempt in range(_ATTEMPTS):
            drawn = _drawn(units, f"{split}.{attempt}" if attempt else split)
            test = frozenset(line.place for line in drawn.get("test", ()))
            if test not in tested:
                tested.add(test)
                splits[str(len(splits) + 1)] = drawn
                break
    return splits


def how_drawn(splits: Splits) -> str:
    """Return in words how large the parts of drawn splits are, and how they were drawn."""
    parts = splits["1"]
    sizes = ", ".join(f"{len(parts[part].rows)} {part}" for part in PARTS if part in parts)
    selects = "" if "val" in parts else "; heads are selected by cross-validation within train"
    number = "1 split was" if len(splits) == 1 else f"{len(splits)} splits were"
    fewer = "" if len(splits) == DRAWN_SPLITS else "; so few groups have no more test parts that differ"
    return f"{number} drawn, stratified by score ({sizes} in split 1){selects}{fewer}"


def _drawn(units: Sequence[Unit], split: str) -> dict[str, list[Line]]:
    digests = {
        unit.key: hashlib.sha256(f"{split} {unit.key}".encode(errors="surrogateescape")).digest() for unit in units
    }
    ordered = sorted(units, key=lambda unit: (unit.score, digests[unit.key]))
    images = sum(len(unit.lines) for unit in units)
    test = _stratified(ordered, round(TEST_SHARE * images), digests)
    _spread(test, ordered, digests)
    rest = _without(ordered, test)
    val = round(VAL_SHARE * images)
    chosen = {"test": test, "val": []}
    if val >= FEWEST_TO_SELECT:
        chosen["val"] = _stratified(rest, val, digests)
    chosen["train"] = _without(rest, chosen["val"])
    in_order = {part: sorted(chosen[part], key=lambda unit: digests[unit.key]) for part in PARTS}
    return {part: [line for unit in found for line in unit.lines] for part, found in in_order.items() if found}


def _stratified(units: Sequence[Unit], images: int, digests: dict[str, bytes]) -> list[Unit]:
    """Return units, which are in order of score, that hold about so many images, alike from each stratum.

    A unit is left out where without it the number is nearer: a group of most images is never taken while there are
    others. One image alone is too few.
    """
    images = max(FEWEST_IMAGES, images)
    of_each = sum(len(unit.lines) for unit in units) / len(units)
    strata = min(STRATA, max(1, round(images / of_each)))  # of one unit or more to take
    cuts = [round(k * len(units) / strata) for k in range(strata + 1)]
    chosen: list[Unit] = []
    taken = 0
    for k, (start, stop) in enumerate(pairwise(cuts), start=1):
        for unit in sorted(units[start:stop], key=lambda unit: digests[unit.key]):
            if taken + len(unit.lines) / 2 <= round(k * images / strata):
                chosen.append(unit)
                taken += len(unit.lines)
    for unit in sorted(_without(units, chosen), key=lambda unit: (len(unit.lines), digests[unit.key]))[:-1]:
        if taken < FEWEST_IMAGES:
            chosen.append(unit)
            taken += len(unit.lines)
    return chosen


def _without(units: Sequence[Unit], others: Sequence[Unit]) -> list[Unit]:
    keys = {unit.key for unit in others}
    return [unit for unit in units if unit.key not in keys]


def _spread(test: list[Unit], units: Sequence[Unit], digests: dict[str, bytes]) -> None:
    """Exchange a unit of test for another where test, or what is left for train, has one score alone."""
    rest = sorted(_without(units, test), key=lambda unit: digests[unit.key])
    for lacking, other in ((test, rest), (rest, test)):  # train comes last, so that it wins
        scores = {line.score for unit in lacking for line in unit.lines}
        most = sum(len(unit.lines) for unit in units) / 2
        different = [
            unit for unit in other if len(unit.lines) <= most and any(line.score not in scores for line in unit.lines)
        ]
        if len(scores) == 1 and different:
            other.remove(different[0])
            other.append(lacking.pop())
            lacking.append(different[0])
