"""Means and deviations over splits, and the text and CSV that show them."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from head.metrics import Metrics
from head.predict import Prediction
from head.runs import Run
from head.score import Scored
from head.table import format_predictions, format_table, summarise, write_predictions


def scored(
    name: str, split: str, rho: float, mse: float, *, absent: int = 0, selected_on: str = "the val part"
) -> Scored:
    """Return a result with these metrics."""
    config = {"name": name, "split": split, "selected_on": selected_on, "result": {"best_epoch": 31}}
    metrics = Metrics(100, rho, rho - 0.1, rho + 0.1, mse, 0.125, 0.25, 0.75, 0.2)
    nothing = np.zeros(0)
    return Scored(Run(Path(name, split), config), "test", "eval", metrics, absent, [], nothing, nothing, nothing)


RESULTS = [
    scored("paper", "1", 0.5, 0.010),
    scored("paper", "2", 0.6, 0.012),
    scored("paper", "3", 0.7, 0.020),
    scored("plain", "1", 0.25, 0.03),
]

PREDICTIONS = [
    Prediction(Path("a.jpg"), 0.5, (0.125, 0.375)),
    Prediction(Path("b, c.jpg"), 0.75, (0.25, 0.5), in_training=True),
    Prediction(Path("torn.jpg"), problem="truncated: 3 bytes"),
]


def test_a_summary_is_mean_and_sample_deviation_over_the_splits_of_each_name() -> None:
    paper, plain = summarise(RESULTS)
    assert (paper["name"], paper["splits"], paper["n"]) == ("paper", 3, 300)
    assert (paper["part"], paper["views"], paper["selected_on"]) == ("test", "eval", "the val part")
    assert paper["rho_mean"] == pytest.approx(0.6)
    assert paper["rho_sd"] == pytest.approx(0.1)
    assert paper["mse_mean"] == pytest.approx(0.014)
    assert paper["mse_sd"] == pytest.approx(np.std([0.010, 0.012, 0.020], ddof=1))
    assert (plain["splits"], plain["rho_mean"], plain["rho_sd"], plain["mse_sd"]) == (1, 0.25, None, None)


def test_an_undefined_rho_makes_the_mean_undefined_and_null_in_json() -> None:
    (row,) = summarise([RESULTS[0], scored("paper", "2", math.nan, 0.02)])
    assert (row["rho_mean"], row["rho_sd"]) == (None, None)
    assert row["mse_mean"] == pytest.approx(0.015)
    json.dumps(row, allow_nan=False)


def test_the_table_has_a_line_for_each_split_and_one_for_each_name() -> None:
    lines = format_table(RESULTS).splitlines()
    assert lines == [
        "run    split  rho    95% interval    MSE      n    pred. sd  pred. range   epoch",
        "paper  1      0.500  0.400 to 0.600  0.01000  100  0.125     0.25 to 0.75  31",
        "paper  2      0.600  0.500 to 0.700  0.01200  100  0.125     0.25 to 0.75  31",
        "paper  3      0.700  0.600 to 0.800  0.02000  100  0.125     0.25 to 0.75  31",
        "plain  1      0.250  0.150 to 0.350  0.03000  100  0.125     0.25 to 0.75  31",
        "paper: rho 0.600 +- 0.100, MSE 0.01400 +- 0.00529 over 3 splits "
        "(test part, eval views; epoch selected on the val part)",
        "plain: rho 0.250, MSE 0.03000 over 1 split (test part, eval views; epoch selected on the val part)",
    ]


def test_the_table_says_undefined_where_rho_is() -> None:
    text = format_table([scored("paper", "1", math.nan, 0.02)])
    assert "paper: rho undefined, MSE 0.02000 over 1 split" in text
    assert "nan" not in text


def test_the_table_says_that_an_epoch_selected_on_test_is_optimistic() -> None:
    text = format_table([scored("paper", "1", 0.5, 0.02, selected_on="the test part itself (optimistic)")])
    assert "epoch selected on the test part itself (optimistic)" in text


def test_the_table_says_how_many_images_were_left_out() -> None:
    text = format_table([scored("paper", "1", 0.5, 0.01, absent=2), scored("paper", "2", 0.5, 0.01, absent=3)])
    assert text.splitlines()[-1] == "up to 3 images of a part have no features and were left out"
    assert "left out" not in format_table(RESULTS)


def test_predictions_as_csv_have_one_line_an_image(tmp_path: Path) -> None:
    write_predictions(tmp_path / "scores.csv", PREDICTIONS)
    assert list(csv.reader((tmp_path / "scores.csv").read_text().splitlines())) == [
        ["path", "score", "m_1", "m_2", "in_training", "problem"],
        ["a.jpg", "0.500000", "0.125000", "0.375000", "no", ""],
        ["b, c.jpg", "0.750000", "0.250000", "0.500000", "yes", ""],
        ["torn.jpg", "", "", "", "no", "truncated: 3 bytes"],
    ]


def test_predictions_as_text_are_aligned() -> None:
    assert format_predictions(PREDICTIONS[:1]).splitlines() == [
        "path   score     m_1       m_2       in_training  problem",
        "a.jpg  0.500000  0.125000  0.375000  no",
    ]


def test_images_that_could_all_not_be_read_still_have_a_line_each() -> None:
    lines = format_predictions([replace(PREDICTIONS[2], path=Path(name)) for name in ("x", "y")]).splitlines()
    assert [line.split()[0] for line in lines] == ["path", "x", "y"]
