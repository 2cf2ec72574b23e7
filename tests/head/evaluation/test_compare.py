"""Comparisons between rows, against numbers worked out by hand and SciPy called directly."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from featcache.base.errors import InvalidSettings
from head.evaluation.compare import check_against, compare
from head.evaluation.summary import summaries_of
from tests.helpers.results import THREE_SPLITS, scored


def test_rows_are_compared_by_split_with_the_best_on_validation() -> None:
    worse = [scored("worse", split, rho, val_rho=0.4, steps=2) for split, rho in (("1", 0.4), ("2", 0.55), ("3", 0.61))]
    (found,) = compare(summaries_of([*worse, *THREE_SPLITS]))
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
    rows = summaries_of(
        [scored("a", "1", 0.5), scored("b", "1", 0.6, steps=2), scored("c,seed=4", "1", 0.7, steps=1, seed=4)]
    )
    assert [(one.name, one.against) for one in compare(rows, against="b")] == [("a", "b"), ("c", "b")]
    assert [one.against for one in compare(rows, against="c,seed=4")] == ["c", "c"]
    with pytest.raises(InvalidSettings, match="--against d: no such row; there are a, b, c"):
        compare(rows, against="d")


def test_a_name_of_no_row_is_known_before_anything_is_scored() -> None:
    results = [
        scored("a", "1", 0.5), scored("b,seed=3", "1", 0.5, seed=3), scored("paper", "1", 0.5, steps=2),
        scored("paper", "1", 0.5, steps=4, home="elsewhere"), scored("c,seed=4", "1", 0.7, steps=1, seed=4),
    ]  # fmt: skip
    rows, runs = summaries_of(results), [result.run for result in results]
    for name, row in {
        "a": "a and 1 more", "a and 1 more": "a and 1 more", "b": "a and 1 more", "b,seed=3": "a and 1 more",
        "c": "c", "c,seed=4": "c", "paper (elsewhere)": "paper (elsewhere)",
    }.items():  # fmt: skip
        check_against(runs, name)
        assert {one.against for one in compare(rows, against=name)} == {row}
    for name in ("papersteps=99", "paper,steps=99", "pap", "c,seed=3", "a and 2 more", "a (runs/a)", ""):
        with pytest.raises(InvalidSettings, match="no such row; there are "):
            check_against(runs, name)
    for check in (lambda: check_against(runs, "paper"), lambda: compare(rows, against="paper")):
        with pytest.raises(InvalidSettings, match=r"--against paper: more than one row; name one of paper \("):
            check()


def test_only_splits_and_seeds_that_both_have_are_compared() -> None:
    ours = [scored("a", split, 0.5 + seed, seed=seed) for split in ("1", "2") for seed in (0, 1)]
    theirs = [scored("b", split, 0.1, val_rho=0.9, steps=2, seed=1) for split in ("2", "3")]
    (found,) = compare(summaries_of([*ours, *theirs]))
    assert (found.splits, found.seeds, found.difference) == (1, 1, pytest.approx(1.4))
    assert math.isnan(found.p)
    assert found.as_json()["low"] is None


def test_rows_without_a_common_seed_are_compared_by_the_means_over_all_of_theirs() -> None:
    ours = [scored("a", split, 0.5 + seed, seed=seed) for split in ("1", "2") for seed in (0, 1)]
    theirs = [scored("b", split, 0.1, val_rho=0.9, steps=2, seed=7) for split in ("1", "2")]
    (found,) = compare(summaries_of([*ours, *theirs]))
    assert (found.splits, found.seeds, found.difference) == (2, 3, pytest.approx(0.9))


def test_rows_without_a_common_split_have_no_difference() -> None:
    (found,) = compare(summaries_of([scored("a", "1", 0.5), scored("b", "2", 0.5, steps=2)]))
    assert (found.splits, found.as_json()["difference"], found.as_json()["p"]) == (0, None, None)


def test_equal_rows_have_a_difference_and_no_p() -> None:
    again = [scored("again", str(split), 0.5 + 0.1 * (split - 1), val_rho=0.1, steps=2) for split in (1, 2, 3)]
    (found,) = compare(summaries_of([*THREE_SPLITS, *again]))
    assert (found.difference, found.low, found.high) == (0, 0, 0)
    assert math.isnan(found.p)
    assert math.isnan(found.p_holm)
    assert compare(summaries_of(THREE_SPLITS)) == compare([]) == []


def test_of_rows_with_more_and_less_splits_those_with_most_are_compared_with() -> None:
    single = [scored("single", "1", 0.9, val_rho=0.99, steps=2)]
    assert [(one.name, one.against) for one in compare(summaries_of([*single, *THREE_SPLITS]))] == [("single", "paper")]
