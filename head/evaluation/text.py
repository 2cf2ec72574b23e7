"""Results as text: the table over runs and splits, and that of comparisons."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from head.evaluation.compare import Comparison
from head.evaluation.metrics import json_number, shown
from head.evaluation.score import Scored
from head.evaluation.statistics import CORRECTION, OF_MEAN_RHO, half_width
from head.evaluation.summary import HeadSummary, summaries_of

_OF_CEILING = "of ceiling, 95%"


def format_table(scored: Sequence[Scored]) -> str:
    """Return results as text: a line for each run, then a line for each head, whose runs differ in split and seed."""
    columns: list[tuple[str, Callable[[Scored], str]]] = [
        ("run", lambda s: s.run.name),
        ("split", lambda s: s.run.split),
        ("rho", lambda s: shown(s.metrics.rho)),
        ("95% interval", lambda s: interval(json_number(s.metrics.rho_low), json_number(s.metrics.rho_high))),
        ("MSE", lambda s: f"{s.metrics.mse:.5f}"),
        ("n", lambda s: str(s.metrics.n)),
        ("pred. sd", lambda s: f"{s.metrics.prediction_sd:.3f}"),
        ("pred. range", lambda s: f"{s.metrics.prediction_min:.2f} to {s.metrics.prediction_max:.2f}"),
        ("chosen", lambda s: s.run.chosen),
    ]
    if any(result.ceiling for result in scored):
        columns.insert(4, (_OF_CEILING, lambda s: share_of_ceiling(s.as_json())))
    lines = [[title for title, _ in columns]] + [[cell(result) for _, cell in columns] for result in scored]
    absent = max((result.absent for result in scored), default=0)
    left_out = f"up to {absent} images of a part have no features and were left out"
    return "\n".join([aligned(lines), "", _summary(summaries_of(scored)), *([left_out] if absent else [])])


def _summary(summaries: Sequence[HeadSummary]) -> str:
    """Return an aligned line for each head, and what it was scored and selected on."""
    found = [summary.as_json() for summary in summaries]
    first = found[0]
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("mean over splits", lambda summary: str(summary["name"])),
        ("val rho", lambda summary: shown(summary["val_rho_mean"]) + ("*" if summary["optimistic"] else "")),
        (f"{first['part']} rho", lambda summary: mean_and_sd(summary, "rho", 3)),
        ("95% interval", lambda summary: interval(summary["rho_low"], summary["rho_high"])),
        ("seed sd", lambda summary: "-" if summary["rho_seed_sd"] is None else f"{summary['rho_seed_sd']:.3f}"),
        ("MSE", lambda summary: mean_and_sd(summary, "mse", 5)),
        ("splits", lambda summary: str(summary["splits"])),
        ("seeds", lambda summary: str(summary["seeds"])),
    ]
    if any("of_ceiling" in summary for summary in found):
        columns.insert(4, (_OF_CEILING, share_of_ceiling))
    lines = [[title for title, _ in columns]] + [[cell(summary) for _, cell in columns] for summary in found]
    notes = [f"{first['part']} part, {first['views']} views; 95%: {OF_MEAN_RHO}"]
    for selected_on in dict.fromkeys(summary["selected_on"] for summary in found):
        names = [summary["name"] for summary in found if summary["selected_on"] == selected_on]
        whose = "" if len(names) == len(found) else f" in {', '.join(names)}"
        notes.append(f"chosen on {selected_on}{whose}")
    if any(summary["selected_on"] == f"the {first['part']} part" for summary in found):
        notes.append(f"scores of the {first['part']} part flatter heads that were chosen on it")
    notes.append(_what_images_tell(summaries[0]))
    notes += ceilings_of(summaries)
    if any(summary["optimistic"] for summary in found):
        notes.append("* is rho of the test part, by which it was chosen")
    return "\n".join([aligned(lines), *notes, *_of_scores(summaries)])


def _of_scores(summaries: Sequence[HeadSummary]) -> list[str]:
    """Return a line for each head on its intervals, and on what calibration did to its MSE."""
    lines = []
    for one in summaries:
        if one.coverage:
            lines.append(f"{one.name}: {one.coverage.level:.0%} interval {one.coverage.as_text()}")
        if one.uncalibrated_mse is not None:
            lines.append(f"{one.name}: {_before_and_after(one, one.uncalibrated_mse)}")
    return lines


def _before_and_after(summary: HeadSummary, before: float) -> str:
    """Return what calibration made of the MSE of a head that is calibrated in every run."""
    first = summary.scored[0]
    after, kind = summary.as_json()["mse_mean"], first.run.settings["calibrate"]
    return f"MSE on the {first.part} part {before:.5f} before {kind} calibration and {after:.5f} after it"


def ceilings_of(summaries: Sequence[HeadSummary]) -> list[str]:
    """Return each ceiling once, and of which heads it is where others, on other splits, have another or none."""
    found: dict[str, list[str]] = {}
    for summary in summaries:
        if summary.ceiling:
            found.setdefault(summary.ceiling.as_text(), []).append(summary.name)
    return [text + ("" if len(of) == len(summaries) else f" ({', '.join(of)})") for text, of in found.items()]


def _what_images_tell(summary: HeadSummary) -> str:
    """Return how near the rho of one split's images comes to that of all images there could be."""
    n = min(one.metrics.n for one in summary.scored)
    rho = float(np.mean(summary.rho()))
    half = half_width(rho, n)
    if math.isnan(half):
        return f"{n} images of a split say nothing of the rho of others"
    return f"{n} images of a split tell rho to about +-{half:.2f} (95%)"


def format_comparisons(comparisons: Sequence[Comparison]) -> str:
    """Return comparisons as text, one a line; empty if there are none."""
    if not comparisons:
        return ""
    title = f"compared with {comparisons[0].against}"
    lines = [[title, "difference", "95% interval", "p", "Holm p", "splits", "seeds"]]
    for one in comparisons:
        difference = "undefined" if math.isnan(one.difference) else f"{one.difference:+.3f}"
        bounds = interval(json_number(one.low), json_number(one.high), sign="+")
        counts = [str(one.splits), str(one.seeds)]
        lines.append([one.name, difference, bounds, shown_p(one.p), shown_p(one.p_holm), *counts])
    return f"{aligned(lines)}\npaired by split; 95% and p: {CORRECTION}"


def mean_and_sd(summary: dict[str, Any], key: str, digits: int) -> str:
    """Return mean and deviation over splits of what `HeadSummary.as_json` calls key."""
    mean, deviation = summary[f"{key}_mean"], summary[f"{key}_sd"]
    if mean is None:
        return "undefined"
    return f"{mean:.{digits}f}" + ("" if deviation is None else f" +- {deviation:.{digits}f}")


def share_of_ceiling(result: dict[str, Any]) -> str:
    """Return rho / ceiling and its interval, '-' where the ceiling is not known."""
    share = result.get("of_ceiling")
    if share is None:
        return "-"
    low, high = result["of_ceiling_low"], result["of_ceiling_high"]
    return f"{share:.2f}" + ("" if low is None or high is None else f" ({low:.2f} to {high:.2f})")


def interval(low: float | None, high: float | None, *, sign: str = "") -> str:
    """Return an interval in words, '-' where there is none."""
    return "-" if low is None or high is None else f"{low:{sign}.3f} to {high:{sign}.3f}"


def shown_p(value: float) -> str:
    """Return p with three digits, '-' for NaN."""
    return "-" if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as a table whose columns begin one under the other."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
