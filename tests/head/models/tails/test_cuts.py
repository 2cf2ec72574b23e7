"""What a tail reads of a cache, and what it refuses before anything is written: each with its way out."""

from pathlib import Path
from typing import Any

import pytest

from featcache.base.errors import InvalidSettings
from featcache.store.cache import FeatureCache
from head.data.inputs import HeadInput
from head.models.kinds import input_of, shape_of
from head.models.tails.cuts import cut_of
from head.training.train import check_start, train
from tests.helpers.tails import RESNET, VIT, Network, tail_job, tail_settings

ALEXNET = Network("alexnet", 64, ("features.2", "features.11"))


@pytest.fixture(scope="module")
def caches(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, FeatureCache]:
    networks = (RESNET, VIT, ALEXNET, Network("timm:test_vit", 160, ("blocks.4",)))
    names = ("resnet", "vit", "alexnet", "vit without tokens")
    made = [one.cache(tiny_dataset, tmp_path_factory.mktemp("cuts"), augs=0) for one in networks]
    return dict(zip(names, made, strict=True))


def reads(cache: FeatureCache, *layers: str, **changes: Any) -> HeadInput:
    return input_of(cache, tail_settings(layers=layers, **changes))


def test_of_a_convolutional_network_it_reads_one_map(caches: dict[str, FeatureCache]) -> None:
    assert reads(caches["resnet"], "layer2") == HeadInput(("layer2",), "maps")
    assert reads(caches["resnet"]) == HeadInput(("layer3",), "maps")  # the cache's last
    assert reads(caches["resnet"], "views") == HeadInput(("views",), "maps")


def test_of_a_transformer_it_reads_the_tokens_before_the_positions_as_well(caches: dict[str, FeatureCache]) -> None:
    cache, wanted = caches["vit"], HeadInput(("blocks.2", "blocks.2.prefix"), "tokens")
    assert reads(cache, "blocks.2") == reads(cache, "blocks.2", "blocks.2.prefix") == wanted
    assert (wanted.positions(cache.recipe), wanted.tokens_in_words(cache.recipe)) == (101, "the token before them")
    assert reads(cache, "views") == HeadInput(("views",), "maps")


def test_a_crop_changes_how_many_places_it_sees(caches: dict[str, FeatureCache]) -> None:
    cache = caches["resnet"]
    shape = shape_of(cache, tail_settings(layers=("views",), crop=48))
    assert (shape.crop, shape.image_size, shape.cut.height, shape.cut.image_size) == (48, 64, 48, 48)
    cut = cut_of(cache.recipe, "layer3")
    assert (cut.name, cut.layer, cut.height, cut.width, cut.image_size) == ("timm:test_resnet", "layer3", 4, 4, 64)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("resnet", {"layers": ("layer2", "layer3")}, "goes on from one layer, found layer2, layer3; name one with --l"),
        ("resnet", {"layers": ("all",)}, "--head tail goes on from one layer, found views, layer2, layer3; name one"),
        ("vit", {"layers": ("blocks.2.prefix",)}, "goes on from one layer, found blocks.2.prefix; name one with --lay"),
        ("vit without tokens", {"layers": ("blocks.4",)}, "goes on from blocks.4 with 1 token .*extract --layer "
         "blocks.4,blocks.4.prefix"),
        ("resnet", {"layers": ("layer3",), "crop": 32}, "cut pixels, and layer3 of .* is features; leave them out, or "
         "name --layer views"),
        ("resnet", {"layers": ("layer3",), "eval_view": "tencrop"}, "--eval-view cut pixels, and layer3 .* leave them"),
        ("resnet", {"crop": 65}, "--crop 65: views of .* have 64 pixels a side; take no more"),
        ("resnet", {"eval_view": "tencrop"}, "--eval-view tencrop is of crops; say how large with --crop"),
        ("resnet", {"layers": ("layer3",), "train": "lora-2"}, "has no matrices of attention or perceptrons behind"),
        ("alexnet", {"layers": ("features.11",), "train": "norms"}, "has no norms behind this layer; use --train all"),
        ("alexnet", {"crop": 16}, "alexnet does not take 16 x 16 pixels: .*use a larger --crop"),
        ("vit", {"crop": 100}, "does not take 100x100 pixels"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_way_out_before_anything_is_written(
    caches: dict[str, FeatureCache], tmp_path: Path, name: str, given: dict[str, Any], message: str
) -> None:
    job = tail_job(caches[name], tmp_path / "tail", **given)
    for start in (check_start, train):
        with pytest.raises(InvalidSettings, match=message):
            start(job)
    assert not job.folder.exists()
