"""What lies behind a layer gives, from features as a cache stores them, what the whole network gives."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from featcache.backbones.backbone import Backbone, build_backbone
from featcache.backbones.families.rest import Cut, Rest
from featcache.backbones.networks import build_extractor, build_rest
from featcache.base.errors import InvalidSettings
from featcache.settings import VIEWS_LAYER

CUTS = {
    "resnet18": (64, ["layer1", "layer2", "layer3"]),
    "alexnet": (96, ["features.2", "features.11", "fc6"]),
    "googlenet": (64, ["inception3b", "inception4a", "inception4e"]),
    "caffenet": (67, ["norm1", "conv5", "fc6"]),
    "efficientnet_lite0": (64, ["blocks.1", "blocks.2", "blocks.4"]),
    "timm:convnext_tiny": (64, ["stages.0", "stages.1", "stages.2"]),
    "timm:vit_tiny_patch16_224": (224, ["blocks.2", "blocks.5", "blocks.8"]),
    "timm:swin_tiny_patch4_window7_224": (224, ["layers.0", "layers.1", "layers.2"]),
}


def backbone_of(name: str, size: int, layers: Sequence[str]) -> Backbone:
    return build_backbone(
        name, layers=layers, weights="random", image_size=size, device="cpu", precision="fp32", batch_size=2
    )


def cut_of(backbone: Backbone, layer: str) -> Cut:
    shape, size = backbone.shapes[layer], backbone.image_size
    return Cut(backbone.name, layer, shape.height, shape.width, size, backbone.final_norm, backbone.mean, backbone.std)


def rest_behind(backbone: Backbone, layer: str) -> Rest:
    return build_rest(cut_of(backbone, layer), "random", seed=0).eval()


@pytest.mark.parametrize("name", CUTS)
def test_the_rest_of_a_network_gives_its_pooled_output(name: str) -> None:
    size, layers = CUTS[name]
    prefixes = [f"{layer}.prefix" for layer in layers] if "vit" in name else []
    backbone = backbone_of(name, size, (*layers, *prefixes, VIEWS_LAYER, "pooled"))
    pixels = torch.randint(0, 256, (2, size, size, 3), generator=torch.manual_seed(1), dtype=torch.uint8)
    features = backbone(pixels)
    pooled = features["pooled"].flatten(1)
    for layer in layers:
        stored = [features[one].half().float() for one in (layer, f"{layer}.prefix") if one in features]
        with torch.no_grad():
            (found,) = rest_behind(backbone, layer)(torch.cat(stored, dim=1))
        assert (found - pooled).abs().max() < 3e-3 * pooled.std(), layer
    with torch.no_grad():
        (found,) = rest_behind(backbone, VIEWS_LAYER)(features[VIEWS_LAYER].float())
    assert (found - pooled).abs().max() < 1e-4 * pooled.std()


def test_tokens_before_the_positions_are_a_layer_of_their_own() -> None:
    layers = ("blocks.2", "blocks.2.prefix", "blocks.5.prefix", "cls")
    backbone = backbone_of("timm:test_vit", 160, layers)
    assert [backbone.shapes[layer].positions for layer in layers] == [100, 1, 1, 1]
    features = backbone(torch.randint(0, 256, (2, 160, 160, 3), dtype=torch.uint8))
    norm = build_extractor("timm:test_vit", ("cls",), "random", seed=0, image_size=160).module.norm
    with torch.no_grad():
        torch.testing.assert_close(norm(features["blocks.5.prefix"]), features["cls"])


def test_a_network_without_such_tokens_has_no_such_layer() -> None:
    with pytest.raises(InvalidSettings, match=r"--layer layer3.prefix: timm:test_resnet has no such layer"):
        backbone_of("timm:test_resnet", 96, ("layer3.prefix",))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("layer2.0.conv1", r"cannot be cut behind layer2.0.conv1: what lies before it is read again behind it; layers"),
        (
            "layer9",
            r"cannot be cut behind layer9: it has no module of that name; layers that it can .* behind: layer1, ",
        ),
        ("layer4", r"nothing of resnet18 is left to train behind layer4; use --head linear, ridge, svr or mlp; layers"),
    ],
)
def test_where_it_cannot_be_cut_the_layers_are_named_where_it_can(layer: str, message: str) -> None:
    cut = Cut("resnet18", layer, 14, 14, 64, False, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    with pytest.raises(InvalidSettings, match=message) as caught:
        build_rest(cut, "random", seed=0)
    assert str(caught.value).endswith(" layer1, layer2, layer3, views")


def test_no_network_lies_behind_a_descriptor() -> None:
    cut = Cut("resnet18+descriptors:gist", "gist", 1, 1, 64, False, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    with pytest.raises(InvalidSettings, match="no network lies behind a descriptor"):
        build_rest(cut, "random", seed=0)
    assert isinstance(build_rest(replace(cut, layer="layer3", height=4, width=4), "random", seed=0), Rest)


def test_what_is_given_to_it_is_not_written_into() -> None:
    backbone = backbone_of("alexnet", 96, ("features.0", "features.3"))
    features: dict[str, Tensor] = backbone(torch.randint(0, 256, (1, 96, 96, 3), dtype=torch.uint8))
    for layer, values in features.items():
        before = values.clone()
        rest_behind(backbone, layer).train()(values)
        torch.testing.assert_close(values, before, rtol=0, atol=0)


def test_its_state_is_that_of_the_network_alone() -> None:
    whole = build_extractor("timm:swin_tiny_patch4_window7_224", ("pooled",), "random", seed=0).module
    rest = build_rest(
        Cut("timm:swin_tiny_patch4_window7_224", "layers.2", 7, 7, 224, False, (0.5,) * 3, (0.2,) * 3), "random", seed=0
    )
    own = rest.network.state_dict()
    assert set(own) <= set(whole.state_dict())
    for name, values in own.items():
        torch.testing.assert_close(values, whole.state_dict()[name], rtol=0, atol=0)


def test_batch_norms_are_whole_in_it_so_that_their_statistics_can_be_trained() -> None:
    rest = build_rest(
        Cut("efficientnet_lite0", "blocks.4", 4, 4, 64, False, (0.5,) * 3, (0.2,) * 3), "random", seed=0
    ).train()
    norms = [module for module in rest.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    rest(torch.randn(4, 16, 112))
    after = [norm.running_mean for norm in norms if norm.running_mean is not None]
    assert before and not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
