"""The attention's GPU loops against their formulas in float64; run as a program, on the CPU by Triton's interpreter.

Which of the two Triton does is settled when it is imported, so the interpreter takes a process of its own.
"""

import math

import torch
from torch import Tensor

from head.models.fused import attention
from head.models.fused.gpu import loops

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 2), (67, 11, 131, 3), (5, 17, 257, 1)]  # B, L, D, T; tiles are of 8 and 128, and 32
KEYS = [torch.float32, torch.bfloat16]
SPARE = 1024  # elements behind an array that no loop may touch


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + math.prod(shape)))


class Case:
    """Keys k and features x (B, L, D), states F (T, B, D), M (L, D) and gradients e' (T, B, L), dz (B, D) on a device.

    They lie in arrays with spare elements behind them.
    """

    def __init__(self, shape: tuple[int, int, int, int], keys: torch.dtype, device: str) -> None:
        B, L, D, T = self.shape = shape
        self._made: list[Tensor] = []
        self.k, self.x = (self.place(draw(B, L, D, seed=seed).to(device, keys)) for seed in (0, 2))
        sums = [attention.exponential(draw(T, B, D)), draw(L, D), draw(T, B, L, seed=1), draw(B, D, seed=3)]
        self.F, self.M, self.e, self.dz = (self.place(one.to(device, torch.float32)) for one in sums)

    def place(self, like: Tensor) -> Tensor:
        """Return a copy of an array with spare elements behind it."""
        whole = torch.full((like.numel() + SPARE,), math.nan, dtype=like.dtype, device=like.device)
        self._made.append(whole)
        return whole[: like.numel()].view(like.shape).copy_(like)

    def check_spare(self) -> None:
        for whole in self._made:
            assert whole[-SPARE:].isnan().all(), "a loop wrote behind its array"

    def wide(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.k.double(), self.F.double(), self.M.double(), self.e.double()


def check_one_step(case: Case) -> None:
    """Maps, what is seen and the gradients of energies and state are the formulas'.

    Energies and the state's gradient are to float32's last bits, sums of features to the bits of those.
    """
    k, F, M, e = case.wide()
    x, dz = case.x.double(), case.dz.double()
    close = max(1e-5, 2 * torch.finfo(case.x.dtype).eps) if case.x.dtype == torch.bfloat16 else 1e-5
    for t in range(case.shape[3]):
        alpha, z = loops.attend(case.k, case.x, case.F[t], case.M)
        wanted_alpha, wanted_z = attention.attend(k, x, F[t], M)
        torch.testing.assert_close(alpha.double(), wanted_alpha, rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(z.double(), wanted_z, rtol=close, atol=4 * close)
        of_energies = loops.energy_gradient(case.x, alpha, case.e[t], case.dz)
        wanted = attention.energy_gradient(x, alpha.double(), e[t], dz)
        scale = float(x.abs().max() * dz.abs().sum(dim=1).max())
        torch.testing.assert_close(of_energies.double(), wanted, rtol=close, atol=close * scale)
        of_state = loops.state_gradient(case.k, case.F[t], case.M, case.e[t])
        wanted = attention.state_gradient(k, F[t], M, e[t])
        torch.testing.assert_close(of_state.double(), wanted, rtol=1e-5, atol=2e-5)
    case.check_spare()


def check_all_steps(case: Case) -> None:
    """The gradients of keys and M are the formulas', keys rounded as they are stored, and the same bits again."""
    wanted_keys, wanted_m, wanted_first = attention.key_gradient(*case.wide())
    found = []
    for _ in range(2):
        keys = case.place(case.k)
        out, first = loops.key_gradient_(keys, case.F, case.M, case.e)
        torch.testing.assert_close(out.double(), wanted_m, rtol=1e-5, atol=4e-5)
        torch.testing.assert_close(first.double(), wanted_first, rtol=1e-5, atol=2e-5)
        rounding = torch.finfo(keys.dtype).eps
        torch.testing.assert_close(keys.double(), wanted_keys, rtol=max(1e-5, rounding), atol=2e-5)
        found.append((keys, out, first))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    case.check_spare()


def check_saturated(device: str) -> None:
    """Shares that overflow float32 together give 1 and -1 and no gradient, none of it NaN."""
    for key, share, wanted in ((300.0, 300.0, 1.0), (-300.0, -300.0, -1.0), (30.0, -29.0, math.tanh(1))):
        keys = torch.full((1, 1, 1), key, device=device)
        F = attention.exponential(torch.full((1, 1, 1), share, device=device))
        one = torch.ones((1, 1), device=device)
        assert abs(loops.energies(keys, F[0], one).item() - wanted) < 1e-5
        assert abs(loops.state_gradient(keys, F[0], one, one).item() - (1 - wanted**2)) < 1e-5
        of_m, first = loops.key_gradient_(keys, F, one, one.unsqueeze(0))
        assert abs(of_m.item() - wanted) < 1e-5
        assert abs(first.item() - (1 - wanted**2)) < 1e-5
        assert abs(keys.item() - (1 - wanted**2)) < 1e-5


def check_all(device: str) -> int:
    """Run every check; return how many cases there were."""
    cases = [Case(shape, keys, device) for shape in SHAPES for keys in KEYS]
    for case in cases:
        check_one_step(case)
        check_all_steps(case)
    check_saturated(device)
    return len(cases)


if __name__ == "__main__":
    assert loops.works_on(torch.device("cpu"))
    count = check_all("cpu")
    print(f"{count} cases")
