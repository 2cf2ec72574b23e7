"""The attention's GPU loops against their formulas in float64; run as a program, on the CPU by Triton's interpreter.

Which of the two Triton does is settled when it is imported, so the interpreter takes a process of its own.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from head.models.fused import attention
from head.models.fused.gpu import attention as loops

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 2), (67, 11, 131, 3), (5, 17, 257, 1)]  # B, L, D, T; tiles are of 8 and 128, and 32
KEYS = [torch.float32, torch.bfloat16]
SPARE = 1024  # elements behind an array that no loop may touch


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + math.prod(shape)))


class Case:
    """Keys E (B, L, D), states F (T, B, D), M (L, D) and gradients e' (T, B, L) on a device, and an array's place."""

    def __init__(self, shape: tuple[int, int, int, int], keys: torch.dtype, device: str) -> None:
        B, L, D, T = self.shape = shape
        self.E = attention.exponential_(2 * draw(B, L, D)).to(device, keys)
        self.F = attention.exponential_(2 * draw(T, B, D)).to(device, torch.float32)
        self.M, self.e = (values.to(device, torch.float32) for values in (draw(L, D), draw(T, B, L, seed=1)))
        self._made: list[Tensor] = []

    def place(self, like: Tensor) -> Tensor:
        """Return an array of a shape, filled like another or with NaN, with spare elements behind it."""
        whole = torch.full((like.numel() + SPARE,), math.nan, dtype=like.dtype, device=like.device)
        self._made.append(whole)
        return whole[: like.numel()].view(like.shape)

    def check_spare(self) -> None:
        for whole in self._made:
            assert whole[-SPARE:].isnan().all(), "a loop wrote behind its array"

    def wide(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.E.double(), self.F.double(), self.M.double(), self.e.double()


def check_one_step(case: Case) -> None:
    """Energies and the state's gradient are the formulas', to float32's last bits."""
    E, F, M, e = case.wide()
    out, of_state = case.place(case.e[0]), case.place(case.F[0])
    for t in range(case.shape[3]):
        loops.energies(case.E, case.F[t], case.M, out)
        torch.testing.assert_close(out.double(), attention.energies_formula(E, F[t], M), rtol=1e-5, atol=2e-5)
        loops.state_gradient(case.E, case.F[t], case.M, case.e[t], of_state)
        wanted = attention.state_gradient_formula(E, F[t], M, e[t])
        torch.testing.assert_close(of_state.double(), wanted, rtol=1e-5, atol=2e-5)
    case.check_spare()


def check_all_steps(case: Case) -> None:
    """The gradients of keys and M are the formulas', keys rounded as they are stored, and the same bits again."""
    wanted_keys, wanted_m = attention.key_gradient_formula(*case.wide())
    found = []
    for _ in range(2):
        keys, out = case.place(case.E).copy_(case.E), case.place(case.M)
        loops.key_gradient_(keys, case.F, case.M, case.e, out)
        torch.testing.assert_close(out.double(), wanted_m, rtol=1e-5, atol=4e-5)
        rounding = torch.finfo(keys.dtype).eps
        torch.testing.assert_close(keys.double(), wanted_keys, rtol=max(1e-5, rounding), atol=2e-5)
        found.append((keys, out))
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))
    case.check_spare()


def check_saturated(device: str) -> None:
    """Shares that overflow float32 together give 1 and -1 and no gradient, none of it NaN."""
    for key, share, wanted in ((300.0, 300.0, 1.0), (-300.0, -300.0, -1.0), (30.0, -29.0, math.tanh(1))):
        E = attention.exponential_(torch.full((1, 1, 1), 2 * key, device=device))
        F = attention.exponential_(torch.full((1, 1, 1), 2 * share, device=device))
        one, out, of_state = (torch.ones((1, 1), device=device) for _ in range(3))
        loops.energies(E, F[0], one, out)
        loops.state_gradient(E, F[0], one, one, of_state)
        assert abs(out.item() - wanted) < 1e-5
        assert abs(of_state.item() - (1 - wanted**2)) < 1e-5
        loops.key_gradient_(E, F, one, one.unsqueeze(0), out)
        assert abs(out.item() - wanted) < 1e-5
        assert abs(E.item() - (1 - wanted**2)) < 1e-5


def check_is_called(device: str) -> None:
    """`head.models.fused.attention` gives keys elsewhere than on a CPU to these loops, where they apply."""

    class Elsewhere(Tensor):
        is_cpu = False  # type: ignore[assignment]

    case, called = Case((3, 5, 7, 2), torch.float32, device), []

    def told(loop: Callable[..., None]) -> Callable[..., None]:
        def tell(*arguments: Tensor) -> None:
            called.append(loop.__name__)
            loop(*arguments)

        return tell

    kept = {name: getattr(loops, name) for name in ("applies", "energies", "state_gradient", "key_gradient_")}
    try:
        for name in list(kept)[1:]:
            setattr(loops, name, told(kept[name]))
        loops.applies = lambda keys, M: True
        keys = case.E.clone().as_subclass(Elsewhere)
        energies = attention.energies(keys, case.F[0], case.M)
        of_state = attention.state_gradient(keys, case.F[0], case.M, case.e[0])
        of_m = attention.key_gradient_(keys, case.F, case.M, case.e)
    finally:
        for name, loop in kept.items():
            setattr(loops, name, loop)
    assert called == ["energies", "state_gradient", "key_gradient_"]
    E, F, M, e = case.wide()
    torch.testing.assert_close(energies.double(), attention.energies_formula(E, F[0], M), rtol=1e-5, atol=2e-5)
    wanted = attention.state_gradient_formula(E, F[0], M, e[0])
    torch.testing.assert_close(of_state.double(), wanted, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(of_m.double(), attention.key_gradient_formula(E, F, M, e)[1], rtol=1e-5, atol=2e-5)


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
    check_is_called("cpu")
    print(f"{count} cases")
