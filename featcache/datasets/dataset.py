"""Datasets: which images there are, and which score each has in which part of which split.

Knows nothing of pixels. A score belongs to (split, part, image): in LaMem the same image has another
score in another split.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from featcache.base.errors import BadInput, InvalidSettings, refuse
from featcache.datasets.drawing import FEWEST_DRAWN, Drawing, how_drawn
from featcache.datasets.duplicates import (
    LOOK_ALIKE,
    SAME_FILE,
    Likeness,
    dropped,
    find_duplicates,
    of_parts,
    without_duplicates,
)
from featcache.datasets.image_files import find_image_files
from featcache.datasets.ratings import Counted, ReadRatings, read_ratings
from featcache.datasets.reliability import RELIABILITY_NAME, Raters, Reliability, read_reliability
from featcache.datasets.split_files import Line, read_split_files
from featcache.datasets.splits import Others, Part, Ratings, Splits, each_part, weak_parts, why_untrainable
from featcache.datasets.table import is_table

KNOWN = ("lamem", "sun")


@dataclass(frozen=True)
class Dataset:
    """names[i] is the image of row i, relative to folder images; ratings[target][split][part] says which rows it holds.

    The target is '' where there is one rating without a name; then splits are its splits. root is the folder of images/
    and splits/, None for a table of ratings; drawing is what its splits were drawn from, if it gave none. same are
    rows of the same file, groups those of the same group of a table. others[split] are rows of a split's test part with
    their scores by other people; nothing is trained, selected or tested on those. raters[target] are the numbers of
    ratings and standard errors of scores, reliability[target] is how far raters agree, where known. drop_duplicates
    says that train and val have given up images that a later part has. ignored names what was not read: other files in
    splits/, other columns of a table. notes tells what was read as what, how splits were drawn, and which parts are too
    weak to judge by.
    """

    name: str
    images: Path
    names: tuple[str, ...]
    ratings: Ratings
    root: Path | None = None
    drawing: Drawing | None = None
    same: tuple[tuple[int, ...], ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()
    others: Others = field(default_factory=dict)
    raters: Mapping[str, Raters] = field(default_factory=dict)
    reliability: Mapping[str, Reliability] = field(default_factory=dict)
    drop_duplicates: bool = False
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

    def with_near_duplicates(self, groups: Sequence[Sequence[int]]) -> "Dataset":
        """Return it with rows of each group, of images that look alike, treated as those of the same file are.

        Drawn splits are drawn anew, with each group in one part, and drop_duplicates takes images out of train and val.
        The splits of a target stay as they are where that would leave one without a part, or nothing to train on.
        Its notes are of what this came to alone.
        """
        apart = self._apart(groups) if groups else self.ratings
        ratings = {
            target: apart[target] if _as_good(apart[target], splits) else splits
            for target, splits in self.ratings.items()
        }
        notes = LOOK_ALIKE.notes(self.names, groups)
        for target, splits in ratings.items():
            if groups and splits is not self.ratings[target]:
                notes += [_of_target(target, f"each group is in one part: {how_drawn(splits)}")] if self.drawing else []
                notes += [] if self.drawing else _dropped({target: self.ratings[target]}, {target: splits})
                notes += [
                    _of_target(target, one) for one in weak_parts(splits) if one not in weak_parts(self.ratings[target])
                ]
            elif splits is not apart[target]:
                notes.append(_of_target(target, "warning: too few images are left with each group in one part"))
        notes += _of_parts(self.names, ratings, groups, LOOK_ALIKE)
        return replace(self, ratings=ratings, notes=tuple(notes))

    def _apart(self, groups: Sequence[Sequence[int]]) -> Ratings:
        """Return its ratings drawn anew with each group in one part, or without what drop_duplicates takes out."""
        ratings = self.ratings
        if self.drawing:
            together = [[self.names[row] for row in group] for group in (*self.same, *groups)]
            ratings = _with_rows(self.drawing.draw(together), self.names)
        if self.drop_duplicates:
            ratings = {target: without_duplicates(splits, groups) for target, splits in ratings.items()}
        return ratings

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
    splits/{train,val,test}_K.txt with lines `NAME SCORE`, maybe others_K.txt and reliability.json, or a table
    FILE.csv, FILE.tsv or FILE.txt as `featcache.datasets.ratings` reads it, paths relative to root (default: the
    table's folder); path_column and score_columns name its columns where it calls them otherwise, several scores
    several targets. An image has the name of its file, which in the table may be in another Unicode form.
    drop_duplicates takes images out of train and val whose file is in a later part under another name. Raises
    `BadInput` with every problem of every file, each with file and line, and `InvalidSettings` for a column that is not
    there.
    """
    problems: list[str] = []
    source = _read(name_or_path, root, path_column, score_columns, problems)
    by_target, drawing, images = source.read.ratings, source.read.drawing, source.read.images
    others = source.read.others
    lines = _lines_of(by_target, drawing, in_order=source.is_table)
    missing: list[str] = []
    own_names = find_image_files(images, lines, missing, home=source.folder if source.is_table else None)
    if own_names:
        by_target = each_part(by_target, lambda lines: _renamed(lines, own_names))
        others = {split: _renamed(lines, own_names) for split, lines in others.items()}
        if drawing:
            rated = {target: _renamed(lines, own_names) for target, lines in drawing.lines.items()}
            drawing = replace(drawing, lines=rated)
        lines = _lines_of(by_target, drawing, in_order=source.is_table)
    held = (
        [{"table": lines}]
        if source.is_table
        else [*by_target[""].values(), *({"others": each} for each in others.values())]
    )
    twice = [problem for parts in held for problem in _images_twice(parts)]
    problems += dict.fromkeys([*twice, *missing])
    title = f"{name_or_path if source.is_table else source.folder}: {len(problems):,} problems in the dataset:"
    way_out = "Mend or remove these lines, then run the same command again; nothing was computed."
    refuse(BadInput, title, problems, way_out)
    names = tuple(sorted({line.name for line in lines}))
    row_of = {name: row for row, name in enumerate(names)}
    same = find_duplicates([images / name for name in names])
    drawn = drawing.draw([[names[row] for row in group] for group in same]) if drawing else {}
    found = _with_rows(drawn or by_target, names)
    given = found
    if drop_duplicates:
        found = {target: without_duplicates(splits, same) for target, splits in found.items()}
    notes = [
        *source.read.notes,
        *_of_others(others),
        *(_how_drawn(found) if drawing else []),
        *SAME_FILE.notes(names, same),
        *_dropped(given, found),
        *_of_parts(names, found, same, SAME_FILE),
        *(_of_target(target, one) for target, splits in found.items() for one in weak_parts(splits)),
    ]
    return Dataset(
        source.name,
        images,
        names,
        found,
        root=None if source.is_table else source.folder,
        drawing=drawing,
        same=tuple(map(tuple, same)),
        groups=_grouped(lines, source.read.groups, row_of),
        others={split: _part(each, row_of) for split, each in others.items()},
        raters={target: _raters(lines, counted, row_of) for target, counted in source.read.counted.items()},
        reliability=source.read.reliability,
        drop_duplicates=drop_duplicates,
        ignored=source.read.ignored,
        notes=tuple(notes),
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
    files = read_split_files(folder / "splits", problems)
    name = name_or_path if name_or_path in KNOWN else _name_of(folder)
    notes: list[str] = []
    reliability = read_reliability(folder / RELIABILITY_NAME, problems, notes)
    ratings = {"": files.splits}
    read = ReadRatings(folder / "images", ratings, None, {}, files.ignored, tuple(notes), files.others, {}, reliability)
    return _Source(name, False, folder, read)


def _as_good(changed: Splits, splits: Splits) -> bool:
    """Whether changed splits can be trained on as the others can, and have the same parts with images in them."""
    parts = [{part for part, found in parts.items() if len(found.rows)} for parts in splits.values()]
    left = [{part for part, found in parts.items() if len(found.rows)} for parts in changed.values()]
    return parts == left and len(why_untrainable(changed, drawn=False)) <= len(why_untrainable(splits, drawn=False))


def _how_drawn(ratings: Ratings) -> list[str]:
    """Return how the splits of each target that was rated were drawn."""
    return [_of_target(target, how_drawn(splits)) for target, splits in ratings.items() if splits]


def _of_others(others: Mapping[str, Sequence[Line]]) -> list[str]:
    """Return how many splits have scores by other people, if any."""
    having = "1 split has" if len(others) == 1 else f"{len(others):,} splits have"
    return [f"{having} scores of test images by other people (others_K.txt)"] if others else []


def _of_parts(names: Sequence[str], ratings: Ratings, groups: Sequence[Sequence[int]], likeness: Likeness) -> list[str]:
    """Return warnings of groups that are in several parts of a split."""
    return [
        _of_target(target, one)
        for target, splits in ratings.items()
        for one in of_parts(names, splits, groups, likeness)
    ]


def _dropped(before: Ratings, after: Ratings) -> list[str]:
    """Return how many images drop_duplicates took out of which parts."""
    return [_of_target(target, one) for target in before for one in dropped(before[target], after[target])]


def refuse_untrainable(dataset: Dataset) -> None:
    """Raise `BadInput` with every reason if a split has a train part on which nothing can be trained."""
    reasons = [
        _of_target(target, reason)
        for target, splits in dataset.ratings.items()
        for reason in why_untrainable(splits, drawn=dataset.drawing is not None)
    ]
    own_splits = "a column split with train, val and test in each line"
    drawn = (
        f"Splits can be drawn from {FEWEST_DRAWN} images of different scores, or more, where those of a group and "
        f"those of the same file count as one; add images, or {own_splits}"
    )
    way_out = drawn if dataset.drawing else "Move images between the parts, or leave these splits out"
    if len(dataset.ratings) > 1:
        way_out += "; name the columns of the other targets with --score-column to go on without one"
    refuse(BadInput, f"{dataset.name}: splits that cannot be trained on:", reasons, f"{way_out}; nothing was computed.")


def _of_target(target: str, text: str) -> str:
    return f"target {target}: {text}" if target else text


def _renamed(lines: Iterable[Line], own_names: Mapping[str, str]) -> list[Line]:
    """Return lines under their files' own names."""
    return [line._replace(name=own_names.get(line.name, line.name)) for line in lines]


def _lines_of(
    ratings: Mapping[str, Mapping[str, Mapping[str, list[Line]]]], drawing: Drawing | None, *, in_order: bool
) -> list[Line]:
    """Return each line once, whatever its targets and splits; in_order puts those of one file as they stand there."""
    of_parts = [lines for splits in ratings.values() for parts in splits.values() for lines in parts.values()]
    several = [*of_parts, *(drawing.lines.values() if drawing else ())]
    lines = list({line.place: line for found in several for line in found}.values())
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


def _grouped(
    lines: Iterable[Line], groups: Mapping[str, str], row_of: Mapping[str, int]
) -> tuple[tuple[int, ...], ...]:
    """Return the rows of each group that holds several images; groups has that of each line by its place."""
    found = defaultdict[str, list[int]](list)
    for line in lines:
        if line.place in groups:
            found[groups[line.place]].append(row_of[line.name])
    return tuple(tuple(rows) for rows in found.values() if len(rows) > 1)


def _with_rows(ratings: Mapping[str, Mapping[str, Mapping[str, Sequence[Line]]]], names: Sequence[str]) -> Ratings:
    """Return ratings whose lines are rows, those of names."""
    row_of = {name: row for row, name in enumerate(names)}
    return each_part(ratings, lambda lines: _part(lines, row_of))


def _part(lines: Sequence[Line], row_of: Mapping[str, int]) -> Part:
    rows = np.array([row_of[line.name] for line in lines], dtype=np.int64)
    return Part(rows, np.array([line.score for line in lines], dtype=np.float64))


def _raters(lines: Iterable[Line], counted: Mapping[str, Counted], row_of: Mapping[str, int]) -> Raters:
    """Return the numbers of ratings and standard errors of the lines that have some; counted has them by place."""
    found = [(row_of[line.name], counted[line.place]) for line in lines if line.place in counted]
    columns = {what for _, one in found for what in one}
    return Raters(
        np.array([row for row, _ in found], np.int64),
        np.array([one["n"] for _, one in found], np.int64) if "n" in columns else None,
        np.array([one["se"] for _, one in found], np.float64) if "se" in columns else None,
    )


def _name_of(folder: Path) -> str:
    """Return the folder's name as it was typed, though it be a link; that of '.' and '..' is the real one."""
    return folder.absolute().name if folder.name not in ("", "..") else folder.resolve().name
