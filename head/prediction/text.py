"""Predictions as a CSV file and as lines of text."""

from collections.abc import Sequence
from pathlib import Path

from featcache.base.files import csv_bytes, write_output
from head.evaluation.text import aligned
from head.prediction.predictor import Prediction


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write path,score,m_1..m_T,in_training,problem as CSV, one line an image."""
    write_output(path, csv_bytes(_prediction_lines(predictions)))


def format_predictions(predictions: Sequence[Prediction]) -> str:
    """Return predictions as a text table."""
    return aligned(_prediction_lines(predictions))


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
