"""The layer `views` of any backbone: the pixels it is given, beside its own layers or in place of them."""

import pytest
import torch

from featcache.backbones.families.weights import digest_of_weights
from featcache.backbones.networks import Asked, build_extractor, layers_that_know, settled
from featcache.backbones.of_recipe import backbone_of, recipe_of
from featcache.base.errors import InvalidSettings
from featcache.recipe import LayerShape
from featcache.settings import ViewSettings
from tests.helpers.networks import SIZE, build, pixels

NETWORKS = {"resnet18": "layer1", "timm:test_resnet": "layer2", "timm:test_vit": "blocks.0"}


@pytest.mark.parametrize("name", [*NETWORKS, "descriptors:pixels"])
def test_views_alone_are_the_pixels_and_nothing_is_run(name: str) -> None:
    size = 160 if name == "timm:test_vit" else SIZE
    given = pixels(5, size)
    backbone = build(name, "views", image_size=size)
    for module in backbone.module.modules():
        module.register_forward_hook(lambda *_: pytest.fail("the network was run"))
    features = backbone(given)
    assert list(features) == ["views"]
    assert features["views"].dtype == torch.uint8
    assert torch.equal(features["views"], given.reshape(5, size * size, 3))
    assert backbone.shapes == {"views": LayerShape(size, size, 3)}
    assert (backbone.precision, backbone.execution.runtime) == ("fp32", "torch")


@pytest.mark.parametrize(("name", "layer"), NETWORKS.items())
def test_beside_views_layers_and_weights_are_what_they_are_without(name: str, layer: str) -> None:
    size = 160 if name == "timm:test_vit" else SIZE
    given = pixels(4, size)
    alone, beside = (build(name, *layers, image_size=size) for layers in ([layer], ["views", layer]))
    features = beside(given)
    assert list(features) == ["views", layer]
    assert torch.equal(features[layer], alone(given)[layer])
    assert torch.equal(features["views"], given.reshape(4, -1, 3))
    assert beside.weights_sha256 == alone.weights_sha256
    assert list(build(name, layer, "views", image_size=size).shapes) == [layer, "views"]


def test_with_descriptors_alone_or_beside_a_network_that_is_not_computed() -> None:
    given = pixels(3)
    for name in ("descriptors:pixels,color", "resnet18+descriptors:pixels,color"):
        features = build(name, "color", "views")(given)
        assert list(features) == ["color", "views"]
        assert torch.equal(features["views"], given.reshape(3, -1, 3))
        assert torch.equal(features["color"], build("descriptors:color")(given)["color"])


@pytest.mark.parametrize("name", ["resnet18", "alexnet", "timm:test_resnet"])
def test_weights_of_views_alone_are_those_down_to_the_pooled_output(name: str) -> None:
    whole = build_extractor(name, ["pooled"], "random", seed=3, image_size=224)
    extractor = build_extractor(name, ["views"], "random", seed=3, image_size=224)
    assert digest_of_weights(extractor.module) == digest_of_weights(whole.module)
    assert (extractor.layers, extractor.computed) == (("views",), ())
    assert (extractor.mean, extractor.std) == (whole.mean, whole.std)


def test_a_recipe_of_views_has_the_second_version_and_gives_its_backbone_again() -> None:
    views = ViewSettings(image_size=SIZE)
    plain, beside = (recipe_of(build("timm:test_resnet", *layers), views) for layers in ([], ["views", "layer3"]))
    assert (plain.format_version, beside.format_version) == (1, 2)
    alone = recipe_of(build("timm:test_resnet", "views"), views)
    again = backbone_of(alone, weights="random", batch_size=2, where="here", way_out="")
    assert recipe_of(again, views) == alone


def test_how_views_alone_are_run_is_fixed_and_another_is_refused() -> None:
    assert settled("resnet18", ["views"], Asked("cuda:1", "auto", "auto")) == ("cuda:1", "fp32", "torch")
    assert settled("resnet18", ["views", "layer3"], Asked("auto", "bf16", "openvino")) == ("auto", "bf16", "openvino")
    with pytest.raises(InvalidSettings, match="--layer views: pixels .* cannot have --precision bf16, --runtime openv"):
        settled("resnet18", ["views"], Asked("auto", "bf16", "openvino"))


def test_views_have_no_final_norm() -> None:
    with pytest.raises(InvalidSettings, match="--final-norm: --layer blocks"):
        build("timm:test_vit", "views", image_size=160, final_norm=True)


def test_nothing_is_known_to_be_alike_by_its_pixels() -> None:
    assert layers_that_know("resnet18", ["views", "layer3"], "imagenet") == ["layer3"]
    assert layers_that_know("resnet18", ["views"], "imagenet") == []
