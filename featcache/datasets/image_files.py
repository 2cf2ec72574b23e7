"""Which file each name means: the one that is called so, in any Unicode form; else which other file comes near.

Every folder that a name leads to is listed once, so that tens of thousands of names take a second.
"""

import contextlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

from featcache.base.commands import command
from featcache.datasets.split_files import Line

_SUFFIX = re.compile(r"(\.(jpe?g?|jfif|png|webp|gif|bmp|tiff?|heic|heif|avif|ppm|pgm))+$", re.IGNORECASE)
_SPACES_AT_AN_END, _SPACES = re.compile(r"\s*/\s*"), re.compile(r"[\s_-]+")
_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
_MOST_SHOWN = 5  # names that differ alike, when all do
_MOST_FOLDERS = 100  # of the images' folder that are searched for names without a folder


def _without_folders(name: str) -> str:
    return name.rpartition("/")[2]


# how a name may differ from that of its file, and what makes such names equal, in the order in which it is done
_DIFFERENCES: dict[str, Callable[[str], str]] = {
    "backslashes": lambda name: name.replace("\\", "/"),
    "%20 and the like": unquote,
    "Unicode form": lambda name: unicodedata.normalize("NFKC", name),
    "case": lambda name: unicodedata.normalize("NFKC", name.casefold()),
    "spaces at an end": lambda name: _SPACES_AT_AN_END.sub("/", name.strip()),
    "suffix": lambda name: _SUFFIX.sub("", name),
    "spaces, hyphens or underscores": lambda name: _SPACES.sub("", name),
    "leading zeros": lambda name: _LEADING_ZEROS.sub("", name),
    "folders": _without_folders,
}


class _Miss(NamedTuple):
    """A name without a file, the file that comes near, '' if none does, and in what it differs."""

    line: Line
    near: str
    differences: tuple[str, ...]


def find_image_files(images: Path, lines: Iterable[Line], problems: list[str], *, home: Path | None) -> dict[str, str]:
    """Return the file's own name, below images, for each name of lines that has another Unicode form.

    Append to problems each name without a file, at the first line that has it, and the file that comes near; home is a
    second folder in which to look for such files. If all names differ from their files in the same way, one problem
    says so, and a few show it.
    """
    first_line: dict[str, Line] = {}
    for line in lines:
        first_line.setdefault(line.name, line)
    folders = _Folders(images)
    places = [folders, *([_Folders(home)] if home and home.resolve() != images.resolve() else [])]
    own_names, misses = {}, []
    for name, line in first_line.items():
        own = folders.find(name)
        if own is None:
            misses.append(_miss(line, places))
        elif own != name:
            own_names[name] = own
    kinds = {miss.differences for miss in misses}
    if len(misses) == len(first_line) > _MOST_SHOWN and len(kinds) == 1 and misses[0].near:
        problems.append(_summary(misses, images, is_table=home is not None))
        misses = misses[:_MOST_SHOWN]
    problems += [_problem(images, miss) for miss in misses]
    return own_names


