"""Marks on what cannot be taken at its word: where each is due, and where it is not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featcache.store.cache import FeatureCache
from head.evaluation.evaluate import Evaluation
from head.evaluation.marks import ScoreRange, mark_narrow, mark_outside, mark_reversed, marks_of_head, score_range
from head.runs.run import Run, read_run
from head.training.fitted import Trained
from tests.helpers.predictions import evaluated
from tests.helpers.results import RESULT, changed, run_of, scored

WITHIN = ScoreRange(0.0, 0.98)
REVERSED = (
    "the scale of the ratings may be reversed (high = bad, as of difference mean opinion scores), "
    "or they are of other data than those of training"
)


def run(low: float, high: float) -> Run:
    return run_of(Path("run"), result={**RESULT, "score_range": [low, high]})


def test_training_records_the_range_of_the_scores_it_saw(tiny_runs: Path, cache: FeatureCache) -> None:
    for split in ("1", "2"):
        scores = cache.splits[split]["train"].scores
        found = read_run(tiny_runs / "tiny" / "paper" / f"split-{split}")
        assert found.result.score_range == (scores.min(), scores.max())


def test_a_range_is_that_over_all_runs_and_unknown_if_one_does_not_say_it() -> None:
    assert score_range([run(0.1, 0.8), run(0.2, 0.9)]) == (0.1, 0.9)
    assert score_range([run(0.1, 0.8), run_of(Path("old"), result=RESULT)]) is None
    assert score_range([]) is None


def test_scores_outside_are_counted_with_how_far_they_reach() -> None:
    assert mark_outside([-0.17, 0.5, 1.02, 0.98], WITHIN) == (
        "2 of 4 scores are outside 0 to 0.98, the range of the ratings that the head was trained on: -0.17 to 1.02"
    )
    assert mark_outside([-0.17], WITHIN).startswith("the score is outside 0 to 0.98, the range")


@pytest.mark.parametrize("scores", [[], [0.0, 0.5, 0.98], [-1e-9, 0.98 + 1e-9]])
def test_scores_inside_or_off_by_rounding_are_not_marked(scores: list[float]) -> None:
    assert mark_outside(scores, WITHIN) == ""


def test_scores_hardly_apart_are_marked() -> None:
    assert mark_narrow(np.linspace(0.5, 0.59, 7), WITHIN) == (
        "all 7 scores are within 0.5 to 0.59, less than a tenth of 0 to 0.98, the range of the ratings that the head "
        "was trained on: they hardly tell these images apart"
    )


@pytest.mark.parametrize("scores", [[], [0.5] * 4, [0.5, 0.5, 0.5, 0.5, 0.7], [0.0, 0.098, 0.0, 0.0, 0.0]])
def test_few_scores_or_scores_apart_are_not_marked(scores: list[float]) -> None:
    assert mark_narrow(scores, WITHIN) == ""


def test_nothing_is_marked_where_the_range_is_unknown() -> None:
    assert (mark_outside([9.0], None), mark_narrow([0.5] * 9, None)) == ("", "")


def test_a_rho_far_below_zero_is_marked_and_one_near_it_is_not() -> None:
    rhos = {"split 1": -0.45, "split 2": -0.3, "split 3": None, "split 4": float("nan"), "split 5": 0.8}
    assert mark_reversed("test", rhos) == f"test rho is below -0.3 (split 1: -0.450): {REVERSED}"
    assert mark_reversed("test", {"split 1": -0.29, "split 2": 0.8}) == ""


def test_results_of_a_head_are_marked_together() -> None:
    facts = {"result": {**RESULT, "val_rho": 0.5, "score_range": [0.0, 0.98]}}
    good = replace(scored("paper", "1", 0.8, facts=facts), prediction=np.linspace(0.1, 0.9, 9))
    bad = replace(scored("paper", "2", -0.4, facts=facts), prediction=np.linspace(0.95, 1.0, 9))
    assert marks_of_head([good]) == []
    reverse, outside, narrow = marks_of_head([good, bad])
    assert reverse == f"test rho is below -0.3 (split 2, seed 0: -0.400): {REVERSED}"
    assert outside.startswith("4 of 18 scores are outside 0 to 0.98")
    assert narrow.startswith("split 2, seed 0: all 9 scores are within 0.95 to 1, less than a tenth of 0 to 0.98")
    found = evaluated(good, bad)
    assert found.marks() == found.as_json()["marks"] == [f"paper: {mark}" for mark in (reverse, outside, narrow)]
    assert found.warnings() == [f"warning: {mark}" for mark in found.marks()]
    assert evaluated(good).as_json()["marks"] == evaluated(good).warnings() == []


def test_imported_heads_are_marked_by_their_rho_alone(evaluation: Evaluation) -> None:
    one = evaluation.scored[0]
    imported = changed(one.run, imported={"file": "a.pkl"}, result={**RESULT})
    backwards = replace(one, run=imported, metrics=replace(one.metrics, rho=-0.8), prediction=one.prediction + 9)
    (mark,) = marks_of_head([backwards])
    assert mark.startswith("test rho is below -0.3 (split 1, seed 0: -0.800)")


def test_runs_that_order_their_validation_part_in_reverse_are_named_after_training() -> None:
    runs = [run_of(Path(f"split-{k}"), result={**RESULT, "val_rho": rho}) for k, rho in enumerate([-0.5, 0.5, None])]
    assert Trained(runs, []).warnings() == [f"warning: validation rho is below -0.3 (split-0: -0.500): {REVERSED}"]
    assert Trained(runs[1:], []).warnings() == []
