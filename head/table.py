"""Results as text and CSV: the table over runs and splits, and the table of predictions."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featcache.errors import printable
from featcache.files import write_output

from .compare import Comparison
from .evaluation import Evaluation
from .import_head import Imported
from .metrics import json_number
from .predict import Prediction
from .resampled import CORRECTION
from .rows import Row, rows_of
from .runs import Run
from .score import Scored

_FEW, _LONGEST_NAME = 8, 60


def format_evaluation(evaluation: Evaluation) -> str:
    """Return results and comparisons as text."""
    parts = [format_table(evaluation.scored), format_comparisons(evaluation.comparisons)]
    return "\n\n".join(filter(None, parts))


def format_table(scored: Sequence[Scored]) -> str:
    """Return results as text: a line for each run, then a line for each row of runs that differ in split and seed."""
    columns: list[tuple[str, Callable[[Scored], str]]] = [
        ("run", lambda s: s.run.name),
        ("split", lambda s: s.run.split),
        ("rho", lambda s: shown(s.metrics.rho)),
        ("95% interval", lambda s: f"{shown(s.metrics.rho_low)} to {shown(s.metrics.rho_high)}"),
        ("MSE", lambda s: f"{s.metrics.mse:.5f}"),
        ("n", lambda s: str(s.metrics.n)),
        ("pred. sd", lambda s: f"{s.metrics.prediction_sd:.3f}"),
        ("pred. range", lambda s: f"{s.metrics.prediction_min:.2f} to {s.metrics.prediction_max:.2f}"),
        ("epoch", lambda s: str(s.run.config["result"]["best_epoch"] or "unknown")),
    ]
    lines = [[title for title, _ in columns]] + [[cell(result) for _, cell in columns] for result in scored]
    absent = max((result.absent for result in scored), default=0)
    left_out = f"up to {absent} images of a part have no features and were left out"
    return "\n".join([_aligned(lines), "", _summary(rows_of(scored)), *([left_out] if absent else [])])


def _summary(rows: Sequence[Row]) -> str:
    """Return an aligned line for each row, and what it was scored and selected on."""
    found = [row.as_json() for row in rows]
    first = found[0]
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("mean over splits", lambda row: str(row["name"])),
        ("val rho", lambda row: shown(row["val_rho_mean"]) + ("*" if row["optimistic"] else "")),
        (f"{first['part']} rho", lambda row: _mean_and_sd(row, "rho", 3)),
        ("95% interval", lambda row: _interval(row["rho_low"], row["rho_high"])),
        ("seed sd", lambda row: _number(row["rho_seed_sd"], 3)),
        ("MSE", lambda row: _mean_and_sd(row, "mse", 5)),
        ("splits", lambda row: str(row["splits"])),
        ("seeds", lambda row: str(row["seeds"])),
    ]
    lines = [[title for title, _ in columns]] + [[cell(row) for _, cell in columns] for row in found]
    notes = [f"{first['part']} part, {first['views']} views; 95%: {CORRECTION}"]
    for selected_on in dict.fromkeys(row["selected_on"] for row in found):
        names = [row["name"] for row in found if row["selected_on"] == selected_on]
        whose = "" if len(names) == len(found) else f" in {', '.join(names)}"
        notes.append(f"epoch selected on {selected_on}{whose}")
    if any(row["optimistic"] for row in found):
        notes.append("* is rho of the test part, which selected the epoch")
    return "\n".join([_aligned(lines), *notes])


def format_comparisons(comparisons: Sequence[Comparison]) -> str:
    """Return comparisons as text, one a line; empty if there are none."""
    if not comparisons:
        return ""
    title = f"compared with {comparisons[0].against}"
    lines = [[title, "difference", "95% interval", "p", "Holm p", "splits", "seeds"]]
    for one in comparisons:
        difference = "undefined" if math.isnan(one.difference) else f"{one.difference:+.3f}"
        interval = _interval(json_number(one.low), json_number(one.high), sign="+")
        counts = [str(one.splits), str(one.seeds)]
        lines.append([one.name, difference, interval, _p(one.p), _p(one.p_holm), *counts])
    return f"{_aligned(lines)}\npaired by split; 95% and p: {CORRECTION}"


def format_names(names: Sequence[str]) -> str:
    """Return the first few of names from a file, cut where they are long, and how many others --json lists."""
    few = [printable(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}...") for name in names[:_FEW]]
    more = f"and {len(names) - _FEW:,} more, which --json lists"
    return ", ".join([*few, *([more] if len(names) > _FEW else [])])


def shown(rho: float | None) -> str:
    """Return a correlation with three digits, or 'undefined' for NaN and None."""
    return "undefined" if rho is None or np.isnan(rho) else f"{rho:.3f}"


def _mean_and_sd(row: dict[str, Any], key: str, digits: int) -> str:
    mean, deviation = row[f"{key}_mean"], row[f"{key}_sd"]
    if mean is None:
        return "undefined"
    return f"{mean:.{digits}f}" + ("" if deviation is None else f" +- {deviation:.{digits}f}")


def _interval(low: float | None, high: float | None, *, sign: str = "") -> str:
    return "-" if low is None or high is None else f"{low:{sign}.3f} to {high:{sign}.3f}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _p(value: float) -> str:
    return "-" if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def runs_as_json(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return finished runs and their results as JSON objects."""
    return [{"run": str(run.folder), "name": run.name, "split": run.split, **run.config["result"]} for run in runs]


