"""Results as text and CSV: the table over runs and splits, and the table of predictions."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featcache.files import write_durably

from .metrics import json_number
from .predict import Prediction
from .runs import Run
from .score import Scored


def summarise(scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """Return one object for each run name: mean and sample standard deviation over splits of rho and MSE."""
    rows = []
    for name in dict.fromkeys(result.run.name for result in scored):
        own = [result for result in scored if result.run.name == name]
        rho, mse = ([getattr(result.metrics, key) for result in own] for key in ("rho", "mse"))
        rows.append(
            {
                "name": name,
                "part": own[0].part,
                "views": own[0].views,
                "splits": len(own),
                "n": sum(result.metrics.n for result in own),
                "selected_on": own[0].run.config["selected_on"],
                **_mean_and_sd("rho", rho),
                **_mean_and_sd("mse", mse),
            }
        )
    return rows


def _mean_and_sd(key: str, values: Sequence[float]) -> dict[str, float | None]:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return {f"{key}_mean": json_number(float(np.mean(values))), f"{key}_sd": json_number(deviation)}


def format_table(scored: Sequence[Scored]) -> str:
    """Return results as text: a line for each split, then mean and standard deviation for each run name."""
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
    text = [_aligned(lines)]
    for row in summarise(scored):
        splits = f"{row['splits']} split{'s' if row['splits'] > 1 else ''}"
        text.append(
            f"{row['name']}: rho {_mean_and_sd_text(row, 'rho', 3)}, MSE {_mean_and_sd_text(row, 'mse', 5)} "
            f"over {splits} ({row['part']} part, {row['views']} views; epoch selected on {row['selected_on']})"
        )
    absent = max((result.absent for result in scored), default=0)
    return "\n".join(text + ([f"up to {absent} images of a part have no features and were left out"] if absent else []))


def shown(rho: float | None) -> str:
    """Return a correlation with three digits, or 'undefined' for NaN and None."""
    return "undefined" if rho is None or np.isnan(rho) else f"{rho:.3f}"


def _mean_and_sd_text(row: dict[str, Any], key: str, digits: int) -> str:
    mean, deviation = row[f"{key}_mean"], row[f"{key}_sd"]
    if mean is None:
        return "undefined"
    return f"{mean:.{digits}f}" + ("" if deviation is None else f" +- {deviation:.{digits}f}")


def describe_run(run: Run) -> str:
    """Return a finished run's best epoch and its epoch of lowest MSE as one line."""
    result = run.config["result"]
    return (
        f"{run.folder}: rho {shown(result['val_rho'])}, MSE {result['val_mse']:.5f} at epoch {result['best_epoch']} "
        f"of {result['epochs']}, on {run.config['selected_on']}; lowest MSE {result['lowest_mse_val_mse']:.5f} "
        f"at epoch {result['lowest_mse_epoch']} (rho {shown(result['lowest_mse_val_rho'])})"
    )


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write path,score,m_1..m_T,in_training,problem as CSV, one line an image."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(_prediction_lines(predictions))
    write_durably(path, text.getvalue().encode())


def format_predictions(predictions: Sequence[Prediction]) -> str:
    """Return predictions as a text table."""
    return _aligned(_prediction_lines(predictions))


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
