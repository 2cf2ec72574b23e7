"""Gradients of depthwise convolutions are those of PyTorch, in float32 and in bfloat16."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from head.models.fused import depthwise
from head.models.fused.depthwise import Geometry, QuickDepthwise, input_gradient, weight_gradient

CASES = [(3, 1, 1), (3, 2, 1), (3, 2, 0), (5, 1, 2), (5, 2, 2), (5, 2, 0), (7, 1, 3), (7, 3, 1), (4, 2, 1), (5, 1, 5)]


def drawn(k: int, stride: int, padding: int, kind: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient of the output, input and weight of a convolution of 6 channels."""
    random = torch.Generator().manual_seed(k + 10 * stride + 100 * padding)
    x = torch.randn(3, 6, 13, 11, generator=random).to(kind)
    weight = torch.randn(6, 1, k, k, generator=random).to(kind)
    out = functional.conv2d(x.float(), weight.float(), stride=stride, padding=padding, groups=6)
    return torch.randn(out.shape, generator=random).to(kind), x, weight


def in_float64(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> tuple[Tensor, Tensor]:
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    out = functional.conv2d(x, weight, stride=stride, padding=padding, groups=x.shape[1])
    of_x, of_weight = torch.autograd.grad(out, (x, weight), grad.double())
    return of_x, of_weight


@pytest.mark.parametrize(("kind", "relative"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("k", "stride", "padding"), CASES)
def test_gradients_are_those_of_float64(k: int, stride: int, padding: int, kind: torch.dtype, relative: float) -> None:
    grad, x, weight = drawn(k, stride, padding, kind)
    wanted = in_float64(grad, x, weight, stride, padding)
    geometry = Geometry(stride, padding)
    found = input_gradient(grad, x, weight, geometry), weight_gradient(grad, x, weight, geometry)
    for one, exact in zip(found, wanted, strict=True):
        assert one.shape == exact.shape and one.dtype == kind
        assert (one.double() - exact).abs().max() <= relative * exact.abs().max()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_within_the_mode_a_network_has_the_gradients_that_it_has_without(precision: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 5, 2, 2, groups=8), nn.Conv2d(8, 16, 3, groups=4), nn.Conv2d(16, 4, 1)
    )
    x = torch.randn(2, 3, 20, 20)

    def gradients() -> list[Tensor]:
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            network(x).float().square().sum().backward()
        return [weight.grad.clone() for weight in network.parameters() if weight.grad is not None]

    wanted = gradients()
    with QuickDepthwise():
        found = gradients()
    for one, exact in zip(found, wanted, strict=True):
        assert (one - exact).abs().max() <= (1e-5 if precision == "fp32" else 3e-2) * exact.abs().max()


@pytest.mark.parametrize(
    ("layer", "taken"),
    [
        (nn.Conv2d(8, 8, 5, groups=8), True),
        (nn.Conv2d(8, 8, 5, groups=8, dilation=2), False),
        (nn.Conv2d(8, 8, (3, 5), groups=8), False),
        (nn.Conv2d(8, 8, 5, stride=(1, 2), groups=8), False),
        (nn.Conv2d(8, 8, 5, padding="same", groups=8), False),
        (nn.Conv2d(8, 16, 5, groups=8), False),
        (nn.Conv2d(8, 8, 5), False),
    ],
    ids=str,
)
def test_it_takes_depthwise_convolutions_of_equal_sides_alone(
    layer: nn.Conv2d, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Geometry] = []
    quick = depthwise.weight_gradient
    monkeypatch.setattr(
        depthwise, "weight_gradient", lambda *arguments: calls.append(arguments[3]) or quick(*arguments)
    )
    with QuickDepthwise():
        layer(torch.randn(1, 8, 12, 12)).sum().backward()
    assert bool(calls) == taken


def test_gradients_do_not_depend_on_the_number_of_threads() -> None:
    grad, x, weight = drawn(5, 2, 2, torch.bfloat16)
    threads = torch.get_num_threads()
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(
            (input_gradient(grad, x, weight, Geometry(2, 2)), weight_gradient(grad, x, weight, Geometry(2, 2)))
        )
    torch.set_num_threads(threads)
    for of_x, of_weight in found[1:]:
        assert torch.equal(of_x, found[0][0]) and torch.equal(of_weight, found[0][1])
