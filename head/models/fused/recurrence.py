"""The T steps of attention and LSTM (Eq. 3-8) as one differentiable function, with its gradient written out.

Autograd would keep tanh(U h + K x + b) of each step, (T, B, L, D), for the way back; here it is computed again from
the keys. No gradient towards the features is formed. Products of matrices are in the type of the features (float32,
bfloat16 or float64), and rounded to it, so keys are in it too; all other sums are in that of the states.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from head.models.fused.attention import exponential
from head.models.fused.loops import loops_for
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
    """What the way back needs of one step: F, of U h + b, and z (B, D), alpha (B, L), and the LSTM's record."""

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
    loops = loops_for(x.device, weights.M.dtype)
    keys = _keys(x, weights.K, workspace)  # (B, L, D)
    U, W_ih, W_hh = (weight.to(x.dtype).t() for weight in (weights.U, weights.W_ih, weights.W_hh))
    states, record = [], []
    for _ in range(steps):
        F = exponential(product(h, U) + weights.b)  # (B, D)
        alpha, z = loops.attend(keys, x, F, weights.M)  # (B, L) and (B, D), Eq. 4 and 6 to 8
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
        loops, F = loops_for(x.device, weights.M.dtype), torch.stack([step.F for step in record])  # (T, B, D)
        dh, dc = torch.zeros_like(d_states[0]), torch.zeros_like(d_states[0])
        d_energies, d_shares = d_maps.new_empty(d_maps.shape), torch.empty_like(F)
        d_sums = d_states.new_empty(len(record), len(x), len(W_hh))  # (T, B, 4H)
        for t, step in reversed(list(enumerate(record))):
            dc = lstm_step_backward(step.cell, dh + d_states[t], dc, sums=d_sums[t])
            dz = product(d_sums[t], W_ih)  # (B, D)
            d_energies[t] = loops.energy_gradient(x, step.alpha, d_maps[t], dz)
            if t:
                d_shares[t] = loops.state_gradient(keys, F[t], weights.M, d_energies[t])  # (B, D), of U h + b
            else:  # that of the first step comes with the keys', which are complete now
                dM, d_shares[t] = loops.key_gradient_(keys, F, weights.M, d_energies)
            dh = weighted_sum(product(d_sums[t], W_hh), d_shares[t], U)
        dK = sum_of_outer(keys.flatten(0, 1), x.flatten(0, 1), x.dtype)  # (D, D)
        shares, gates = d_shares.flatten(0, 1), d_sums.flatten(0, 1)
        before = torch.cat([step.cell.h for step in record])
        dU = sum_of_outer(shares, before, x.dtype)
        dW_ih = sum_of_outer(gates, torch.cat([step.z for step in record]), x.dtype)
        dW_hh = sum_of_outer(gates, before, x.dtype)
        ctx.workspace.give(x, keys)
        return None, dh, dc, dK, shares.sum(dim=0), dU, dM, dW_ih, dW_hh, gates.sum(dim=0), None, None


def _keys(x: Tensor, K: Tensor, workspace: Workspace) -> Tensor:
    """Return K x, (B, L, D), in the type of x."""
    out = workspace.take(x.shape[:2] + K.shape[:1], x.dtype, x.device)
    torch.mm(x.flatten(0, 1), K.to(x.dtype).t(), out=out.flatten(0, 1))
    return out
