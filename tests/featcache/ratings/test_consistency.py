"""How far simulated people agree is what their bias and noise make it; intervals hold the truth as they should."""

import numpy as np
import pytest

from featcache.ratings.consistency import Consistency, icc, spearman_brown, split_half_consistency
from featcache.ratings.halves import spearman
from featcache.ratings.scores import Answers
from tests.helpers.raters import draw_ratings


def table(images: int, workers: int, *, share: float, bias: float, noise: float, seed: int) -> Answers:
    true = np.random.default_rng([9, seed]).normal(size=images)
    image, worker, rating = zip(
        *draw_ratings(true, workers=workers, share=share, bias=bias, noise=noise, seed=seed), strict=True
    )
    return Answers(np.array(image, np.int32), np.array(worker, np.int32), np.array(rating))


def consistency(ratings: Answers, images: int, workers: int, *, halvings: int = 25, seed: int = 0) -> Consistency:
    return split_half_consistency("mean", [ratings], images=images, workers=workers, halvings=halvings, seed=seed)


def of_normal(r: float) -> float:
    """Return Spearman's rho of normal variables of correlation r."""
    return 6 / np.pi * np.arcsin(r / 2)


def test_split_half_full_and_curve_are_those_of_the_noise() -> None:
    found = consistency(table(1500, 40, share=1, bias=0, noise=3, seed=1), 1500, 40)
    assert found.split_half == pytest.approx(of_normal(20 / (20 + 9)), abs=0.03)
    assert spearman_brown(found.split_half) == pytest.approx(of_normal(40 / (40 + 9)), abs=0.02)
    assert [point.ratings for point in found.curve] == [1, 2, 5, 10, 20, 40, 80, 160]
    for point in found.curve:
        assert point.consistency == pytest.approx(of_normal(point.ratings / (point.ratings + 9)), abs=0.05)
        assert point.extrapolated == (point.ratings > 20)


def test_what_raters_add_to_all_their_ratings_is_taken_out_where_each_rates_every_image() -> None:
    plain, biased = (table(61, 23, share=1, bias=bias, noise=1, seed=2) for bias in (0.0, 3.0))
    assert consistency(plain, 61, 23).split_half == pytest.approx(consistency(biased, 61, 23).split_half)
    rated_by_some = table(61, 23, share=0.4, bias=3, noise=1, seed=2)
    assert consistency(rated_by_some, 61, 23).split_half < consistency(biased, 61, 23).split_half - 0.1


@pytest.mark.parametrize(
    ("images", "workers", "share", "bias", "noise"), [(60, 30, 0.5, 0.0, 2.0), (50, 16, 1.0, 1.0, 2.0)]
)
def test_intervals_hold_the_truth_about_as_often_as_they_say(
    images: int, workers: int, share: float, bias: float, noise: float
) -> None:
    found = [
        consistency(table(images, workers, share=share, bias=bias, noise=noise, seed=seed), images, workers, halvings=5)
        for seed in range(24)
    ]
    truth = np.mean([one.split_half for one in found])
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.8  # 0.95 of python -m bench.rating_intervals


def test_equal_seeds_give_equal_numbers_whatever_the_order_of_the_lines() -> None:
    ratings = table(31, 11, share=0.7, bias=1, noise=1, seed=3)
    first = consistency(ratings, 31, 11)
    assert consistency(ratings, 31, 11) == first
    assert consistency(ratings, 31, 11, seed=1).split_half != first.split_half
    shuffled = Answers(*(one[np.random.default_rng(0).permutation(len(one))] for one in ratings))
    assert consistency(shuffled, 31, 11).split_half == pytest.approx(first.split_half, abs=1e-12)


def test_there_is_no_consistency_of_one_worker_or_of_scores_that_do_not_vary() -> None:
    one = Answers(np.arange(5, dtype=np.int32), np.zeros(5, np.int32), np.arange(5.0))
    assert np.isnan(consistency(one, 5, 1).split_half)
    image, worker = np.divmod(np.arange(35, dtype=np.int32), np.int32(7))
    assert np.isnan(consistency(Answers(image, worker, np.ones(35)), 5, 7).split_half)


def test_few_workers_have_a_consistency_without_an_interval() -> None:
    found = consistency(table(23, 3, share=1, bias=0, noise=0.5, seed=4), 23, 3)
    assert found.split_half > 0.5 and np.isnan(found.low)


def test_spearman_brown_has_no_answer_below_zero() -> None:
    assert spearman_brown(0.68) == pytest.approx(0.8095, abs=1e-4)
    assert spearman_brown(0.5, 4) == pytest.approx(0.8)
    assert np.isnan(spearman_brown(-0.1)) and np.isnan(spearman_brown(0.0))


def test_spearman_is_scipys_over_images_that_have_both_scores() -> None:
    from scipy import stats

    one, other = np.random.default_rng(5).integers(6, size=(2, 40)).astype(float)
    one[3], other[7] = np.nan, np.nan
    both = np.isfinite(one) & np.isfinite(other)
    assert spearman(one, other) == pytest.approx(stats.spearmanr(one[both], other[both]).statistic)
    assert np.isnan(spearman(one[:2], other[:2])) and np.isnan(spearman(one, np.ones(40)))


def test_icc_of_a_balanced_table_is_that_of_shrout_and_fleiss() -> None:
    ratings = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
    image, worker = np.divmod(np.arange(24, dtype=np.int32), np.int32(4))
    found = icc(Answers(image, worker, ratings.ravel().astype(float)), 6)
    assert found.icc_1_k == pytest.approx(0.44, abs=0.005) and found.k0 == 4  # their Table 4, ICC(1,4)


def test_icc_of_an_unbalanced_table_is_that_of_a_plain_analysis_of_variance() -> None:
    from scipy import stats

    ratings = table(17, 13, share=0.4, bias=0.5, noise=1, seed=6)
    by_image = [ratings.value[ratings.image == i] for i in range(17) if (ratings.image == i).any()]
    sizes = np.array([len(one) for one in by_image])
    found = icc(ratings, 17)
    assert found.icc_1_k == pytest.approx(1 - 1 / stats.f_oneway(*by_image).statistic)
    assert found.k0 == pytest.approx((sizes.sum() - (sizes**2).sum() / sizes.sum()) / (len(sizes) - 1))


def test_icc_recovers_the_reliability_of_means() -> None:
    found = icc(table(3000, 20, share=0.5, bias=0, noise=2, seed=7), 3000)
    assert found.icc_1_k == pytest.approx(found.k0 / (found.k0 + 4), abs=0.02)
    once = Answers(np.arange(4, dtype=np.int32), np.zeros(4, np.int32), np.arange(4.0))
    assert np.isnan(icc(once, 4).icc_1_k)


def test_halves_that_always_disagree_have_an_interval() -> None:
    image, worker = (one.ravel() for one in np.indices((5, 5)))
    latin = (3 * image + worker) % 5  # each image has the ratings 0 to 4, so one half has what the other lacks
    found = consistency(Answers(image.astype(np.int32), worker.astype(np.int32), latin.astype(float)), 5, 5)
    assert found.split_half == pytest.approx(-1) and -1 <= found.low <= found.high < 0
