"""The attention's loops give what autograd gives for the plain formula, in both forms and in any number of threads."""

import math
import multiprocessing
import warnings

import pytest
import torch
from torch import Tensor

from head.models.fused.attention import (
    energies,
    energies_formula,
    exponential_,
    key_gradient_,
    key_gradient_formula,
    state_gradient,
    state_gradient_formula,
)

B, L, D, T = 5, 7, 11, 3


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + math.prod(shape)))


@pytest.fixture
def k() -> Tensor:
    return draw(B, L, D).requires_grad_()


@pytest.fixture
def s() -> Tensor:
    return draw(T, B, D).requires_grad_()


@pytest.fixture(name="M")
def make_m() -> Tensor:
    return draw(L, D).requires_grad_()


def plain(k: Tensor, s: Tensor, M: Tensor) -> Tensor:
    """Eq. 8 as it stands, for all steps: (T, B, L)."""
    return (M * torch.tanh(k + s.unsqueeze(2))).sum(dim=3)


def exponential(values: Tensor) -> Tensor:
    return exponential_(2 * values.detach())


def test_energies_are_those_of_the_plain_formula(k: Tensor, s: Tensor, M: Tensor) -> None:
    wanted, E, F = plain(k, s, M).detach(), exponential(k), exponential(s)
    for t in range(T):
        torch.testing.assert_close(energies(E, F[t], M.detach()), wanted[t], rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(energies_formula(E, F[t], M.detach()), wanted[t], rtol=1e-13, atol=1e-13)


def test_gradients_are_those_of_autograd(k: Tensor, s: Tensor, M: Tensor) -> None:
    given = draw(T, B, L, seed=1)
    plain(k, s, M).backward(given)
    assert k.grad is not None and s.grad is not None and M.grad is not None
    E, F, M_ = exponential(k), exponential(s), M.detach()
    for t in range(T):
        torch.testing.assert_close(state_gradient(E, F[t], M_, given[t]), s.grad[t], rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(state_gradient_formula(E, F[t], M_, given[t]), s.grad[t], rtol=1e-12, atol=1e-13)
    of_keys, of_m = key_gradient_formula(E, F, M_, given)
    torch.testing.assert_close(key_gradient_(E, F, M_, given), M.grad, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(E, k.grad, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(of_m, M.grad, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(of_keys, k.grad, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("chunk", [1, 2, B, 16])
def test_on_other_devices_images_are_taken_in_chunks(
    chunk: int, k: Tensor, s: Tensor, M: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere(Tensor):
        is_cpu = False  # type: ignore[assignment]

    monkeypatch.setattr("head.models.fused.attention.CHUNK", chunk)
    E, F, M_, given = exponential(k), exponential(s), M.detach(), draw(T, B, L, seed=1)
    keys = E.clone().as_subclass(Elsewhere)
    torch.testing.assert_close(energies(keys, F[0], M_), energies(E, F[0], M_), rtol=1e-12, atol=1e-13)
    own, wanted = state_gradient(keys, F[0], M_, given[0]), state_gradient(E, F[0], M_, given[0])
    torch.testing.assert_close(own, wanted, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(
        key_gradient_(keys, F, M_, given), key_gradient_(E, F, M_, given), rtol=1e-12, atol=1e-13
    )
    torch.testing.assert_close(keys.as_subclass(Tensor), E, rtol=1e-12, atol=1e-13)


def test_in_float32_they_are_as_near_as_float32_can_be(k: Tensor, s: Tensor, M: Tensor) -> None:
    wanted = plain(k, s, M).detach()
    E, F = exponential(k.float()), exponential(s.float())
    for t in range(T):
        torch.testing.assert_close(energies(E, F[t], M.detach().float()).double(), wanted[t], rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    ("key", "share", "wanted"), [(300, 0, 1), (-300, 0, -1), (0, 1e30, 1), (30, -29, math.tanh(1))]
)
def test_saturated_arguments_give_saturated_values_and_finite_gradients(
    key: float, share: float, wanted: float
) -> None:
    E, F = exponential_(torch.full((1, 1, 1), 2.0 * key)), exponential_(torch.full((1, 1), 2.0 * share))
    M, one = torch.ones(1, 1), torch.ones(1, 1)
    assert energies(E, F, M).item() == pytest.approx(wanted, rel=1e-5)
    slope = 1 - wanted**2
    assert state_gradient(E, F, M, one).item() == pytest.approx(slope, abs=1e-5)
    assert key_gradient_(E, F.unsqueeze(0), M, one.unsqueeze(0)).item() == pytest.approx(wanted, rel=1e-5)
    assert E.item() == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_results_do_not_depend_on_the_number_of_threads(threads: int, k: Tensor, s: Tensor, M: Tensor) -> None:
    def results() -> tuple[Tensor, ...]:
        E, F, M_ = exponential(k.float()), exponential(s.float()), M.detach().float()
        given = draw(T, B, L, seed=1).float()
        first = energies(E, F[0], M_), state_gradient(E, F[0], M_, given[0])
        return *first, key_gradient_(E, F, M_, given), E

    before = torch.get_num_threads()
    alone = results()
    torch.set_num_threads(threads)
    try:
        for a, b in zip(alone, results(), strict=True):
            assert torch.equal(a, b)
    finally:
        torch.set_num_threads(before)


def test_a_forked_process_has_threads_of_its_own() -> None:
    E, F, M = torch.rand(4, L, D), torch.rand(4, D), torch.rand(L, D)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        wanted = energies(E, F, M)
        child = multiprocessing.get_context("fork").Process(target=energies, args=(E, F, M))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that forks of threads may hang is the point
            child.start()
        child.join(60)
        assert child.exitcode == 0
        assert torch.equal(energies(E, F, M), wanted)
    finally:
        torch.set_num_threads(before)
