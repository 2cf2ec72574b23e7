"""Adam moves weights as `torch.optim.Adam` does, to the bit, and takes the state that it left."""

import subprocess
import sys

import torch
from torch import nn

from head.training.gradients.adam import Adam
from tests.helpers.tiny import ROOT


def made() -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(7, 5)


def step(model: nn.Module, optimizer: Adam | torch.optim.Adam, seed: int) -> None:
    x = torch.randn(11, 7, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()


def groups(model: nn.Linear) -> list[dict[str, object]]:
    return [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": 0.01}]


def test_it_moves_weights_as_that_of_torch_to_the_bit() -> None:
    one, other = made(), made()
    ours, theirs = Adam(groups(one), weight_decay=1e-3), torch.optim.Adam(groups(other), weight_decay=1e-3, fused=True)
    for seed in range(5):
        step(one, ours, seed)
        step(other, theirs, seed)
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)


def test_it_goes_on_from_the_state_of_either() -> None:
    whole = made()
    unbroken = Adam(groups(whole), weight_decay=1e-3)
    for seed in range(4):
        step(whole, unbroken, seed)
    for first in (Adam, lambda groups, weight_decay: torch.optim.Adam(groups, weight_decay=weight_decay, fused=True)):
        parted = made()
        before = first(groups(parted), weight_decay=1e-3)
        for seed in range(2):
            step(parted, before, seed)
        after = Adam(groups(parted), weight_decay=1e-3)
        after.load_state_dict(before.state_dict())
        for seed in range(2, 4):
            step(parted, after, seed)
        assert torch.equal(whole.weight, parted.weight)


def test_a_weight_without_a_gradient_stays() -> None:
    model = made()
    optimizer = Adam(groups(model), weight_decay=0.5)
    before = model.bias.clone()
    model.weight.sum().backward()
    optimizer.step()
    assert torch.equal(model.bias, before)
    assert list(optimizer.state_dict()["state"]) == [0]


def test_it_imports_nothing_of_torch_compile() -> None:
    code = (
        "import sys, torch; from head.training.gradients.adam import Adam\n"
        "weight = torch.zeros(3, requires_grad=True); one = Adam([{'params': [weight], 'lr': 0.1}], weight_decay=0.0)\n"
        "weight.sum().backward(); one.step(); one.zero_grad(); one.load_state_dict(one.state_dict())\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
