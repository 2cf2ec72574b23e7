"""Steps of the LSTM (Eq. 3) with their gradient written out, and T of them on the same input (Eq. 9).

Large products of matrices are in a type of their own (float32, bfloat16 or float64); all else is in that of the states.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from head.models.fused.products import product, sum_of_outer, weighted_sum

_through_sigmoid, _through_tanh = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward


class Cell(NamedTuple):
    """What the way back needs of a step, (B, H) each: the state before, gates i, f, g, o, and tanh of the new c."""

    h: Tensor
    c: Tensor
    gates: tuple[Tensor, Tensor, Tensor, Tensor]
    tanh_c: Tensor


def lstm_step(sums: Tensor, h: Tensor, c: Tensor) -> tuple[Cell, Tensor, Tensor]:
    """Return a step's record and the new h and c from the gates' sums (B, 4H) and the state before."""
    i, f, g, o = sums.chunk(4, dim=1)
    gates = (i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid())
    after = gates[1] * c + gates[0] * gates[2]
    tanh_c = after.tanh()
    return Cell(h, c, gates, tanh_c), gates[3] * tanh_c, after


def lstm_step_backward(cell: Cell, dh: Tensor, dc: Tensor, *, sums: Tensor) -> Tensor:
    """Return the gradient of the c before, from those of the new h and c; write that of the gates' sums (B, 4H)."""
    i, f, g, o = cell.gates
    dc = dc + _through_tanh(dh * o, cell.tanh_c)
    d_i, d_f, d_g, d_o = sums.chunk(4, dim=1)
    _through_sigmoid(dc * g, i, grad_input=d_i)
    _through_sigmoid(dc * cell.c, f, grad_input=d_f)
    _through_tanh(dc * i, g, grad_input=d_g)
    _through_sigmoid(dh * cell.tanh_c, o, grad_input=d_o)
    return dc * f


class Repeat(torch.autograd.Function):
    """The states (T, B, H) after each step on the same z (B, D), whose own product is formed once.

    apply(z, h, c, W_ih, W_hh, bias, T, products): h and c are (B, H), W_ih (4H, D), W_hh (4H, H), bias (4H); no
    gradient goes back to z.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, h: Tensor, c: Tensor, *rest: Any) -> Tensor:
        W_ih, W_hh, bias, steps, products = rest
        given = product(z, W_ih.to(products).t()) + bias  # (B, 4H), at every step
        weight = W_hh.to(products).t()
        states, ctx.cells = [], []
        for _ in range(steps):
            cell, h, c = lstm_step(weighted_sum(given, h, weight), h, c)
            ctx.cells.append(cell)
            states.append(h)
        ctx.products = products
        ctx.save_for_backward(z, W_hh)
        return torch.stack(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_states: Tensor) -> tuple[Tensor | None, ...]:
        z, W_hh = ctx.saved_tensors
        weight = W_hh.to(ctx.products)
        dh, dc = torch.zeros_like(d_states[0]), torch.zeros_like(d_states[0])
        d_sums = dh.new_empty(len(d_states), len(z), len(W_hh))  # (T, B, 4H)
        for t, cell in reversed(list(enumerate(ctx.cells))):
            dc = lstm_step_backward(cell, dh + d_states[t], dc, sums=d_sums[t])
            dh = product(d_sums[t], weight)
        d_given = d_sums.sum(dim=0)
        before = torch.cat([cell.h for cell in ctx.cells])
        dW_ih = sum_of_outer(d_given, z, ctx.products)
        dW_hh = sum_of_outer(d_sums.flatten(0, 1), before, ctx.products)
        return None, dh, dc, dW_ih, dW_hh, d_given.sum(dim=0), None, None
