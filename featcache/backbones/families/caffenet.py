"""CaffeNet, the form of AlexNet that Caffe's models are: two groups in three convolutions, pooling before norms.

Its modules are called as Caffe's blobs are, so that converted weights load. Knows nothing of where they come from.
"""

from torch import Tensor, nn
from torch.nn import functional

from featcache.backbones.families.weights import State
from featcache.base.commands import command
from featcache.base.errors import BadInput

BLOBS = {  # Caffe's rectifiers work in place, so that its blobs are what lies behind them
    **{f"conv{number}": f"relu{number}" for number in range(1, 6)},
    **{f"fc{number}": f"relu{number}" for number in (6, 7)},
}
STD = (1 / 255,) * 3  # less a mean, pixels stay as large as Caffe has them: from 0 to 255
_UNITS = 4096  # of fc6 and fc7
_SIDE = 6  # of the last map at 227 pixels, which fc6 is made for


class AcrossChannels(nn.Module):
    """Divide maps (B, C, H, W) by (1 + alpha times the mean square of size neighbouring channels) ** beta.

    In float32 whatever the maps are in: squares of activations on this scale are beyond float16.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75) -> None:
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        """Return maps of the same shape and type."""
        around = self.size // 2
        squares = functional.pad(x.float().square().unsqueeze(1), (0, 0, 0, 0, around, around))  # (B, 1, C + 4, H, W)
        mean = functional.avg_pool3d(squares, (self.size, 1, 1), stride=1).squeeze(1)
        return (x * (1 + self.alpha * mean).pow(-self.beta)).type_as(x)


class CaffeNet(nn.Module):
    """Map images (B, 3, S, S), from 39 pixels a side, to the vectors (B, 4096) of fc7, behind its rectifier.

    Images are RGB from 0 to 255 less a mean. At 227 pixels it is Caffe's network; at others the last map is averaged to
    6 x 6, as torchvision does with AlexNet's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(3, 96, 11, stride=4), nn.ReLU(inplace=True)
        self.pool1, self.norm1 = _pool(), AcrossChannels()
        self.conv2, self.relu2 = nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(inplace=True)
        self.pool2, self.norm2 = _pool(), AcrossChannels()
        self.conv3, self.relu3 = nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(inplace=True)
        self.conv4, self.relu4 = nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU(inplace=True)
        self.conv5, self.relu5 = nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(inplace=True)
        self.pool5, self.sides = _pool(), nn.AdaptiveAvgPool2d(_SIDE)
        self.fc6, self.relu6, self.drop6 = nn.Linear(256 * _SIDE**2, _UNITS), nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.fc7, self.relu7 = nn.Linear(_UNITS, _UNITS), nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        """Return fc7; the dropout behind it is left to what reads it."""
        x = self.norm1(self.pool1(self.relu1(self.conv1(images))))
        x = self.norm2(self.pool2(self.relu2(self.conv2(x))))
        x = self.relu4(self.conv4(self.relu3(self.conv3(x))))
        x = self.sides(self.pool5(self.relu5(self.conv5(x))))
        x = self.drop6(self.relu6(self.fc6(x.flatten(1))))
        fc7: Tensor = self.relu7(self.fc7(x))
        return fc7


def build(name: str) -> nn.Module:
    """Return the network, whatever name it goes by."""
    return CaffeNet()


def no_published_weights(name: str) -> State:
    """Raise `BadInput` that says where weights can come from instead."""
    raise BadInput(
        f"{name} has no weights to download: convert a Caffe model's to a state dict under Caffe's names, conv1.weight "
        f"to fc7.bias, with conv1 turned from BGR to RGB, and pass {command('--weights', 'FILE')}, or draw them with "
        f"{command('--weights', 'random')}"
    )


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)  # Caffe's sizes are rounded up