def describe_runs(runs: Sequence[Run]) -> str:
    """Return finished runs as text, one a line."""
    return "\n".join(map(describe_run, runs))


def describe_import(imported: Imported) -> str:
    """Return an imported head as one line."""
    shape, run = imported.shape, imported.run
    return (
        f"{run.folder}: head of {shape.steps} steps, {shape.positions} positions, state {shape.hidden_size}, with its "
        f"backbone; fingerprint {run.config['fingerprint'][:16]}"
    )


def describe_run(run: Run) -> str:
    """Return a finished run's best epoch and its epoch of lowest MSE as one line; of a baseline, its candidates."""
    result, unit = run.config["result"], "candidate" if "hyperparameters" in run.config["result"] else "epoch"
    return (
        f"{run.folder}: rho {shown(result['val_rho'])}, MSE {result['val_mse']:.5f} at {unit} {result['best_epoch']} "
        f"of {result['epochs']}{_chosen(run)}, on {run.config['selected_on']}; lowest MSE "
        f"{result['lowest_mse_val_mse']:.5f} at {unit} {result['lowest_mse_epoch']} "
        f"(rho {shown(result['lowest_mse_val_rho'])})"
    )


def _chosen(run: Run) -> str:
    """Return a baseline's hyperparameters, and on how few images it was fitted if not on all."""
    result, images = run.config["result"], run.config["train_images"]
    facts = [f"{name} {value:.4g}" for name, value in result.get("hyperparameters", {}).items()]
    if result.get("fitted_images", images) < images:
        facts.append(f"fitted on {result['fitted_images']:,} of {images:,} images")
    return f" ({', '.join(facts)})" if facts else ""


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write path,score,m_1..m_T,in_training,problem as CSV, one line an image."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(_prediction_lines(predictions))
    write_output(path, text.getvalue().encode())


def format_predictions(predictions: Sequence[Prediction]) -> str:
    """Return predictions as a text table."""
    return _aligned(_prediction_lines(predictions))


def prediction_warnings(predictions: Sequence[Prediction]) -> list[str]:
    """Return how many images the head was trained on, and how many could not be read, where there are any."""
    seen = sum(bool(prediction.in_training) for prediction in predictions)
    bad = sum(bool(prediction.problem) for prediction in predictions)
    trained_on = f"warning: the head was trained on {seen} of these images; its scores of them say nothing"
    unread = f"{bad} of {len(predictions)} images could not be read"
    return [*([trained_on] if seen else []), *([unread] if bad else [])]


def _prediction_lines(predictions: Sequence[Prediction]) -> list[list[str]]:
    steps = max((len(prediction.step_scores) for prediction in predictions), default=0)
    lines = [["path", "score", *(f"m_{t}" for t in range(1, steps + 1)), "in_training", "problem"]]
    for prediction in predictions:
        numbers = [] if prediction.score is None else [prediction.score, *prediction.step_scores]
        cells = [f"{number:.6f}" for number in numbers] or [""] * (1 + steps)
        seen = {None: "unknown", False: "no", True: "yes"}[prediction.in_training]
        lines.append([str(prediction.path), *cells, seen, prediction.problem])
    return lines


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
