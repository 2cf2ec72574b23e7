"""Drawn splits: parts with low and high scores, groups whole, nothing lost, for tables as small as people have."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.datasets.drawing import draw_splits, how_drawn, units_of
from featcache.datasets.split_files import Line
from featcache.datasets.splits import Part

RATINGS = st.one_of(
    st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0]), min_size=4, max_size=60),
    st.lists(st.sampled_from([0.0, 1.0]), min_size=4, max_size=60),
)


def lines_of(scores: list[float]) -> list[Line]:
    return [Line(f"t.csv:{k + 2}", f"{k}.jpg", score) for k, score in enumerate(scores)]


@settings(max_examples=200, deadline=None)
@given(RATINGS)
def test_every_part_has_different_scores_where_there_are_enough(scores: list[float]) -> None:
    lines = lines_of(scores)
    rare = len(scores) - max(scores.count(score) for score in set(scores))  # images that are not of the commonest score
    for parts in draw_splits(units_of(lines, [line.name for line in lines])).values():
        assert sorted(line.name for part in parts.values() for line in part) == sorted(line.name for line in lines)
        assert "val" not in parts
        assert len(parts["test"]) == max(2, round(0.2 * len(lines)))
        spread = {part: len({line.score for line in found}) > 1 for part, found in parts.items()}
        assert spread["train"] or rare < 1
        assert spread["test"] or rare < 2


def test_test_parts_have_low_and_high_scores_as_often_as_the_table() -> None:
    lines = lines_of([float(k) for k in range(50)])
    for parts in draw_splits(units_of(lines, [line.name for line in lines])).values():
        assert sorted(int(line.score) // 10 for line in parts["test"]) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_an_added_image_moves_few_others() -> None:
    lines = lines_of([float(k * 7919 % 1000) for k in range(400)])
    keys = [line.name for line in lines]
    before = draw_splits(units_of(lines[:-1], keys[:-1]))
    after = draw_splits(units_of(lines, keys))
    for split, parts in before.items():
        part_of = {line.name: part for part, found in parts.items() for line in found}
        moved = [line for part, found in after[split].items() for line in found if part_of.get(line.name, part) != part]
        assert len(moved) <= 20


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("abcdef")), min_size=4, max_size=40))
def test_a_group_is_never_cut(rated: list[tuple[int, str]]) -> None:
    lines, groups = lines_of([float(score) for score, _ in rated]), [group for _, group in rated]
    for parts in draw_splits(units_of(lines, groups)).values():
        part_of = {line.name: part for part, found in parts.items() for line in found}
        assert len(part_of) == len(lines)
        for group in set(groups):
            assert len({part_of[line.name] for line, own in zip(lines, groups, strict=True) if own == group}) == 1


@pytest.mark.parametrize(("n", "val"), [(194, False), (200, True)])
def test_a_val_part_is_drawn_where_it_has_twenty_images(n: int, val: bool) -> None:
    lines = lines_of([float(k) for k in range(n)])
    splits = draw_splits(units_of(lines, [line.name for line in lines]))
    assert ("val" in splits["1"]) == val
    rows = {part: Part(np.zeros(len(found), np.int64), np.zeros(len(found))) for part, found in splits["1"].items()}
    assert ("selected by cross-validation" in how_drawn({"1": rows})) == (not val)


@pytest.mark.parametrize("of_one_group", [10, 13, 18])
def test_a_group_of_most_images_is_trained_on(of_one_group: int) -> None:
    lines = lines_of([float(k * 7 % 20) for k in range(20)])
    keys = ["group g" if k < of_one_group else line.name for k, line in enumerate(lines)]
    for parts in draw_splits(units_of(lines, keys)).values():
        assert len(parts["train"]) >= of_one_group
        assert 2 <= len(parts["test"]) <= 4


def test_groups_of_one_size_are_all_tested_on_in_some_split() -> None:
    lines = lines_of([float(k % 10) for k in range(40)])
    splits = draw_splits(units_of(lines, [f"group {k // 10}" for k in range(40)]))
    assert {len(parts["test"]) for parts in splits.values()} == {10}
    assert sorted(int(parts["test"][0].name.removesuffix(".jpg")) // 10 for parts in splits.values()) == [0, 1, 2, 3]


@pytest.mark.parametrize("groups", [2, 3, 9])
def test_no_two_splits_test_on_the_same_images(groups: int) -> None:
    lines = lines_of([float(k % 7) for k in range(30)])
    splits = draw_splits(units_of(lines, [f"group {k % groups}" for k in range(30)]))
    tested = [frozenset(line.name for line in parts["test"]) for parts in splits.values()]
    assert len(set(tested)) == len(tested) == min(groups, 5)
    assert list(splits) == [str(k + 1) for k in range(len(tested))]
