"""Heads as plain formulas that an exporter can follow: one operation of PyTorch after another."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from featcache.base.errors import InvalidSettings
from head.models.amnet import AMNetHead
from head.models.baselines import KernelHead, LinearHead, PerceptronHead, Standardise
from head.models.published import PublishedHead

_LSTM = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class PlainPaper(nn.Module):
    """`AMNetHead` in evaluation, Eq. 3-12 as they stand: features (B, L, D) to m (B, T) and maps (B, T, L)."""

    def __init__(self, head: AMNetHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map features to what the head's step_scores and maps are."""
        head, cell, regressor = self.head, self.head.lstm, self.head.regressor
        x = (features - head.feature_mean) / head.feature_std  # (B, L, D)
        z = x.mean(dim=1)  # (B, D), Eq. 9
        h, c = torch.tanh(head.init_h(z)), torch.tanh(head.init_c(z))  # (B, H), Eq. 12
        alpha = _uniform(features, head.shape.positions)
        keys = head.K(x) if head.shape.attention else x  # (B, L, D)
        scores, maps = [], []
        for _ in range(head.shape.steps):
            if head.shape.attention:
                energies = (head.M * torch.tanh(keys + head.U(h).unsqueeze(1))).sum(dim=2)
                alpha = torch.softmax(energies, dim=1)  # (B, L), Eq. 6-8
                z = (alpha.unsqueeze(1) @ x).squeeze(1)  # (B, D), Eq. 4
            sums = functional.linear(z, cell.weight_ih, cell.bias_ih)
            h, c = _advance(sums + functional.linear(h, cell.weight_hh, cell.bias_hh), c)
            scores.append(regressor[3](functional.relu(regressor[0](h))))  # (B, 1), Eq. 10
            maps.append(alpha)
        return torch.cat(scores, dim=1), torch.stack(maps, dim=1)


class PlainPublished(nn.Module):
    """`PublishedHead` in evaluation: features (B, L, D) to its step scores (B, T) and maps (B, T, L)."""

    def __init__(self, head: PublishedHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map features to what the head's step_scores and maps are."""
        head, norm = self.head, self.head.bn1
        W_ih, W_hh, b_ih, b_hh = (head.rnn.get_parameter(f"{name}_l0") for name in _LSTM)
        x = functional.linear(features, head.inconv.weight.flatten(1), head.inconv.bias)  # (B, L, D)
        deviation = torch.sqrt(norm.get_buffer("running_var") + norm.eps)
        x = functional.relu((x - norm.get_buffer("running_mean")) / deviation * norm.weight + norm.bias)
        z = x.mean(dim=1)  # (B, D)
        h, c = torch.tanh(head.hs1(z)), torch.tanh(head.hc1(z))  # (B, H)
        alpha = _uniform(features, head.shape.positions)
        keys = functional.relu(head.e1(x)) if head.shape.attention else x  # (B, L, D)
        scores, maps = [], []
        for _ in range(head.shape.steps):
            if head.shape.attention:
                hidden = functional.relu(keys + head.eh1(h).unsqueeze(2))
                alpha = torch.softmax(head.eh3(hidden).squeeze(2), dim=1)  # (B, L)
                z = (alpha.unsqueeze(1) @ x).squeeze(1)
            h, c = _advance(functional.linear(z, W_ih, b_ih) + functional.linear(h, W_hh, b_hh), c)
            scores.append(head.regnet4(functional.relu(head.regnet1(h))) / head.shape.steps)  # (B, 1)
            maps.append(alpha)
        return torch.cat(scores, dim=1), torch.stack(maps, dim=1)


class PlainPooled(nn.Module):
    """A baseline: pooled vectors (B, 1, D) to its only step's score (B, 1), in float64 as scikit-learn fitted it."""

    support: Tensor

    def __init__(self, head: LinearHead | KernelHead | PerceptronHead) -> None:
        super().__init__()
        self.head = head
        support = _standardised(head.standardise, head.support) if isinstance(head, KernelHead) else torch.empty(0)
        self.register_buffer("support", support)  # standardised, once

    def forward(self, features: Tensor) -> tuple[Tensor, None]:
        """Map features to what the head's step_scores are; there are no maps."""
        head = self.head
        x = _standardised(head.standardise, features.flatten(1))  # (B, D)
        if isinstance(head, LinearHead):
            return x @ head.weight.unsqueeze(1), None
        if isinstance(head, PerceptronHead):
            return head.output(functional.relu(head.hidden(x))), None
        norms = x.square().sum(dim=1, keepdim=True) + self.support.square().sum(dim=1)
        distance = (norms - 2 * (x @ self.support.t())).clamp(min=0)  # (B, S)
        return torch.exp(-head.gamma * distance) @ head.weight.unsqueeze(1) + head.intercept, None


def _standardised(standardise: Standardise, vectors: Tensor) -> Tensor:
    return (vectors.double() - standardise.mean) / standardise.deviation


def _uniform(features: Tensor, positions: int) -> Tensor:
    """Return attention (B, L) that is the same everywhere."""
    return torch.full((features.shape[0], positions), 1 / positions)


def _advance(sums: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Return the LSTM's new h and c (B, H) from the sums of its gates (B, 4H): Eq. 3."""
    i, f, g, o = sums.chunk(4, dim=1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def plain_head(head: nn.Module) -> nn.Module:
    """Return a head of any kind written out plainly: features to (step scores (B, T), maps (B, T, L) or None)."""
    if isinstance(head, AMNetHead):
        return PlainPaper(head)
    if isinstance(head, PublishedHead):
        return PlainPublished(head)
    if isinstance(head, LinearHead | KernelHead | PerceptronHead):
        return PlainPooled(head)
    raise InvalidSettings(f"a head of kind {type(head).__name__} has no ONNX graph")
