"""From a cache and a split to batches: which rows train, which select the epoch, and which view is seen when."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.base.errors import BadInput, InvalidSettings
from featcache.datasets.duplicates import joined
from featcache.datasets.splits import FEWEST_IMAGES, FEWEST_TO_SELECT, Part, why_weak
from featcache.store.cache import FeatureCache
from featcache.store.folder import FAILURES_NAME
from head.data.channels import ProjectedInput
from head.data.inputs import HeadInput
from head.settings import TrainSettings

EVAL_VIEW = 0
FULL = "full"  # for a split: all images, as `is_all_images` says
FOLDS = 5
_FOLD_SEED = 1_000_003
NOTHING = Part(np.zeros(0, np.int64), np.zeros(0))
WINDOW = 16  # shards whose images are mixed: 1,024 images of the evaluation view, or 512 of shards with eleven views
ShardsOf = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int32]]
Batch = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]  # rows, views, scores


@dataclass(frozen=True)
class Choice:
    """What other runs chose: epochs to train for and, of a baseline, the number of its candidate, from 1.

    A candidate that is not fitted by epochs has one. weights are those of a stack's members, with the intercept last.
    """

    epochs: int
    candidate: int | None = None
    weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class SplitData:
    """Rows and scores to train on and to select the epoch on; absent counts images left out.

    split is its number. selected_on says in words what the selection part is, for every table that shows a result.
    In cross-validation parts holds for each fold what is trained on and what is held out of train, and select is all
    that is held out, fold after fold. With chosen there is nothing to select: select is empty.
    """

    split: str
    train: Part
    select: Part
    selected_on: str
    absent: int
    parts: tuple[tuple[Part, Part], ...] = ()
    chosen: Choice | None = None

    @property
    def cross_validated(self) -> bool:
        """Whether selection is by predictions for train itself, each by a head that was fitted without that image."""
        return bool(self.parts)

    @property
    def folds(self) -> tuple[tuple[Part, Part], ...]:
        """For each fold what is trained on and what selects; without cross-validation train and select alone."""
        return self.parts or ((self.train, self.select),)

    def digest(self, cache: FeatureCache) -> str:
        """Return the sha256 of rows, scores and image files: two runs with the same digest saw the same data."""
        digest = hashlib.sha256()
        for part in (self.train, self.select):
            digest.update(part.rows.astype("<i8").tobytes() + part.scores.astype("<f8").tobytes())
            digest.update("".join(cache.images[row].sha256 for row in part.rows).encode())
        return digest.hexdigest()


def split_data(cache: FeatureCache, split: str, settings: TrainSettings) -> SplitData:
    """Return the data of one split; absent images are left out.

    Without a val part, or with one that cannot select, a seeded val_fraction of train is held out or, where that would
    be less than `FEWEST_TO_SELECT` images, train is cross-validated. Raises `InvalidSettings` for a split the cache
    does not have, `BadInput` for one that cannot be trained on.
    """
    if split not in cache.splits:
        raise InvalidSettings(f"{cache.path} has no split {split}; it has {', '.join(cache.splits)}")
    parts = {name: present_part(cache, part) for name, part in cache.splits[split].items()}
    absent = sum(len(cache.splits[split][name].rows) - len(part.rows) for name, part in parts.items())
    train = _usable(cache, split, "train", parts)
    if settings.select_on == "test":
        select = _usable(cache, split, "test", parts)
        return SplitData(split, train, select, "the test part itself (optimistic)", absent)
    if "val" in parts and _can_select(parts["val"]):
        return SplitData(split, train, parts["val"], "the val part", absent)
    units = _units(cache, train)
    if round(settings.val_fraction * len(train.rows)) >= FEWEST_TO_SELECT:
        kept, held = _hold_out(train, units, settings)
        if _can_select(kept) and _can_select(held):
            return SplitData(split, kept, held, f"a held-out {settings.val_fraction:.0%} of train", absent)
    folds = cross_validation_folds(train, seed=settings.seed, units=units)
    select = _joined([held for _, held in folds])
    return SplitData(split, train, select, f"{len(folds)}-fold cross-validation within train", absent, tuple(folds))


def full_data(cache: FeatureCache, choice: Choice, selected_on: str) -> SplitData:
    """Return all images to train on, by what other runs chose; raise `BadInput` if they cannot be trained on."""
    listed = parts_of(cache, FULL)["train"]
    train = _usable(cache, FULL, "train", {"train": present_part(cache, listed)})
    return SplitData(FULL, train, NOTHING, selected_on, len(listed.rows) - len(train.rows), chosen=choice)


def is_all_images(cache: FeatureCache, split: str = FULL) -> bool:
    """Return whether a split's name means all images: 'full' does, unless the cache has a split of that name."""
    return split == FULL and split not in cache.splits


