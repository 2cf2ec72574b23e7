"""Whether attention maps tell what a score hangs on: places are emptied in their order, and the head scores again.

An emptied place has the mean training feature, which says nothing known; tokens and joined vectors, which have no
place, stay. The order of a head's own map, highest attention first, is compared with random orders and with one from
the centre outwards. docs/maps.md says how it is read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.recipe import LayerShape, Recipe
from featcache.store.cache import FeatureCache
from head.data.batches import EVAL_VIEW, present_part
from head.data.inputs import HeadInput
from head.data.several import inputs_of
from head.evaluation.metrics import Scores, json_number
from head.evaluation.score import Scored
from head.evaluation.statistics import resampled_interval
from head.evaluation.summary import HeadSummary
from head.models.kinds import kind_of
from head.runs.head_file import TrainedHead, load_head

MOST_IMAGES = 200  # of a head, as many of each split, drawn by lot: each is scored 74 times
RANDOM_ORDERS = 4
SHARES = np.linspace(0, 1, 11)  # of the places that are emptied
LITTLE = 0.2  # of the area under random orders, which the best order could about double
ALIKE = 0.9  # correlation of the maps of the steps above which they are called the same
ORDERS = ("attention", "centre", "random")
TESTS = ("deletion", "insertion")
_AT_ONCE = 64  # images
_SEED = 0


class Measured(NamedTuple):
    """One run's images, as rows of the cache (n), and of each by test and order the curve (n, shares).

    A curve is by how much the score is changed: by deletion away from that of the full image, by insertion away from
    that of the image with all places emptied and towards that of the full one. entropy (n) is over ln L,
    peak (n) in even shares, and correlation (n) that between the maps of the steps.
    """

    rows: NDArray[np.int64]
    curves: dict[str, dict[str, Scores]]
    entropy: Scores
    peak: Scores
    correlation: Scores


@dataclass(frozen=True)
class Difference:
    """The area under the curve of the attention's order less that of another, in units of the score, with interval.

    Above 0, in both tests, the attention's order changes the score sooner. share is that of the other's area.
    """

    test: str
    against: str
    share: float
    area: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low > 0

    def __str__(self) -> str:
        return f"{self.area:+.4f} ({self.low:+.4f} to {self.high:+.4f})"


@dataclass(frozen=True)
class Faithfulness:
    """What a head's maps tell, over its splits: curves by test and order (shares), differences of areas, and maps.

    entropy is over ln L, peak the highest attention in even shares, 1/L, and correlation that between the maps of the
    steps, NaN of one step or where a map does not vary; each is a mean over images.
    images counts those that were looked at, each once for each of the splits.
    """

    name: str
    part: str
    splits: tuple[str, ...]
    images: int
    steps: int
    look: str
    entropy: float
    peak: float
    correlation: float
    curves: dict[str, dict[str, list[float]]]
    differences: tuple[Difference, ...]

    def against(self, other: str) -> list[Difference]:
        """Return the differences from one of the other orders, one a test."""
        return [one for one in self.differences if one.against == other]

    @property
    def says(self) -> str:
        """What maps tell of where the score comes from: 'nothing', 'little' or 'where'.

        Nothing, if their order changes the score no sooner than random ones in either test, and where, if it does so by
        `LITTLE` or more in both.
        """
        shares = [one.share if one.sure else 0.0 for one in self.against("random")]
        return "where" if min(shares) >= LITTLE else "little" if max(shares) > 0 else "nothing"

    def verdict(self) -> str:
        """Return in a few plain words whether the maps tell what the score hangs on."""
        begin = {
            "nothing": "Its maps say nothing of what the score hangs on",
            "little": "Its maps say little of what the score hangs on",
            "where": "Its maps show places that the score hangs on",
        }[self.says]
        even = (
            f"attention is {self.entropy:.1%} as even as one to all places alike (entropy over ln L), the highest "
            f"place has {self.peak:.1f} even shares"
        )
        maps = f", and the {self.steps} maps of an image are almost the same (correlation {self.correlation:.2f})"
        return f"{begin}: {even}{maps if self.correlation > ALIKE else ''}. {self._of_order()}"

    def _of_order(self) -> str:
        """Return whether emptying places of high attention first changes the score sooner than other orders."""
        if self.says == "nothing":
            return "Emptying places in its order changes the score no sooner than in random order."
        sooner = "; ".join(
            f"than {words} by {sure}" if (sure := self._sure(other)) else f"no sooner than {words}"
            for other, words in (("random", "in random order"), ("centre", "from the centre outwards"))
        )
        return f"Emptying places in its order changes the score sooner {sooner}."

    def _sure(self, other: str) -> str:
        """Return by how much of another order's area the attention's is larger, in tests where that is sure."""
        return " and ".join(f"{one.share:.0%} ({one.test})" for one in self.against(other) if one.sure)

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object, with how it was measured."""
        return {
            "name": self.name,
            "part": self.part,
            "splits": list(self.splits),
            "images": self.images,
            "entropy": json_number(self.entropy),
            "correlation_of_steps": json_number(self.correlation),
            "peak": json_number(self.peak),
            "says": self.says,
            "verdict": self.verdict(),
            "shares_emptied": SHARES.round(6).tolist(),
            "curves": self.curves,
            "differences_of_areas": [
                {
                    "test": one.test,
                    "attention_minus": one.against,
                    **{key: json_number(getattr(one, key)) for key in ("area", "low", "high", "share")},
                }
                for one in self.differences
            ],
            "random_orders": RANDOM_ORDERS,
            "seed": _SEED,
        }


