"""Rows of results, against numbers worked out by hand."""

import json
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from head.evaluation.score import Scored
from head.evaluation.summary import summaries_of
from tests.helpers.results import THREE_SPLITS, scored


def test_a_row_has_mean_and_sample_deviation_over_its_splits() -> None:
    paper, plain = (row.as_json() for row in summaries_of([*THREE_SPLITS, scored("plain", "1", 0.25, 0.03, steps=1)]))
    assert (paper["name"], paper["splits"], paper["seeds"], paper["n"]) == ("paper", 3, 1, 300)
    assert (paper["part"], paper["views"], paper["selected_on"]) == ("test", "eval", "the val part")
    assert paper["rho_mean"] == pytest.approx(0.6)
    assert paper["rho_sd"] == pytest.approx(0.1)
    assert paper["mse_mean"] == pytest.approx(0.014)
    assert paper["mse_sd"] == pytest.approx(np.std([0.010, 0.012, 0.020], ddof=1))
    assert paper["val_rho_mean"] == pytest.approx(0.5)
    assert (plain["splits"], plain["rho_mean"], plain["rho_sd"], plain["mse_sd"]) == (1, 0.25, None, None)
    assert (plain["rho_low"], plain["rho_high"], plain["rho_seed_sd"]) == (None, None, None)


def test_runs_that_differ_in_the_seed_are_one_row_of_means_over_seeds() -> None:
    (row,) = summaries_of(
        [
            scored("paper", "1", 0.50, 0.01, val_rho=0.4),
            scored("paper", "2", 0.70, 0.02, val_rho=0.6),
            scored("paper,seed=1", "1", 0.54, 0.03, val_rho=0.5, seed=1),
            scored("paper,seed=1", "2", 0.78, 0.04, val_rho=0.9, seed=1),
        ]
    )
    found = row.as_json()
    assert (found["name"], found["splits"], found["seeds"], found["n"]) == ("paper", 2, 2, 200)
    assert found["rho_mean"] == pytest.approx(0.63)
    assert found["rho_sd"] == pytest.approx(np.std([0.52, 0.74], ddof=1))  # of the means over seeds
    assert found["rho_seed_sd"] == pytest.approx(math.sqrt((0.02**2 * 2 + 0.04**2 * 2) / 2))  # within splits
    assert found["mse_mean"] == pytest.approx(0.025)
    assert found["val_rho_mean"] == pytest.approx(0.6)


def test_a_split_with_more_seeds_does_not_count_more() -> None:
    results = [scored("paper", "1", 0.1), *(scored("paper", "2", 0.5, seed=seed) for seed in range(4))]
    (row,) = summaries_of(results)
    assert row.as_json()["rho_mean"] == pytest.approx(0.3)


def test_the_interval_is_students_with_the_variance_of_overlapping_training_sets() -> None:
    (row,) = summaries_of(THREE_SPLITS)
    found = row.as_json()
    error = np.std(np.arctanh([0.5, 0.6, 0.7]), ddof=1) * math.sqrt(1 / 3 + 100 / 300)
    wanted = np.tanh(stats.t.interval(0.95, 2, loc=np.arctanh(0.6), scale=error))
    assert (found["rho_low"], found["rho_high"]) == (pytest.approx(wanted[0]), pytest.approx(wanted[1]))


def test_a_run_that_does_not_say_what_it_was_trained_on_has_no_interval() -> None:
    results = [scored("a", split, 0.5, facts={"train_images": None}) for split in ("1", "2")]
    assert summaries_of(results)[0].as_json()["rho_low"] is None


def test_an_undefined_rho_makes_the_mean_undefined_and_null_in_json() -> None:
    (row,) = summaries_of([THREE_SPLITS[0], scored("paper", "2", math.nan, 0.02)])
    found = row.as_json()
    assert (found["rho_mean"], found["rho_sd"], found["rho_low"]) == (None, None, None)
    assert found["mse_mean"] == pytest.approx(0.015)
    json.dumps(found, allow_nan=False)


# which runs are a row, and in what order


