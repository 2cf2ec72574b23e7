"""Datasets: which images there are, and which score each has in which part of which split.

Knows nothing of pixels. A score belongs to (split, part, image): in LaMem the same image has another
score in another split.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from featcache.base.errors import BadInput, InvalidSettings, refuse
from featcache.datasets.drawing import FEWEST_DRAWN
from featcache.datasets.duplicates import across_parts, find_duplicates, without_duplicates
from featcache.datasets.image_files import find_image_files
from featcache.datasets.ratings import ReadRatings, read_ratings
from featcache.datasets.split_files import Line, read_split_files
from featcache.datasets.splits import Part, Ratings, Splits, each_part, weak_parts, why_untrainable
from featcache.datasets.table import is_table

KNOWN = ("lamem", "sun")


@dataclass(frozen=True)
class Dataset:
    """names[i] is the image of row i, relative to folder images; ratings[target][split][part] says which rows it holds.

    The target is '' where there is one rating without a name; then splits are its splits. root is the folder of images/
    and splits/, None for a table of ratings; drawn says that a table's splits were drawn here. ignored names what was
    not read: other files in splits/, other columns of a table. notes tells what was read as what, how splits were
    drawn, and which parts are too weak to judge by.
    """

    name: str
    images: Path
    names: tuple[str, ...]
    ratings: Ratings
    root: Path | None = None
    drawn: bool = False
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def path(self, row: int) -> Path:
        """Return where the image of a row lies."""
        return self.images / self.names[row]

    @property
    def splits(self) -> Splits:
        """The splits of the only rating; raise `InvalidSettings` where there are several."""
        if len(self.ratings) > 1:
            raise InvalidSettings(f"{self.name} has several ratings: {', '.join(self.ratings)}")
        return next(iter(self.ratings.values()))

    @property
    def source(self) -> dict[str, str]:
        """Where the images are, for the cache's manifest; `images_of` finds them again."""
        if self.root is None:
            return {"dataset": self.name, "root": str(self.images.resolve()), "images": str(self.images.resolve())}
        return {"dataset": self.name, "root": str(self.root.resolve())}


def images_of(source: Mapping[str, str], root: Path | None = None) -> Path:
    """Return the folder of a dataset's images from its `source`; root is where the dataset is now, if not there."""
    table = "images" in source
    folder = root or Path(source["images"] if table else source["root"])
    return folder if table else folder / "images"


def open_dataset(
    name_or_path: str,
    *,
    root: str | Path | None = None,
    path_column: str = "",
    score_columns: Sequence[str] = (),
    drop_duplicates: bool = False,
) -> Dataset:
    """Read every score of a dataset; rows are the distinct image names, sorted.

    name_or_path is 'lamem' or 'sun', found in root (default: data/NAME), a folder that holds images/ and
    splits/{train,val,test}_K.txt with lines `NAME SCORE`, or a table FILE.csv, FILE.tsv or FILE.txt as
    `featcache.datasets.ratings` reads it, its paths relative to root (default: the table's folder); path_column and
    score_columns name its columns where it calls them otherwise, several scores several targets. An image has the name
    of its file, which in the table may be in another Unicode form. drop_duplicates takes images out of train and
    val whose file is in a later part under another name. Raises `BadInput` with every problem of every file,
    each with file and line, and `InvalidSettings` for a column that is not there.
    """
    problems: list[str] = []
    source = _read(name_or_path, root, path_column, score_columns, problems)
    by_target, images = source.read.ratings, source.read.images
    lines = _lines_of(by_target, in_order=source.is_table)
    missing: list[str] = []
    own_names = find_image_files(images, lines, missing, home=source.folder if source.is_table else None)
    if own_names:
        by_target = each_part(by_target, lambda lines: _renamed(lines, own_names))
        lines = _lines_of(by_target, in_order=source.is_table)
    held = [{"table": lines}] if source.is_table else by_target[""].values()
    twice = [problem for parts in held for problem in _images_twice(parts)]
    problems += dict.fromkeys([*twice, *missing])
    title = f"{name_or_path if source.is_table else source.folder}: {len(problems):,} problems in the dataset:"
    way_out = "Mend or remove these lines, then run the same command again; nothing was computed."
    refuse(BadInput, title, problems, way_out)
    names = tuple(sorted({line.name for line in lines}))
    row_of = {name: row for row, name in enumerate(names)}
    found = each_part(by_target, lambda lines: _part(lines, row_of))
    same = find_duplicates([images / name for name in names])
    if drop_duplicates:
        found = {target: without_duplicates(splits, same) for target, splits in found.items()}
    return Dataset(
        source.name,
        images,
        names,
        found,
        None if source.is_table else source.folder,
        source.read.drawn,
        source.read.ignored,
        (*source.read.notes, *_notes_of(names, found, same)),
    )


class _Source(NamedTuple):
    """What a dataset was read from: its name, a table or not, and the folder of the table's paths or of images/."""

    name: str
    is_table: bool
    folder: Path
    read: ReadRatings


