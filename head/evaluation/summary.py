"""Results of the same head on several splits and with several seeds, and what they come to."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.base.files import canonical_json
from head.calibration.intervals import Coverage, pooled
from head.evaluation.means import Outcome, by_split, mean_test_share, means_of
from head.evaluation.metrics import json_number, or_nan
from head.evaluation.people import Ceiling, mean_ceiling, of_ceiling
from head.evaluation.score import Scored
from head.runs.run import Run


@dataclass(frozen=True)
class HeadSummary:
    """Results of runs of the same head: they share all but split and seed. name is theirs, without the seed."""

    name: str
    scored: tuple[Scored, ...]

    @property
    def runs(self) -> list[Run]:
        """The runs of the results."""
        return [one.run for one in self.scored]

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits, in the order of the runs."""
        return tuple(dict.fromkeys(result.run.split for result in self.scored))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in order."""
        return tuple(sorted({result.run.seed for result in self.scored}))

    def first_seeds(self) -> dict[str, Scored]:
        """Return the result of the first seed in each split."""
        ordered = sorted(self.scored, key=lambda one: one.run.seed, reverse=True)
        return {one.run.split: one for one in ordered}

    @property
    def optimistic(self) -> bool:
        """Whether an epoch was picked on the test part, so that the validation rho is a test rho."""
        return any(result.run.settings["select_on"] == "test" for result in self.scored)

    @property
    def val_rho(self) -> float:
        """Mean over splits of the mean over seeds; NaN if one is undefined or unknown."""
        return float(np.mean(by_split((one.run.split, or_nan(one.run.result.val_rho)) for one in self.scored)))

    @property
    def test_share(self) -> float:
        """Mean of n_test / n_train; NaN if a run does not say what it was trained on."""
        return mean_test_share(self._outcomes)

    @property
    def ceiling(self) -> Ceiling | None:
        """The mean over splits of the ceiling; None where one is not known."""
        return mean_ceiling({one.run.split: one.ceiling for one in self.scored}, self.test_share)

    @property
    def uncalibrated_mse(self) -> float | None:
        """Mean over splits of the MSE without calibration; None unless every run was calibrated."""
        known = [(one.run.split, one.uncalibrated_mse) for one in self.scored if one.uncalibrated_mse is not None]
        return float(np.mean(by_split(known))) if len(known) == len(self.scored) else None

    @property
    def coverage(self) -> Coverage | None:
        """How many ratings the runs' intervals hold, over all runs; None if one gives none."""
        return pooled([one.coverage for one in self.scored])

    def rho(self, *, seeds: Iterable[int] | None = None) -> NDArray[np.float64]:
        """Return the mean over seeds of rho for each split, of all seeds or of those given."""
        kept = set(self.seeds if seeds is None else seeds)
        return by_split((one.run.split, one.metrics.rho) for one in self.scored if one.run.seed in kept)

    def of_splits(self, splits: Iterable[str]) -> "HeadSummary":
        """Return the summary without other splits, in the order given."""
        return HeadSummary(self.name, tuple(one for split in splits for one in self.scored if one.run.split == split))

    def as_json(self) -> dict[str, Any]:
        """Return what it is of, what `means_of` makes of its results, and how near that is to the ceiling, if known."""
        first, means = self.scored[0], means_of(self._outcomes)
        rho, low, high = (or_nan(means[key]) for key in ("rho_mean", "rho_low", "rho_high"))
        return {
            "name": self.name,
            "part": first.part,
            "views": first.views,
            "selected_on": first.run.config.selected_on,
            "optimistic": self.optimistic,
            "val_rho_mean": json_number(self.val_rho),
            **means,
            **of_ceiling(rho, low, high, self.ceiling),
            "uncalibrated_mse_mean": self.uncalibrated_mse,
            "interval": self.coverage.as_json() if self.coverage else None,
        }

    @property
    def _outcomes(self) -> list[Outcome]:
        return [
            Outcome(
                one.run.split,
                one.run.seed,
                one.metrics.rho,
                one.metrics.mse,
                one.metrics.n,
                one.run.config.train_images or math.nan,
            )
            for one in self.scored
        ]


def summaries_of(scored: Sequence[Scored]) -> list[HeadSummary]:
    """Return results by head, by validation rho, the best first; those whose epoch was picked on test come last."""
    grouped = named_groups([result.run for result in scored])
    summaries = [HeadSummary(name, tuple(scored[place] for place in places)) for name, places in grouped]
    return sorted(
        summaries, key=lambda one: (one.optimistic, math.inf if math.isnan(one.val_rho) else -one.val_rho, one.name)
    )


def named_groups(runs: Sequence[Run]) -> list[tuple[str, list[int]]]:
    """Return name and places in runs of each head that they make; no two heads have the same name."""
    by_head: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        by_head.setdefault(_head_key(run), []).append(place)
    groups = [group for together in by_head.values() for group in _without_repeats(together, runs)]
    names = [_common_name([runs[place] for place in group]) for group in groups]
    return list(zip(_told_apart(names, [runs[group[0]] for group in groups]), groups, strict=True))


def called(runs_by_name: Mapping[str, Iterable[Run]], name: str) -> list[str]:
    """Return name if a head has it, else the heads with runs that have it, with or without their seed."""
    named = [
        head for head, runs in runs_by_name.items() if any(name in (run.name, without_seed(run.name)) for run in runs)
    ]
    return [name] if name in runs_by_name else named


def without_seed(name: str) -> str:
    """Return a run's name without its seed, as a summary has it."""
    return re.sub(r",seed=[0-9]+(?=,|$)", "", name)


def _head_key(run: Run) -> str:
    """Return all that makes a head but split and seed."""
    return canonical_json(
        {"settings": {**run.settings, "seed": None}, "origin": _origin(run), "products": _products(run)}
    )


def _origin(run: Run) -> str:
    """Return where a head comes from; an imported one's T is in no settings."""
    return f"{run.imported.steps} steps" if run.imported else "trained here"


def _products(run: Run) -> str:
    """Return the arithmetic that 'auto' was where the head was trained; float32 before there was a choice."""
    return f"products {run.config.products}"


def _home(run: Run) -> str:
    """Return the folder that a run's splits and seeds share."""
    return without_seed(str(run.folder.parent))


def _without_repeats(group: list[int], runs: Sequence[Run]) -> list[list[int]]:
    """Return a group as it is, or by folder, if it has the same split and seed twice."""
    if len({(runs[place].split, runs[place].seed) for place in group}) == len(group):
        return [group]
    by_home: dict[str, list[int]] = {}
    for place in group:
        by_home.setdefault(_home(runs[place]), []).append(place)
    return list(by_home.values())


def _common_name(runs: Sequence[Run]) -> str:
    names = list(dict.fromkeys(without_seed(run.name) for run in runs))
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _told_apart(names: Sequence[str], firsts: Sequence[Run]) -> list[str]:
    """Return the names of heads, where several have one each with what tells its first run from theirs."""
    found = list(names)
    for fact in (_origin, _products, _home, lambda run: str(run.folder)):
        facts: dict[str, set[str]] = {}
        for name, run in zip(found, firsts, strict=True):
            facts.setdefault(name, set()).add(fact(run))
        found = [
            f"{name} ({fact(run)})" if len(facts[name]) > 1 else name for name, run in zip(found, firsts, strict=True)
        ]
    return found
