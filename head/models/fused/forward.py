"""What `AMNetHead.steps` gives, Eq. 3-9 and 12, by the functions of this folder; it must not know that module."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from head.models.fused.lstm import repeat
from head.models.fused.products import product
from head.models.fused.recurrence import AttendedSteps, Weights, attend_steps
from head.models.fused.workspace import Workspace


class Head(Protocol):
    """What is read of an `AMNetHead`; K, U and M of one with attention alone."""

    shape: Any  # a HeadShape
    feature_mean: Tensor
    feature_std: Tensor
    init_h: nn.Linear
    init_c: nn.Linear
    K: nn.Linear
    U: nn.Linear
    M: nn.Parameter
    lstm: nn.LSTMCell
    workspace: Workspace


def fused_steps(head: Head, features: Tensor, products: torch.dtype) -> AttendedSteps:
    """Return states and maps from features (B, L, D), with the large products of matrices in a type of their own."""
    return (_with_attention if head.shape.attention else _on_mean)(head, features, products)


def _with_attention(head: Head, features: Tensor, products: torch.dtype) -> AttendedSteps:
    cell, workspace = head.lstm, head.workspace
    x = workspace.take(features.shape, head.feature_mean.dtype, features.device)
    torch.addcmul(-head.feature_mean / head.feature_std, x.copy_(features), 1 / head.feature_std, out=x)  # (B, L, D)
    h, c = _first_state(head, x.mean(dim=1), products)
    if x.dtype != products:
        narrow = workspace.take(x.shape, products, x.device).copy_(x)
        workspace.give(x)
        x = narrow
    bias = cell.bias_ih + cell.bias_hh
    weights = Weights(head.K.weight, head.K.bias, head.U.weight, head.M, cell.weight_ih, cell.weight_hh, bias)
    return attend_steps(x, h, c, weights, steps=head.shape.steps, workspace=workspace)


def _on_mean(head: Head, features: Tensor, products: torch.dtype) -> AttendedSteps:
    """Weigh all positions alike (Eq. 9): each z (B, D) is the mean feature, so its product is formed once."""
    z = (features.to(head.feature_mean.dtype).mean(dim=1) - head.feature_mean) / head.feature_std
    h, c = _first_state(head, z, products)
    T, L, cell = head.shape.steps, head.shape.positions, head.lstm
    bias = cell.bias_ih + cell.bias_hh
    states = repeat(z, h, c, cell.weight_ih, cell.weight_hh, bias, steps=T, products=products)
    return AttendedSteps(states, z.new_full((T, len(z), L), 1 / L))


def _first_state(head: Head, mean: Tensor, products: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return h and c (B, H) from the standardised mean feature (B, D): Eq. 12."""
    h, c = (product(mean, init.weight.to(products).t()) + init.bias for init in (head.init_h, head.init_c))
    return torch.tanh(h), torch.tanh(c)
