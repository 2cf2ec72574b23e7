"""Occlusion maps: against places emptied one by one, on layers of several sizes, and on a score that was planted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.faithfulness import LAYER, SIDE, found_by_occlusion, planted_cache, trained
from featcache.recipe import Recipe
from head.data.inputs import HeadInput
from head.explain.occlusion import occludes, occlusion, places_of
from head.models.amnet import AMNetHead, HeadShape
from head.models.baselines import LinearHead, LinearShape
from head.models.kernels import KernelHead, KernelProductHead, KernelProductShape, KernelShape
from head.runs.head_file import TrainedHead
from tests.helpers.results import run_of
from tests.helpers.synthetic import RECIPE

LAYERED = replace(RECIPE, layers=(("fine", 4, 6, 3), ("coarse", 2, 3, 5), ("cls", 1, 1, 7)))
PLACES = (2, 3)
B = 2


def random_head(kind: str, channels: int) -> nn.Module:
    """Return a head of a kind on D channels, all of its numbers drawn, scales above 0."""
    torch.manual_seed(0)
    if kind == "linear":
        head: nn.Module = LinearHead(LinearShape(channels))
    elif kind == "gaussian":
        head = KernelHead(KernelShape(channels, vectors=11))
    elif kind == "product":
        head = KernelProductHead(KernelProductShape(11, ("intersection", "rbf"), (channels - 2, 2)))
    else:
        head = AMNetHead(HeadShape(1, channels, hidden_size=13, regressor_size=8, attention=False))
    for values in head.state_dict().values():
        values.copy_(torch.rand_like(values) + 0.1)
    return head.eval()


def mean_of(head: nn.Module, kind: str) -> Tensor:
    if kind == "product":
        return torch.cat([head.support.double().mean(dim=0)[:-2], head.standardise.mean[-2:]])  # type: ignore[union-attr, operator, index]
    mean = head.feature_mean if kind == "amnet" else head.standardise.mean
    assert isinstance(mean, Tensor)
    return mean.double()


@pytest.mark.parametrize("pooling", ["mean", "mean+deviation"])
@pytest.mark.parametrize("kind", ["linear", "gaussian", "product", "amnet"])
def test_a_map_is_the_score_less_that_with_each_place_emptied(kind: str, pooling: str) -> None:
    source, maps = HeadInput(("fine", "coarse", "cls"), pooling), layers(LAYERED)
    head = random_head(kind, source.map_shape(LAYERED).channels)
    trained_head = TrainedHead(head, 0.5, 2.0, frozenset(), {})
    found = occlusion(trained_head, source, LAYERED, maps)
    assert (found.shape, found.dtype) == ((B, 1, *PLACES), np.float32)
    mean, bands = mean_of(head, kind), source.bands(LAYERED)

    def score(emptied: dict[str, Tensor]) -> Tensor:
        vectors = []
        for layer in source.layers:
            vectors.append(emptied[layer].double().mean(dim=1))
            if pooling == "mean+deviation":
                vectors.append(emptied[layer].double().std(dim=1, correction=0))
        return trained_head.predict(torch.cat(vectors, dim=1).unsqueeze(1))[0]

    whole = score(maps)
    for y, x in np.ndindex(*PLACES):
        emptied = {layer: values.clone().double() for layer, values in maps.items()}
        grid = emptied["fine"].view(B, 4, 6, 3)
        grid[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2] = mean[bands["fine"]][:3]
        emptied["coarse"][:, 3 * y + x] = mean[bands["coarse"]][:5]
        np.testing.assert_allclose(found[:, 0, y, x], (whole - score(emptied)).numpy(), atol=2e-5)


def layers(recipe: Recipe) -> dict[str, Tensor]:
    """Return drawn features (B, L, D) of every layer."""
    torch.manual_seed(1)
    shapes = {layer: recipe.layer_shape(layer) for layer in recipe.layer_names}
    return {layer: torch.rand(B, shape.positions, shape.channels) for layer, shape in shapes.items()}


@pytest.mark.parametrize(("side", "places"), [(14, 14), (16, 16), (17, 9), (28, 14), (56, 14), (224, 16)])
def test_large_maps_have_patches_for_places(side: int, places: int) -> None:
    recipe = replace(RECIPE, layers=(("map", side, 7, 1), ("registers", 4, 1, 1)))
    assert places_of(HeadInput(("map", "registers"), "mean"), recipe) == (places, 7)
    torch.manual_seed(0)
    head = LinearHead(LinearShape(1))
    head.weight.fill_(1)
    features = torch.rand(1, side * 7, 1)
    found = occlusion(TrainedHead(head, 0, 1, frozenset(), {}), HeadInput(("map",), "mean"), recipe, {"map": features})
    np.testing.assert_allclose(found.sum(), features.mean(), rtol=1e-5)  # every position is in one place


@pytest.mark.parametrize(
    ("settings", "source", "wanted"),
    [
        ({"head": "ridge"}, HeadInput(("fine",), "mean+deviation"), True),
        ({"head": "svr", "kernel": "chi2"}, HeadInput(("cls", "fine"), "mean"), True),
        ({"head": "amnet", "attention": False}, HeadInput(("coarse",), "mean"), True),
        ({"head": "ridge"}, HeadInput(("cls",), "mean"), False),
        ({"head": "amnet"}, HeadInput(("fine",), "maps"), False),
        ({"head": "amnet", "recipe": "published", "attention": False}, HeadInput(("fine",), "maps"), False),
        ({"head": "tail"}, HeadInput(("fine",), "maps"), False),
    ],
)
def test_heads_that_pool_features_with_places_have_occlusion(
    settings: dict[str, Any], source: HeadInput, wanted: bool
) -> None:
    run = run_of(Path("run"), recipe=LAYERED.as_json(), settings=settings, input=source.as_json())
    assert occludes(run) is wanted


def test_the_occlusion_of_ridge_finds_a_planted_score(tmp_path: Path) -> None:
    cache, place = planted_cache(tmp_path / "planted", images=400)
    (run,) = trained(cache, tmp_path / "runs", "ridge", head="ridge", layers=(LAYER,))
    assert found_by_occlusion(cache, run, place) > 0.5 > 20 / SIDE**2
