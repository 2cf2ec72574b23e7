"""The paper's head as its equations stand: eager PyTorch and autograd, K x + b computed once for all steps."""

import torch
from torch.nn import functional

from head.models.amnet import AMNetHead, HeadOutput


def plain_output(head: AMNetHead, features: torch.Tensor) -> HeadOutput:
    """Return what head, with its own weights and dropout, makes of features (B, L, D): Eq. 3-12, line by line."""
    L = head.shape.positions
    x = (features - head.feature_mean) / head.feature_std
    mean = x.mean(dim=1)
    h, c = torch.tanh(head.init_h(mean)), torch.tanh(head.init_c(mean))
    keys = head.K(x) if head.shape.attention else None
    scores, maps = [], []
    for _ in range(head.shape.steps):
        if keys is not None:
            e = (head.M * torch.tanh(head.U(h).unsqueeze(1) + keys)).sum(dim=2)
            alpha = functional.softmax(e, dim=1)
        else:
            alpha = x.new_full((len(x), L), 1 / L)
        h, c = head.lstm((alpha.unsqueeze(2) * x).sum(dim=1), (h, c))
        scores.append(head.regressor(head.dropout(h)).squeeze(1))
        maps.append(alpha)
    m = torch.stack(scores, dim=1)
    return HeadOutput(m.sum(dim=1), m, torch.stack(maps, dim=1))
