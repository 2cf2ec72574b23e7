"""Adam by PyTorch's fused kernel, without what a `torch.optim.Optimizer` imports."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

_BETAS, _EPSILON = (0.9, 0.999), 1e-8  # of Kingma and Ba (2015), as everywhere


class Adam:
    """Moves the weights of groups, each {params, lr, eps}, by their gradients; weight_decay is L2 of all weights.

    It is PyTorch's fused kernel. state has of each weight that was moved its step, exp_avg and exp_avg_sq, as that of
    `torch.optim.Adam`. A first `torch.optim.Optimizer` imports all of torch.compile, in more than a second, to keep
    itself out of it.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], *, weight_decay: float) -> None:
        self.param_groups = [{"eps": _EPSILON, **group, "params": list(group["params"])} for group in groups]
        self.weight_decay = weight_decay
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @property
    def _weights(self) -> list[Tensor]:
        return [weight for group in self.param_groups for weight in group["params"]]

    def zero_grad(self) -> None:
        """Forget gradients."""
        for weight in self._weights:
            weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move every weight that has a gradient."""
        for group in self.param_groups:
            moved = [weight for weight in group["params"] if weight.grad is not None]
            states = [self._state_of(weight) for weight in moved]
            adam(
                moved,
                [weight.grad for weight in moved],
                [one["exp_avg"] for one in states],
                [one["exp_avg_sq"] for one in states],
                [],
                [one["step"] for one in states],
                fused=True,
                amsgrad=False,
                beta1=_BETAS[0],
                beta2=_BETAS[1],
                lr=group["lr"],
                weight_decay=self.weight_decay,
                eps=group["eps"],
                maximize=False,
            )

    def _state_of(self, weight: Tensor) -> dict[str, Tensor]:
        if weight not in self.state:
            self.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32, device=weight.device),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }
        return self.state[weight]

    def state_dict(self) -> dict[str, dict[int, dict[str, Tensor]]]:
        """Return the state of each weight by its number, counted through all groups."""
        weights = enumerate(self._weights)
        return {"state": {number: self.state[weight] for number, weight in weights if weight in self.state}}

    def load_state_dict(self, found: dict[str, Any]) -> None:
        """Take such a state; moments must have the order in memory of their weight."""
        weights = self._weights
        self.state = {
            weights[number]: {
                key: value.to(weights[number].device, torch.float32 if key == "step" else weights[number].dtype)
                for key, value in moments.items()
            }
            for number, moments in found["state"].items()
        }