def _read(
    name_or_path: str, root: str | Path | None, path_column: str, score_columns: Sequence[str], problems: list[str]
) -> _Source:
    """Read a table or split files; append what is wrong with their lines to problems."""
    if is_table(name_or_path):
        table = Path(name_or_path)
        home = Path(root) if root is not None else table.parent
        read = read_ratings(table, problems, folder=home, path_column=path_column, score_columns=score_columns)
        return _Source(table.stem, True, home, read)
    if path_column or score_columns:
        raise InvalidSettings(f"--path-column and --score-column are of a table, FILE.csv; {name_or_path} is none")
    folder = _find(name_or_path, root)
    splits, ignored = read_split_files(folder / "splits", problems)
    name = name_or_path if name_or_path in KNOWN else _name_of(folder)
    return _Source(name, False, folder, ReadRatings(folder / "images", {"": splits}, False, ignored, ()))


def _notes_of(names: Sequence[str], ratings: Ratings, same: Sequence[Sequence[int]]) -> list[str]:
    """Return what to know of files under several names, in all and in parts, and of parts too weak to judge by."""
    return [
        *_notes_of_duplicates(names, same),
        *(
            _of_target(target, one)
            for target, splits in ratings.items()
            for one in _notes_of_parts(names, splits, same)
        ),
        *(_of_target(target, one) for target, splits in ratings.items() for one in weak_parts(splits)),
    ]


def refuse_untrainable(dataset: Dataset) -> None:
    """Raise `BadInput` with every reason if a split has a train part on which nothing can be trained."""
    reasons = [
        _of_target(target, reason)
        for target, splits in dataset.ratings.items()
        for reason in why_untrainable(splits, drawn=dataset.drawn)
    ]
    own_splits = "a column split with train, val and test in each line"
    drawn = f"Splits can be drawn from {FEWEST_DRAWN} images, of different scores, or more; add images, or {own_splits}"
    way_out = drawn if dataset.drawn else "Move images between the parts, or leave these splits out"
    refuse(BadInput, f"{dataset.name}: splits that cannot be trained on:", reasons, f"{way_out}; nothing was computed.")


def _notes_of_duplicates(names: Sequence[str], same: Sequence[Sequence[int]]) -> list[str]:
    """Return how many images are the same file as another, and a few."""
    if not same:
        return []
    few = ", ".join(" = ".join(names[row] for row in group[:3]) for group in same[:3])
    number = sum(map(len, same))
    return [f"{number:,} images are {len(same):,} files under several names: {few}{', ...' if len(same) > 3 else ''}"]


def _notes_of_parts(names: Sequence[str], splits: Splits, same: Sequence[Sequence[int]]) -> list[str]:
    """Return warnings of files that are in several parts of a split."""
    return [
        f"warning: split {split}: {len(pairs):,} images of {part} are the same file as one of a later part, first "
        f"{names[pairs[0][0]]} = {names[pairs[0][1]]}; what a head learns from cannot judge it: leave them "
        f"out of {part} with --drop-duplicates"
        for (split, part), pairs in across_parts(splits, same).items()
    ]


def _of_target(target: str, text: str) -> str:
    return f"target {target}: {text}" if target else text


def _renamed(lines: Iterable[Line], own_names: Mapping[str, str]) -> list[Line]:
    """Return lines under their files' own names."""
    return [line._replace(name=own_names.get(line.name, line.name)) for line in lines]


def _lines_of(ratings: Mapping[str, Mapping[str, Mapping[str, list[Line]]]], *, in_order: bool) -> list[Line]:
    """Return each line once, whatever its targets and splits; in_order puts those of one file as they stand there."""
    parts = [parts for splits in ratings.values() for parts in splits.values()]
    lines = list({line.place: line for one in parts for part_lines in one.values() for line in part_lines}.values())
    return sorted(lines, key=lambda line: int(line.place.rpartition(":")[2])) if in_order else lines


def _find(name_or_dir: str, root: str | Path | None) -> Path:
    known = name_or_dir in KNOWN
    folder = Path(root) if root is not None else Path("data", name_or_dir) if known else Path(name_or_dir)
    missing = [sub for sub in ("images", "splits") if not (folder / sub).is_dir()]
    if missing:
        hint = f"Pass --root DIR, the folder that holds {name_or_dir}'s images/ and splits/." if known else ""
        raise BadInput(
            f"{folder}: no {' and no '.join(f'{sub}/' for sub in missing)} folder. A dataset is a folder with images/ "
            f"and splits/{{train,val,test}}_K.txt, lines `NAME SCORE`. {hint}".rstrip()
        )
    return folder


def _images_twice(parts: Mapping[str, Iterable[Line]]) -> list[str]:
    """List each line of a split whose image is in another line of it, which may spell its name in another form."""
    place_of: dict[str, tuple[str, str]] = {}
    problems = []
    for part, lines in parts.items():
        for line in lines:
            other_part, place = place_of.setdefault(line.name, (part, line.place))
            if other_part != part:
                problems.append(f"{line.place}: {line.name} is in another part of the same split, {place}")
            elif place != line.place:
                problems.append(f"{line.place}: {line.name} is already at {place}, in another Unicode form")
    return problems


def _part(lines: list[Line], row_of: dict[str, int]) -> Part:
    rows = np.array([row_of[line.name] for line in lines], dtype=np.int64)
    return Part(rows, np.array([line.score for line in lines], dtype=np.float64))


def _name_of(folder: Path) -> str:
    """Return the folder's name as it was typed, though it be a link; that of '.' and '..' is the real one."""
    return folder.absolute().name if folder.name not in ("", "..") else folder.resolve().name
