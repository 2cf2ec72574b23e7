"""Dropout drops with its probability, keeps the mean, and is decided by torch's generator."""

import math

import pytest
import torch

from head.models.fused.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("shape", [(101, 103, 10), (100_003,)])
def test_elements_are_dropped_with_the_probability_and_the_others_scaled(p: float, shape: tuple[int, ...]) -> None:
    torch.manual_seed(7)
    dropped = Dropout(p)(torch.ones(shape))
    share, n = float((dropped == 0).float().mean()), math.prod(shape)
    assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / n)
    torch.testing.assert_close(dropped[dropped != 0].unique(), torch.tensor([1 / (1 - p)]), rtol=1e-4, atol=0)


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(7)
    kept = (Dropout(0.5)(torch.ones(400_000)) != 0).double() - 0.5
    for step in (1, 2, 3, 4, 8):
        assert abs(float((kept[step:] * kept[:-step]).mean())) < 5 * 0.25 / math.sqrt(400_000)


def test_the_gradient_goes_through_what_is_kept() -> None:
    x = torch.ones(1001, requires_grad=True)
    y = Dropout(0.3)(x)
    torch.autograd.backward(y.sum())
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


def test_the_same_seed_drops_the_same_elements() -> None:
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        results.append(Dropout(0.5)(torch.ones(1000)))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_a_probability_next_to_one_still_keeps_some() -> None:
    torch.manual_seed(7)
    dropped = Dropout(0.999999)(torch.ones(1_000_000))
    assert 0 < int((dropped != 0).sum()) < 100
    assert dropped.isfinite().all()


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (0.0, True)])
def test_nothing_is_dropped_in_evaluation_or_with_probability_zero(p: float, training: bool) -> None:
    x = torch.randn(17)
    assert Dropout(p).train(training)(x) is x
