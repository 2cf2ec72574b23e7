"""Busy seconds are counted once each, whoever counts them, and told in few words."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.extraction.timings import STAGES, StageTimes, describe_shares

SECONDS = st.dictionaries(st.sampled_from(STAGES), st.floats(0, 1e6))


def test_nothing_was_done_in_the_beginning() -> None:
    assert StageTimes().seconds == dict.fromkeys(STAGES, 0.0)
    assert StageTimes().shares == dict.fromkeys(STAGES, 0.0)


def test_every_stage_is_there_whichever_are_given() -> None:
    assert StageTimes({"write": 2.0}).seconds == {**dict.fromkeys(STAGES, 0.0), "write": 2.0}


def test_what_many_threads_add_is_all_there() -> None:
    times, together = StageTimes(), threading.Barrier(8)

    def add(k: int) -> None:
        together.wait()
        for _ in range(2_000):
            times.add({STAGES[k % 2]: 0.5})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    assert times.seconds == {**dict.fromkeys(STAGES, 0.0), STAGES[0]: 4_000.0, STAGES[1]: 4_000.0}


def test_threads_that_are_busy_at_once_are_counted_each() -> None:
    times = StageTimes()

    def sleep(_: int) -> None:
        with times.timed("views"):
            time.sleep(0.1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(sleep, range(4)))
    assert times.seconds["views"] >= 0.4


def test_a_block_that_fails_is_timed_too() -> None:
    times = StageTimes()
    with pytest.raises(ValueError, match="no"), times.timed("decode"):
        time.sleep(0.01)
        raise ValueError("no")
    assert times.seconds["decode"] >= 0.01


def test_a_stage_that_is_not_there_cannot_be_added_to() -> None:
    with pytest.raises(KeyError, match="decoding"):
        StageTimes().add({"decoding": 1.0})


@given(SECONDS, SECONDS)
def test_times_add_up_stage_by_stage(first: dict[str, float], second: dict[str, float]) -> None:
    total, other = StageTimes(first), StageTimes(second)
    total.add(other.seconds)
    assert total.seconds == {stage: first.get(stage, 0.0) + second.get(stage, 0.0) for stage in STAGES}
    assert other.seconds == StageTimes(second).seconds


def test_times_can_be_added_to_themselves() -> None:
    times = StageTimes({"encode": 2.0})
    times.add(times.seconds)
    assert times.seconds["encode"] == 4.0


def test_seconds_are_a_copy() -> None:
    given_seconds = {"encode": 2.0}
    times = StageTimes(given_seconds)
    times.seconds["encode"] = 9.0
    given_seconds["encode"] = 9.0
    assert times.seconds["encode"] == 2.0


@given(SECONDS)
def test_shares_add_up_to_one(seconds: dict[str, float]) -> None:
    shares = StageTimes(seconds).shares
    assert set(shares) == set(STAGES)
    assert all(0 <= share <= 1 for share in shares.values())
    assert sum(shares.values()) == pytest.approx(1.0 if any(seconds.values()) else 0.0)


def test_the_share_of_a_stage_is_its_part_of_all_seconds() -> None:
    assert StageTimes({"backbone": 6.0, "encode": 1.0, "write": 1.0}).shares["backbone"] == 0.75


@pytest.mark.parametrize(
    ("shares", "text"),
    [
        ({"decode": 0.03, "views": 0.05, "backbone": 0.92}, "backbone 92%, views 5%, decode 3%"),
        ({"decode": 0.2, "views": 0.4, "backbone": 0.4}, "views 40%, backbone 40%, decode 20%"),  # alike: in order
        ({"backbone": 1.0, "write": 0.0}, "backbone 100%"),
        ({"backbone": 0.9951, "write": 0.0049}, "backbone 100%"),
        ({"backbone": 0.9949, "write": 0.0051}, "backbone 99%, write 1%"),
        ({"backbone": 0.006, "write": 0.014}, "write 1%, backbone 1%"),
        ({}, ""),
        (dict.fromkeys(STAGES, 0.0), ""),
    ],
)
def test_shares_are_told_largest_first_in_whole_percent(shares: dict[str, float], text: str) -> None:
    assert describe_shares(shares) == text


def test_no_stage_is_told_to_have_taken_0_percent() -> None:
    assert "0%" not in describe_shares({"backbone": 0.995, "write": 0.005}).split()
