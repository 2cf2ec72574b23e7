"""A network that stands for ResNet50 where the network is not what is tested: of its form, a hundredth its size."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torchvision
from torch import nn
from torchvision.models import ResNet
from torchvision.models.resnet import Bottleneck

import head.share.import_head as importing

_GET_MODEL = torchvision.models.get_model


class _NarrowBottleneck(Bottleneck):
    expansion = 1


def small_resnet(**_: object) -> ResNet:
    """Return a network whose tensors have names of ResNet50's, of fewer blocks and channels: 256 in layer3."""
    return ResNet(_NarrowBottleneck, [1, 1, 1, 1], width_per_group=8)


@contextlib.contextmanager
def small_resnet_for_resnet50() -> Iterator[None]:
    """Let torchvision build `small_resnet` where it is asked for ResNet50."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision.models, "get_model", _small_model)
        patch.setattr(importing, "_resnet", functools.cache(importing._resnet.__wrapped__))
        yield


def _small_model(name: str, **options: Any) -> nn.Module:
    return small_resnet() if name == "resnet50" else _GET_MODEL(name, **options)