def parts_of(cache: FeatureCache, split: str) -> Mapping[str, Part]:
    """Return the parts of a split, none if there is no such; where it means all images those as one train part.

    Those are all that have a score in any part of any split, each once, in order of rows; an image that has several
    has their mean.
    """
    if not is_all_images(cache, split):
        return cache.splits.get(split, {})
    every = _joined([part for parts in cache.splits.values() for part in parts.values()])
    rows, first, image = np.unique(every.rows, return_index=True, return_inverse=True)
    scores = every.scores[first]
    beyond = np.bincount(image, every.scores - scores[image]) / np.bincount(image)  # 0 where all are equal
    return {"train": Part(rows, scores + beyond)}


def folds_of_train(cache: FeatureCache, data: SplitData, seed: int) -> tuple[tuple[Part, Part], ...]:
    """Return for each fold of train what is trained on and what is held out: those by which data selects, or new."""
    return data.parts or tuple(cross_validation_folds(data.train, seed=seed, units=_units(cache, data.train)))


def data_of_fold(data: SplitData, train: Part, choice: Choice) -> SplitData:
    """Return a part of train alone, to be fitted by what a run of the same split chose."""
    return replace(data, train=train, select=NOTHING, parts=(), chosen=choice)


def _units(cache: FeatureCache, part: Part) -> NDArray[np.int64]:
    """Return for each image of a part (n) the number of what is held out together: its group and its copies, or it."""
    manifest = cache.manifest
    unit_of = np.arange(cache.rows)
    for rows in joined([*manifest.groups, *cache.same_files, *(manifest.near_duplicates or ())]):
        unit_of[list(rows)] = rows[0]
    return np.unique(unit_of[part.rows], return_inverse=True)[1].astype(np.int64)


def cross_validation_folds(part: Part, *, seed: int, units: NDArray[np.int64] | None = None) -> list[tuple[Part, Part]]:
    """Return for each of `FOLDS` folds, or of n where there are fewer units, what is trained on and what is held out.

    units (n) has the number of the unit of each image, which is held out as a whole; None: each is one. They are dealt
    out in order of score, so that every fold has low and high ones; the seed decides among neighbours. A part of one
    unit is dealt out by images, as nothing could be held out otherwise.
    """
    if units is None or units.max() == 0:
        units = np.arange(len(part.rows))
    n = int(units.max()) + 1
    k = min(FOLDS, n)
    rng = np.random.default_rng([seed, _FOLD_SEED])
    order = np.lexsort((rng.permutation(n), np.bincount(units, part.scores) / np.bincount(units)))
    fold_of = np.empty(n, np.int64)
    fold_of[order] = np.concatenate([rng.permutation(k) for _ in range(0, n, k)])[:n]
    fold = fold_of[units]
    return [(_picked(part, fold != one), _picked(part, fold == one)) for one in range(k)]


def _can_select(part: Part) -> bool:
    return not why_weak(part)


