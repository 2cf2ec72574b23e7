"""Scores of simulated people come back as they were planted, and their errors as they scatter."""

import numpy as np
import pytest

from featcache.ratings.scores import Answers, Sums, correct_for_lag, errors_of, scores_of, sums_of, z_scored

IMAGES = 7


def answers(image: np.ndarray, value: np.ndarray, worker: np.ndarray | None = None) -> Answers:
    workers = np.arange(len(image)) if worker is None else worker
    return Answers(image.astype(np.int32), workers.astype(np.int32), value.astype(np.float64))


def coins(chance: np.ndarray, each: int, rng: np.random.Generator) -> Answers:
    image = np.repeat(np.arange(len(chance)), each)
    return answers(image, rng.random(len(image)) < chance[image])


@pytest.mark.parametrize("score", ["hits", "hr-fa", "dprime"])
def test_memory_scores_have_their_expectation_and_their_standard_error(score: str) -> None:
    from scipy.special import ndtri

    rng = np.random.default_rng(3)
    hit, alarm = np.linspace(0.35, 0.9, IMAGES), np.linspace(0.3, 0.1, IMAGES)
    truth = {"hits": hit, "hr-fa": hit - alarm, "dprime": ndtri(hit) - ndtri(alarm)}[score]
    found, errors = [], []
    for _ in range(300):
        repeats, firsts = coins(hit, 60, rng), coins(alarm, 83, rng)
        sums = sums_of(repeats, firsts, IMAGES)
        found.append(scores_of(score, sums))
        errors.append(errors_of(score, sums, repeats))
    scatter = np.std(found, axis=0, ddof=1)
    bias = 0.02 if score == "dprime" else 0.0  # the correction pulls rates to a half
    assert np.all(np.abs(np.mean(found, axis=0) - truth) < 4 * scatter / np.sqrt(300) + bias)
    assert np.mean(errors, axis=0) == pytest.approx(scatter, rel=0.2)


def test_dprime_is_that_of_log_linear_rates() -> None:
    sums = Sums(*(np.array([float(value)]) for value in (9, 10, 1, 12)))  # 9.5 / 11 and 1.5 / 13
    assert scores_of("dprime", sums)[0] == pytest.approx(1.0968 + 1.1984, abs=1e-3)


def test_an_image_without_first_showings_has_no_dprime() -> None:
    sums = Sums(*(np.array([float(value)]) for value in (9, 10, 0, 0)))
    assert np.isnan(scores_of("dprime", sums)[0]) and np.isnan(scores_of("hr-fa", sums)[0])


def lagged(slope: float, n: int, seed: int) -> tuple[Answers, np.ndarray]:
    """Return hits whose chance falls with the lag, of images that were shown at different lags, and the lags."""
    rng = np.random.default_rng(seed)
    image = rng.integers(IMAGES, size=n)
    lag = np.exp(rng.uniform(np.log(4), np.log(140), n) * np.linspace(0.7, 1, IMAGES)[image])
    chance = np.linspace(0.5, 0.8, IMAGES)[image] + slope * np.log(lag / 75)
    return answers(image, rng.random(n) < chance, rng.integers(29, size=n)), lag


def test_lag_correction_finds_the_slope_that_was_planted_and_the_scores_at_75_trials() -> None:
    hits, lag = lagged(-0.05, 40_000, seed=5)
    corrected, slope = correct_for_lag(hits, lag, images=IMAGES, T=75)
    assert slope.a == pytest.approx(-0.05, abs=4 * slope.se) and 0.001 < slope.se < 0.006
    sums = sums_of(corrected, None, IMAGES)
    errors = errors_of("lag", sums, corrected) + slope.se
    assert np.all(np.abs(scores_of("lag", sums) - np.linspace(0.5, 0.8, IMAGES)) < 4 * errors)


def test_lag_correction_is_where_the_published_alternation_ends() -> None:
    hits, lag = lagged(-0.07, 400, seed=6)
    a, u = 0.0, np.log(lag / 75)
    for _ in range(2000):
        m = [np.mean((hits.value - a * u)[hits.image == i]) for i in range(IMAGES)]
        up = sum(np.mean((u * (hits.value - m[i]))[hits.image == i]) for i in range(IMAGES))
        a = up / sum(np.mean((u**2)[hits.image == i]) for i in range(IMAGES))
    corrected, slope = correct_for_lag(hits, lag, images=IMAGES, T=75)
    assert slope.a == pytest.approx(a, rel=1e-6)
    assert scores_of("lag", sums_of(corrected, None, IMAGES)) == pytest.approx(m, rel=1e-6)


def test_nothing_is_corrected_where_every_lag_is_the_same() -> None:
    hits, _ = lagged(0.0, 40, seed=7)
    corrected, slope = correct_for_lag(hits, np.full(40, 30.0), images=IMAGES, T=75)
    assert np.isnan(slope.a) and np.array_equal(corrected.value, hits.value)


def test_z_scores_take_out_what_a_rater_adds_and_stretches() -> None:
    rng = np.random.default_rng(8)
    rating = rng.normal(size=(IMAGES, 5))
    worker = np.tile(np.arange(5), IMAGES)
    image = np.repeat(np.arange(IMAGES), 5)
    plain, _ = z_scored(answers(image, rating.ravel(), worker), 5)
    stretched, kept = z_scored(answers(image, (rating * [1, 2, 5, 0.1, 9] + [0, 7, -3, 1, 2]).ravel(), worker), 5)
    assert stretched.value == pytest.approx(plain.value) and kept.all()
    of_one = plain.value[worker == 2]
    assert np.mean(of_one) == pytest.approx(0, abs=1e-12) and np.std(of_one, ddof=1) == pytest.approx(1)


def test_raters_with_one_rating_or_equal_ratings_have_no_z_score() -> None:
    ratings = answers(np.array([0, 1, 0, 1, 0]), np.array([1, 2, 3, 3, 5]), np.array([0, 0, 1, 1, 2]))
    scored, kept = z_scored(ratings, 3)
    assert kept.tolist() == [True, True, False, False, False] and len(scored.value) == 2


def test_z_scores_do_not_depend_on_the_unit_of_ratings() -> None:
    ratings = answers(np.arange(4), np.array([1.0, 2.0, 4.0, 3.0]), np.zeros(4, np.int32))
    tiny, kept = z_scored(ratings._replace(value=1e-15 * ratings.value), 1)
    assert kept.all() and tiny.value == pytest.approx(z_scored(ratings, 1)[0].value)


def test_however_many_equal_ratings_of_a_worker_have_no_z_score() -> None:
    n = 10**6  # whose sum is off by rounding, and so is their mean
    ratings = answers(np.zeros(n, np.int32), np.full(n, 0.1), np.zeros(n, np.int32))
    constant, kept = z_scored(ratings, 1)
    assert len(constant.value) == 0 and not kept.any()
