"""Rows of runs that differ in split and seed alone, what they come to, and paired comparisons between rows.

Splits of one set of images share most of their training images, so results on them are not independent: the usual
t interval over splits is too narrow. Every interval and p here has the corrected variance of resampled results.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from featcache.errors import InvalidSettings
from featcache.files import canonical_json

from .metrics import json_number
from .runs import Run
from .score import Scored
from .settings import TrainSettings

CORRECTION = "t over splits, its variance corrected for overlapping training sets (Nadeau and Bengio 2003)"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Row:
    """Runs that share all settings but the seed. name is theirs, without the seed."""

    name: str
    scored: tuple[Scored, ...]

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits, in the order of the runs."""
        return tuple(dict.fromkeys(result.run.split for result in self.scored))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in order."""
        return tuple(sorted({_seed(result) for result in self.scored}))

    @property
    def optimistic(self) -> bool:
        """Whether an epoch was picked on the test part, so that the validation rho is a test rho."""
        return any(result.run.config["settings"].get("select_on") == "test" for result in self.scored)

    @property
    def val_rho(self) -> float:
        """Mean over splits of the mean over seeds; NaN if one is undefined or unknown."""
        return float(np.mean(self.by_split(_val_rho)))

    def by_split(self, value: Callable[[Scored], float], *, seeds: Iterable[int] | None = None) -> NDArray[np.float64]:
        """Return the mean over seeds of a value for each split, of all seeds or of those given."""
        kept = set(self.seeds if seeds is None else seeds)
        cells: dict[str, list[float]] = {split: [] for split in self.splits}
        for result in self.scored:
            if _seed(result) in kept:
                cells[result.run.split].append(value(result))
        return np.array([np.mean(values) for values in cells.values()])

    def of_splits(self, splits: Iterable[str]) -> "Row":
        """Return the row without other splits, in the order given."""
        return Row(self.name, tuple(one for split in splits for one in self.scored if one.run.split == split))

    def as_json(self) -> dict[str, Any]:
        """Return means over splits of means over seeds, their deviation and interval, and the deviation over seeds."""
        rho, mse = self.by_split(_rho), self.by_split(_mse)
        low, high = corrected_interval(rho, _test_share(self))
        first = self.scored[0]
        return {
            "name": self.name,
            "part": first.part,
            "views": first.views,
            "splits": len(self.splits),
            "seeds": len(self.seeds),
            "n": sum(result.metrics.n for result in self.scored),
            "selected_on": first.run.config["selected_on"],
            "optimistic": self.optimistic,
            "val_rho_mean": json_number(self.val_rho),
            "rho_mean": json_number(float(np.mean(rho))),
            "rho_sd": json_number(_deviation(rho)),
            "rho_low": json_number(low),
            "rho_high": json_number(high),
            "rho_seed_sd": json_number(self._seed_deviation(_rho)),
            "mse_mean": json_number(float(np.mean(mse))),
            "mse_sd": json_number(_deviation(mse)),
            "mse_seed_sd": json_number(self._seed_deviation(_mse)),
        }

    def _seed_deviation(self, value: Callable[[Scored], float]) -> float:
        """Return the deviation over seeds within a split, pooled over splits; NaN if no split has two."""
        cells = [[value(one) for one in self.scored if one.run.split == split] for split in self.splits]
        freedom = sum(len(cell) - 1 for cell in cells)
        squares = sum(float(np.sum((np.array(cell) - np.mean(cell)) ** 2)) for cell in cells)
        return math.sqrt(squares / freedom) if freedom else float("nan")


@dataclass(frozen=True)
class Comparison:
    """Test rho of the row called name minus that of the row called against, paired by split; NaN if undefined.

    p is two-sided; p_holm is p adjusted for the number of comparisons made at once (Holm 1979); p_uncorrected is
    that of `scipy.stats.ttest_rel`, as if splits shared no images.
    """

    name: str
    against: str
    splits: int
    seeds: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    p_uncorrected: float

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object; NaN becomes null."""
        return {key: json_number(value) if isinstance(value, float) else value for key, value in asdict(self).items()}


def rows_of(scored: Sequence[Scored]) -> list[Row]:
    """Return results as rows, by validation rho, the best first; those whose epoch was picked on test come last."""
    by_settings: dict[str, list[Scored]] = {}
    for result in scored:
        by_settings.setdefault(_settings_key(result), []).append(result)
    groups = [group for together in by_settings.values() for group in _without_repeats(together)]
    names = [_common_name(group) for group in groups]
    rows = [
        Row(name if names.count(name) == 1 else f"{name} ({_place(group[0])})", tuple(group))
        for name, group in zip(names, groups, strict=True)
    ]
    return sorted(rows, key=lambda row: (row.optimistic, math.isnan(row.val_rho), -row.val_rho, row.name))


def compare(rows: Sequence[Row], *, against: str | None = None) -> list[Comparison]:
    """Compare each row with the one named against, or with the first, in the order of rows.

    Only splits that both have count, and in them the seeds that both have, if there are any in common.
    Raises `InvalidSettings` if no row is called so.
    """
    if not rows:
        return []
    reference = _find(rows, against) if against is not None else rows[0]
    found = [_compare(row, reference) for row in rows if row is not reference]
    adjusted = holm([one.p for one in found])
    return [Comparison(**{**asdict(one), "p_holm": p}) for one, p in zip(found, adjusted, strict=True)]


