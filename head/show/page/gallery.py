"""What a page knows of each image: its score in a split, what every head predicts, and where one head looks."""

import base64
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.base.commands import command
from featcache.base.errors import BadInput, InvalidSettings, Mismatch
from featcache.datasets.splits import natural_key
from featcache.store.cache import FeatureCache
from head.data.batches import present_part
from head.data.inputs import on_tokens
from head.data.several import inputs_of
from head.evaluation.evaluate import Evaluation
from head.evaluation.metrics import json_number
from head.evaluation.score import Scored, attention_of
from head.evaluation.summary import called
from head.explain.occlusion import occludes, occlusion_of, places_of
from head.prediction.nearest import Neighbours, rated_images
from head.runs.head_file import train_images_of
from head.runs.run import Run

LARGEST_ENTRIES = 16_000_000  # bytes of all entries of a page with their maps
_QUANTILES = 101
_LABELS = 80  # bytes around the levels of an entry's maps
_NEAR = 150  # bytes of an entry's neighbours


@dataclass(frozen=True)
class PackedMaps:
    """Attention maps of one image, levels uint8 (T, H, W): 0 is none and 255 is high, in all T alike.

    on_tokens (T) is the share of attention that is on no place. Of occlusion 127 is no change of the score, 0 is high
    downwards and 254 is high upwards.
    """

    levels: NDArray[np.uint8]
    high: float
    on_tokens: Sequence[float]
    occlusion: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object; high is in even shares, 1/L, which every place has without attention.

        Of occlusion it is in units of the score.
        """
        T, H, W = self.levels.shape
        return {
            "kind": "occlusion" if self.occlusion else "attention",
            "shape": [T, H, W],
            "levels": base64.b64encode(self.levels.tobytes()).decode(),
            "high": float(f"{self.high:.4g}") if self.occlusion else round(self.high * H * W, 4),
            "on_tokens": [round(share, 4) for share in self.on_tokens],
        }


def pack_maps(maps: NDArray[np.float32]) -> PackedMaps | None:
    """Round the maps of one image (T, H, W), which sum to 1 less what is on tokens, to 256 levels up to the largest.

    None if they are not finite.
    """
    high = float(maps.max())
    if not math.isfinite(high):
        return None
    shares = maps.astype(np.float64) / (high or 1.0)
    return PackedMaps(np.rint(shares * 255).astype(np.uint8), high, on_tokens(maps))


def pack_occlusion(maps: NDArray[np.float32]) -> PackedMaps | None:
    """Round an occlusion map (1, H, W) to 255 levels, as many below no change as above; None if it is not finite."""
    high = float(np.abs(maps).max())
    if not math.isfinite(high):
        return None
    levels = np.rint(127 + 127 * maps.astype(np.float64) / (high or 1.0)).astype(np.uint8)
    return PackedMaps(levels, high, [0.0], occlusion=True)


@dataclass(frozen=True)
class Entry:
    """One image, a row of the cache, in one split: its score there, and each table row's prediction, if it has one.

    steps (T) and maps are those of the row that is shown; without, it has no run of this split, or nothing has a place.
    neighbours are the nearest images that its run was trained on, None where there is no run, or it reads pixels alone.
    """

    split: str
    row: int
    truth: float
    predictions: tuple[float | None, ...]
    steps: tuple[float, ...]
    maps: PackedMaps | None = None
    neighbours: Neighbours | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object, scores to six digits; what is not finite becomes null."""
        return {
            "split": self.split,
            "row": self.row,
            "truth": round(self.truth, 6),
            "predictions": [None if one is None else json_number(round(one, 6)) for one in self.predictions],
            "steps": [json_number(round(one, 6)) for one in self.steps],
            "maps": self.maps.as_json() if self.maps else None,
            **({} if self.neighbours is None else _as_rows(self.neighbours)),
        }


def _as_rows(neighbours: Neighbours) -> dict[str, Any]:
    """Return row, rating and distance of each of some neighbours, and whether the image is far from all."""
    near = [[one.row, round(one.rating, 6), round(one.distance, 4)] for one in neighbours.nearest]
    return {"near": near, "far": neighbours.far}


@dataclass(frozen=True)
class Gallery:
    """Entries by split and place in its part; shown is the number of the table row whose maps they have.

    images counts all of the part, of which the entries may be a choice; ratings are quantiles of the scores of all, in
    even steps from the least to the largest.
    """

    shown: int
    entries: Sequence[Entry]
    images: int
    ratings: Sequence[float]

    @property
    def rows(self) -> list[int]:
        """The rows of the cache that are in it, in order."""
        return sorted({entry.row for entry in self.entries})

    @property
    def near_rows(self) -> list[int]:
        """The rows that are the neighbours of some, and not in it, in order."""
        near = {one.row for entry in self.entries if entry.neighbours for one in entry.neighbours.nearest}
        return sorted(near - set(self.rows))


