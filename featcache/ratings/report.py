"""What was made of responses: the facts that stand beside the table, as text and as JSON."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.base.errors import counted
from featcache.ratings.consistency import CONFIDENCE, Consistency, Icc, spearman_brown


@dataclass(frozen=True)
class RatingsReport:
    """What `ratings.json` holds, where the table is, and what was taken as what."""

    table: Path
    facts: dict[str, Any]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what the JSON file beside the table holds."""
        return self.facts

    def as_text(self) -> str:
        """Return a summary: scores, who was left out, how far people agree and the ceiling that follows."""
        facts, found, number = self.facts, self.facts["reliability"], self.facts["ratings_an_image"]
        lines = [
            f"{self.table}: {facts['score']} of {counted(facts['images'], 'image')}",
            f"responses    {facts['responses']:,} of {counted(facts['workers'], 'worker')}, {number['mean']:.1f} an "
            f"image ({number['least']:,} to {number['most']:,})",
            *_of_range(facts),
            *(f"left out     {_of_rule(one)}" for one in facts["left_out"] if one["responses"]),
        ]
        if "lag_slope" in facts:
            lines.append(_of_slope(facts))
        if found["split_half"] is None:
            return "\n".join([*lines, "consistency  not known: too few workers or images, or scores do not vary"])
        lines.append(f"consistency  {_with_interval(found, 'split_half')}: rho of two halves of the workers, mean of "
                     f"{counted(found['halvings'], 'halving')}")  # fmt: skip
        if found["full"] is None:
            lines.append("all ratings  not known: the halves do not agree")
        else:
            lines.append(f"all ratings  {_with_interval(found, 'full')}: by Spearman and Brown's formula")
            lines.append(f"ceiling      {_with_interval(found, 'ceiling')}: of a model's rho with these scores")
        if found["icc_1_k"] is not None:
            lines.append(f"ICC(1,k)     {found['icc_1_k']:.3f}, k0 = {found['k0']:.1f} ratings an image")
        if found["split_half_low"] is not None:
            lines.append(f"             in parentheses {CONFIDENCE:.0%} intervals over workers and images")
        return "\n".join(lines)

    def warnings(self) -> Sequence[str]:
        """Return what was taken as what."""
        return self.notes


def reliability(found: Consistency, one_way: Icc) -> dict[str, Any]:
    """Return the consistency as JSON: null where it is not known; bounds of full and ceiling are 0 below a rho of 0."""
    facts: dict[str, Any] = {"halvings": found.halvings}
    bounds = {"": found.split_half, "_low": found.low, "_high": found.high}
    facts |= {f"split_half{bound}": _number(r) for bound, r in bounds.items()}
    full = {bound: spearman_brown(r) if r > 0 else 0.0 * r for bound, r in bounds.items()}
    if not found.split_half > 0:
        full = dict.fromkeys(bounds, math.nan)
    facts |= {f"full{bound}": _number(value) for bound, value in full.items()}
    facts |= {f"ceiling{bound}": _number(math.sqrt(value)) for bound, value in full.items()}
    facts |= {"icc_1_k": _number(one_way.icc_1_k), "k0": _number(one_way.k0)}
    return facts | {"curve": [point._asdict() for point in found.curve]}


def _number(value: float) -> float | None:
    return value + 0.0 if math.isfinite(value) else None


def _with_interval(facts: dict[str, Any], name: str) -> str:
    low, high = facts[f"{name}_low"], facts[f"{name}_high"]
    return f"{facts[name]:.3f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")


def _of_rule(one: dict[str, Any]) -> str:
    workers = f"{counted(one['workers'], 'worker')}, " if one["workers"] else ""
    return f"{workers}{counted(one['responses'], 'response')}: {one['rule']}"


def _of_range(facts: dict[str, Any]) -> list[str]:
    """Return the smallest and the largest rating, among which a code for missing ones, such as 99, stands out."""
    if "rating_range" not in facts:
        return []
    return [f"ratings      {facts['rating_range']['least']:g} to {facts['rating_range']['most']:g}"]


def _of_slope(facts: dict[str, Any]) -> str:
    slope, T = facts["lag_slope"], facts["recipe"]["reference_lag"]
    if slope["a"] is None:
        return "lag slope    not known: no image was repeated at two lags, so nothing is corrected"
    return f"lag slope    {slope['a']:+.4f} (standard error {slope['se']:.4f}) for each unit of ln(lag / {T:g})"
