"""The attention's loops give what autograd gives for the plain equations, compiled and in chunks of images."""

import math
import multiprocessing
import warnings
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from head.models.fused import attention, chunks
from head.models.fused.attention import Loops, exponential
from head.models.fused.chunks import IN_CHUNKS
from head.models.fused.cpu.attention import GROUP
from head.models.fused.cpu.loops import COMPILED
from head.models.fused.loops import loops_for

B, L, D, T = 2 * GROUP + 3, 7, 37, 3
BOTH = pytest.mark.parametrize("loops", [COMPILED, IN_CHUNKS], ids=["compiled", "in_chunks"])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + math.prod(shape)))


class Drawn(NamedTuple):
    """Keys and features (B, L, D), shares of the states (T, B, D), M (L, D)."""

    k: Tensor
    x: Tensor
    s: Tensor
    M: Tensor

    def to(self, dtype: torch.dtype, keys: torch.dtype | None = None) -> "Drawn":
        k, x, s, M = (one.detach().to(dtype) for one in self)
        return Drawn(k.to(keys or dtype), x.to(keys or dtype), s, M)


@pytest.fixture
def drawn() -> Drawn:
    return Drawn(draw(B, L, D).requires_grad_(), draw(B, L, D, seed=2), draw(T, B, D).requires_grad_(), make_m())


def make_m() -> Tensor:
    return (draw(L, D) / 3).requires_grad_()


