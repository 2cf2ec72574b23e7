"""What heads read: maps of one layer as they are stored, of several on the grid of the smallest, vectors joined."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from featcache.base.errors import InvalidSettings
from featcache.store.cache import open_cache
from featcache.store.shards.encoding import decode
from head.data.batches import feature_scale
from head.data.inputs import HeadInput
from head.evaluation.score import score_run
from head.prediction.predictor import Predictor
from head.runs.head_file import load_head
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.tiny import TINY_TRAIN

BOTH = HeadInput(("layer2", "layer3"), "maps")
ROWS = np.array([5, 0, 7])


def decoded(cache_path: Path, layer: str) -> np.ndarray:
    cache = open_cache(cache_path)
    return decode(cache.read(ROWS, 0, layer), cache.constants(layer)).numpy()


def test_maps_of_several_layers_are_averaged_to_the_grid_of_the_smallest(layered_cache: Path) -> None:
    cache = open_cache(layered_cache)
    large, small = decoded(layered_cache, "layer2"), decoded(layered_cache, "layer3")
    blocks = large.reshape(3, 4, 2, 4, 2, 128).mean(axis=(2, 4)).reshape(3, 16, 128)
    found = BOTH.read(cache, ROWS, 0)
    np.testing.assert_allclose(found, np.concatenate([blocks, small], axis=2), rtol=1e-5, atol=1e-6)
    shape = BOTH.map_shape(cache.recipe)
    assert (shape.height, shape.width, shape.channels) == (4, 4, 384)
    other_order = HeadInput(("layer3", "layer2"), "maps").read(cache, ROWS, 0)
    assert torch.equal(other_order, torch.cat([found[..., 128:], found[..., :128]], dim=2))


def test_the_mean_of_joined_maps_is_the_joined_mean(layered_cache: Path) -> None:
    cache = open_cache(layered_cache)
    mean = HeadInput(BOTH.layers, "mean").read(cache, ROWS, 0)
    torch.testing.assert_close(BOTH.read(cache, ROWS, 0).mean(dim=1, keepdim=True), mean, rtol=1e-4, atol=1e-5)


def test_the_scale_of_joined_maps_is_that_of_what_is_read(layered_cache: Path) -> None:
    cache = open_cache(layered_cache)
    part = cache.splits["2"]["val"]
    features = BOTH.read(cache, part.rows, 0).double()
    mean, std = feature_scale(cache, part, source=BOTH, seed=0)
    torch.testing.assert_close(mean.double(), features.mean(dim=(0, 1)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(std.double(), features.std(dim=(0, 1), correction=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("source", [BOTH, HeadInput(("layer3",), "maps"), HeadInput(("layer2", "layer3"), "mean")])
def test_batches_are_what_is_read(layered_cache: Path, source: HeadInput) -> None:
    cache = open_cache(layered_cache)
    pairs = [(np.array([5, 0]), np.array([0, 0])), (np.array([7]), np.array([0]))]
    for (rows, views), batch in zip(pairs, source.batches(cache, pairs), strict=True):
        assert torch.equal(batch, source.read(cache, rows, views))


@pytest.mark.parametrize("attention", [True, False])
def test_a_head_on_several_layers_predicts_from_files_what_the_cache_gives(
    layered_cache: Path, torn_dataset: Path, tmp_path: Path, attention: bool
) -> None:
    cache = open_cache(layered_cache)
    settings = replace(TINY_TRAIN, layers=("all",), attention=attention, epochs=3)
    run = train(TrainingJob(cache, "1", settings, tmp_path, "joined"))
    assert run.input.layers == ("layer2", "layer3")
    scored = score_run(run, cache)
    paths = [torn_dataset / "images" / name for name in scored.names]
    found = Predictor.load(tmp_path).predict(paths)
    np.testing.assert_allclose([image.score for image in found], scored.prediction, atol=1e-3)
    assert load_head(run).module.shape.positions == 16


def test_a_head_reads_something() -> None:
    with pytest.raises(InvalidSettings, match="at least one layer"):
        HeadInput((), "maps")
    with pytest.raises(InvalidSettings, match="pooling must be maps, tokens, mean, mean"):
        HeadInput(("layer3",), "max")
