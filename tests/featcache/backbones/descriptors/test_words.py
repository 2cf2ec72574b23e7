"""Dictionaries of visual words and bags of them, on words that are made up."""

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.backbones.descriptors.words import bag_of_words, learn_words, nearest_words, sample_of
from featcache.base.errors import InvalidSettings

WORDS = 7 * np.eye(3, 5, dtype=np.float32)


def grid_of(labels: list[list[int]]) -> NDArray[np.float32]:
    noise = np.random.default_rng(0).normal(0, 0.5, (*np.shape(labels), 5))
    return (WORDS[np.array(labels)] + noise).astype(np.float32)


def test_words_are_counted_in_the_image_and_its_quarters() -> None:
    bag = bag_of_words(grid_of([[0, 0, 1, 1], [0, 1, 1, 1], [2, 2, 2, 0]]), WORDS)
    counts = np.array([[4, 5, 3], [3, 1, 0], [0, 4, 0], [0, 0, 2], [1, 0, 1]])  # the middle row is of the upper half
    np.testing.assert_allclose(bag, counts.ravel() / 24, rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 30, 124])
def test_the_nearest_word_has_the_least_distance(channels: int) -> None:
    rng = np.random.default_rng(1)
    descriptors, words = (rng.standard_normal((n, channels)).astype(np.float32) for n in (101, 17))
    distances = ((descriptors[:, None].astype(float) - words) ** 2).sum(axis=2)
    np.testing.assert_array_equal(nearest_words(descriptors, words), distances.argmin(axis=1))
    assert nearest_words(words, np.concatenate([words, words])).tolist() == list(range(17))  # of equals, the first


def test_learning_twice_gives_the_same_bits_and_another_seed_others() -> None:
    samples = np.random.default_rng(2).standard_normal((2000, 6)).astype(np.float32)
    one, two, other = (learn_words(samples, 50, seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(one, two)
    assert one.dtype == np.float32
    assert (one != other).any()


def test_words_are_the_centres_of_clusters() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 600)
    samples = (WORDS[labels] + rng.normal(0, 0.1, (600, 5))).astype(np.float32)
    found = learn_words(samples, 3)
    wanted = np.array([samples[labels == k].mean(axis=0) for k in range(3)])
    np.testing.assert_allclose(found[np.argsort(found.argmax(axis=1))], wanted, atol=1e-4)


def test_too_few_different_samples_are_refused() -> None:
    samples = np.repeat(WORDS, 100, axis=0)
    with pytest.raises(
        InvalidSettings, match=r"4 visual words cannot be learned from 300 descriptors, of which 3 differ"
    ):
        learn_words(samples, 4)


def test_samples_are_drawn_without_repeats_by_seed() -> None:
    grid = np.arange(5 * 7 * 2, dtype=np.float32).reshape(5, 7, 2)
    one = sample_of(grid, 20, seed=1)
    assert one.shape == (20, 2)
    assert len(np.unique(one, axis=0)) == 20
    np.testing.assert_array_equal(one, sample_of(grid, 20, seed=1))
    assert (one != sample_of(grid, 20, seed=2)).any()
    assert sorted(map(tuple, sample_of(grid, 99, seed=1))) == sorted(map(tuple, grid.reshape(-1, 2)))