def test_settings_make_a_row_not_names() -> None:
    found = summaries_of([scored("a", "1", 0.5), scored("b", "1", 0.5, seed=1), scored("c", "1", 0.5, steps=2)])
    assert [(row.name, row.seeds) for row in found] == [("a and 1 more", (0, 1)), ("c", (0,))]


def test_settings_that_older_runs_do_not_have_are_the_defaults() -> None:
    old, new = scored("paper", "1", 0.5), scored("paper", "2", 0.5, precision="auto", hidden_size=1024)
    assert [row.splits for row in summaries_of([old, new])] == [("1", "2")]


def test_the_same_settings_split_and_seed_twice_are_two_rows() -> None:
    found = summaries_of([scored("a", "1", 0.5), scored("b", "1", 0.6), scored("b,seed=1", "1", 0.6, seed=1)])
    assert [(row.name, row.seeds) for row in found] == [("a", (0,)), ("b", (0, 1))]


def test_rows_of_one_name_are_told_apart_by_their_place() -> None:
    results = [
        scored("a", "1", 0.5),
        scored("a", "1", 0.6, steps=2, home="elsewhere/a"),
        scored("b", "1", 0.1, steps=1),
    ]
    assert [row.name for row in summaries_of(results)] == ["a (elsewhere/a)", "a (runs/a)", "b"]
    together = [scored("a", "1", 0.5), scored("a", "2", 0.6, steps=2)]
    assert [row.name for row in summaries_of(together)] == ["a (runs/a/1)", "a (runs/a/2)"]


def imported(split: str, steps: int, home: str = "runs/published") -> Scored:
    facts = {"imported": {"file": f"{split}.pkl", "sha256": split, "steps": steps}}
    settings: dict[str, Any] = {"recipe": "published", "imported": "imported"}
    return scored("imported", split, 0.5, val_rho=None, home=home, facts=facts, **settings)


def test_imported_heads_of_different_steps_are_different_rows() -> None:
    found = summaries_of([imported("1", 3), imported("2", 3), imported("3", 5)])
    assert [(row.name, row.splits) for row in found] == [
        ("imported (3 steps)", ("1", "2")),
        ("imported (5 steps)", ("3",)),
    ]
    again = summaries_of([imported("1", 3), imported("1", 5), imported("1", 5, "elsewhere")])
    assert [row.name for row in again] == [
        "imported (3 steps)", "imported (5 steps) (elsewhere)", "imported (5 steps) (runs/published)",
    ]  # fmt: skip
    assert [row.name for row in summaries_of([imported("1", 3), imported("2", 3)])] == ["imported"]


def test_heads_trained_in_different_arithmetic_are_different_rows_and_older_ones_were_trained_in_float32() -> None:
    one, other = ({"products": products} for products in ("fp32", "bf16"))
    results = [scored("a", "1", 0.5), scored("a", "2", 0.5, facts=one), scored("a", "3", 0.5, facts=other)]
    found = [(row.name, row.splits) for row in summaries_of(results)]
    assert found == [("a (products bf16)", ("3",)), ("a (products fp32)", ("1", "2"))]


def test_rows_are_in_order_of_validation_rho_and_those_selected_on_test_come_last() -> None:
    results = [
        scored("none", "1", 0.9, val_rho=None, steps=1),
        scored("low", "1", 0.9, val_rho=0.3, steps=2),
        scored("optimistic", "1", 0.9, val_rho=0.9, steps=3, select_on="test"),
        scored("high", "1", 0.1, val_rho=0.6, steps=4),
    ]
    found = summaries_of(results)
    assert [row.name for row in found] == ["high", "low", "none", "optimistic"]
    assert [row.as_json()["optimistic"] for row in found] == [False, False, False, True]
    assert found[2].as_json()["val_rho_mean"] is None


def test_an_interval_of_rho_ends_where_rho_does() -> None:
    (row,) = summaries_of([scored("a", "1", 0.95), scored("a", "2", 0.4)])
    found = row.as_json()
    assert (found["rho_low"], found["rho_high"]) == (pytest.approx(-1), pytest.approx(1))