def _usable(cache: FeatureCache, split: str, name: str, parts: Mapping[str, Part]) -> Part:
    """Return a part of present images; raise `BadInput` that says why nothing can be learnt from it."""
    where = f"{cache.path}: {f'target {cache.target}: ' if cache.target else ''}"
    others = "; train others with --target" if cache.target else ""
    if name not in parts:
        raise BadInput(f"{where}split {split} has no {name} part{others}")
    if why := why_weak(parts[name]):
        absent = len(parts_of(cache, split)[name].rows) - len(parts[name].rows)
        left_out = f"; {absent:,} more could not be read, and are listed in {FAILURES_NAME}" if absent else ""
        raise BadInput(f"{where}the {name} part of split {split} {why}{left_out}{others}")
    return parts[name]


def _picked(part: Part, which: NDArray[Any]) -> Part:
    return Part(part.rows[which], part.scores[which])


def _joined(parts: Sequence[Part]) -> Part:
    return Part(np.concatenate([part.rows for part in parts]), np.concatenate([part.scores for part in parts]))


def present_part(cache: FeatureCache, part: Part) -> Part:
    """Return the rows of a part that have features."""
    keep = cache.present[part.rows]
    return Part(part.rows[keep], part.scores[keep])


def _hold_out(train: Part, units: NDArray[np.int64], settings: TrainSettings) -> tuple[Part, Part]:
    """Return what is kept of train and what is held out: whole units in a seeded order, about so many images."""
    order = np.random.default_rng(settings.seed).permutation(len(train.rows))
    wanted, sizes = max(FEWEST_IMAGES, round(settings.val_fraction * len(order))), np.bincount(units)
    taken, chosen = 0, []
    for unit in dict.fromkeys(units[order].tolist()):
        if taken + sizes[unit] / 2 <= wanted:
            taken += int(sizes[unit])
            chosen.append(unit)
    held = np.isin(units, chosen)
    return _picked(train, np.flatnonzero(~held)), _picked(train, np.flatnonzero(held))


def epoch_batches(
    part: Part, *, views: int, seed: int, epoch: int, batch_size: int, shards_of: ShardsOf | None = None
) -> Iterator[Batch]:
    """Yield (rows, views, scores) of each batch of an epoch, drawn by (seed, epoch).

    Each image once, in random order, as one of its augmented views; as view 0 if the cache holds no others. With
    shards_of, which gives the shards of rows and views, shards are in random order, and images are in random order
    among those of `WINDOW` shards that follow one another.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(part.rows))
    seen = rng.integers(1, views, len(order)) if views > 1 else np.zeros(len(order), np.int64)
    if shards_of is not None:
        shards, of_image = np.unique(shards_of(part.rows[order], seen), return_inverse=True)
        window = rng.permutation(len(shards))[of_image] // WINDOW
        by_window = np.argsort(window, kind="stable")  # at random within, as they were
        order, seen = order[by_window], seen[by_window]
    for start in range(0, len(order), batch_size):
        picked = order[start : start + batch_size]
        yield part.rows[picked], seen[start : start + batch_size], part.scores[picked]


def feature_scale(
    cache: FeatureCache, part: Part, *, source: HeadInput | ProjectedInput, seed: int
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel (D) over positions and one view of each image of part.

    A token counts as one position more, like every place. Of a single layer, and of means, they follow from what the
    cache has pooled; joined maps, maps with tokens, and what is projected are read once.
    """
    joined = not source.stored_pooled
    batches = list(epoch_batches(part, views=cache.views, seed=seed, epoch=0, batch_size=64 if joined else 1024))
    total, squares = 0.0, 0.0
    for rows, views, _ in batches:
        if joined:
            features = source.read(cache, rows, views)
            pooled = torch.stack([features.mean(dim=1), features.std(dim=1, correction=0)], dim=1).numpy()
        else:
            pooled = np.concatenate([cache.read_pooled(rows, views, layer) for layer in source.layers], axis=2)
        mean, deviation = pooled.astype(np.float64).transpose(1, 0, 2)  # (B, D) each
        total = total + mean.sum(axis=0)
        squares = squares + (mean**2 + deviation**2).sum(axis=0)
    n = len(part.rows)
    mean = total / n
    variance = np.maximum(squares / n - mean**2, 0)
    return torch.from_numpy(mean).float(), torch.from_numpy(np.sqrt(variance)).float()
