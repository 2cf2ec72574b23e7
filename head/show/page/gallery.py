"""What a page knows of each image: its score in a split, what every head predicts, and where one head looks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from featcache.cache import FeatureCache
from featcache.errors import InvalidSettings
from featcache.split_files import natural_key

from ...data import present_part
from ...evaluation import Evaluation
from ...maps import attention_of
from ...rows import Row, without_seed
from ...runs import Run
from ...score import Scored
from .packed import PackedMaps, pack_maps

LARGEST_MAPS = 16_000_000  # bytes of all maps of a page


@dataclass(frozen=True)
class Entry:
    """One image, a row of the cache, in one split: its score there, and each table row's prediction, if it has one.

    steps (T) and maps are those of the row that is shown; without, it has no run of this split, or does not look.
    """

    split: str
    row: int
    truth: float
    predictions: tuple[float | None, ...]
    steps: tuple[float, ...]
    maps: PackedMaps | None

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object, scores to six digits."""
        return {
            "split": self.split,
            "row": self.row,
            "truth": round(self.truth, 6),
            "predictions": [None if value is None else round(value, 6) for value in self.predictions],
            "steps": [round(value, 6) for value in self.steps],
            "maps": self.maps.as_json() if self.maps else None,
        }


@dataclass(frozen=True)
class Gallery:
    """Entries by split and place in its part; shown is the number of the table row whose maps they have.

    images counts all of the part, of which the entries may be a choice.
    """

    shown: int
    entries: Sequence[Entry]
    images: int

    @property
    def rows(self) -> list[int]:
        """The rows of the cache that are in it, in order."""
        return sorted({entry.row for entry in self.entries})


def shown_row(evaluation: Evaluation, name: str | None) -> int:
    """Return the number of the row called name; by default the reference of the comparisons, if its head looks.

    If that does not, the first row that does is taken, else the reference. Raises `InvalidSettings` if not exactly
    one row can be meant.
    """
    rows = evaluation.rows
    if name is not None:
        return find_row({row.name: [one.run for one in row.scored] for row in rows}, name)
    against = evaluation.comparisons[0].against if evaluation.comparisons else rows[0].name
    reference = next(k for k, row in enumerate(rows) if row.name == against)
    looking = [k for k, row in enumerate(rows) if row.scored[0].run.attends]
    return reference if reference in looking or not looking else looking[0]


def find_row(rows: Mapping[str, Sequence[Run]], name: str) -> int:
    """Return the number of the row called name, or else of the only one with runs that are, whatever their seed.

    Raises `InvalidSettings` if there is none, or more than one.
    """
    if name in rows:
        return list(rows).index(name)
    found = [
        k for k, runs in enumerate(rows.values()) if any(name in (run.name, without_seed(run.name)) for run in runs)
    ]
    if len(found) != 1:
        problem = "more than one row" if found else "no such row"
        raise InvalidSettings(f"--head {name}: {problem}; name one of {', '.join(rows)}")
    return found[0]


def gallery_of(
    cache: FeatureCache, evaluation: Evaluation, *, shown: int = 0, most: int = 2000, budget: int = LARGEST_MAPS
) -> Gallery:
    """Return the gallery of all images that were scored, or of so many: half by lot, the others at the extremes.

    There are no more than have maps of about budget bytes together, as text. Of a row with several seeds, the
    predictions are those of the first.
    """
    firsts = [first_seeds(row) for row in evaluation.rows]
    splits = sorted({result.run.split for result in evaluation.scored}, key=natural_key)
    entries = [entry for split in splits for entry in _of_split(cache, split, firsts, shown)]
    images = len({entry.row for entry in entries})
    taken = sum(entry.maps.text_bytes for entry in entries if entry.maps)
    kept = _chosen(entries, shown, min(most, max(1, images * budget // max(1, taken))))
    return Gallery(shown, [entry for entry in entries if entry.row in kept], images)


def first_seeds(row: Row) -> dict[str, Scored]:
    """Return the result of a row's first seed in each of its splits."""
    ordered = sorted(row.scored, key=lambda one: int(one.run.config["settings"].get("seed", 0)), reverse=True)
    return {one.run.split: one for one in ordered}


def _of_split(cache: FeatureCache, split: str, firsts: Sequence[dict[str, Scored]], shown: int) -> list[Entry]:
    results = [first.get(split) for first in firsts]
    part = next(result.part for result in results if result)
    present = present_part(cache, cache.splits[split][part])
    one = results[shown]
    batches = attention_of(cache, one.run, present.rows) if one else None
    maps = None if batches is None else [pack_maps(maps) for batch in batches for maps in batch]
    return [
        Entry(
            split=split,
            row=int(row),
            truth=float(truth),
            predictions=tuple(float(result.prediction[k]) if result else None for result in results),
            steps=tuple(one.step_scores[k].tolist()) if one else (),
            maps=maps[k] if maps else None,
        )
        for k, (row, truth) in enumerate(zip(present.rows, present.scores, strict=True))
    ]


def _chosen(entries: Sequence[Entry], shown: int, most: int) -> set[int]:
    """Return the rows of at most so many images: by turns one by lot and one from an extreme."""
    rows = {entry.row for entry in entries}
    if len(rows) <= most:
        return rows
    truth = np.array([entry.truth for entry in entries])
    given = [entry.predictions[shown] for entry in entries]
    predicted = np.array([np.nan if value is None else value for value in given])
    keys = (truth, -truth, predicted, -predicted, -np.abs(predicted - truth))
    extremes = [iter(np.argsort(key, kind="stable")) for key in keys]
    lot = iter(np.random.default_rng(0).permutation(len(entries)))
    kept: set[int] = set()
    for extreme in cycle(extremes):
        for order in (lot, extreme):
            place = next((place for place in order if entries[place].row not in kept), None)
            if place is not None:
                kept.add(entries[place].row)
            if len(kept) == most:
                return kept
    return kept
