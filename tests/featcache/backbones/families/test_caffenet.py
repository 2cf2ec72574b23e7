"""CaffeNet is what its description says, layer by layer, and weights under Caffe's names load into it."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from featcache.backbones.families.caffenet import AcrossChannels, CaffeNet
from featcache.backbones.networks import build_extractor
from featcache.base.errors import BadInput, Mismatch
from tests.helpers.networks import build, pixels

SHAPES = {
    "conv1": (96, 3, 11, 11),
    "conv2": (256, 48, 5, 5),
    "conv3": (384, 256, 3, 3),
    "conv4": (384, 192, 3, 3),
    "conv5": (256, 192, 3, 3),
    "fc6": (4096, 9216),
    "fc7": (4096, 4096),
}


@pytest.fixture(scope="module")
def network() -> CaffeNet:
    torch.manual_seed(3)
    return CaffeNet().eval()


def slow_norm(maps: Tensor) -> Tensor:
    """Divide each channel by (1 + 1e-4 / 5 times the squares of it and two on each side) ** 0.75, one by one."""
    x = maps.double().numpy()
    found = np.empty_like(x)
    for c in range(x.shape[1]):
        squares = sum(x[:, k] ** 2 for k in range(c - 2, c + 3) if 0 <= k < x.shape[1])
        found[:, c] = x[:, c] / (1 + 1e-4 / 5 * squares) ** 0.75
    return torch.from_numpy(found).float()


def halves(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Apply each half of a convolution's channels to its half of the maps, and the rectifier behind it."""
    parts = zip(x.chunk(2, 1), conv.weight.chunk(2), conv.bias.chunk(2), strict=True)  # type: ignore[union-attr]
    return torch.cat([functional.conv2d(*part, padding=conv.padding) for part in parts], dim=1).relu()  # type: ignore[arg-type]


def described(network: CaffeNet, images: Tensor) -> dict[str, Tensor]:
    """Return every layer as the description of the network has it, at a size where nothing is averaged."""
    of = {}
    of["conv1"] = functional.conv2d(images, network.conv1.weight, network.conv1.bias, stride=4).relu()
    of["pool1"] = functional.max_pool2d(of["conv1"], 3, 2, ceil_mode=True)
    of["norm1"] = slow_norm(of["pool1"])
    of["conv2"] = halves(of["norm1"], network.conv2)
    of["norm2"] = slow_norm(functional.max_pool2d(of["conv2"], 3, 2, ceil_mode=True))
    of["conv3"] = functional.conv2d(of["norm2"], network.conv3.weight, network.conv3.bias, padding=1).relu()
    of["conv4"] = halves(of["conv3"], network.conv4)
    of["conv5"] = halves(of["conv4"], network.conv5)
    of["pool5"] = functional.max_pool2d(of["conv5"], 3, 2, ceil_mode=True)
    of["fc6"] = functional.linear(of["pool5"].flatten(1), network.fc6.weight, network.fc6.bias).relu()
    of["fc7"] = functional.linear(of["fc6"], network.fc7.weight, network.fc7.bias).relu()
    return of


def test_its_weights_have_the_shapes_of_caffes() -> None:
    with torch.device("meta"):
        state = CaffeNet().state_dict()
    assert {name: tuple(values.shape) for name, values in state.items() if name.endswith("weight")} == {
        f"{name}.weight": shape for name, shape in SHAPES.items()
    }
    assert sorted(state) == sorted(f"{name}.{part}" for name in SHAPES for part in ("weight", "bias"))


@pytest.mark.parametrize("size", [224, 227])
def test_every_layer_is_as_it_is_described(network: CaffeNet, tmp_path: Path, size: int) -> None:
    safetensors.torch.save_file(network.state_dict(), tmp_path / "w.safetensors")
    layers = ("conv1", "pool1", "norm1", "conv2", "norm2", "conv3", "conv4", "conv5", "pool5", "fc6", "fc7", "pooled")
    backbone = build(
        "caffenet", *layers, weights=str(tmp_path / "w.safetensors"), image_size=size, batch_size=2, runtime="torch"
    )
    sides = {name: shape.height for name, shape in backbone.shapes.items()}
    first = (size - 11) // 4 + 1
    assert list(sides.values()) == [first, 27, 27, 27, 13, 13, 13, 13, 6, 1, 1, 1]
    views = pixels(2, size)
    with torch.no_grad():
        wanted = described(network, views.permute(0, 3, 1, 2) - 255 * torch.tensor(backbone.mean)[:, None, None])
    features = backbone(views)
    for layer, values in wanted.items():
        like = values.flatten(2).transpose(1, 2) if values.ndim == 4 else values[:, None]
        torch.testing.assert_close(features[layer], like, rtol=1e-3, atol=1e-4 * float(like.abs().max()))
    torch.testing.assert_close(features["pooled"], features["fc7"], rtol=0, atol=0)


@pytest.mark.parametrize("size", [39, 64, 300])
def test_it_takes_images_of_other_sizes(network: CaffeNet, size: int) -> None:
    with torch.no_grad():
        assert network(torch.zeros(1, 3, size, size)).shape == (1, 4096)


def test_pixels_are_rgb_less_the_mean_colour_and_not_scaled() -> None:
    extractor = build_extractor("caffenet", ("conv1",), "random", seed=0)
    assert [round(255 * one, 3) for one in extractor.mean] == [123.675, 116.28, 103.53]
    assert [255 * one for one in extractor.std] == [1, 1, 1]


def test_the_norm_is_the_slow_formula_in_float16_too_where_squares_are_beyond_it() -> None:
    maps = 300 * torch.randn(2, 7, 3, 5, generator=torch.manual_seed(1)).clamp(-2, 2)
    norm = AcrossChannels()
    torch.testing.assert_close(norm(maps), slow_norm(maps), rtol=1e-5, atol=1e-5)
    half = norm(maps.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), slow_norm(maps), rtol=2e-3, atol=1e-3)


def test_names_of_a_larger_model_are_left_out_and_missing_ones_named(network: CaffeNet, tmp_path: Path) -> None:
    state = network.state_dict()
    file = tmp_path / "hybrid.safetensors"
    safetensors.torch.save_file({**state, "fc8.weight": torch.zeros(1183, 4096)}, file)
    found = build_extractor("caffenet", ("conv2",), str(file), seed=0).module.state_dict()
    torch.testing.assert_close(found["conv2.weight"], state["conv2.weight"], rtol=0, atol=0)
    safetensors.torch.save_file({name: values for name, values in state.items() if name != "conv2.bias"}, file)
    with pytest.raises(Mismatch, match=r"conv2\.bias: missing"):
        build_extractor("caffenet", ("conv2",), str(file), seed=0)


def test_weights_that_cannot_be_downloaded_are_an_error_with_the_way_out() -> None:
    with pytest.raises(BadInput, match=r"caffenet has no weights to download: convert .* pass --weights FILE, or draw"):
        build_extractor("caffenet", (), "imagenet", seed=0)
