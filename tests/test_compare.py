"""Rows and their comparisons, against numbers worked out by hand and SciPy called directly."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from featcache.errors import InvalidSettings
from head.compare import check_against, compare, corrected_interval, corrected_p, holm, rows_of
from head.metrics import Metrics
from head.runs import Run
from head.score import Scored

NOTHING = np.zeros(0)


def scored(
    name: str, split: str, rho: float, mse: float = 0.01, *, val_rho: float | None = 0.5, n: int = 100, **changes: Any
) -> Scored:
    """Return a result of a run with these numbers, trained on 300 images; changes are of its settings."""
    settings = {"steps": 3, "seed": 0, "select_on": "val", **changes}
    selected_on = "the val part" if settings["select_on"] == "val" else "the test part itself (optimistic)"
    config = {
        "name": name,
        "split": split,
        "selected_on": selected_on,
        "settings": settings,
        "train_images": 300,
        "result": {"best_epoch": 31, "val_rho": val_rho},
    }
    metrics = Metrics(n, rho, rho - 0.1, rho + 0.1, mse, 0.125, 0.25, 0.75, 0.2)
    return Scored(Run(Path("runs", name, split), config), "test", "eval", metrics, 0, [], NOTHING, NOTHING, NOTHING)


THREE_SPLITS = [scored("paper", "1", 0.5, 0.010), scored("paper", "2", 0.6, 0.012), scored("paper", "3", 0.7, 0.020)]


def test_a_row_has_mean_and_sample_deviation_over_its_splits() -> None:
    paper, plain = (row.as_json() for row in rows_of([*THREE_SPLITS, scored("plain", "1", 0.25, 0.03, steps=1)]))
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
    (row,) = rows_of(
        [
            scored("paper", "1", 0.50, 0.01, val_rho=0.4),
            scored("paper", "2", 0.70, 0.02, val_rho=0.6),
            scored("paper,seed=1", "1", 0.54, 0.03, val_rho=0.5, seed=1),
            scored("paper,seed=1", "2", 0.78, 0.04, val_rho=0.9, seed=1),
        ]
    )
    found = row.as_json()
    assert (found["name"], found["splits"], found["seeds"], found["n"]) == ("paper", 2, 2, 400)
    assert found["rho_mean"] == pytest.approx(0.63)
    assert found["rho_sd"] == pytest.approx(np.std([0.52, 0.74], ddof=1))  # of the means over seeds
    assert found["rho_seed_sd"] == pytest.approx(math.sqrt((0.02**2 * 2 + 0.04**2 * 2) / 2))  # within splits
    assert found["mse_mean"] == pytest.approx(0.025)
    assert found["val_rho_mean"] == pytest.approx(0.6)


def test_a_split_with_more_seeds_does_not_count_more() -> None:
    results = [scored("paper", "1", 0.1), *(scored("paper", "2", 0.5, seed=seed) for seed in range(4))]
    (row,) = rows_of(results)
    assert row.as_json()["rho_mean"] == pytest.approx(0.3)


def test_the_interval_is_students_with_the_variance_of_overlapping_training_sets() -> None:
    (row,) = rows_of(THREE_SPLITS)
    found = row.as_json()
    error = 0.1 * math.sqrt(1 / 3 + 100 / 300)
    wanted = stats.t.interval(0.95, 2, loc=0.6, scale=error)
    assert (found["rho_low"], found["rho_high"]) == (pytest.approx(wanted[0]), pytest.approx(wanted[1]))
    assert wanted[1] - 0.6 == pytest.approx(4.302652729911275 * error)  # t at 0.975 and 2 degrees of freedom


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9).filter(lambda values: np.std(values) > 1e-3))
def test_without_a_test_share_it_is_students_interval_and_scipys_test(values: list[float]) -> None:
    array = np.array(values)
    wanted = stats.t.interval(0.95, len(array) - 1, loc=array.mean(), scale=stats.sem(array))
    assert corrected_interval(array, 0.0) == (pytest.approx(wanted[0]), pytest.approx(wanted[1]))
    other = np.linspace(-1, 1, len(array))
    wanted_p = stats.ttest_rel(array + other, other).pvalue
    assert corrected_p((array + other) - other, 0.0) == pytest.approx(wanted_p, rel=1e-6)


def test_an_undefined_rho_makes_the_mean_undefined_and_null_in_json() -> None:
    (row,) = rows_of([THREE_SPLITS[0], scored("paper", "2", math.nan, 0.02)])
    found = row.as_json()
    assert (found["rho_mean"], found["rho_sd"], found["rho_low"]) == (None, None, None)
    assert found["mse_mean"] == pytest.approx(0.015)
    json.dumps(found, allow_nan=False)


# which runs are a row, and in what order


def test_settings_make_a_row_not_names() -> None:
    found = rows_of([scored("a", "1", 0.5), scored("b", "1", 0.5, seed=1), scored("c", "1", 0.5, steps=2)])
    assert [(row.name, row.seeds) for row in found] == [("a and 1 more", (0, 1)), ("c", (0,))]


def test_settings_that_older_runs_do_not_have_are_the_defaults() -> None:
    old, new = scored("paper", "1", 0.5), scored("paper", "2", 0.5, precision="auto", hidden_size=1024)
    assert [row.splits for row in rows_of([old, new])] == [("1", "2")]


def test_the_same_settings_split_and_seed_twice_are_two_rows() -> None:
    found = rows_of([scored("a", "1", 0.5), scored("b", "1", 0.6), scored("b,seed=1", "1", 0.6, seed=1)])
    assert [(row.name, row.seeds) for row in found] == [("a", (0,)), ("b", (0, 1))]


def test_rows_of_one_name_are_told_apart_by_their_place() -> None:
    one, other = scored("a", "1", 0.5), scored("a", "1", 0.6, steps=2)
    moved = replace(other, run=Run(Path("elsewhere/a/1"), other.run.config))
    assert [row.name for row in rows_of([one, moved])] == ["a (elsewhere/a)", "a (runs/a)"]


def test_rows_are_in_order_of_validation_rho_and_those_selected_on_test_come_last() -> None:
    results = [
        scored("none", "1", 0.9, val_rho=None, steps=1),
        scored("low", "1", 0.9, val_rho=0.3, steps=2),
        scored("optimistic", "1", 0.9, val_rho=0.9, steps=3, select_on="test"),
        scored("high", "1", 0.1, val_rho=0.6, steps=4),
    ]
    found = rows_of(results)
    assert [row.name for row in found] == ["high", "low", "none", "optimistic"]
    assert [row.as_json()["optimistic"] for row in found] == [False, False, False, True]
    assert found[2].as_json()["val_rho_mean"] is None


# comparisons


def test_rows_are_compared_by_split_with_the_best_on_validation() -> None:
    worse = [scored("worse", split, rho, val_rho=0.4, steps=2) for split, rho in (("1", 0.4), ("2", 0.55), ("3", 0.61))]
    (found,) = compare(rows_of([*worse, *THREE_SPLITS]))
    assert (found.name, found.against, found.splits, found.seeds) == ("worse", "paper", 3, 1)
    differences = np.array([-0.1, -0.05, -0.09])
    assert found.difference == pytest.approx(-0.08)
    error = differences.std(ddof=1) * math.sqrt(1 / 3 + 1 / 3)
    low, high = stats.t.interval(0.95, 2, loc=-0.08, scale=error)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.p == pytest.approx(2 * stats.t.cdf(-0.08 / error, 2))
    assert found.p_uncorrected == pytest.approx(stats.ttest_rel([0.4, 0.55, 0.61], [0.5, 0.6, 0.7]).pvalue)
    assert found.p_holm == found.p
    assert found.p > found.p_uncorrected
    json.dumps(found.as_json(), allow_nan=False)


def test_another_row_can_be_what_the_others_are_compared_with() -> None:
    rows = rows_of(
        [scored("a", "1", 0.5), scored("b", "1", 0.6, steps=2), scored("c,seed=4", "1", 0.7, steps=1, seed=4)]
    )
    assert [(one.name, one.against) for one in compare(rows, against="b")] == [("a", "b"), ("c", "b")]
    assert [one.against for one in compare(rows, against="c,seed=4")] == ["c", "c"]
    with pytest.raises(InvalidSettings, match="--against d: no such row; there are a, b, c"):
        compare(rows, against="d")
    runs = [result.run for row in rows for result in row.scored]
    for name in ("a", "c", "c,seed=4", "a and 1 more", "a (runs/a)"):
        check_against(runs, name)
    with pytest.raises(InvalidSettings, match="--against d: no such row; there are a, b, c"):
        check_against(runs, "d")


def test_only_splits_and_seeds_that_both_have_are_compared() -> None:
    ours = [scored("a", split, 0.5 + seed, seed=seed) for split in ("1", "2") for seed in (0, 1)]
    theirs = [scored("b", split, 0.1, val_rho=0.9, steps=2, seed=1) for split in ("2", "3")]
    (found,) = compare(rows_of([*ours, *theirs]))
    assert (found.splits, found.seeds, found.difference) == (1, 1, pytest.approx(1.4))
    assert math.isnan(found.p)
    assert found.as_json()["low"] is None


def test_rows_without_a_common_seed_are_compared_by_the_means_over_all_of_theirs() -> None:
    ours = [scored("a", split, 0.5 + seed, seed=seed) for split in ("1", "2") for seed in (0, 1)]
    theirs = [scored("b", split, 0.1, val_rho=0.9, steps=2, seed=7) for split in ("1", "2")]
    (found,) = compare(rows_of([*ours, *theirs]))
    assert (found.splits, found.seeds, found.difference) == (2, 3, pytest.approx(0.9))


def test_rows_without_a_common_split_have_no_difference() -> None:
    (found,) = compare(rows_of([scored("a", "1", 0.5), scored("b", "2", 0.5, steps=2)]))
    assert (found.splits, found.as_json()["difference"], found.as_json()["p"]) == (0, None, None)


def test_equal_rows_have_a_difference_and_no_p() -> None:
    again = [scored("again", str(split), 0.5 + 0.1 * (split - 1), val_rho=0.1, steps=2) for split in (1, 2, 3)]
    (found,) = compare(rows_of([*THREE_SPLITS, *again]))
    assert found.difference == pytest.approx(0, abs=1e-12)
    assert compare(rows_of(THREE_SPLITS)) == compare([]) == []


def test_a_run_that_does_not_say_what_it_was_trained_on_has_no_interval() -> None:
    for result in (results := [scored("a", "1", 0.5), scored("a", "2", 0.6)]):
        del result.run.config["train_images"]
    assert rows_of(results)[0].as_json()["rho_low"] is None


def test_holm_multiplies_by_how_many_are_left_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == [pytest.approx(p) for p in (0.03, 0.06, 0.06, 0.02)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    left, undefined, right = holm([0.02, math.nan, 0.03])
    assert (left, right) == (pytest.approx(0.04), pytest.approx(0.04))
    assert math.isnan(undefined)
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_is_its_definition(p: list[float]) -> None:
    order = sorted(p)
    for value, adjusted in zip(p, holm(p), strict=True):
        rank = order.index(value)
        steps = [min(1.0, (len(p) - i) * order[i]) for i in range(rank + 1)]
        assert adjusted == pytest.approx(max(steps))
