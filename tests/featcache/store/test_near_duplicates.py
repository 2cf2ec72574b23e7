"""Images that look alike are found by the cosine of pooled features, whatever the number of images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.store import near_duplicates
from featcache.store.near_duplicates import ALIKE, comparable, find_near_duplicates
from featcache.store.shards.format import Block
from featcache.store.shards.opening import open_shard
from featcache.store.shards.shard import Shard
from tests.helpers.synthetic import ABSENT, image, make_arrays, write_shard

ROWS = 31


def shards_of(folder: Path, means: NDArray[np.float64]) -> list[Shard]:
    """Return the shards of a cache whose last layer has these means (N, 11), two views of each image in two shards."""
    arrays = make_arrays(rows=len(means))
    arrays["pooled/second.bn"][:, 0, 0] = means
    blocks = [Block((17, ROWS), (0, 2)), Block((0, 17), (1, 2)), Block((0, 17), (0, 1))]
    return [open_shard(write_shard(folder, arrays, block)) for block in blocks]


@pytest.fixture
def means() -> NDArray[np.float64]:
    """Means on scales of their own, with a large common part, of images of which no two are alike."""
    rng = np.random.default_rng(8)
    return 1000 + rng.normal(size=(ROWS, 11)) * np.logspace(-3, 3, 11)


def test_copies_are_found_across_shards_and_others_are_not(tmp_path: Path, means: NDArray[np.float64]) -> None:
    scale = means.std(axis=0)
    means[20] = means[3] + 0.1 * scale
    means[7] = means[20] - 0.1 * scale  # a chain of three
    means[30] = means[12] - 0.1 * scale
    means[ABSENT] = means[9]
    found = find_near_duplicates(shards_of(tmp_path, means), weights="imagenet")
    assert found is not None
    assert set(found) == {(3, 7, 20), (12, 30)}
    assert find_near_duplicates(shards_of(tmp_path, means), weights="random") is None


def test_a_file_under_two_names_is_no_look_alike(
    tmp_path: Path, means: NDArray[np.float64], monkeypatch: pytest.MonkeyPatch
) -> None:
    means[20] = means[3]
    monkeypatch.setattr(
        "tests.helpers.synthetic.image",
        lambda row: replace(image(row), sha256="7" * 64) if row in (3, 20) else image(row),
    )
    assert find_near_duplicates(shards_of(tmp_path, means), weights="imagenet") == ()


@pytest.mark.parametrize("seed", range(5))
def test_comparing_in_few_directions_finds_the_same_pairs(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    vectors = comparable(
        (rng.normal(size=(200, 3)) @ rng.normal(size=(3, 40)) + rng.normal(size=(200, 40))).astype("f4")
    )
    cosines = vectors @ vectors.T
    expected = {(int(i), int(j)) for i, j in np.argwhere(np.triu(cosines, 1) >= ALIKE)}
    assert len(expected) > 20
    for few, directions, block in ((1000, 1, 1000), (50, 4, 33), (50, 40, 7)):
        monkeypatch.setattr(near_duplicates, "_FEW", few)
        monkeypatch.setattr(near_duplicates, "_DIRECTIONS", directions)
        monkeypatch.setattr(near_duplicates, "_BLOCK", block)
        pairs = near_duplicates._alike(vectors, lambda progress: None)
        assert {(int(i), int(j)) for i, j in pairs} == expected
        assert len(pairs) == len(expected)


def test_channels_that_are_the_same_for_all_images_say_nothing() -> None:
    means = np.zeros((3, 4), np.float32)
    means[:, 0] = (1, 2, 3)
    vectors = comparable(means)
    assert np.isfinite(vectors).all()
    assert np.allclose(vectors @ vectors.T, [[1, 0, -1], [0, 0, 0], [-1, 0, 1]])
