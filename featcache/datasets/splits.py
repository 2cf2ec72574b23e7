"""Splits: rows and scores of each part, their order, and splits of several caches joined. Knows nothing of shards."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from featcache.base.errors import BadInput, counted, refuse


@dataclass(frozen=True)
class Part:
    """Rows of the dataset and their scores in one part of one split: int64 (n), float64 (n)."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]


Splits = dict[str, dict[str, Part]]
Ratings = dict[str, Splits]  # by target: what was rated, such as beauty; '' where that is one thing alone
Others = Mapping[str, Part]  # by split: scores of images of its test part by other people; no part of it
PARTS = ("train", "val", "test")
Of = TypeVar("Of")
Found = TypeVar("Found")
FEWEST_TO_SELECT = 20  # images of a part that is drawn to select by; of fewer all of train selects, fold by fold
FEWEST_IMAGES = 2  # of different scores, in a part that is to train, to select an epoch, or to judge by


def each_part(
    ratings: Mapping[str, Mapping[str, Mapping[str, Of]]], call: Callable[[Of], Found]
) -> dict[str, dict[str, dict[str, Found]]]:
    """Return what a call gives for each part of each split of each target."""
    return {
        target: {split: {part: call(found) for part, found in parts.items()} for split, parts in splits.items()}
        for target, splits in ratings.items()
    }


def merge_ratings(inputs: Sequence[tuple[Ratings, Mapping[int, str]]], row_of: Mapping[str, int]) -> Ratings:
    """Return the union of what `merge_splits` returns of each target; raise `BadInput` as it does."""
    targets = dict.fromkeys(target for ratings, _ in inputs for target in ratings)
    if "" in targets and len(targets) > 1:
        raise BadInput(
            f"some inputs have one rating without a name, others have {', '.join(filter(None, targets))}; "
            "extract them anew from tables with the same columns of scores"
        )
    return {
        target: merge_splits([(ratings[target], names) for ratings, names in inputs if target in ratings], row_of)
        for target in targets
    }


def merge_splits(inputs: Sequence[tuple[Splits, Mapping[int, str]]], row_of: Mapping[str, int]) -> Splits:
    """Return the union of splits, each with the names of its rows, as rows of another cache.

    Raises `BadInput` that lists every contradiction: two scores of an image in one part, or an image in two parts.
    """
    scores, problems = _joined_scores(inputs)
    for split, by_part in scores.items():
        seen: set[str] = set()
        for part in PARTS:
            problems += [
                f"split {split}: {name} is in {part} and in another part" for name in by_part[part] if name in seen
            ]
            seen |= set(by_part[part])
    _refuse_contradictions(problems)
    return {
        split: {part: _as_rows(found, row_of) for part in PARTS if (found := scores[split][part])}
        for split in sorted(scores, key=natural_key)
    }


def merge_others(inputs: Sequence[tuple[Others, Mapping[int, str]]], row_of: Mapping[str, int]) -> Others:
    """Return the union of scores by other people, as `merge_splits` does that of splits, and with its errors."""
    as_parts = [({split: {"others": part} for split, part in others.items()}, names) for others, names in inputs]
    scores, problems = _joined_scores(as_parts)
    _refuse_contradictions(problems)
    return {split: _as_rows(scores[split]["others"], row_of) for split in sorted(scores, key=natural_key)}


def _joined_scores(
    inputs: Sequence[tuple[Splits, Mapping[int, str]]],
) -> tuple[dict[str, dict[str, dict[str, float]]], list[str]]:
    """Return the score of each image by split and part, and a problem for each that has two in one part."""
    scores: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    problems = []
    for splits, names in inputs:
        for split, parts in splits.items():
            for part, values in parts.items():
                for row, score in zip(values.rows.tolist(), values.scores.tolist(), strict=True):
                    name = names[row]
                    if scores[split][part].setdefault(name, score) != score:
                        problems.append(f"{part}_{split}: {name} has two scores")
    return scores, problems


def _refuse_contradictions(problems: Sequence[str]) -> None:
    refuse(BadInput, "the splits of the inputs contradict each other:", problems, "Mend the split files.")


def _as_rows(scores: Mapping[str, float], row_of: Mapping[str, int]) -> Part:
    return Part(np.array([row_of[name] for name in scores], np.int64), np.array([*scores.values()], np.float64))


def why_untrainable(splits: Splits, *, drawn: bool) -> list[str]:
    """Return for which splits nothing can be trained on the train part, and why; one given without it may be meant."""
    reasons = {}
    for split, parts in splits.items():
        if "train" in parts:
            weak = why_weak(parts["train"])
            reasons[split] = f"its train part {weak}" if weak else ""
        elif drawn:
            reasons[split] = (
                f"its test part takes {counted(len(parts['test'].rows), 'image')}, which leaves none to train"
            )
        if drawn and "test" not in parts:
            reasons[split] = "all images are one group, or one file, so none are left to test"
    return _by_reason(reasons)


def weak_parts(splits: Splits) -> list[str]:
    """Return warnings of val and test parts by which nothing can be judged, and of splits that only train."""
    what_for = {"val": "a share of train selects heads instead", "test": "no rank correlation can be computed on it"}
    found = []
    for part, lacks in what_for.items():
        weak = {split: why_weak(parts[part]) for split, parts in splits.items() if part in parts}
        found += _by_reason({split: f"its {part} part {why}: {lacks}" for split, why in weak.items() if why})
    untested = [split for split, parts in splits.items() if "train" in parts and "test" not in parts]
    found += _by_reason(dict.fromkeys(untested, "there is no test part, by which heads could be judged"))
    return [f"warning: {problem}" for problem in found]


def why_weak(part: Part) -> str:
    """Return why nothing can be learnt from a part, '' if something can."""
    count = len(part.rows)
    if count < FEWEST_IMAGES:
        return f"has {counted(count, 'image')}, and needs {FEWEST_IMAGES} of different scores"
    same = part.scores.min() == part.scores.max()
    return (
        f"has {counted(count, 'image')}, all of the score {part.scores[0]:g}, and needs different scores"
        if same
        else ""
    )


def _by_reason(reasons: Mapping[str, str]) -> list[str]:
    """Return each reason once, behind the splits that it is of."""
    found = defaultdict[str, list[str]](list)
    for split, reason in reasons.items():
        if reason:
            found[reason].append(split)
    return [f"split{'s' if len(of) > 1 else ''} {', '.join(of)}: {reason}" for reason, of in found.items()]


def natural_key(split: str) -> tuple[int, int, str]:
    """Sort key that puts split '2' before split '10', and numbers before words."""
    return (0, int(split), "") if split.isdecimal() else (1, 0, split)
