"""Means and deviations over splits, and the text and CSV that show them."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from head.evaluation.compare import compare
from head.evaluation.metrics import Metrics
from head.evaluation.people import Ceiling
from head.evaluation.score import Scored
from head.evaluation.summary import summaries_of
from head.evaluation.text import format_comparisons, format_table
from head.prediction.predictor import Prediction
from head.prediction.text import Predictions
from tests.helpers.results import RESULT, run_of


def scored(
    name: str, split: str, rho: float, mse: float, *, val_rho: float = 0.75, absent: int = 0, select_on: str = "val"
) -> Scored:
    """Return a result with these metrics; the number of steps makes another row of each name."""
    config = {
        "name": name,
        "split": split,
        "selected_on": "the val part" if select_on == "val" else "the test part itself (optimistic)",
        "settings": {"steps": len(name), "select_on": select_on},
        "train_images": 300,
        "result": {**RESULT, "val_rho": val_rho},
    }
    metrics = Metrics(100, rho, rho - 0.1, rho + 0.1, mse, 0.125, 0.25, 0.75, 0.2)
    nothing = np.zeros(0)
    return Scored(run_of(Path(name, split), **config), "test", "eval", metrics, absent, [], nothing, nothing, nothing)


RESULTS = [
    scored("paper", "1", 0.5, 0.010),
    scored("paper", "2", 0.6, 0.012),
    scored("paper", "3", 0.7, 0.020),
    scored("no", "1", 0.25, 0.03, val_rho=0.5),
    scored("no", "2", 0.5, 0.03, val_rho=0.5),
]

PREDICTIONS = [
    Prediction(Path("a.jpg"), 0.5, (0.125, 0.375), outside_range=True),
    Prediction(Path("b, c.jpg"), 0.75, (0.25, 0.5), in_training=True),
    Prediction(Path("torn.jpg"), problem="truncated: 3 bytes"),
]


def test_the_table_has_a_line_for_each_run_and_one_for_each_row() -> None:
    lines = format_table(RESULTS).splitlines()
    assert lines == [
        "run    split  rho    95% interval    MSE      n    pred. sd  pred. range   chosen",
        "paper  1      0.500  0.400 to 0.600  0.01000  100  0.125     0.25 to 0.75  epoch 31",
        "paper  2      0.600  0.500 to 0.700  0.01200  100  0.125     0.25 to 0.75  epoch 31",
        "paper  3      0.700  0.600 to 0.800  0.02000  100  0.125     0.25 to 0.75  epoch 31",
        "no     1      0.250  0.150 to 0.350  0.03000  100  0.125     0.25 to 0.75  epoch 31",
        "no     2      0.500  0.400 to 0.600  0.03000  100  0.125     0.25 to 0.75  epoch 31",
        "",
        "mean over splits  val rho  test rho        95% interval     seed sd  MSE                 splits  seeds",
        "paper             0.750    0.600 +- 0.100  0.133 to 0.849   -        0.01400 +- 0.00529  3       1",
        "no                0.500    0.375 +- 0.177  -0.965 to 0.993  -        0.03000 +- 0.00000  2       1",
        "test part, eval views; 95%: Fisher's z, t over splits, corrected for overlapping training sets "
        "(Nadeau and Bengio 2003)",
        "chosen on the val part",
        "100 images of a split tell rho to about +-0.14 (95%)",
    ]
    assert max(map(len, lines)) <= 120


def test_comparisons_are_a_line_each() -> None:
    lines = format_comparisons(compare(summaries_of([*RESULTS, scored("p", "3", 0.5, 0.01, val_rho=0.1)]))).splitlines()
    assert lines == [
        "compared with paper  difference  95% interval      p      Holm p  splits  seeds",
        "no                   -0.175      -1.405 to +1.055  0.322  0.322   2       1",
        "p                    -0.200      -                 -      -       1       1",
        "paired by split; 95% and p: t over splits, its variance corrected for overlapping training sets "
        "(Nadeau and Bengio 2003)",
    ]
    assert format_comparisons([]) == ""


def test_the_table_says_undefined_where_rho_is() -> None:
    text = format_table([scored("paper", "1", math.nan, 0.02)])
    assert "paper             0.750    undefined  -             -        0.02000  1       1" in text
    assert "nan" not in text


def test_a_part_that_chose_a_head_is_said_to_flatter_it() -> None:
    own = [replace(one, part="val") for one in RESULTS]
    assert "scores of the val part flatter heads that were chosen on it" in format_table(own).splitlines()
    assert "flatter" not in format_table(RESULTS)


def test_the_table_says_that_an_epoch_selected_on_test_is_optimistic() -> None:
    text = format_table([scored("paper", "1", 0.5, 0.02, select_on="test")])
    assert "chosen on the test part itself (optimistic)\n" in text
    assert "0.750*" in text
    assert text.endswith("* is rho of the test part, by which it was chosen")
    both = format_table([scored("paper", "1", 0.5, 0.02, select_on="test"), scored("no", "1", 0.5, 0.02)])
    assert "chosen on the val part in no\n" in both
    assert "chosen on the test part itself (optimistic) in paper\n" in both


def test_the_table_says_how_many_images_were_left_out() -> None:
    text = format_table([scored("paper", "1", 0.5, 0.01, absent=2), scored("paper", "2", 0.5, 0.01, absent=3)])
    assert text.splitlines()[-1] == "up to 3 images of a part have no features and were left out"
    assert "left out" not in format_table(RESULTS)


def test_predictions_as_csv_have_one_line_an_image(tmp_path: Path) -> None:
    Predictions(PREDICTIONS).write_csv(tmp_path / "scores.csv")
    assert list(csv.reader((tmp_path / "scores.csv").read_text().splitlines())) == [
        ["path", "score", "m_1", "m_2", "in_training", "outside_range", "problem"],
        ["a.jpg", "0.500000", "0.125000", "0.375000", "no", "yes", ""],
        ["b, c.jpg", "0.750000", "0.250000", "0.500000", "yes", "unknown", ""],
        ["torn.jpg", "", "", "", "no", "", "truncated: 3 bytes"],
    ]


def test_bounds_stand_behind_score_and_deviation() -> None:
    one = replace(PREDICTIONS[0], deviation=0.0625, lower=0.25, upper=0.75)
    lines = Predictions([one, PREDICTIONS[2]], members=2).as_text().splitlines()
    assert lines[0].split()[:5] == ["path", "score", "deviation", "lower", "upper"]
    assert lines[1].split()[:5] == ["a.jpg", "0.500000", "0.062500", "0.250000", "0.750000"]
    assert lines[2].split()[:2] == ["torn.jpg", "no"]


def test_predictions_as_text_are_aligned() -> None:
    assert Predictions(PREDICTIONS[:1]).as_text().splitlines() == [
        "path   score     m_1       m_2       in_training  outside_range  problem",
        "a.jpg  0.500000  0.125000  0.375000  no           yes",
    ]


def test_images_that_could_all_not_be_read_still_have_a_line_each() -> None:
    lines = Predictions([replace(PREDICTIONS[2], path=Path(name)) for name in "xy"]).as_text().splitlines()
    assert [line.split()[0] for line in lines] == ["path", "x", "y"]


def test_where_the_ceiling_is_known_the_table_says_how_near_it_heads_come() -> None:
    ceiling = Ceiling(0.8, 0.75, 0.85, "root of 0.640, the reliability of all ratings; ratings.json")
    known = [replace(one, ceiling=ceiling) for one in RESULTS]
    lines = format_table(known).splitlines()
    assert lines[0].split()[:9] == ["run", "split", "rho", "95%", "interval", "of", "ceiling,", "95%", "MSE"]
    assert "  0.500  0.400 to 0.600  0.62 (0.50 to 0.76)  0.01000" in lines[1]
    assert "95% interval" in lines[7] and "of ceiling, 95%" in lines[7]
    assert "  0.600 +- 0.100  0.133 to 0.849   0.75 (0.17 to 1.07)   -  " in lines[8]
    assert lines[-1] == "ceiling 0.800 (95% 0.750 to 0.850): " + ceiling.how
    row = summaries_of(known)[0].as_json()
    assert row["of_ceiling"] == row["rho_mean"] / 0.8
    assert row["of_ceiling_low"] < row["rho_low"] / 0.8 + 0.01 and row["of_ceiling_high"] > row["rho_high"] / 0.8
    assert (row["ceiling"], row["ceiling_low"], row["ceiling_high"]) == (0.8, 0.75, 0.85)
    assert not any("ceiling" in key for key in summaries_of(RESULTS)[0].as_json())


def test_a_row_without_a_ceiling_beside_one_that_has_it_has_a_dash() -> None:
    ceiling = Ceiling(0.8, None, None, "it")
    table = format_table([replace(RESULTS[0], ceiling=ceiling), RESULTS[3]])
    assert "0.62 (0.50 to 0.75)" in table
    assert "ceiling 0.800 (no interval known): it" in table
    assert [" - " in line for line in table.splitlines() if line.startswith("no  ")] == [True, True]