class _Folders:
    """The folders below a folder, each listed when a name first leads there."""

    def __init__(self, images: Path) -> None:
        self.images = images
        self._entries: dict[str, dict[str, bool]] = {}
        self._keyed: dict[tuple[str, Callable[[str], str]], Mapping[str, Sequence[str]]] = {}

    def find(self, name: str) -> str | None:
        """Return the name of the file that name means, which may be of another Unicode form; None if there is none."""
        parent, _, base = name.rpartition("/")
        if self._list(parent).get(base) is False:
            return name
        return None if name.isascii() else self._follow(name.split("/"), _composed)

    def near(self, name: str) -> str | None:
        """Return the file whose name comes nearest to one that means none."""
        plain = unquote(name.replace("\\", "/"))
        parts = [part.strip() for part in plain.split("/") if part.strip() not in ("", ".", "..")]
        for start in range(len(parts)):
            if found := self._follow(parts[start:], _key):
                return found
        deeper = self._deeper.get(_key(parts[-1]), ()) if parts else ()
        return _nearest(parts[-1], deeper) if deeper else None

    @cached_property
    def _deeper(self) -> Mapping[str, Sequence[str]]:
        """The files of the folders in images, by key, as far as they may be read."""
        found = defaultdict[str, list[str]](list)
        for folder in sorted(entry for entry, is_folder in self._list("").items() if is_folder)[:_MOST_FOLDERS]:
            with contextlib.suppress(PermissionError):
                for entry, is_folder in self._list(folder).items():
                    if not is_folder and (key := _key(entry)):
                        found[key].append(f"{folder}/{entry}")
        return found

    def _follow(self, parts: Sequence[str], key: Callable[[str], str]) -> str | None:
        """Return the file that is reached by parts, each taken for the entry that has the same key."""
        way = ""
        for depth, part in enumerate(parts, start=1):
            is_folder, wanted = depth < len(parts), key(part)
            entries = self._list(way)
            same = [entry for entry in self._by_key(way, key).get(wanted, ()) if entries[entry] == is_folder]
            if not wanted or not same:
                return None
            best = part if part in same else _nearest(part, same)
            way = f"{way}/{best}" if way else best
        return way

    def _list(self, folder: str) -> dict[str, bool]:
        """Return the entries of a folder, and whether each is a folder; none if it is not there."""
        if folder not in self._entries:
            self._entries[folder] = {}
            if (self.images / folder).is_dir():
                with os.scandir(self.images / folder) as entries:
                    self._entries[folder] = {entry.name: entry.is_dir() for entry in entries}
        return self._entries[folder]

    def _by_key(self, folder: str, key: Callable[[str], str]) -> Mapping[str, Sequence[str]]:
        if (folder, key) not in self._keyed:
            found = defaultdict[str, list[str]](list)
            for entry in self._list(folder):
                found[key(entry)].append(entry)
            self._keyed[folder, key] = found
        return self._keyed[folder, key]


def _nearest(name: str, others: Sequence[str]) -> str:
    """Return the one of the others that differs from name in fewest ways, the first by name of several."""
    return others[0] if len(others) == 1 else min(others, key=lambda other: (len(_differences(name, other)), other))


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _key(name: str) -> str:
    """Return what is left of a name when all in which it may differ is taken away."""
    return _made_equal(name, [*_DIFFERENCES])


def _differences(name: str, other: str) -> tuple[str, ...]:
    """Return in what two names of one key differ: the fewest differences without which they would be equal."""
    needed, one, two = [], name, other
    for difference, equal in _DIFFERENCES.items():
        before = one, two
        one, two = equal(one), equal(two)
        if (one, two) != before:
            needed.append(difference)
    for difference in needed[::-1]:
        others = [another for another in needed if another != difference]
        if _made_equal(name, others) == _made_equal(other, others):
            needed = others
    return tuple(needed)


def _made_equal(name: str, differences: Sequence[str]) -> str:
    for difference in differences:
        name = _DIFFERENCES[difference](name)
    return name


def _miss(line: Line, places: Sequence[_Folders]) -> _Miss:
    for place in places:
        if near := place.near(line.name):
            differences = _differences(line.name, near) or ("folders",)
            return _Miss(line, near if place is places[0] else str(place.images / near), differences)
    return _Miss(line, "", ())


def _problem(images: Path, miss: _Miss) -> str:
    missing = f"{miss.line.place}: no such image: {images / miss.line.name}"
    return (
        f"{missing}; the folder has {miss.near}, which differs in {_listed(miss.differences)}" if miss.near else missing
    )


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _summary(misses: Sequence[_Miss], images: Path, *, is_table: bool) -> str:
    """Return in what all names differ from their files, and the way out where a table's are all in one folder below."""
    names, count = [miss.line.name for miss in misses], f"all {len(misses):,} names"
    differences = misses[0].differences
    suffixes = sorted({PurePosixPath(miss.near).suffix for miss in misses})
    if differences == ("suffix",):
        lack = "have another suffix" if any(_SUFFIX.search(name) for name in names) else "lack a suffix"
        return f"{count} {lack}: the folder has them as {_listed(suffixes)}"
    written = str(images / names[0]) if misses[0].near.startswith("/") else names[0]
    said = f"{count} differ from their files in {_listed(differences)}: {written} is {misses[0].near}"
    first, *others = {miss.near.removesuffix(name) for miss, name in zip(misses, names, strict=True)}
    if is_table and not others and misses[0].near == first + names[0] and not first.startswith("/"):
        return f"{said}; pass {command('--root', images / first)}"
    return said
