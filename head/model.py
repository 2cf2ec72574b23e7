"""The AMNet head: Eq. 3-15 of the paper as one module and one loss.

Knows nothing of caches, files or training; `head.settings` says what was chosen where the paper is silent.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


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
    """score (B,) is y of Eq. 11; step_scores (B, T) are m_t of Eq. 10; maps (B, T, L) are the attention of Eq. 6."""

    score: Tensor
    step_scores: Tensor
    maps: Tensor


class AMNetHead(nn.Module):
    """Score feature maps with an LSTM that looks at them T times through soft attention (Eq. 3-12).

    Takes features (B, L, D), float32, as the backbone gave them; standardises each channel with
    the constants of `set_feature_scale`. Without attention every position counts the same (Eq. 9),
    so the mean feature alone, as (B, 1, D), gives the same result as all L positions.
    """

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
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
        self.regressor = nn.Sequential(nn.Linear(H, R), nn.ReLU(), nn.Dropout(shape.dropout), nn.Linear(R, 1))
        self.dropout = nn.Dropout(shape.dropout)

    def set_feature_scale(self, mean: Tensor, std: Tensor) -> None:
        """Fix the standardisation of the D channels; a channel that never varies is only centred."""
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def forward(self, features: Tensor) -> HeadOutput:
        """Map features (B, L, D) to a `HeadOutput`."""
        x = (features - self.feature_mean) / self.feature_std
        mean = x.mean(dim=1)  # (B, D)
        h, c = torch.tanh(self.init_h(mean)), torch.tanh(self.init_c(mean))  # (B, H), Eq. 12
        keys = self.K(x) if self.shape.attention else None  # (B, L, D), shared by all steps
        step_scores, maps = [], []
        for _ in range(self.shape.steps):
            if keys is None:
                z, alpha = mean, x.new_full((len(x), self.shape.positions), 1 / self.shape.positions)  # Eq. 9
            else:
                alpha = self.attend(keys, h)
                z = torch.einsum("bl,bld->bd", alpha, x)  # Eq. 4
            h, c = self.lstm(z, (h, c))  # Eq. 3
            step_scores.append(self.regressor(self.dropout(h)).squeeze(1))  # Eq. 10
            maps.append(alpha)
        m = torch.stack(step_scores, dim=1)  # (B, T)
        return HeadOutput(m.sum(dim=1), m, torch.stack(maps, dim=1))  # Eq. 11

    def attend(self, keys: Tensor, h: Tensor) -> Tensor:
        """Return attention probabilities (B, L) from keys K x + b (B, L, D) and state h (B, H): Eq. 6-8."""
        hidden = torch.tanh(keys + self.U(h).unsqueeze(1))  # (B, L, D)
        return functional.softmax((hidden * self.M).sum(dim=2), dim=1)


def loss(output: HeadOutput, target: Tensor, *, attention_weight: float, coverage: float = 1.0) -> Tensor:
    """Return the mean over the batch of Eq. 13: squared error plus lambda times Eq. 14.

    target (B,) is on the head's own scale; attention_weight is lambda, coverage the 1 of Eq. 15.
    """
    penalty = (coverage - output.maps.sum(dim=1)).square().sum(dim=1)  # (B,), Eq. 14 and 15
    return ((target - output.score).square() + attention_weight * penalty).mean()
