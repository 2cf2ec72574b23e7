"""The AMNet head: Eq. 3-15 of the paper as one module and one loss.

Knows nothing of caches, files or training; `head.settings` says what was chosen where the paper is silent.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from head.models.fused.dropout import Dropout
from head.models.fused.loops import loops_for
from head.models.fused.lstm import Repeat
from head.models.fused.products import autocast_type, product
from head.models.fused.recurrence import Weights, attend_steps
from head.models.fused.switch import fused_is_on
from head.models.fused.workspace import Workspace

AUXILIARY_WEIGHT = 0.3  # ours


@dataclass(frozen=True)
class HeadShape:
    """Sizes and switches that decide which function a head is; all else is training.

    positions L and channels D are those of the feature map, hidden_size is H, steps is T.
    """

    positions: int
    channels: int
    steps: int = 3
    hidden_size: int = 1024
    regressor_size: int = 512
    attention: bool = True
    dropout: float = 0.5


class HeadOutput(NamedTuple):
    """score (B,) is y of Eq. 11; step_scores (B, T) are m_t of Eq. 10; maps (B, T, L) are the attention of Eq. 6.

    auxiliary (B, A) are scores that a head gives beside its own while it is trained, None where there are none.
    """

    score: Tensor
    step_scores: Tensor
    maps: Tensor
    auxiliary: Tensor | None = None


class AMNetHead(nn.Module):
    """Score feature maps with an LSTM that looks at them T times through soft attention (Eq. 3-12).

    Takes features (B, L, D) as the backbone gave them; standardises each channel with
    the constants of `set_feature_scale`. Without attention every position counts the same (Eq. 9),
    so the mean feature alone, as (B, 1, D), gives the same result as all L positions.
    """

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.workspace = Workspace()
        L, D, H, R = shape.positions, shape.channels, shape.hidden_size, shape.regressor_size
        self.shape = shape
        self.register_buffer("feature_mean", torch.zeros(D))
        self.register_buffer("feature_std", torch.ones(D))
        self.init_h = nn.Linear(D, H)
        self.init_c = nn.Linear(D, H)
        if shape.attention:
            self.K = nn.Linear(D, D)  # its bias is b of Eq. 8
            self.U = nn.Linear(H, D, bias=False)
            self.M = nn.Parameter(torch.empty(L, D).uniform_(-(D**-0.5), D**-0.5))
        self.lstm = nn.LSTMCell(D, H)
        self.regressor = nn.Sequential(nn.Linear(H, R), nn.ReLU(), Dropout(shape.dropout), nn.Linear(R, 1))
        self.dropout = Dropout(shape.dropout)

    def set_feature_scale(self, mean: Tensor, std: Tensor) -> None:
        """Fix the standardisation of the D channels; a channel that never varies is only centred."""
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def forward(self, features: Tensor) -> HeadOutput:
        """Map features (B, L, D), of any real type, to a `HeadOutput`; no gradient goes back to them.

        Under autocast the large products of matrices are in its type, and all else in that of the weights; the plain
        formulas are all in that of the weights.
        """
        kind = features.device.type
        products = autocast_type(kind, self.feature_mean.dtype)
        features = features.detach()
        with torch.autocast(kind, enabled=False):
            states, maps = self._fused_steps(features, products) if fused_is_on() else self.steps(features)
            m = self.regressor(self.dropout(states)).squeeze(2).t()  # (B, T), Eq. 10
        return HeadOutput(m.sum(dim=1), m, maps.transpose(0, 1))  # Eq. 11

    def steps(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map features (B, L, D) to states h_t (T, B, H) and maps alpha_t (T, B, L): Eq. 3-9 and 12 as they stand."""
        B, T, L = features.shape[0], self.shape.steps, self.shape.positions
        x = (features.to(self.feature_mean.dtype) - self.feature_mean) / self.feature_std  # (B, L, D)
        z, alpha = x.mean(dim=1), x.new_full((B, L), 1 / L)  # (B, D) and (B, L), Eq. 9
        h, c = torch.tanh(self.init_h(z)), torch.tanh(self.init_c(z))  # (B, H), Eq. 12
        keys = self.K(x) if self.shape.attention else x  # (B, L, D), K x + b of Eq. 8: the same at every step
        states, maps = [], []
        for _ in range(T):
            if self.shape.attention:
                e = (self.M * torch.tanh(self.U(h).unsqueeze(1) + keys)).sum(dim=2)  # (B, L), Eq. 7 and 8
                alpha = torch.softmax(e, dim=1)  # (B, L), Eq. 6
                z = (alpha.unsqueeze(1) @ x).squeeze(1)  # (B, D), Eq. 4
            h, c = self.lstm(z, (h, c))  # (B, H), Eq. 3
            states.append(h)
            maps.append(alpha)
        return torch.stack(states), torch.stack(maps)

    def _fused_steps(self, features: Tensor, products: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return what `steps` does, by `head.models.fused`, the large products of matrices in a type of their own."""
        T, L, cell, workspace = self.shape.steps, self.shape.positions, self.lstm, self.workspace
        bias = cell.bias_ih + cell.bias_hh
        if not self.shape.attention:  # each z (B, D) is the mean feature (Eq. 9), so its product is formed once
            z = (features.to(self.feature_mean.dtype).mean(dim=1) - self.feature_mean) / self.feature_std
            h, c = self._first_state(z, products)
            states: Tensor = Repeat.apply(z, h, c, cell.weight_ih, cell.weight_hh, bias, T, products)
            return states, z.new_full((T, len(z), L), 1 / L)
        x = workspace.take(features.shape, products, features.device)  # (B, L, D)
        loops = loops_for(x.device, self.feature_mean.dtype)
        mean = loops.standardise(features, self.feature_mean, 1 / self.feature_std, x)
        h, c = self._first_state(mean, products)
        weights = Weights(self.K.weight, self.K.bias, self.U.weight, self.M, cell.weight_ih, cell.weight_hh, bias)
        return attend_steps(x, h, c, weights, steps=T, workspace=workspace)

    def _first_state(self, mean: Tensor, products: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return h and c (B, H) from the standardised mean feature (B, D): Eq. 12."""
        h, c = (product(mean, init.weight.to(products).t()) + init.bias for init in (self.init_h, self.init_c))
        return torch.tanh(h), torch.tanh(c)


def loss(
    output: HeadOutput,
    target: Tensor,
    *,
    attention_weight: float,
    coverage: float = 1.0,
    order_penalty: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the mean over the batch of Eq. 13: squared error plus lambda times Eq. 14.

    target (B,) is on the head's own scale; attention_weight is lambda, coverage the 1 of Eq. 15. An order_penalty above
    0 adds that many times the squares by which step scores fall from one step to the next, one below 0 those by which
    they rise: the paper names such a penalty (section 4.4) but gives no formula, so this one is ours. Squared errors of
    auxiliary scores are added, each weighed by `AUXILIARY_WEIGHT`. weights (B,) say how often each image counts: all
    that it adds is multiplied by its weight, and the sum divided by B, whatever the weights of a batch sum to.
    """

    def mean(of_images: Tensor) -> Tensor:
        return (of_images if weights is None else weights * of_images).mean()

    penalty = (coverage - output.maps.sum(dim=1)).square().sum(dim=1)  # (B,), Eq. 14 and 15
    value = mean((target - output.score).square() + attention_weight * penalty)
    if order_penalty:
        rises = output.step_scores.diff(dim=1)  # (B, T - 1)
        unwanted = (-rises if order_penalty > 0 else rises).clamp(min=0)
        value = value + abs(order_penalty) * mean(unwanted.square().sum(dim=1))
    if output.auxiliary is not None:
        errors = (target.unsqueeze(1) - output.auxiliary).square()  # (B, A)
        value = value + AUXILIARY_WEIGHT * mean(errors.sum(dim=1))
    return value
