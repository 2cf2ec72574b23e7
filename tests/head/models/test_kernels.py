"""Kernels against slow loops from their definitions and against scikit-learn's, and the head that multiplies them."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics.pairwise import chi2_kernel, rbf_kernel

from head.models import kernels
from head.models.kernels import KERNELS, KernelProductHead, KernelProductShape
from head.models.kinds import head_as_json, head_from_json

Array = NDArray[np.float64]
DEFINITIONS: dict[str, Callable[[Array, Array, float], float]] = {
    "rbf": lambda x, y, gamma: math.exp(-gamma * sum((p - q) ** 2 for p, q in zip(x, y, strict=True))),
    "chi2": lambda x, y, gamma: math.exp(
        -gamma * sum((p - q) ** 2 / (p + q) for p, q in zip(x, y, strict=True) if p + q > 0)
    ),
    "intersection": lambda x, y, gamma: gamma * sum(map(min, x, y)),
    "linear": lambda x, y, gamma: gamma * sum(p * q for p, q in zip(x, y, strict=True)),
}


def drawn(n: int, seed: int = 0, channels: int = 13) -> Array:
    """Return vectors (n, D), a third of whose numbers are 0, as those of histograms often are."""
    rng = np.random.default_rng(seed)
    return rng.random((n, channels)) * (rng.random((n, channels)) > 1 / 3)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("block", [1, 30, 1 << 14])
def test_a_kernel_is_that_of_its_definition(monkeypatch: pytest.MonkeyPatch, name: str, block: int) -> None:
    monkeypatch.setattr(kernels, "_BLOCK", block)
    x, y = drawn(5), drawn(7, seed=1)
    found = KERNELS[name].of(torch.from_numpy(x), torch.from_numpy(y), 0.7)
    np.testing.assert_allclose(found, [[DEFINITIONS[name](a, b, 0.7) for b in y] for a in x], rtol=1e-12)


def test_kernels_are_those_of_scikit_learn() -> None:
    x = drawn(40)
    for name, its in (("rbf", rbf_kernel), ("chi2", chi2_kernel)):
        found, gamma = KERNELS[name].among(torch.from_numpy(x))
        np.testing.assert_allclose(found, its(x, gamma=gamma), atol=1e-12)


def test_gamma_follows_from_the_training_vectors() -> None:
    x = drawn(23)
    pairs = [(a, b) for k, a in enumerate(x) for b in x[k + 1 :]]
    gammas = {name: kernel.among(torch.from_numpy(x))[1] for name, kernel in KERNELS.items()}
    assert gammas == {
        "rbf": pytest.approx(1 / (2 * np.median([((a - b) ** 2).sum() for a, b in pairs]))),
        "chi2": pytest.approx(1 / np.mean([-math.log(DEFINITIONS["chi2"](a, b, 1)) for a, b in pairs])),
        "intersection": pytest.approx(1 / x.sum(axis=1).mean()),
        "linear": pytest.approx(1 / (x**2).sum(axis=1).mean()),
    }


def test_the_median_of_many_vectors_is_that_of_some_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.from_numpy(drawn(90))
    every = KERNELS["rbf"].among(x)[1]
    monkeypatch.setattr(kernels, "_MOST_FOR_MEDIAN", 40)
    assert KERNELS["rbf"].among(x)[1] == KERNELS["rbf"].among(x[::3])[1] == pytest.approx(every, rel=0.2)


@pytest.mark.parametrize("name", KERNELS)
def test_vectors_that_are_all_the_same_have_a_finite_kernel(name: str) -> None:
    for value in (0.0, 2.0):
        found, gamma = KERNELS[name].among(torch.full((3, 5), value, dtype=torch.float64))
        assert torch.isfinite(found).all()
        assert gamma > 0


@pytest.mark.parametrize("name", ["chi2", "intersection"])
def test_what_is_negative_counts_as_0(name: str) -> None:
    x = torch.from_numpy(drawn(5))
    below = torch.where(x == 0, -0.1, x)
    assert torch.equal(KERNELS[name].of(below, below, 1.0), KERNELS[name].of(x, x, 1.0))


def product_head() -> KernelProductHead:
    head = KernelProductHead(KernelProductShape(5, ("intersection", "rbf", "chi2", "linear"), (3, 2, 4, 2)))
    rng = np.random.default_rng(3)
    head.standardise.mean[3:5] = torch.tensor([0.2, 0.3])
    head.standardise.deviation[3:5] = torch.tensor([2.0, 0.5])
    head.support.copy_(torch.from_numpy(drawn(5, seed=4, channels=11)))
    head.weight.copy_(torch.from_numpy(rng.normal(size=5)))
    head.gamma.copy_(torch.tensor([0.5, 0.3, 0.7, 1.1]))
    head.intercept.fill_(0.25)
    return head


def test_the_head_is_a_sum_of_products_of_kernels_around_its_support_vectors() -> None:
    head, x = product_head(), drawn(7, seed=5, channels=11)
    mean, deviation = np.zeros(11), np.ones(11)
    mean[3:5], deviation[3:5] = (0.2, 0.3), (2, 0.5)
    z, support = (x - mean) / deviation, (head.support.double().numpy() - mean) / deviation
    bands = zip(head.shape.kernels, head.gamma.tolist(), ((0, 3), (3, 5), (5, 9), (9, 11)), strict=True)
    each = [(DEFINITIONS[name], gamma, slice(*band)) for name, gamma, band in bands]
    expected = [
        0.25
        + sum(
            w * math.prod(kernel(v[band], s[band], gamma) for kernel, gamma, band in each)
            for w, s in zip(head.weight.tolist(), support, strict=True)
        )
        for v in z
    ]
    score, step_scores, maps = head(torch.from_numpy(x).unsqueeze(1))[:3]
    np.testing.assert_allclose(score, expected, atol=1e-6)  # mean and deviation are not of float32 exactly
    assert (step_scores.shape, maps.shape) == ((7, 1), (7, 1, 0))


def test_a_stored_shape_gives_the_head_that_it_was_and_no_other_is_taken_for_it() -> None:
    stored = head_as_json(product_head())
    shape = {key: list(value) if isinstance(value, tuple) else value for key, value in stored["shape"].items()}
    assert head_from_json(stored["kind"], shape).shape == product_head().shape
    for wrong in ({"kernels": ["rbf"]}, {"kernels": ["rbf", "rbf", "rbf", "cosine"]}):
        with pytest.raises(ValueError, match="not kernels and what they see"):
            head_from_json(stored["kind"], {**shape, **wrong})