def plain(drawn: Drawn) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. 8, 6 and 4 as they stand, for all steps: energies and maps (T, B, L), z (T, B, D)."""
    e = (drawn.M * torch.tanh(drawn.k + drawn.s.unsqueeze(2))).sum(dim=3)
    alpha = torch.softmax(e, dim=2)
    return e, alpha, (alpha.unsqueeze(3) * drawn.x).sum(dim=2)


class Results(NamedTuple):
    alpha: Tensor
    z: Tensor
    of_energies: Tensor
    of_states: Tensor
    of_keys: Tensor
    of_m: Tensor


def results(loops: Loops, drawn: Drawn, d_alpha: Tensor, d_z: Tensor) -> Results:
    """Return all that the loops compute, forth and back, in the type of M."""
    k, x, s, M = drawn
    F = exponential(s.detach())
    seen = [loops.attend(k, x, F[t], M) for t in range(T)]
    alpha, z = (torch.stack(each) for each in zip(*seen, strict=True))
    of_energies = torch.stack([loops.energy_gradient(x, alpha[t], d_alpha[t], d_z[t]) for t in range(T)])
    of_states = torch.stack([loops.state_gradient(k, F[t], M, of_energies[t]) for t in range(T)])
    of_keys = k.clone()
    of_M, first = loops.key_gradient_(of_keys, F, M, of_energies)
    torch.testing.assert_close(first, of_states[0], rtol=1e-5, atol=1e-6)
    of_states[0] = first
    return Results(alpha, z, of_energies, of_states, of_keys, of_M)


def wanted(drawn: Drawn, d_alpha: Tensor, d_z: Tensor) -> Results:
    """Return the same by autograd of the plain equations."""
    e, alpha, z = plain(drawn)
    e.retain_grad()
    torch.autograd.backward([alpha, z], [d_alpha, d_z])
    found = (e.grad, drawn.s.grad, drawn.k.grad, drawn.M.grad)
    of_energies, of_states, of_keys, of_M = (gradient for gradient in found if gradient is not None)
    return Results(alpha.detach(), z.detach(), of_energies, of_states, of_keys, of_M)


@BOTH
def test_maps_what_is_seen_and_all_gradients_are_those_of_autograd(loops: Loops, drawn: Drawn) -> None:
    d_alpha, d_z = draw(T, B, L, seed=1), draw(T, B, D, seed=1)
    found = results(loops, drawn.to(torch.float64), d_alpha, d_z)
    for name, own, by_autograd in zip(Results._fields, found, wanted(drawn, d_alpha, d_z), strict=True):
        torch.testing.assert_close(own, by_autograd, rtol=1e-11, atol=1e-13, msg=name)


def test_in_float32_they_are_as_near_as_float32_can_be(drawn: Drawn) -> None:
    d_alpha, d_z = draw(T, B, L, seed=1), draw(T, B, D, seed=1)
    found = results(COMPILED, drawn.to(torch.float32), d_alpha.float(), d_z.float())
    for name, own, by_autograd in zip(Results._fields, found, wanted(drawn, d_alpha, d_z), strict=True):
        error = (own.double() - by_autograd).abs().max() / by_autograd.abs().max()
        assert error < 2e-6, name


def test_keys_and_features_of_bfloat16_are_widened_and_the_gradient_of_keys_is_rounded_to_the_nearest(
    drawn: Drawn,
) -> None:
    narrow, d_alpha, d_z = drawn.to(torch.float32, torch.bfloat16), draw(T, B, L).float(), draw(T, B, D).float()
    wide = narrow.to(torch.float32)
    found, same = results(COMPILED, narrow, d_alpha, d_z), results(COMPILED, wide, d_alpha, d_z)
    for name, own, other in zip(Results._fields, found, same, strict=True):
        torch.testing.assert_close(own, other.to(own.dtype), rtol=0, atol=0, msg=name)
    assert found.of_keys.dtype == torch.bfloat16


@BOTH
@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_features_of_any_type_are_standardised(loops: Loops, kind: torch.dtype, stored: torch.dtype) -> None:
    features, mean, scale = (10 * draw(B, L, D)).abs().to(kind), draw(D).float(), draw(D, seed=1).float().abs()
    x = torch.empty(B, L, D, dtype=stored)
    means = loops.standardise(features, mean, scale, x)
    exact, exact_means = attention.standardise(features, mean, scale)
    assert torch.equal(x, exact.to(stored))
    torch.testing.assert_close(means, exact_means, rtol=1e-5, atol=1e-6)


def test_every_number_of_float16_is_read_as_it_is() -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16).view(1, 1, -1)
    x, nothing, one = torch.empty(every.shape), torch.zeros(every.numel()), torch.ones(every.numel())
    COMPILED.standardise(every, nothing, one, x)
    assert torch.equal(x.nan_to_num(1e30, math.inf, -math.inf), every.float().nan_to_num(1e30, math.inf, -math.inf))


def test_every_number_is_rounded_to_bfloat16_as_torch_does() -> None:
    bits = torch.randint(-(2**31), 2**31, (1, 1, 10**5), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    values = bits.view(torch.float32).nan_to_num(1.0)
    x = torch.empty(values.shape, dtype=torch.bfloat16)
    COMPILED.standardise(values, torch.zeros(values.numel()), torch.ones(values.numel()), x)
    assert torch.equal(x, values.to(torch.bfloat16))


def test_the_exponential_is_as_near_as_its_rounded_argument_is() -> None:
    k = torch.linspace(-45, 45, 100_001).view(1, -1, 1)  # a position each, whose map is the softmax of tanh(k)
    alpha, _ = COMPILED.attend(k, k, torch.ones(1, 1), torch.ones(k.shape[1], 1))
    exact = torch.softmax(torch.tanh(k.double().flatten()), dim=0)
    torch.testing.assert_close(alpha.flatten().double(), exact, rtol=2e-6, atol=0)


@pytest.mark.parametrize("chunk", [1, 2, B, 16])
def test_chunks_of_any_size_give_the_same(chunk: int, drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", chunk)
    given = drawn.to(torch.float64), draw(T, B, L, seed=1), draw(T, B, D, seed=1)
    for own, other in zip(results(IN_CHUNKS, *given), results(COMPILED, *given), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-11, atol=1e-13)


def test_loops_are_compiled_for_a_cpu_and_in_chunks_elsewhere() -> None:
    assert loops_for(torch.device("cpu"), torch.float32) is COMPILED
    assert loops_for(torch.device("mps"), torch.float32) is IN_CHUNKS


@BOTH
@pytest.mark.parametrize(("key", "share", "value"), [(300, 0, 1), (-300, 0, -1), (0, 1e30, 1), (30, -29, math.tanh(1))])
def test_saturated_arguments_give_saturated_values_and_finite_gradients(
    loops: Loops, key: float, share: float, value: float
) -> None:
    k, F = torch.tensor([[[0.0], [key]]]), exponential(torch.tensor([[share]]))
    M, second = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0, 1.0]])
    alpha, _ = loops.attend(k, k, F, M)
    assert (alpha[0, 1] / alpha[0, 0]).log().item() == pytest.approx(value, rel=1e-5)
    slope = 1 - value**2
    assert loops.state_gradient(k, F, M, second).item() == pytest.approx(slope, abs=1e-5)
    of_M, first = loops.key_gradient_(k, F.unsqueeze(0), M, second.unsqueeze(0))
    assert of_M[1].item() == pytest.approx(value, rel=1e-5)
    assert (first.item(), k[0, 1].item()) == pytest.approx((slope, slope), abs=1e-5)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threads", [2, 3, 16])
def test_results_do_not_depend_on_the_number_of_threads(threads: int, kind: torch.dtype, drawn: Drawn) -> None:
    narrow, d_alpha, d_z = drawn.to(torch.float32, kind), draw(T, B, L).float(), draw(T, B, D).float()

    def all_results() -> list[Tensor]:
        x = torch.empty(B, L, D, dtype=kind)
        means = COMPILED.standardise(narrow.x.half(), d_z[0, 0], d_z[0, 1], x)
        return [x, means, *results(COMPILED, narrow, d_alpha, d_z)]

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = all_results()
        torch.set_num_threads(threads)
        for a, b in zip(alone, all_results(), strict=True):
            assert torch.equal(a, b)
    finally:
        torch.set_num_threads(before)


def test_a_forked_process_has_threads_of_its_own() -> None:
    given = torch.rand(4, L, D), torch.rand(4, L, D), torch.rand(4, D), torch.rand(L, D)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        exact = COMPILED.attend(*given)
        child = multiprocessing.get_context("fork").Process(target=COMPILED.attend, args=given)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that forks of threads may hang is the point
            child.start()
        child.join(60)
        assert child.exitcode == 0
        assert all(map(torch.equal, COMPILED.attend(*given), exact))
    finally:
        torch.set_num_threads(before)
