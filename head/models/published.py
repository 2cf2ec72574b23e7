"""The head of the authors' published code, which differs from the paper's (docs/paper.md, "The published recipe").

Its weights have the names and shapes that they have in the authors' checkpoints.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from head.models.amnet import HeadOutput
from head.models.fused.products import autocast_type, product

TARGET_MEAN, TARGET_SCALE = 0.754, 0.5  # targets are (y - 0.754) * 2 for every data set and split
COVERAGE_PER_STEP = 0.2  # Eq. 15 is the sum over steps of 0.2 - a_t


@dataclass(frozen=True)
class PublishedShape:
    """Sizes and switches that decide which function a published head is; the defaults are those of the released models.

    positions L and channels D are those of the feature map, hidden_size is H, steps is T. input_dropout acts on the
    features, dropout everywhere else.
    """

    positions: int
    channels: int
    steps: int = 3
    hidden_size: int = 1024
    regressor_size: int = 512
    attention: bool = True
    dropout: float = 0.5
    input_dropout: float = 0.8


class PublishedHead(nn.Module):
    """Score feature maps as the authors' code does.

    Takes features (B, L, D), of any real type, as the backbone gave them, positions row by row. Without attention every
    position counts the same, but all are needed: the input block acts on each of them.
    """

    def __init__(self, shape: PublishedShape) -> None:
        super().__init__()
        L, D, H, R = shape.positions, shape.channels, shape.hidden_size, shape.regressor_size
        self.shape = shape
        self.inconv = nn.Conv2d(D, D, 1)
        self.bn1 = nn.BatchNorm1d(D)
        self.hs1 = nn.Linear(D, H)  # h_0
        self.hc1 = nn.Linear(D, H)  # c_0
        if shape.attention:
            self.e1 = nn.Linear(D, D, bias=False)  # K
            self.eh1 = nn.Linear(H, L)  # U: a number for each position, the same for all its channels
            self.eh3 = nn.Linear(D, 1, bias=False)  # M: the same for all positions
        self.rnn = nn.LSTM(D, H, batch_first=True)
        self.regnet1 = nn.Linear(H, R)
        self.regnet4 = nn.Linear(R, 1)
        self.dropout = nn.Dropout(shape.dropout)
        self.input_dropout = nn.Dropout(shape.input_dropout)

    def forward(self, features: Tensor) -> HeadOutput:
        """Map features (B, L, D) to a `HeadOutput` whose step scores are the T outputs divided by T.

        Under autocast the two products over positions are in its type, and all else in that of the weights.
        """
        kind = features.device.type
        products = autocast_type(kind, self.inconv.weight.dtype)
        with torch.autocast(kind, enabled=False):
            return self._output(features.to(self.inconv.weight.dtype), products)

    def _output(self, features: Tensor, products: torch.dtype) -> HeadOutput:
        x = self.input_dropout(self.input_block(features, products))  # (B, L, D)
        mean = x.mean(dim=1)  # (B, D)
        h, c = torch.tanh(self.hs1(mean)), torch.tanh(self.hc1(mean))  # (B, H)
        shown = h  # what attention and regressor see of the state; the LSTM itself goes on undropped
        keys = (
            self.dropout(functional.relu(product(x, self.e1.weight.to(products).t()))) if self.shape.attention else None
        )  # (B, L, D), for all steps
        outputs, maps = [], []
        for _ in range(self.shape.steps):
            if keys is None:
                z, alpha = mean, x.new_full(x.shape[:2], 1 / x.shape[1])  # (B, D), (B, L)
            else:
                alpha = self.attend(keys, shown)
                z = torch.einsum("bl,bld->bd", alpha, x)
            _, (h, c) = self.rnn(z.unsqueeze(1), (h.unsqueeze(0), c.unsqueeze(0)))  # a sequence of one
            h, c = h.squeeze(0), c.squeeze(0)
            shown = self.dropout(h)
            outputs.append(self.regnet4(self.dropout(functional.relu(self.regnet1(shown)))).squeeze(1))
            maps.append(alpha)
        m = torch.stack(outputs, dim=1) / self.shape.steps  # (B, T)
        return HeadOutput(m.sum(dim=1), m, torch.stack(maps, dim=1))

    def mean_feature(self) -> Tensor:
        """Return the mean training feature (D), from the running mean of the batch norm, over the last batches.

        It is the shortest feature whose convolution is that mean: the head holds no other.
        """
        weight, bias, mean = self.inconv.weight.flatten(1), self.inconv.bias, self.bn1.running_mean
        wanted = (mean - bias).detach().double().cpu()  # type: ignore[operator]  # both are there
        matrix = weight.detach().double().cpu()
        solution: Tensor = torch.linalg.lstsq(matrix, wanted.unsqueeze(1), rcond=1e-6, driver="gelsd").solution
        return solution.squeeze(1)

    def input_block(self, features: Tensor, products: torch.dtype) -> Tensor:
        """Return features (B, L, D) after 1x1 convolution, batch norm over images and positions, and ReLU."""
        B, L, D = features.shape
        weight = self.inconv.weight.view(D, D)
        bias: Tensor = self.inconv.bias  # type: ignore[assignment]  # it has one
        x = product(features, weight.to(products).t()) + bias
        rows = x.reshape(B * L, D)
        if B * L == 1:  # one value has no variance: a last batch of one image, of maps of one position
            norm = self.bn1
            rows = functional.batch_norm(
                rows, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            )
        else:
            rows = self.bn1(rows)
        return functional.relu(rows.view(B, L, D))

    def attend(self, keys: Tensor, h: Tensor) -> Tensor:
        """Return attention probabilities (B, L) from keys (B, L, D) and state h (B, H)."""
        hidden = self.dropout(functional.relu(keys + self.eh1(h).unsqueeze(2)))  # (B, L, D)
        return functional.softmax(self.eh3(hidden).squeeze(2), dim=1)
