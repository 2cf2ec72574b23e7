"""Hand-made descriptors as a backbone: the numbers of their own functions, alone and beside a network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import Tensor

from featcache.backbones.backbone import Backbone, build_backbone
from featcache.backbones.descriptors.gist import gist
from featcache.backbones.descriptors.sift import dense_sift
from featcache.backbones.descriptors.words import WORDS, bag_of_words
from featcache.backbones.families.descriptor_networks import (
    Parts,
    all_in,
    joined_weights,
    located_weights,
    parts_of_name,
    parts_of_weights,
)
from featcache.backbones.networks import layers_that_know, own_views
from featcache.base.errors import BadInput, InvalidSettings, Mismatch

SIZE, NETWORK = 64, "timm:test_resnet"


@pytest.fixture(scope="module")
def words() -> Any:
    return np.random.default_rng(0).random((WORDS, 128), np.float32)


@pytest.fixture(scope="module")
def dictionary(words: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("words") / "a + b.safetensors"
    path.write_bytes(safetensors.numpy.save({"sift_words": words}))
    return str(path)


def views(count: int = 3) -> Tensor:
    return torch.randint(0, 256, (count, SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def built(name: str, weights: str, layers: Sequence[str] = (), **how: Any) -> Backbone:
    return build_backbone(name, weights=weights, layers=layers, image_size=SIZE, batch_size=2, **how)


def test_features_are_what_the_descriptors_give_of_each_view(words: Any, dictionary: str) -> None:
    backbone = built("descriptors:gist,sift", dictionary)
    features = backbone(views())
    assert list(features) == ["gist", "sift"]
    for k, view in enumerate(views().numpy()):
        np.testing.assert_array_equal(features["gist"][k, 0], gist(view))
        np.testing.assert_array_equal(features["sift"][k, 0], bag_of_words(dense_sift(view), words))
    assert (backbone.precision, backbone.execution.runtime, backbone.device.type) == ("fp32", "torch", "cpu")


def test_beside_a_network_both_give_what_they_give_alone(dictionary: str) -> None:
    both = built(f"{NETWORK}+descriptors:gist,sift", f"random + {dictionary}", precision="fp32")
    network = built(NETWORK, "random", precision="fp32", runtime="torch")
    features, alone = both(views()), built("descriptors:gist,sift", dictionary)(views())
    assert list(features) == ["gist", "sift", *network.layers]  # the last is what heads read by default
    for layer, wanted in {**alone, **network(views())}.items():
        torch.testing.assert_close(features[layer], wanted, rtol=0, atol=0)
    assert (both.mean, both.std) == (network.mean, network.std)


def test_layers_choose_among_descriptors_and_keep_their_order() -> None:
    assert list(built("descriptors:pixels,gist", "none", ["gist"]).layers) == ["gist"]
    both = built(f"{NETWORK}+descriptors:pixels,gist", "random", ["layer3", "pixels"], precision="fp32")
    assert both.layers == ("layer3", "pixels")


def test_what_features_depend_on_is_in_the_digest(
    dictionary: str, tmp_path: Path, words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, other = "descriptors:pixels,sift", tmp_path / "other.safetensors"
    other.write_bytes(safetensors.numpy.save({"sift_words": words + 1}))
    digests = {built(name, weights).weights_sha256 for weights in (dictionary, str(other))}
    digests.add(built("descriptors:pixels", "none").weights_sha256)
    assert len(digests) == 3
    assert built(name, dictionary).weights_sha256 in digests
    monkeypatch.setattr("featcache.backbones.descriptors.descriptors.VERSION", 99)
    assert built(name, dictionary).weights_sha256 not in digests


@pytest.mark.parametrize(
    ("name", "weights", "how", "message"),
    [
        ("descriptors:gist,gits", "none", {}, "no descriptor called 'gits'; there are pixels, gist, "),
        ("descriptors:", "none", {}, "no descriptor called ''"),
        ("descriptors:gist,gist", "none", {}, "names a descriptor twice"),
        (
            "descriptors:gist",
            "none",
            {"layers": ["pixels"]},
            "--layer pixels: descriptors:gist has no such layer; it has gist",
        ),
        (f"{NETWORK}+descriptors:gist", "random", {"layers": ["gist"]}, f"none is of {NETWORK}; leave it out"),
        ("descriptors:gist", "none", {"precision": "bf16"}, "descriptors cannot have --precision bf16; leave it out"),
        ("descriptors:gist", "none", {"device": "cuda", "runtime": "openvino"}, "--device cuda, --runtime openvino"),
        (f"{NETWORK}+descriptors:gist", "random", {"layers": ["layer3"]}, f"name one as well, or take {NETWORK} alone"),
        (f"{NETWORK}+descriptors:gist", "random", {"runtime": "compile"}, "cannot have --runtime compile"),
        ("descriptors:gist", "a.pth", {}, "--weights a.pth: gist count no words, so nothing is to be loaded"),
    ],
)
def test_what_descriptors_cannot_is_refused(name: str, weights: str, how: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        built(name, weights, **how)
    assert message in str(refused.value)


def test_views_that_are_too_small_are_refused_with_the_size_that_is_needed() -> None:
    with pytest.raises(InvalidSettings, match="descriptors need --image-size 64 or more, found 32 pixels"):
        build_backbone("descriptors:gist", weights="none", image_size=32)


def test_without_a_dictionary_or_with_another_descriptors_nothing_is_built(dictionary: str) -> None:
    with pytest.raises(BadInput, match=r"sift count visual words: pass the dictionary of a cache"):
        built("descriptors:sift", "imagenet")
    with pytest.raises(BadInput, match=r"gone.safetensors: no such dictionary; .*--weights 'imagenet \+ FILE'"):
        built(f"{NETWORK}+descriptors:sift", "random + gone.safetensors")
    with pytest.raises(Mismatch, match=r"hog2x2_words: missing"):
        built("descriptors:hog2x2", dictionary)


def test_names_and_weights_fall_into_those_of_the_network_and_of_the_descriptors() -> None:
    both, alone = "local-dir:a+b+descriptors:gist,sift", "descriptors:sift"
    assert parts_of_name(both) == Parts("local-dir:a+b", "gist,sift")
    assert parts_of_name("resnet50") == Parts("resnet50", "")
    assert parts_of_weights(both, "w.pth + d + e") == Parts("w.pth", "d + e")
    assert parts_of_weights(both, "imagenet") == Parts("imagenet", "")
    assert parts_of_weights(alone, "imagenet") == Parts("", "")
    assert parts_of_weights("resnet50", "a + b") == Parts("a + b", "")
    assert joined_weights(Parts("", "")) == "none"
    assert located_weights(both, "imagenet + d", lambda file: Path("/x") / file) == "imagenet + /x/d"
    assert located_weights(alone, "none", lambda file: Path("/x") / file) == "none"
    assert [all_in(name, [], "f") for name in (both, alone, "resnet50")] == ["f + f", "f", "f"]
    assert all_in(both, ["gist"], "f") == "f"  # which counts no words


def test_of_several_pluses_in_weights_that_counts_which_stands_between_files(tmp_path: Path) -> None:
    network, words = tmp_path / "a + b" / "net.pth", tmp_path / "a + b" / "c + d.safetensors"
    network.parent.mkdir()
    for path in (network, words):
        path.touch()
    both = f"{NETWORK}+descriptors:sift"
    assert parts_of_weights(both, f"{network} + {words}") == Parts(str(network), str(words))
    assert parts_of_weights(both, f"imagenet + {words}") == Parts("imagenet", str(words))
    assert parts_of_weights(both, "imagenet + gone/a + b") == Parts("imagenet", "gone/a + b")


def test_near_duplicates_are_looked_for_in_layers_of_a_trained_network_alone() -> None:
    both = f"{NETWORK}+descriptors:gist"
    assert layers_that_know(both, ["layer3", "gist"], "w.pth") == ["layer3"]
    assert layers_that_know(both, ["layer3", "gist"], "random") == []
    assert layers_that_know("descriptors:gist", ["gist"], "none") == []
    assert own_views("descriptors:gist").image_size == 256
