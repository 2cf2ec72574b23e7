"""Vectors as layers: read alone or joined by heads that look nowhere, at every position by heads that look."""

from pathlib import Path

import numpy as np
import pytest
import torch

from featcache.base.errors import InvalidSettings
from featcache.settings import ExtractSettings, ViewSettings, view_settings_of
from featcache.store.cache import FeatureCache, open_cache
from head.data.inputs import HeadInput
from tests.helpers.command_line import amnet
from tests.helpers.tiny import TINY_TRAIN

EXTRACT = (
    "--backbone", "timm:test_vit", "--weights", "random", "--image-size", "64",
    "--layer", "blocks.5,cls,pooled", "--augs", "1",
)  # fmt: skip
QUICK = ("--epochs", "1", "--hidden-size", str(TINY_TRAIN.hidden_size), "--split", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Path:
    home = tmp_path_factory.mktemp("vectors")
    amnet("extract", "--dataset", tiny_dataset, "--out", home / "cache/v", *EXTRACT)
    return home


@pytest.fixture
def cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureCache:
    monkeypatch.chdir(folder)
    return open_cache("cache/v")


def test_they_are_layers_of_one_position(cache: FeatureCache) -> None:
    assert cache.recipe.final_norm
    assert [(name, *shape[:2]) for name, *shape in cache.recipe.layers] == [
        ("blocks.5", 4, 4),
        ("cls", 1, 1),
        ("pooled", 1, 1),
    ]
    assert "cls: 1x1x64 (L = 1)" in amnet("cache-info").stdout
    np.testing.assert_array_equal(cache.read(ROWS, 0, "cls"), cache.read(ROWS, 0, "pooled"))  # this network pools so


ROWS = np.array([3, 0, 11])


def test_joined_with_a_map_a_vector_is_at_every_position(cache: FeatureCache) -> None:
    joined = HeadInput(("blocks.5", "cls"), "maps")
    shape = joined.map_shape(cache.recipe)
    assert (shape.height, shape.width, shape.channels) == (4, 4, 128)
    found = joined.read(cache, ROWS, 0)
    assert torch.equal(found[..., :64], torch.from_numpy(cache.read(ROWS, 0, "blocks.5")).float())
    assert torch.equal(found[..., 64:], torch.from_numpy(cache.read(ROWS, 0, "cls")).float().expand(-1, 16, -1))


def test_heads_that_look_at_places_refuse_one_vector(cache: FeatureCache) -> None:
    said = amnet("train-head", "--layer", "cls", *QUICK, status=2).stderr
    assert "a head of the kind amnet looks at places, and cls of" in said
    assert "name a map as well, --layer cls,blocks.5, or use --head ridge, svr or mlp, or --no-attention" in said
    assert not Path("runs").exists()


@pytest.mark.parametrize("head", [("--head", "ridge"), ("--no-attention", *QUICK[:4])])
def test_heads_that_look_nowhere_take_it(cache: FeatureCache, head: tuple[str, ...], tiny_dataset: Path) -> None:
    amnet("train-head", *head, "--layer", "cls", "--split", "1", "--name", head[0].strip("-"))
    assert "mean over splits" in amnet("score-cache").stdout
    image = next((tiny_dataset / "images").glob("*.jpg"))
    assert image.name in amnet("predict", "--run", f"runs/v/{head[0].strip('-')}", image).stdout


def test_a_model_says_its_own_views(tiny_dataset: Path, tmp_path: Path) -> None:
    amnet(
        "extract", "--dataset", tiny_dataset, "--out", tmp_path / "c", *EXTRACT[:4], "--recipe", "model",
    )  # fmt: skip
    recipe = open_cache(tmp_path / "c").recipe
    assert (recipe.image_size, recipe.interpolation, recipe.center_fraction) == (160, "bicubic-antialias", 0.95)
    assert view_settings_of("paper") == ViewSettings()
    assert ExtractSettings().views.interpolation == "bilinear-antialias"


def test_a_cache_of_before_goes_on_without_the_norm(tiny_dataset: Path, tmp_path: Path) -> None:
    before = (*EXTRACT[:8], "--no-final-norm")
    amnet("extract", "--dataset", tiny_dataset, "--out", tmp_path / "c", *before)
    amnet("extract", "--dataset", tiny_dataset, "--out", tmp_path / "c", *EXTRACT[:8], "--augs", "1")
    cache = open_cache(tmp_path / "c")
    assert (cache.views, cache.recipe.final_norm) == (2, False)
    assert "final_norm" not in cache.recipe.as_json()


def test_unknown_views_of_a_model_are_refused() -> None:
    with pytest.raises(InvalidSettings, match="--recipe must be one of paper, published, model"):
        view_settings_of("mine")
