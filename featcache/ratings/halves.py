"""Scores of some of the workers, and how far those of two groups of workers agree. Knows nothing of intervals.

Responses are sparse matrices (I images, W workers); the sums of M groups of workers are their product with the groups.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from featcache.ratings.scores import Answers, Floats, Sums, scores_of

_AT_ONCE = 8  # groups of workers that are summed in one pass

Part = list[tuple[sparse.csr_matrix, sparse.csr_matrix]]


def split_into_parts(
    answers: Sequence[Answers], labels: Sequence[NDArray[np.int64]], number: int, shape: tuple[int, int]
) -> list[Part]:
    """Return responses (of repeats and, if they count, of first showings) in parts by a label (n) of each response.

    A part has matrices of shape (I, W) for each kind of responses: of their values, and of ones.
    """
    return [
        [_matrices(one.where(label == part), shape) for one, label in zip(answers, labels, strict=True)]
        for part in range(number)
    ]


def _matrices(answers: Answers, shape: tuple[int, int]) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    values = sparse.coo_matrix((answers.value, (answers.image, answers.worker)), shape).tocsr()
    return values, sparse.csr_matrix((np.ones(values.nnz), values.indices, values.indptr), shape)


def sums_of_groups(parts: Iterable[Part], groups: NDArray[np.bool_]) -> Sums:
    """Return sums (I, M) of the responses in parts over the workers in each of the groups (W, M)."""
    found: NDArray[np.float64] | None = None
    for part in parts:
        matrices = [matrix for pair in part for matrix in pair]
        if found is None:
            found = np.zeros((4, matrices[0].shape[0], groups.shape[1]))
        for start in range(0, groups.shape[1], _AT_ONCE):
            columns = slice(start, start + _AT_ONCE)
            weights = groups[:, columns].astype(np.float64)
            for row, matrix in enumerate(matrices):
                found[row, :, columns] += matrix @ weights
    assert found is not None
    return Sums(*found)


def less(whole: Sums, part: Sums) -> Sums:
    """Return the sums of what is in the whole and not in the part."""
    return Sums(*(one - other for one, other in zip(whole, part, strict=True)))


def agreements(score: str, first: Sums, second: Sums, kept: NDArray[np.bool_] | None = None) -> Floats:
    """Return Spearman's rho (M or fewer) of the scores of pairs of groups, from their sums (I, M).

    kept (I) are the images that count, by default all. Pairs that have no rho are left out.
    """
    rows = slice(None) if kept is None else kept
    scores = [scores_of(score, Sums(*(one[rows] for one in sums))).T for sums in (first, second)]
    found: Floats = np.array([spearman(one, other) for one, other in zip(*scores, strict=True)])
    return found[np.isfinite(found)]


def agreement(score: str, first: Sums, second: Sums, kept: NDArray[np.bool_] | None = None) -> float:
    """Return the mean of `agreements`, NaN without any."""
    found = agreements(score, first, second, kept)
    return float(np.mean(found)) if len(found) else float("nan")


def spearman(first: Floats, second: Floats) -> float:
    """Return the tie-correct rho of (I) and (I) over images that have both; NaN below 3, or where one is constant."""
    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < 3:
        return float("nan")
    one, other = (rank - rank.mean() for rank in (_ranks(first[both]), _ranks(second[both])))
    size = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / size if size > 0 else float("nan")


def _ranks(values: Floats) -> Floats:
    """Return ranks from 0, equal values their mean; a fifth of the time that scipy.stats.rankdata takes."""
    order = np.argsort(values)
    ordered = values[order]
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    starts = np.flatnonzero(begins)
    middle = (starts + np.append(starts[1:], len(values)) - 1) / 2
    ranks = np.empty(len(values))
    ranks[order] = middle[np.cumsum(begins) - 1]
    return ranks
