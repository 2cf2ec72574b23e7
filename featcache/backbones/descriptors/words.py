"""Bags of visual words: a dictionary learned from descriptors, and how often each word occurs where in an image."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.backbones.descriptors.compiled import compiled
from featcache.base.errors import InvalidSettings

WORDS = 200
PARTS = 5  # the whole image and its quarters


def learn_words(samples: NDArray[np.float32], words: int = WORDS, seed: int = 0) -> NDArray[np.float32]:
    """Return the centres (words, d) that k-means finds among descriptors (N, d); same samples and seed, same words.

    Lloyd's rounds from a start by k-means++, 800 at most (the limit of the LabelMe toolbox). Raises `InvalidSettings`
    if fewer of the samples than there are to be words differ from each other.
    """
    from sklearn.cluster import KMeans  # which takes a second to load, and only this function needs
    from threadpoolctl import threadpool_limits

    different = len(np.unique(samples, axis=0))
    if different < words:
        raise InvalidSettings(
            f"{words} visual words cannot be learned from {len(samples)} descriptors, of which {different} differ: "
            "give more images, or fewer words"
        )
    with threadpool_limits(1):  # sums of several threads differ in their last bit from run to run
        found = KMeans(words, init="k-means++", n_init=1, max_iter=800, random_state=seed).fit(samples)
    return np.ascontiguousarray(found.cluster_centers_, np.float32)


def sample_of(grid: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Return count descriptors (count, d) of a grid (h, w, d), drawn without repeats; all if there are fewer."""
    flat = grid.reshape(-1, grid.shape[-1])
    drawn: NDArray[np.float32] = flat[
        np.random.default_rng(seed).choice(len(flat), min(count, len(flat)), replace=False)
    ]
    return drawn


def bag_of_words(grid: NDArray[np.float32], words: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how often each word is the nearest one, (5 words,), in an image's descriptors (h, w, d); it sums to 1.

    First the whole image, then its quarters row by row; both levels weigh half (Lazebnik and others, CVPR 2006).
    """
    height, width, _ = grid.shape
    nearest = nearest_words(grid.reshape(height * width, -1), words).reshape(height, width)
    quarters = (2 * np.arange(height) // height)[:, None] * 2 + 2 * np.arange(width) // width
    counts = np.bincount((quarters * len(words) + nearest).ravel(), minlength=4 * len(words))
    pyramid = np.concatenate([counts.reshape(4, -1).sum(axis=0), counts])
    return np.asarray(pyramid / pyramid.sum(), np.float32)


def nearest_words(descriptors: NDArray[np.float32], words: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the index (N,) of the word (words, d) nearest to each descriptor (N, d); of equals, the first."""
    nearest = np.empty(len(descriptors), np.int64)
    halves = (words.astype(np.float64) ** 2).sum(axis=1).astype(np.float32) / 2
    across = np.ascontiguousarray(words.T)
    _nearest_words(np.ascontiguousarray(descriptors), across, halves, nearest)
    return nearest


@compiled
def _nearest_words(
    descriptors: NDArray[Any], across: NDArray[Any], halves: NDArray[Any], nearest: NDArray[Any]
) -> None:
    """Compare |w|^2/2 - x.w of two descriptors at a time, in a fixed order of sums, which a BLAS does not promise."""
    channels, words = across.shape
    whole = channels - channels % 4
    one, two = np.empty(words, np.float32), np.empty(words, np.float32)
    for first in range(0, len(nearest), 2):
        second = min(first + 1, len(nearest) - 1)
        x, y = descriptors[first], descriptors[second]
        one[:], two[:] = halves, halves
        for k in range(0, whole, 4):
            x0, x1, x2, x3 = x[k], x[k + 1], x[k + 2], x[k + 3]
            y0, y1, y2, y3 = y[k], y[k + 1], y[k + 2], y[k + 3]
            for w in range(words):
                a, b, c, d = across[k, w], across[k + 1, w], across[k + 2, w], across[k + 3, w]
                one[w] -= (x0 * a + x1 * b) + (x2 * c + x3 * d)
                two[w] -= (y0 * a + y1 * b) + (y2 * c + y3 * d)
        for k in range(whole, channels):
            for w in range(words):
                one[w] -= x[k] * across[k, w]
                two[w] -= y[k] * across[k, w]
        nearest[first], nearest[second] = np.argmin(one), np.argmin(two)