def shown_summary(evaluation: Evaluation, name: str | None) -> int:
    """Return the number of the summary called name; by default the reference of the comparisons, if its head looks.

    If that does not, the first that does is taken, else the reference. Raises `InvalidSettings` if not exactly
    one can be meant.
    """
    summaries = evaluation.summaries
    if name is not None:
        return find_summary({one.name: one.runs for one in summaries}, name)
    against = evaluation.comparisons[0].against if evaluation.comparisons else summaries[0].name
    reference = next(k for k, one in enumerate(summaries) if one.name == against)
    looking = [k for k, one in enumerate(summaries) if one.scored[0].run.attends]
    return reference if reference in looking or not looking else looking[0]


def find_summary(runs_by_name: Mapping[str, Sequence[Run]], name: str) -> int:
    """Return the number of the summary called name, or else of the only one with runs that are, whatever their seed.

    Raises `InvalidSettings` if there is none, or more than one.
    """
    found = called(runs_by_name, name)
    if len(found) != 1:
        problem = "more than one row" if found else "no such row"
        raise InvalidSettings(f"{command('--head', name)}: {problem}; name one of {', '.join(runs_by_name)}")
    return list(runs_by_name).index(found[0])


def gallery_of(
    cache: FeatureCache, evaluation: Evaluation, *, shown: int = 0, most: int = 2000, budget: int = LARGEST_ENTRIES
) -> Gallery:
    """Return the gallery of all images that were scored, or of so many: half by lot, the others at the extremes.

    There are no more than make about budget bytes of text with their maps. Of a row with several seeds, the predictions
    are those of the first.
    """
    firsts = [summary.first_seeds() for summary in evaluation.summaries]
    splits = sorted({result.run.split for result in evaluation.scored}, key=natural_key)
    entries = [entry for split in splits for entry in _of_split(cache, split, firsts)]
    scores = {entry.row: entry.truth for entry in entries}
    taken = sum(len(json.dumps(entry.as_json())) + _NEAR for entry in entries) + _map_bytes(firsts[shown], entries)
    kept = _chosen(entries, shown, min(most, max(1, len(scores) * budget // taken)))
    found = [entry for entry in entries if entry.row in kept]
    ratings = np.quantile(list(scores.values()), np.linspace(0, 1, _QUANTILES), method="inverted_cdf").tolist()
    looked_at = [entry for split in splits for entry in _with_looks(cache, split, firsts[shown].get(split), found)]
    return Gallery(shown, looked_at, len(scores), ratings)


def _of_split(cache: FeatureCache, split: str, firsts: Sequence[dict[str, Scored]]) -> list[Entry]:
    """Return the entries of a split, without steps and maps."""
    results = [first.get(split) for first in firsts]
    part = next(result.part for result in results if result)
    present = present_part(cache, cache.splits[split][part])
    predictions = zip(*(result.prediction if result else repeat(None) for result in results), strict=False)
    return [
        Entry(split, int(row), float(truth), tuple(None if value is None else float(value) for value in values), ())
        for row, truth, values in zip(present.rows, present.scores, predictions, strict=True)
    ]


def _map_bytes(first: dict[str, Scored], entries: Sequence[Entry]) -> int:
    """Return about how many bytes steps and maps of a row's runs will take as text."""
    counts, taken = Counter(entry.split for entry in entries), 0
    for split, scored in first.items():
        run = scored.run
        steps, positions = scored.step_scores.shape[1], 0
        if run.attends:
            positions = run.input.map_shape(run.recipe).positions
        elif occludes(run):
            (source,) = inputs_of(run.input)
            height, width = places_of(source, run.recipe)
            positions = height * width
        if positions:
            taken += counts[split] * (-(-steps * positions // 3) * 4 + 20 * steps + _LABELS)  # base64 has 4 for 3
    return taken


def _with_looks(cache: FeatureCache, split: str, scored: Scored | None, entries: Sequence[Entry]) -> list[Entry]:
    """Return a split's entries with the steps and maps of a run, if it is there and looks."""
    own = [entry for entry in entries if entry.split == split]
    if scored is None:
        return own
    rows = present_part(cache, cache.splits[split][scored.part]).rows
    steps = dict(zip(rows.tolist(), scored.step_scores.tolist(), strict=True))
    found = np.array([entry.row for entry in own], np.int64)
    maps: Iterable[PackedMaps | None] = repeat(None)
    if batches := attention_of(cache, scored.run, found):
        maps = (pack_maps(one) for batch in batches for one in batch)
    elif occludes(scored.run):
        maps = (pack_occlusion(one) for batch in occlusion_of(cache, scored.run, found) for one in batch)
    neighbours = _neighbours(cache, scored.run, found)
    return [
        replace(entry, steps=tuple(steps[entry.row]), maps=packed, neighbours=near)
        for entry, packed, near in zip(own, maps, neighbours, strict=False)
    ]


def _neighbours(cache: FeatureCache, run: Run, rows: NDArray[np.int64]) -> Iterable[Neighbours | None]:
    """Return the neighbours of rows among the images that a run was trained on, None where it has none."""
    try:
        return rated_images(cache, [run], train_images_of(run)).of_rows(cache, rows)
    except (BadInput, InvalidSettings, Mismatch):  # imported, so nobody knows its images, or it reads pixels
        return repeat(None)


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
