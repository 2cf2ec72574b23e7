"""The T steps of attention and LSTM (Eq. 3-8) as one differentiable function, with its gradient written out.

Autograd would keep tanh(U h + K x + b) of each step, (T, B, L, D), for the way back; here it is computed again from
the keys. No gradient towards the features is formed. Products of matrices are in the type of the features (float32,
bfloat16 or float64), and rounded to it; softmax, states and all other sums are in that of the states.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from head.models.fused.attention import energies, exponential_, key_gradient_, state_gradient
from head.models.fused.lstm import Cell, lstm_step, lstm_step_backward
from head.models.fused.products import product, sum_of_outer, weighted_sum
from head.models.fused.workspace import Workspace


class Weights(NamedTuple):
    """Parameters of attention and LSTM: K (D, D), b (D), U (D, H), M (L, D), W_ih (4H, D), W_hh (4H, H), bias (4H)."""

    K: Tensor
    b: Tensor
    U: Tensor
    M: Tensor
    W_ih: Tensor
    W_hh: Tensor
    bias: Tensor


@dataclass(frozen=True)
class _Step:
    """What the way back needs of one step: F and z (B, D), alpha (B, L), and the LSTM's record."""

    F: Tensor
    alpha: Tensor
    z: Tensor
    cell: Cell


def attend_steps(
    x: Tensor, h: Tensor, c: Tensor, weights: Weights, *, steps: int, workspace: Workspace
) -> tuple[Tensor, Tensor]:
    """Attend `steps` times to standardised features x (B, L, D) from the first state h, c (B, H) of Eq. 12.

    Returns states h_t (T, B, H) and maps alpha_t (T, B, L).
    x is taken from workspace, to which it goes back: after the gradients were computed, if there are to be any.
    """
    if torch.is_grad_enabled():
        states, maps = _AttendSteps.apply(x, h, c, *weights, steps, workspace)
    else:
        states, maps, keys, _ = _forward(x, h, c, weights, steps, workspace)
        workspace.give(x, keys)
    return states, maps


def _forward(
    x: Tensor, h: Tensor, c: Tensor, weights: Weights, steps: int, workspace: Workspace
) -> tuple[Tensor, Tensor, Tensor, list[_Step]]:
    keys = exponential_(_doubled_keys(x, weights.K, weights.b, workspace))  # (B, L, D)
    U, W_ih, W_hh = (weight.to(x.dtype).t() for weight in (weights.U, weights.W_ih, weights.W_hh))
    states, record = [], []
    for _ in range(steps):
        F = exponential_(2 * product(h, U))  # (B, D)
        alpha = functional.softmax(energies(keys, F, weights.M), dim=1)  # (B, L), Eq. 6 to 8
        z = torch.bmm(alpha.to(x.dtype).unsqueeze(1), x).squeeze(1).to(h.dtype)  # (B, D), Eq. 4
        sums = weighted_sum(weighted_sum(weights.bias, z, W_ih), h, W_hh)  # (B, 4H)
        cell, h, c = lstm_step(sums, h, c)  # Eq. 3
        record.append(_Step(F, alpha, z, cell))
        states.append(h)
    return torch.stack(states), torch.stack([step.alpha for step in record]), keys, record


class _AttendSteps(torch.autograd.Function):
    """`attend_steps` with its gradient; apply(x, h, c, *weights, steps, workspace)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h: Tensor, c: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        *weights, steps, workspace = rest
        states, maps, keys, record = _forward(x, h, c, Weights(*weights), steps, workspace)
        ctx.save_for_backward(*weights)
        ctx.x, ctx.keys, ctx.record, ctx.workspace = x, keys, record, workspace
        return states, maps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_states: Tensor, d_maps: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of each argument from those of states (T, B, H) and maps (T, B, L)."""
        if ctx.keys is None:
            raise RuntimeError(
                "the gradients of an output can be computed once; call the head again for a second backward"
            )
        x, keys, record, weights = ctx.x, ctx.keys, ctx.record, Weights(*ctx.saved_tensors)
        ctx.x = ctx.keys = ctx.record = None
        U, W_ih, W_hh = (weight.to(x.dtype) for weight in (weights.U, weights.W_ih, weights.W_hh))
        dh, dc = torch.zeros_like(d_states[0]), torch.zeros_like(d_states[0])
        d_energies, d_shares = torch.empty_like(d_maps), d_states.new_empty(len(record), len(x), len(U))
        d_sums = d_states.new_empty(len(record), len(x), len(W_hh))  # (T, B, 4H)
        for t, step in reversed(list(enumerate(record))):
            dc = lstm_step_backward(step.cell, dh + d_states[t], dc, sums=d_sums[t])
            dz = product(d_sums[t], W_ih)  # (B, D)
            d_alpha = d_maps[t] + torch.bmm(x, dz.to(x.dtype).unsqueeze(2)).squeeze(2)  # (B, L)
            d_energies[t] = step.alpha * (d_alpha - (step.alpha * d_alpha).sum(dim=1, keepdim=True))
            d_shares[t] = state_gradient(keys, step.F, weights.M, d_energies[t])  # (B, D), of U h
            dh = weighted_sum(product(d_sums[t], W_hh), d_shares[t], U)
        dM = key_gradient_(keys, torch.stack([step.F for step in record]), weights.M, d_energies)
        dK = sum_of_outer(keys.flatten(0, 1), x.flatten(0, 1), x.dtype)  # (D, D)
        shares, gates = d_shares.flatten(0, 1), d_sums.flatten(0, 1)
        before = torch.cat([step.cell.h for step in record])
        dU = sum_of_outer(shares, before, x.dtype)
        dW_ih = sum_of_outer(gates, torch.cat([step.z for step in record]), x.dtype)
        dW_hh = sum_of_outer(gates, before, x.dtype)
        ctx.workspace.give(x, keys)
        return None, dh, dc, dK, shares.sum(dim=0), dU, dM, dW_ih, dW_hh, gates.sum(dim=0), None, None


def _doubled_keys(x: Tensor, K: Tensor, b: Tensor, workspace: Workspace) -> Tensor:
    """Return 2 (K x + b), (B, L, D), in the type of b."""
    out = workspace.take(x.shape[:2] + K.shape[:1], x.dtype, x.device)
    torch.mm(x.flatten(0, 1), (2 * K).to(x.dtype).t(), out=out.flatten(0, 1))
    if out.dtype != b.dtype:
        wide = workspace.take(out.shape, b.dtype, x.device).copy_(out)
        workspace.give(out)
        out = wide
    return out.add_(2 * b)