def check_against(runs: Iterable[Run], name: str) -> None:
    """Raise `InvalidSettings` if no row of these runs can be called so; known before they are scored."""
    names = sorted({_without_seed(run.name) for run in runs})
    if not any(name.startswith(one) for one in names):
        raise InvalidSettings(f"--against {name}: no such row; there are {', '.join(names)}")


def _find(rows: Sequence[Row], name: str) -> Row:
    for row in rows:
        if name == row.name or name in {result.run.name for result in row.scored}:
            return row
    raise InvalidSettings(f"--against {name}: no such row; there are {', '.join(row.name for row in rows)}")


def _compare(row: Row, reference: Row) -> Comparison:
    splits = [split for split in row.splits if split in reference.splits]
    ours, theirs = row.of_splits(splits), reference.of_splits(splits)
    differences, seeds = [], set[int]()
    for split in splits:
        one, other = ours.of_splits([split]), theirs.of_splits([split])
        shared = set(one.seeds) & set(other.seeds)
        a, b = one.by_split(_rho, seeds=shared or None), other.by_split(_rho, seeds=shared or None)
        differences.append(float(a[0] - b[0]))
        seeds |= shared or {*one.seeds, *other.seeds}
    values = np.array(differences)
    share = (_test_share(ours) + _test_share(theirs)) / 2 if splits else float("nan")
    low, high = corrected_interval(values, share)
    return Comparison(
        name=row.name,
        against=reference.name,
        splits=len(splits),
        seeds=len(seeds),
        difference=float(np.mean(values)) if splits else float("nan"),
        low=low,
        high=high,
        p=corrected_p(values, share),
        p_holm=float("nan"),
        p_uncorrected=corrected_p(values, 0.0),
    )


def corrected_interval(values: NDArray[np.float64], test_share: float) -> tuple[float, float]:
    """Return the 95% interval of the mean of J values, one a split, by the corrected resampled t statistic.

    The variance of the mean is (1/J + n_test / n_train) s^2 instead of s^2 / J: training sets overlap, so the values
    are correlated, by about n_test / (n_test + n_train). test_share is n_test / n_train, and 0 gives Student's
    interval. NaN for fewer than two values. Nadeau and Bengio, Inference for the generalization error, Machine
    Learning 52 (2003), section 4.1.
    """
    error = _standard_error(values, test_share)
    if math.isnan(error):
        return float("nan"), float("nan")
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def corrected_p(values: NDArray[np.float64], test_share: float) -> float:
    """Return the two-sided p of a mean of 0, as `corrected_interval` has it; NaN where all values are equal."""
    error = _standard_error(values, test_share)
    if math.isnan(error) or error == 0:
        return float("nan")
    return 2 * float(stats.t.sf(abs(float(np.mean(values))) / error, len(values) - 1))


def holm(p: Sequence[float]) -> list[float]:
    """Return p adjusted by Holm's step-down procedure; NaN is left out of the count and stays."""
    order = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    adjusted, largest = [float("nan")] * len(p), 0.0
    for rank, (value, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * value))
        adjusted[i] = largest
    return adjusted


def _standard_error(values: NDArray[np.float64], test_share: float) -> float:
    return _deviation(values) * math.sqrt(1 / max(1, len(values)) + test_share)


def _deviation(values: NDArray[np.float64]) -> float:
    """Return the sample deviation, NaN for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def _test_share(row: Row) -> float:
    """Return the mean of n_test / n_train; NaN if a run does not say what it was trained on."""
    return float(np.mean([one.metrics.n / (one.run.config.get("train_images") or math.nan) for one in row.scored]))


def _rho(result: Scored) -> float:
    return result.metrics.rho


def _mse(result: Scored) -> float:
    return result.metrics.mse


def _val_rho(result: Scored) -> float:
    value = result.run.config["result"].get("val_rho")
    return float("nan") if value is None else float(value)


def _seed(result: Scored) -> int:
    return int(result.run.config["settings"].get("seed", 0))


def _settings_key(result: Scored) -> str:
    """Return all settings but the seed; those that an older run does not have yet are the defaults."""
    return canonical_json({**TrainSettings().as_json(), **result.run.config["settings"], "seed": None})


def _without_repeats(group: list[Scored]) -> list[list[Scored]]:
    """Return a group as it is, or by place, if it has the same split and seed twice."""
    if len({(result.run.split, _seed(result)) for result in group}) == len(group):
        return [group]
    by_place: dict[str, list[Scored]] = {}
    for result in group:
        by_place.setdefault(_place(result), []).append(result)
    return list(by_place.values())


def _place(result: Scored) -> str:
    return _without_seed(str(result.run.folder.parent))


def _common_name(group: Sequence[Scored]) -> str:
    names = list(dict.fromkeys(_without_seed(result.run.name) for result in group))
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _without_seed(name: str) -> str:
    return re.sub(r",seed=[0-9]+(?=,|$)", "", name)