def faithfulness(cache: FeatureCache, summary: HeadSummary) -> Faithfulness:
    """Return what the maps of a head that attends, and is not made of others, tell, of the first seed in each split.

    At most `MOST_IMAGES` are looked at. Means are over splits of means over images; intervals are those of
    `resampled_interval`.
    """
    scored = summary.first_seeds()
    found = [_measured(cache, one, most=max(1, MOST_IMAGES // len(scored))) for one in scored.values()]
    rows = [one.rows for one in found]
    differences = []
    for test in TESTS:
        areas = {order: [_area(one.curves[test][order]) for one in found] for order in ORDERS}
        for other in ("random", "centre"):
            gains = [ours - theirs for ours, theirs in zip(areas["attention"], areas[other], strict=True)]
            mean, whole = (float(np.mean([one.mean() for one in those])) for those in (gains, areas[other]))
            share = mean / whole if whole else math.nan
            differences.append(Difference(test, other, share, mean, *resampled_interval(gains, rows, seed=_SEED)))
    first = next(iter(scored.values()))
    return Faithfulness(
        name=summary.name,
        part=first.part,
        splits=tuple(scored),
        images=sum(map(len, rows)),
        steps=first.step_scores.shape[1],
        look=kind_of(load_head(first.run).module).look,
        entropy=float(np.mean([one.entropy.mean() for one in found])),
        peak=float(np.mean([one.peak.mean() for one in found])),
        correlation=float(np.mean([one.correlation.mean() for one in found])),
        curves={test: {order: _mean_curve(found, test, order) for order in ORDERS} for test in TESTS},
        differences=tuple(differences),
    )


def entropy_of(maps: Scores) -> Scores:
    """Return the entropy of maps (..., L) over ln L, in [0, 1]; what is on tokens is left out first. 1 where L is 1."""
    if maps.shape[-1] == 1:
        return np.ones(maps.shape[:-1])
    share = maps / np.maximum(maps.sum(axis=-1, keepdims=True), 1e-30)
    bits = share * np.log(np.maximum(share, 1e-30))
    return np.asarray(-bits.sum(axis=-1) / math.log(maps.shape[-1]))


def correlation_of(maps: Scores) -> Scores:
    """Return the mean over pairs of steps of the correlation (n) of maps (n, T, L); NaN of one step or of even maps."""
    T = maps.shape[1]
    if T == 1:
        return np.full(len(maps), math.nan)
    x = maps - maps.mean(axis=2, keepdims=True)
    norm = np.sqrt((x**2).sum(axis=2, keepdims=True))
    unit = np.divide(x, norm, out=np.full_like(x, math.nan), where=norm > 0)
    pairs = unit @ unit.transpose(0, 2, 1)  # (n, T, T)
    return np.asarray(pairs[:, *np.triu_indices(T, 1)].mean(axis=1))


def centre_order(shape: LayerShape) -> NDArray[np.int64]:
    """Return the positions (L) of a map from its centre outwards, those equally far row by row."""
    y = np.arange(shape.height)[:, None] - (shape.height - 1) / 2
    x = np.arange(shape.width) - (shape.width - 1) / 2
    order: NDArray[np.int64] = np.argsort((y**2 + x**2).ravel(), kind="stable")
    return order


def _measured(cache: FeatureCache, scored: Scored, *, most: int) -> Measured:
    """Return what emptying places of at most so many of a run's images does to their scores."""
    run, head, (source,) = scored.run, load_head(scored.run), inputs_of(scored.run.input)
    rows = present_part(cache, cache.splits[run.split][scored.part]).rows
    rng = np.random.default_rng([_SEED, len(rows)])
    rows = np.sort(rng.permutation(rows)[:most])
    parts = []
    for start in range(0, len(rows), _AT_ONCE):
        features = source.read(cache, rows[start : start + _AT_ONCE], EVAL_VIEW).float()
        parts.append(_of_batch(head, source, run.recipe, features, rng))
    curves = {
        test: {order: np.concatenate([part[0][test][order] for part in parts]) for order in ORDERS} for test in TESTS
    }
    maps = np.concatenate([part[1] for part in parts])
    peak = maps.max(axis=2).mean(axis=1) * maps.shape[2]
    return Measured(rows, curves, entropy_of(maps).mean(axis=1), peak, correlation_of(maps))


def _mean_curve(found: Sequence[Measured], test: str, order: str) -> list[float]:
    """Return the mean over runs of means over images of a curve (shares)."""
    means = [one.curves[test][order].mean(axis=0) for one in found]
    return list(map(float, np.mean(means, axis=0)))


def _of_batch(
    head: TrainedHead, source: HeadInput, recipe: Recipe, features: Tensor, rng: np.random.Generator
) -> tuple[dict[str, dict[str, Scores]], Scores]:
    """Return curves by test and order (B, shares), and maps on places (B, T, L), of features as the head reads them.

    Insertion is deletion in the reverse order, read backwards; the reverse of a random order is as random.
    """
    shape = source.map_shape(recipe)
    L, emptied = shape.positions, emptied_places(head, source, recipe, features)
    maps = head.predict(features)[2].numpy().astype(np.float64)[:, :, :L]
    own = np.argsort(-maps.mean(axis=1), axis=1, kind="stable")  # (B, L), of the mean over steps
    central = np.broadcast_to(centre_order(shape), own.shape)
    drawn = [rng.permuted(np.tile(np.arange(L), (len(own), 1)), axis=1) for _ in range(RANDOM_ORDERS)]
    ends = [head.predict(one)[0].numpy()[:, None] for one in (features, emptied)]

    def scored(order: NDArray[np.int64]) -> Scores:
        return np.concatenate([ends[0], _scores_emptied(head, features, emptied, order), ends[1]], axis=1)

    scores = {
        order: (scored(positions), scored(positions[:, ::-1]))
        for order, positions in (("attention", own), ("centre", central))
    }
    random = [scored(one) for one in drawn]
    deletion = {order: _changes(both[0]) for order, both in scores.items()}
    insertion = {order: _gains(both[1]) for order, both in scores.items()}
    deletion["random"] = np.mean([_changes(one) for one in random], axis=0)
    insertion["random"] = np.mean([_gains(one) for one in random], axis=0)
    return {"deletion": deletion, "insertion": insertion}, maps


def emptied_places(head: TrainedHead, source: HeadInput, recipe: Recipe, features: Tensor) -> Tensor:
    """Return features (B, L, D) or (B, L + n, D) with all places emptied; tokens and joined vectors stay.

    Raises `ValueError` of a head that holds no mean training feature.
    """
    kind = kind_of(head.module)
    if kind.mean_feature is None:
        raise ValueError("a head that holds no mean training feature")
    mean = kind.mean_feature(head.module).to(features)
    emptied = features.clone()
    for layer, band in source.bands(recipe).items():
        if recipe.layer_shape(layer).is_map:
            emptied[:, : source.map_shape(recipe).positions, band] = mean[band]
    return emptied


def _scores_emptied(head: TrainedHead, features: Tensor, emptied: Tensor, order: NDArray[np.int64]) -> Scores:
    """Return scores (B, shares) with so many places emptied, by an order (B, L); none and all are left out."""
    B, L = order.shape
    rank = np.argsort(order, axis=1)
    scores = []
    for share in SHARES[1:-1]:
        gone = torch.zeros(B, features.shape[1], 1, dtype=torch.bool)
        gone[:, :L, 0] = torch.from_numpy(rank < round(share * L))
        scores.append(head.predict(torch.where(gone, emptied, features))[0].numpy())
    return np.stack(scores, axis=1)


def _changes(scores: Scores) -> Scores:
    """Return how far scores (B, shares) are from those of full images."""
    return np.abs(scores - scores[:, :1])


def _gains(scores: Scores) -> Scores:
    """Return how much nearer to those of full images scores (B, shares) are than with all places emptied, backwards."""
    changes = _changes(scores)[:, ::-1]
    gains: Scores = changes[:, :1] - changes
    return gains


def _area(curve: Scores) -> Scores:
    """Return the area (n) under curves (n, shares) over the share of places, by trapezoids."""
    area: Scores = (curve[:, 1:] + curve[:, :-1]).mean(axis=1) / 2
    return area
