"""Marks on what cannot be taken at its word: where each is due, and where it is not."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache.store.cache import FeatureCache
from head.evaluation.evaluate import Evaluation
from head.evaluation.marks import (
    FEWEST,
    NARROW,
    ScoreRange,
    mark_narrow,
    mark_other_scale,
    mark_outside,
    mark_reversed,
    marks_of_head,
    score_range,
)
from head.evaluation.metrics import row_spearman
from head.evaluation.people import Ceiling
from head.runs.run import Run, read_run
from head.training.fitted import Trained
from tests.helpers.predictions import evaluated
from tests.helpers.results import RESULT, changed, run_of, scored
from tests.helpers.tiny import PART_SIZES

WITHIN = ScoreRange(0.0, 0.98)
REVERSED = (
    "the scale of the ratings may be reversed (high = bad, as of difference mean opinion scores), "
    "they may be of other data than those of training, or the head has learnt nothing that holds of other images"
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


@pytest.mark.parametrize("scores", [[], [0.5] * 6, [*[0.5] * 6, 0.7], [0.0, 0.098, *[0.0] * 5]])
def test_few_scores_or_scores_apart_are_not_marked(scores: list[float]) -> None:
    assert mark_narrow(scores, WITHIN) == ""


def test_nothing_is_marked_where_the_range_is_unknown() -> None:
    assert (mark_outside([9.0], None), mark_narrow([0.5] * 9, None)) == ("", "")


def test_scores_of_a_good_head_are_hardly_ever_close_together_by_chance() -> None:
    rng = np.random.default_rng(0)
    deviation = 0.1 * WITHIN.high
    sets = rng.normal(0.5, deviation, size=(10_000, FEWEST))
    assert np.mean(np.ptp(sets, axis=1) < NARROW * WITHIN.high) < 0.01
    fewer = sets[:, :-1]
    assert np.mean(np.ptp(fewer, axis=1) < NARROW * WITHIN.high) > 0.01


def test_a_rho_far_below_zero_is_marked_and_one_near_it_is_not() -> None:
    assert mark_reversed("the test part", np.array([-0.45]), 50) == (
        f"rho on the test part is -0.450, of 50 images, below -0.3 (95% interval -0.655 to -0.183): {REVERSED}"
    )
    for rho in (-0.29, 0.8, float("nan")):
        assert mark_reversed("the test part", np.array([rho]), 1000) == ""
    assert mark_reversed("the test part", np.array([-0.6]), 8) == ""  # which chance does, too
    assert mark_reversed("the test part", np.array([-1.0]), 3) == ""


def test_of_several_splits_their_mean_is_marked() -> None:
    marked = mark_reversed("the test part", np.array([-0.45, float("nan"), -0.65]), 50)
    assert marked.startswith("rho on the test part is -0.550, of the mean over 2 splits of 50 images or more, below")
    assert mark_reversed("the test part", np.array([-0.45, 0.1, 0.0]), 50) == ""


@pytest.mark.parametrize("images", [5, 20, 43, 100])
def test_heads_that_rank_by_chance_are_hardly_ever_marked(images: int) -> None:
    rng = np.random.default_rng(images)
    rhos = row_spearman(rng.normal(size=(2000, images)), rng.normal(size=(2000, images)))
    single = [bool(mark_reversed("it", np.array([rho]), images)) for rho in rhos]
    of_five = [bool(mark_reversed("it", five, images)) for five in rhos.reshape(-1, 5)]
    assert np.mean(single) < 0.035
    assert np.mean(of_five) < 0.01


def test_results_of_a_head_are_marked_together() -> None:
    facts = {"result": {**RESULT, "val_rho": 0.5, "score_range": [0.0, 0.98]}}
    good = replace(scored("paper", "1", 0.8, facts=facts), prediction=np.linspace(0.1, 0.9, 9))
    bad = replace(scored("paper", "2", -0.4, facts=facts), prediction=np.linspace(0.95, 1.0, 9))
    assert marks_of_head([good]) == []
    assert [mark[:9] for mark in marks_of_head([good, bad])] == ["4 of 18 s", "split 2, "]
    reverse, outside, narrow = marks_of_head([bad])
    assert reverse.startswith("rho on the test part is -0.400, of 100 images, below -0.3")
    assert outside.startswith("4 of 9 scores are outside 0 to 0.98")
    assert narrow.startswith("split 2, seed 0: all 9 scores are within 0.95 to 1, less than a tenth of 0 to 0.98")
    found = evaluated(bad)
    assert found.marks() == found.as_json()["marks"] == [f"paper: {mark}" for mark in (reverse, outside, narrow)]
    assert found.warnings() == [f"warning: {mark}" for mark in found.marks()]
    assert evaluated(good).as_json()["marks"] == evaluated(good).warnings() == []


def test_a_rho_above_the_ceiling_is_marked() -> None:
    one, other = scored("paper", "1", 0.8), scored("paper", "2", 0.8)
    chance, more = "chance alone may do that; images", "more than chance explains; images"
    for several, ceiling, start in (
        ([one], Ceiling(0.75, 0.7, 0.8, "it"), f"(1.07 of it, without an interval): {chance}"),
        ([one, other], Ceiling(0.75, 0.7, 0.81, "it"), f"(1.07 of it, 95% interval 0.99 to 1.14): {chance}"),
        ([one, other], Ceiling(0.5, None, None, "it"), f"(1.60 of it, 95% interval 1.60 to 1.60): {more}"),
    ):
        (mark,) = marks_of_head([replace(each, ceiling=ceiling) for each in several])
        assert mark.startswith(
            f"rho on the test part is 0.800, above the ceiling {ceiling.rho:.3f} of its ratings {start}"
        )
    assert marks_of_head([replace(one, ceiling=Ceiling(0.85, None, None, "it"))]) == []


def test_imported_heads_are_marked_by_their_rho_alone(evaluation: Evaluation) -> None:
    one = evaluation.scored[0]
    imported = changed(one.run, imported={"file": "a.pkl"}, result={**RESULT})
    backwards = replace(one, run=imported, metrics=replace(one.metrics, rho=-0.8), prediction=one.prediction + 9)
    (mark,) = marks_of_head([backwards])
    assert mark.startswith("rho on the test part is -0.800, of 11 images, below -0.3")


def trained(split: str, rho: float | None, images: int | None = 50, **facts: Any) -> Run:
    result = {**RESULT, "val_rho": rho, **({"val_images": images} if images else {})}
    return run_of(Path(f"split-{split}"), split=split, result=result, **facts)


def test_heads_that_order_what_selected_them_in_reverse_are_named_after_training() -> None:
    (warning,) = Trained([trained("1", -0.6), trained("2", -0.5), trained("3", None)], []).warnings()
    assert warning.startswith("warning: paper: rho on the val part is -0.550, of the mean over 2 splits of 50 images")
    assert Trained([trained("1", -0.6), trained("2", 0.9)], []).warnings() == []
    assert Trained([trained("1", -0.6, images=6)], []).warnings() == []
    assert Trained([trained("1", -0.9, images=None)], []).warnings() == []  # of an earlier version
    on_test = trained("1", -0.6, settings={"select_on": "test"}, selected_on="the test part itself (optimistic)")
    assert "rho on the test part itself (optimistic) is -0.600" in Trained([on_test], []).warnings()[0]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"val_mse": 1.1, "score_range": [0.0, 1.0]}, "off by 1.049 .* more than all of 0 to 1, .* a lower --lr"),
        (
            {"val_mse": 0.1, "val_rho": None, "score_range": [0.0, 1.0]},
            "rho is undefined .* it is the predictions,",
        ),
        ({"val_mse": 0.9, "score_range": [0.0, 1.0]}, ""),
        ({"val_mse": 9.0, "score_range": [1.0, 1.0]}, ""),
        ({"val_mse": 9.0, "val_images": 0, "score_range": [0.0, 1.0]}, ""),
    ],
)
def test_a_training_that_went_astray_says_so(facts: dict[str, Any], said: str) -> None:
    result = {**RESULT, "val_rho": 0.5, "val_images": 50, **facts}
    one = run_of(Path("split-1"), result=result, settings={"lr": 10.0})
    found = Trained([one], []).warnings()
    assert bool(found) == bool(said) and all(re.search(said, warning) for warning in found)


def test_training_records_how_many_images_selected(tiny_runs: Path) -> None:
    assert read_run(tiny_runs / "tiny" / "paper" / "split-1").result.val_images == PART_SIZES["val"]


def test_ratings_on_another_scale_are_marked() -> None:
    assert mark_other_scale([0, 40, 98.0], WITHIN).startswith(
        "its ratings reach from 0 to 98, and 0 to 0.98, the range"
    )
    assert mark_other_scale([-0.5, 1.5], WITHIN) == mark_other_scale([], WITHIN) == mark_other_scale([98], None) == ""
