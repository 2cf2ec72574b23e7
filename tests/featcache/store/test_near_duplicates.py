"""Images that look alike are found by the cosine of pooled features, whatever the number of images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.base.files import make_folder
from featcache.images.identity import ImageRow
from featcache.recipe import Recipe
from featcache.store import near_duplicates
from featcache.store.folder import shard_path, shards_folder
from featcache.store.near_duplicates import comparable, find_near_duplicates, likely_pairs
from featcache.store.shards.format import Block
from featcache.store.shards.opening import open_shard
from featcache.store.shards.shard import Shard
from featcache.store.writer import commit
from tests.helpers.synthetic import ABSENT, RECIPE, build_shard_bytes, image

ROWS, CHANNELS = 31, 11
MAPS = replace(RECIPE, layers=(("map", 3, 4, CHANNELS),))
VECTORS = replace(RECIPE, layers=(("vector", 1, 1, CHANNELS),))


def shards_of(folder: Path, features: NDArray[np.float32], recipe: Recipe) -> list[Shard]:
    """Return the shards of a cache of features (N, L, D) in view 0 of its first layer, and noise in all else."""
    rng, arrays = np.random.default_rng(1), {}
    for layer in recipe.layer_names:
        shape = (ROWS, 2, recipe.layer_shape(layer).positions, CHANNELS)
        both = rng.normal(size=shape)
        if layer == recipe.layer_names[0]:
            both[:, 0] = features
        both = both.astype(np.float16)
        arrays[f"features/{layer}"] = both
        arrays[f"pooled/{layer}"] = np.stack([both.astype("f4").mean(2), both.astype("f4").std(2)], axis=2)
    blocks = [Block((17, ROWS), (0, 2)), Block((0, 17), (1, 2)), Block((0, 17), (0, 1))]
    return [
        open_shard(shard_path(folder, commit(folder, block, build_shard_bytes(arrays, block, recipe=recipe)).file))
        for block in blocks
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_folder(shards_folder(tmp_path))
    return tmp_path


@pytest.fixture
def maps() -> NDArray[np.float32]:
    """Maps of 12 positions on scales of their own, with a large common part, of images of which no two are alike."""
    rng = np.random.default_rng(8)
    means = rng.normal(size=(ROWS, 1, CHANNELS))
    return ((5 + means + rng.normal(size=(ROWS, 12, CHANNELS))) * np.logspace(-2, 2, CHANNELS)).astype(np.float32)


def nearly(features: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).normal(size=features.shape)
    return (features + 0.1 * noise * np.logspace(-2, 2, CHANNELS)).astype(np.float32)


def test_copies_are_found_across_shards_and_others_are_not(folder: Path, maps: NDArray[np.float32]) -> None:
    maps[20], maps[30] = nearly(maps[3], 0), nearly(maps[12], 1)
    maps[7] = nearly(maps[20], 2)  # a chain of three
    maps[ABSENT] = maps[9]
    maps[25] = maps[2][::-1]  # the same things in other places
    shards = shards_of(folder, maps, MAPS)
    found = find_near_duplicates(shards, layers=MAPS.layer_names)
    assert found is not None
    assert set(found) == {(3, 7, 20), (12, 30)}
    assert find_near_duplicates(shards, layers=()) is None


def test_vectors_alone_are_compared_by_themselves(folder: Path) -> None:
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(ROWS, 1, CHANNELS)).astype(np.float32)
    vectors[20] = vectors[3] + 0.05
    found = find_near_duplicates(shards_of(folder, vectors, VECTORS), layers=VECTORS.layer_names)
    assert found == ((3, 20),)


def test_several_vectors_of_a_layer_are_no_map(folder: Path, maps: NDArray[np.float32]) -> None:
    maps[20] = nearly(maps[3], 0)
    beside = replace(RECIPE, layers=(*MAPS.layers, ("registers", 4, 1, CHANNELS)))
    assert find_near_duplicates(shards_of(folder, maps, beside), layers=beside.layer_names) == ((3, 20),)


def test_a_file_under_two_names_is_no_look_alike(
    folder: Path, maps: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    maps[20] = maps[3]

    def same(row: int) -> ImageRow:
        return replace(image(row), sha256="7" * 64) if row in (3, 20) else image(row)

    monkeypatch.setattr("tests.helpers.synthetic.image", same)
    assert find_near_duplicates(shards_of(folder, maps, MAPS), layers=MAPS.layer_names) == ()


@pytest.mark.parametrize("seed", range(5))
def test_comparing_in_few_directions_finds_the_nearest_pairs(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    vectors = comparable(
        (rng.normal(size=(200, 3)) @ rng.normal(size=(3, 40)) + rng.normal(size=(200, 40))).astype("f4")
    )
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    nearest = np.argsort(-cosines, axis=1)[:, :3]
    expected = {(min(i, j), max(i, j)) for i in range(200) for j in nearest[i].tolist() if cosines[i, j] >= 0.7}
    assert len(expected) > 20
    for few, directions, block in ((1000, 1, 1000), (50, 20, 33), (50, 40, 7)):
        monkeypatch.setattr(near_duplicates, "_FEW", few)
        monkeypatch.setattr(near_duplicates, "_DIRECTIONS", directions)
        monkeypatch.setattr(near_duplicates, "_BLOCK", block)
        pairs = likely_pairs(vectors, 0.7)
        assert {(int(i), int(j)) for i, j in pairs} == expected
        assert len(pairs) == len(expected)
    monkeypatch.setattr(near_duplicates, "_MOST_PAIRS", 5)
    five = likely_pairs(vectors, 0.7)
    assert {cosines[i, j] for i, j in five} == set(sorted({cosines[i, j] for i, j in expected})[-5:])


def test_channels_that_are_the_same_for_all_images_say_nothing() -> None:
    means = np.zeros((3, 4), np.float32)
    means[:, 0] = (1, 2, 3)
    vectors = comparable(means)
    assert np.isfinite(vectors).all()
    assert np.allclose(vectors @ vectors.T, [[1, 0, -1], [0, 0, 0], [-1, 0, 1]])
