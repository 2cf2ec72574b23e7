"""Attentive probes: heads that look at a feature map once, through queries that are the same for every image.

Both pool features by attention before they project them, which is the same as projecting all positions first and takes
a fraction of the products: attention weights sum to 1 and projections are linear. docs/heads.md has the equations.
Nothing in them depends on where a position is, so tokens, which are nowhere, are among the L positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from featcache.base.errors import InvalidSettings
from head.models.amnet import HeadOutput
from head.models.fused.dropout import Dropout
from head.models.fused.products import autocast_type

_DEVIATION = 0.02  # of queries, and of the weights of a cross-attention block, before training
_BATCH_NORM_EPS = 1e-6  # as the authors of efficient probing have it


@dataclass(frozen=True)
class EfficientShape:
    """channels D, queries M, and value_size, how many values each query pools. Each query is a step: T = M."""

    channels: int
    queries: int = 4
    value_size: int = 32
    dropout: float = 0.0

    @property
    def steps(self) -> int:
        """T, a step for each query."""
        return self.queries


@dataclass(frozen=True)
class AttentiveShape:
    """channels D and attention_heads A, which divides D."""

    channels: int
    attention_heads: int = 8
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.channels % self.attention_heads:
            fitting = [str(number) for number in range(1, 65) if self.channels % number == 0]
            raise InvalidSettings(
                f"--attention-heads must divide the {self.channels} channels that the head reads, found "
                f"{self.attention_heads}; take {' or '.join(fitting)}"
            )

    @property
    def steps(self) -> int:
        """T, one look."""
        return 1


class StandardiseMaps(nn.Module):
    """Map features (B, L, D) of any float type to the type of its mean, each channel of mean 0 and deviation 1."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def set_scale(self, mean: Tensor, deviation: Tensor) -> None:
        """Fix the constants of the D channels; a channel that never varies is only centred."""
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 0, deviation, torch.ones_like(deviation)))

    def forward(self, features: Tensor) -> Tensor:
        """Standardise features; no gradient goes back to them."""
        return (features.detach().to(self.mean.dtype) - self.mean) / self.deviation


class EfficientProbe(nn.Module):
    """Score feature maps by M queries that are compared with the features themselves (Psomas et al., ICLR 2026).

    Query j pools values of its own, W_j x. Before the linear output each value is normalised over the batch, in
    evaluation by its running mean and variance, without weights: so the score is a sum of one part for each query.
    """

    def __init__(self, shape: EfficientShape) -> None:
        super().__init__()
        self.shape = shape
        M, D, width = shape.queries, shape.channels, shape.queries * shape.value_size
        self.standardise = StandardiseMaps(D)
        self.queries = nn.Parameter(_DEVIATION * torch.randn(M, D))
        self.values = nn.Linear(D, width, bias=False)
        self.norm = nn.BatchNorm1d(width, eps=_BATCH_NORM_EPS, affine=False)
        self.dropout = Dropout(shape.dropout)
        self.output = nn.Linear(width, 1)

    def set_feature_scale(self, mean: Tensor, deviation: Tensor) -> None:
        """Fix the standardisation of the D channels."""
        self.standardise.set_scale(mean, deviation)

    def forward(self, features: Tensor) -> HeadOutput:
        """Map features (B, L, D) to a `HeadOutput` whose steps are the queries, the weightiest in the score first.

        Queries have no order of their own: this one gives means over several heads a sense.
        Under autocast the products over positions are in its type, and all else in that of the weights.
        """
        M, D = self.queries.shape
        kind = features.device.type
        products = autocast_type(kind, self.queries.dtype)
        with torch.autocast(kind, enabled=False):
            maps, pooled = pool(self.standardise(features), self.queries * D**-0.5, products)
            weight = self.values.weight.view(M, -1, D)  # W_j
            y = torch.einsum("bmd,mvd->bmv", pooled, weight)  # (B, M, V)
            y = self.dropout(self._normalised(y.flatten(1))).view_as(y)
            outputs = self.output.weight.view(M, -1)
            parts = (y * outputs).sum(dim=2) + self.output.bias / M  # (B, M)
        order = outputs.detach().norm(dim=1).argsort(descending=True)
        return HeadOutput(parts.sum(dim=1), parts[:, order], maps[:, order])

    def _normalised(self, y: Tensor) -> Tensor:
        """Return y (B, M V) after batch norm; a batch of one image, which has no variance, as in evaluation."""
        norm = self.norm
        if self.training and len(y) == 1:  # in this order, or an export would be of one size of batch
            return functional.batch_norm(y, norm.running_mean, norm.running_var, eps=norm.eps)
        normalised: Tensor = norm(y)
        return normalised


class AttentiveProbe(nn.Module):
    """Score feature maps by one query in a block of cross-attention with A heads, as V-JEPA is probed (TMLR 2024).

    Its map is the mean over the heads of attention.
    """

    def __init__(self, shape: AttentiveShape) -> None:
        super().__init__()
        self.shape = shape
        D = shape.channels
        self.standardise = StandardiseMaps(D)
        self.query = nn.Parameter(torch.empty(D))
        self.norm1 = nn.LayerNorm(D)
        self.to_query = nn.Linear(D, D)
        self.to_keys = nn.Linear(D, D, bias=False)  # it would add the same to every position, which softmax ignores
        self.to_values = nn.Linear(D, D)
        self.projection = nn.Linear(D, D)
        self.norm2 = nn.LayerNorm(D)
        self.perceptron = nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D))
        self.dropout = Dropout(shape.dropout)
        self.output = nn.Linear(D, 1)
        nn.init.trunc_normal_(self.query, std=_DEVIATION)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=_DEVIATION)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def set_feature_scale(self, mean: Tensor, deviation: Tensor) -> None:
        """Fix the standardisation of the D channels."""
        self.standardise.set_scale(mean, deviation)

    def forward(self, features: Tensor) -> HeadOutput:
        """Map features (B, L, D) to a `HeadOutput` of one step.

        Under autocast the products over positions are in its type, and all else in that of the weights.
        """
        A, D = self.shape.attention_heads, self.shape.channels
        kind = features.device.type
        products = autocast_type(kind, self.query.dtype)
        with torch.autocast(kind, enabled=False):
            heads = self.to_query(self.query).view(A, 1, -1) * (D // A) ** -0.5
            queries = (heads @ self.to_keys.weight.view(A, -1, D)).squeeze(1)  # (A, D): q K x is (K^T q) x
            maps, pooled = pool(self.norm1(self.standardise(features)), queries, products)
            y = torch.einsum("bad,avd->bav", pooled, self.to_values.weight.view(A, -1, D)).flatten(1)  # (B, D)
            x = self.query + self.projection(y + self.to_values.bias)
            x = x + self.perceptron(self.norm2(x))
            score = self.output(self.dropout(x)).squeeze(1)  # (B)
        return HeadOutput(score, score.unsqueeze(1), maps.mean(dim=1, keepdim=True))


def pool(x: Tensor, queries: Tensor, products: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the attention (B, M, L) of queries (M, D) over features x (B, L, D), and what each pools (B, M, D).

    Both products over positions are in the type products, sums and softmax in that of x.
    """
    narrow = x.to(products)
    maps = torch.softmax((narrow @ queries.to(products).t()).to(x.dtype), dim=1).transpose(1, 2)  # (B, M, L)
    return maps, (maps.to(products) @ narrow).to(x.dtype)
