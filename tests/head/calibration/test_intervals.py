"""Half-widths are order statistics that hold what they say, and there are none of too few images."""

import numpy as np
import pytest

from featcache.base.errors import InvalidSettings
from head.calibration import intervals
from head.calibration.intervals import (
    coverage,
    fewest_images,
    half_width,
    mean_half_width,
    pooled,
    usual_half_widths,
    why_none,
)


def rising(n: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.arange(1.0, n + 1)


@pytest.mark.parametrize(
    ("n", "level", "wanted"),
    [(9, 0.9, 9), (10, 0.9, 10), (19, 0.9, 18), (20, 0.9, 19), (99, 0.9, 90), (19, 0.95, 19), (3, 0.5, 2)],
)  # fmt: skip
def test_it_is_the_smallest_residual_that_so_many_are_within(n: int, level: float, wanted: float) -> None:
    assert half_width(rising(n)[::-1], level) == wanted


@pytest.mark.parametrize(("level", "fewest"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_of_too_few_images_there_is_none_and_why_is_said(level: float, fewest: int) -> None:
    assert fewest_images(level) == fewest
    assert half_width(rising(fewest), level) == fewest
    assert half_width(rising(fewest - 1), level) is None
    assert why_none([rising(fewest)], level) == ""
    if fewest > 1:
        wanted = f"one of {level:g} takes {fewest} images that the head was not fitted to, and there were {fewest - 1}"
        assert why_none([rising(fewest), rising(fewest - 1)], level) == wanted
    assert "does not tell" in why_none([rising(fewest), rising(0)], level)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 90.0, float("nan")])
def test_a_level_is_a_share(level: float) -> None:
    with pytest.raises(InvalidSettings, match=r"--interval must be above 0 and below 1, such as 0\.9, found"):
        half_width(rising(9), level)


def test_new_ratings_are_within_as_often_as_the_level_says() -> None:
    rng = np.random.default_rng(0)
    held = [abs(rng.normal()) <= (half_width(np.abs(rng.normal(size=19)), 0.9) or 0) for _ in range(4000)]
    assert np.mean(held) == pytest.approx(0.9, abs=0.015)  # three deviations of a mean of so many


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_the_mean_score_of_members_is_within_the_mean_of_their_bounds_more_often(shared: float) -> None:
    rng = np.random.default_rng(1)

    def residuals(n: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """Return those of five members (5, n), whose errors have a part in common."""
        return shared * rng.normal(size=n) + (1 - shared) * rng.normal(size=(5, n))

    widths = [mean_half_width(list(np.abs(residuals(49))), 0.9) or 0 for _ in range(2000)]
    held = [abs(residuals(1).mean()) <= width for width in widths]
    assert np.mean(held) >= 0.9 - 0.02
    assert shared == 1 or np.mean(held) > 0.95


def test_members_have_no_interval_unless_each_has_one() -> None:
    assert mean_half_width([rising(9), rising(19)], 0.9) == 13.5
    assert mean_half_width([rising(9), rising(8)], 0.9) is None
    assert usual_half_widths([rising(9)]) == {"0.8": 8, "0.9": 9}
    assert usual_half_widths([rising(0)]) == {}


def test_coverage_is_counted_in_all_and_in_thirds_of_the_rating(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "FEWEST_OF_THIRD", 2)
    truth = np.array([9.0, 1.0, 5.0, 8.0, 2.0, 4.0, 7.0])
    off = np.array([9.5, 0.0, -9.0, 9.0, 9.1, 0.0, 0.0])  # 9.0 is on the bound
    found = coverage(truth + off, truth, rising(9), rows=np.arange(7))
    assert found is not None
    assert found.as_json() == {
        "level": 0.9,
        "half_width": 9.0,
        "coverage": 5 / 7,
        "n": 7,
        "coverage_of_thirds": {"low": 2 / 3, "middle": 1.0, "high": 0.5},
        "n_of_thirds": {"low": 3, "middle": 2, "high": 2},
    }
    assert (
        found.as_text()
        == "+-9 holds 71.4% of 7 ratings (by thirds of the rating: low 67% of 3, middle 100% of 2, high 50% of 2)"
    )
    other = coverage(truth, truth, rising(19), rows=np.arange(7))
    together = pooled([found, other])
    assert together is not None
    assert (together.share, together.half_width) == (12 / 14, 13.5)
    assert pooled([found, None]) is None
    assert coverage(truth, truth, rising(8), rows=np.arange(7)) is None


def test_thirds_are_of_all_runs_together_and_left_out_where_they_are_small() -> None:
    """A third of each of several small parts would be of other ratings in each, and of one or two."""
    low, high = np.linspace(0, 1, 30), np.linspace(5, 6, 30)
    rows = np.arange(30)
    parts = [  # all are held, and none
        coverage(low, low, rising(9), rows=rows),
        coverage(high + 10, high, rising(9), rows=30 + rows),
    ]
    assert parts[0] is not None
    why = "no shares by thirds of the rating, of 10 images each: below 20 a share says little"
    found = parts[0].as_json()
    assert (found["coverage"], found["coverage_of_thirds"], found["n_of_thirds"]) == (1.0, None, None)
    assert found["why_no_thirds"] == why
    assert parts[0].as_text() == f"+-9 holds 100.0% of 30 ratings ({why})"
    together = pooled(parts)
    assert together is not None
    assert together.of_thirds() == {"low": (1.0, 20), "middle": (0.5, 20), "high": (0.0, 20)}
    assert "why_no_thirds" not in together.as_json()


def test_an_image_that_several_seeds_tell_of_is_one_of_its_third() -> None:
    truth = np.linspace(0, 1, 30)
    three = pooled([coverage(truth, truth, rising(9), rows=np.arange(30))] * 3)
    assert three is not None and len(three.truth) == 90
    assert three.of_thirds() == {} and "of 10 images each" in three.why_no_thirds
