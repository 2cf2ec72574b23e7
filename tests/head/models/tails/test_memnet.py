"""MemNet's head: what its network sees is views less their mean image, and ten crops score as ten images do."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featcache.base.errors import InvalidSettings
from featcache.datasets.dataset import open_dataset
from featcache.extraction.extract import extract
from featcache.store.cache import FeatureCache, open_cache
from head.data.batches import split_data
from head.data.inputs import HeadInput
from head.evaluation.score import score_run
from head.models.kinds import input_of
from head.models.tails.memnet import MemNetHead, mean_view
from head.models.tails.tail import TailShape
from head.prediction.predictor import Predictor
from head.settings import settings_of
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.tiny import QUICK_EXTRACT

S, CROP = 46, 39
MEANS = {"caffenet": ((0.485, 0.456, 0.406), (1 / 255,) * 3), "alexnet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}
SMALL = {"head": "memnet", "crop": CROP, "epochs": 1, "batch_size": 12, "precision": "fp32"}


@pytest.fixture(scope="module", autouse=True)
def narrow() -> Iterator[None]:
    """Give CaffeNet 31 units where it has 4,096, which are most of its weights and take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featcache.backbones.families.caffenet._UNITS", 31)
        yield


def shape_of(network: str, size: int, **given: Any) -> TailShape:
    return TailShape(network, "views", size, size, size, False, *MEANS[network], **given)


def first_convolution(head: nn.Module) -> nn.Conv2d:
    return next(module for module in head.modules() if isinstance(module, nn.Conv2d))


@pytest.fixture(scope="module")
def cache(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    views = replace(QUICK_EXTRACT.views, image_size=S, eval_view="squash")
    settings = replace(QUICK_EXTRACT, backbone="caffenet", layers=("views", "conv5"), augs=0, views=views)
    out = tmp_path_factory.mktemp("memnet") / "cache"
    extract(open_dataset(str(tiny_dataset)), settings, out)
    return open_cache(out)


def test_ten_crops_score_as_the_mean_of_ten_images_each_less_its_part_of_the_mean_image() -> None:
    torch.manual_seed(1)
    pixels, image = torch.randint(0, 256, (2, S, S, 3), dtype=torch.uint8), 255 * torch.rand(S, S, 3)
    head = MemNetHead(shape_of("caffenet", S, crop=CROP, eval_view="tencrop")).eval()
    one = MemNetHead(shape_of("caffenet", CROP)).eval()
    one.load_state_dict({**head.state_dict(), "mean_image": one.mean_image})
    head.set_mean_image(image)
    end = S - CROP
    scores = []
    with torch.inference_mode():
        for y, x in ((0, 0), (0, end), (end, 0), (end, end), (end // 2, end // 2)):
            for turn in (False, True):
                parts = [values[..., y : y + CROP, x : x + CROP, :] for values in (pixels, image)]
                crop, mean = (part.flip(-2) if turn else part for part in parts)
                one.set_mean_image(mean)
                scores.append(one(crop.reshape(2, -1, 3)).score)
        found = head(pixels.reshape(2, -1, 3))
    assert torch.stack(scores).std(dim=0).min() > 1e-3
    torch.testing.assert_close(found.score, torch.stack(scores).mean(dim=0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.step_scores[:, 0], found.score)


@pytest.mark.parametrize("network", MEANS)
def test_the_mean_image_takes_the_place_of_the_mean_colour_alone(network: str) -> None:
    size = 63  # AlexNet's least
    head = MemNetHead(shape_of(network, size)).eval()
    seen: list[Tensor] = []
    first_convolution(head).register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    pixels = torch.randint(0, 256, (2, size, size, 3), generator=torch.manual_seed(2), dtype=torch.uint8)
    colour, deviation = (255 * torch.tensor(values) for values in MEANS[network])
    image = 255 * torch.rand(size, size, 3, generator=torch.manual_seed(3))
    for mean in (colour, image):  # before one is set it is the mean colour everywhere
        if mean is image:
            head.set_mean_image(image)
        with torch.no_grad():
            head(pixels.flatten(1, 2))
        torch.testing.assert_close(seen.pop().permute(0, 2, 3, 1), (pixels - mean) / deviation, rtol=1e-4, atol=1e-3)


def test_dropout_acts_on_fc6_and_fc7_alike() -> None:
    head = MemNetHead(shape_of("caffenet", CROP, dropout=0.25))
    found = [module.p for module in head.modules() if isinstance(module, nn.Dropout)]
    assert found == [0.25]  # fc6's; fc7's is the head's own
    assert head.dropout.p == 0.25


def test_the_mean_image_is_that_of_the_training_part(cache: FeatureCache) -> None:
    part = split_data(cache, "1", settings_of(head="memnet")).train
    pixels = np.stack([cache.read([row], 0, "views")[0] for row in part.rows])
    wanted = pixels.astype(np.float64).mean(axis=0).reshape(S, S, 3)
    found = mean_view(cache, part, source=HeadInput(("views",), "maps"), seed=0)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6)


def test_it_is_trained_scored_and_predicts_what_it_is_scored_with(
    cache: FeatureCache, tiny_dataset: Path, tmp_path: Path
) -> None:
    run = train(TrainingJob(cache, "1", settings_of(**SMALL), tmp_path / "split-1", "memnet"))
    scored = score_run(run, cache)
    predictor = Predictor.load(tmp_path / "split-1")
    found = predictor.predict([tiny_dataset / "images" / name for name in scored.names])
    np.testing.assert_allclose([float(one) for one in found], scored.prediction, rtol=1e-4, atol=1e-5)
    assert np.std(scored.prediction) > 0


def test_views_are_read_whichever_layer_is_the_last(cache: FeatureCache) -> None:
    assert cache.recipe.layer_names[-1] == "conv5"
    assert input_of(cache, settings_of(**SMALL)) == HeadInput(("views",), "maps")
    assert input_of(cache, settings_of(**SMALL, layers=("views",))) == HeadInput(("views",), "maps")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layers": ("conv5",)}, r"reads the views of caffenet or alexnet, found --layer conv5; leave it out"),
        (
            {"crop": 227},
            r"have 46 pixels a side; take no more, or extract --layer views --image-size 256 --eval-view squash",
        ),
        ({"crop": 0, "eval_view": "tencrop"}, r"--eval-view tencrop is of crops; say how large with --crop"),
    ],
)
def test_settings_that_this_cache_cannot_have_are_refused(
    cache: FeatureCache, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSettings, match=message):
        input_of(cache, settings_of(**{**SMALL, **given}))


def test_other_networks_and_caches_without_views_are_refused_with_the_extraction_that_is_needed(
    cache: FeatureCache, tiny_cache: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    command = "--layer views --image-size 256 --eval-view squash"
    with pytest.raises(InvalidSettings, match=f"is of resnet18; extract --backbone caffenet {command} or extract"):
        input_of(open_cache(tiny_cache), settings_of(head="memnet"))
    settings = replace(QUICK_EXTRACT, backbone="caffenet", layers=("pool5",), augs=0)
    extract(open_dataset(str(tiny_dataset)), settings, tmp_path / "features")
    with pytest.raises(InvalidSettings, match=f"has pool5; extract --backbone caffenet {command}"):
        input_of(open_cache(tmp_path / "features"), settings_of(head="memnet"))
    with pytest.raises(InvalidSettings, match=f"reads the views of googlenet, and .* is of caffenet; .* {command}"):
        input_of(cache, settings_of(head="memonet"))
