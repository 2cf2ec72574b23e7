"""Several ratings of the same images in one cache: features once, splits and scores of each target, nothing mixed."""

import hashlib
import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from featcache.base.errors import BadInput, CorruptFile, HostileFile, InvalidSettings
from featcache.base.files import canonical_json
from featcache.datasets.splits import Part, Ratings, merge_ratings
from featcache.maintenance.info import read_info
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.folder import INDEX_NAME, shard_paths
from featcache.store.index import build_index, gather_tables
from featcache.store.manifest import read_manifest, write_manifest
from featcache.store.shards.opening import open_shard


def sealed_with(folder: Path, ratings: Ratings) -> FeatureCache:
    write_manifest(folder, replace(read_manifest(folder), ratings=ratings))
    return open_cache(folder)


@pytest.fixture
def two(tiny_cache: Path, tmp_path: Path) -> FeatureCache:
    """The tiny cache with two ratings, beauty and its opposite, which has split 1 alone."""
    shutil.copytree(tiny_cache, tmp_path / "two")
    splits = read_manifest(tiny_cache).ratings[""]
    opposite = {"1": {part: Part(found.rows, 1 - found.scores) for part, found in splits["1"].items()}}
    return sealed_with(tmp_path / "two", {"beauty": splits, "opposite": opposite})


def test_a_target_is_chosen_before_there_are_splits(two: FeatureCache) -> None:
    assert (two.targets, two.target) == (("beauty", "opposite"), "")
    choice = r"has several ratings: choose one of beauty, opposite \(--target\)"
    with pytest.raises(InvalidSettings, match=choice):
        _ = two.splits
    with pytest.raises(InvalidSettings, match=choice):
        two.of_target()
    with pytest.raises(InvalidSettings, match="has no target colour; it has beauty, opposite"):
        two.of_target("colour")
    beauty, opposite = two.of_target("beauty"), two.of_target("opposite")
    assert (list(beauty.splits), list(opposite.splits)) == (["1", "2"], ["1"])
    for part, found in opposite.splits["1"].items():
        np.testing.assert_array_equal(found.scores, 1 - beauty.splits["1"][part].scores)
    assert np.array_equal(two.read([3], 1), opposite.read([3], 1))
    assert pickle.loads(pickle.dumps(opposite)).target == "opposite"


def test_the_only_target_needs_no_choice(two: FeatureCache) -> None:
    one = sealed_with(two.path, {"beauty": two.of_target("beauty").splits})
    assert (one.target, list(one.splits), one.of_target().target) == ("beauty", ["1", "2"], "beauty")


def test_a_cache_of_one_rating_without_a_name_has_no_targets(tiny_cache: Path) -> None:
    cache = open_cache(tiny_cache)
    assert (cache.targets, cache.target, cache.of_target().splits) == ((), "", cache.splits)
    with pytest.raises(InvalidSettings, match="has no target beauty; its one rating has no name"):
        cache.of_target("beauty")
    assert "targets" not in json.loads((tiny_cache / "manifest.json").read_text())


def test_cache_info_lists_targets(two: FeatureCache) -> None:
    info = read_info(two.path)
    assert info.as_json()["targets"]["opposite"] == {"1": {"train": 23, "val": 7, "test": 11}}
    assert [line.split()[:2] for line in info.as_text().splitlines() if line.startswith(("target", "split"))] == [
        ["target", "beauty"], ["split", "1"], ["split", "2"], ["target", "opposite"], ["split", "1"],
    ]  # fmt: skip


def changed(folder: Path, **values: object) -> None:
    """Change a manifest, its digest with it."""
    body = json.loads((folder / "manifest.json").read_text())
    del body["digest"]
    body |= values

    digest = hashlib.sha256(canonical_json(body).encode()).hexdigest()
    (folder / "manifest.json").write_text(canonical_json({**body, "digest": digest}))


def test_a_target_that_is_no_name_of_a_folder_is_refused(two: FeatureCache) -> None:
    changed(two.path, targets={"../up": {}})
    with pytest.raises(HostileFile, match="'../up' is not the name of a target"):
        open_cache(two.path)
    changed(two.path, targets=[1])
    with pytest.raises(CorruptFile, match="not a manifest of this version"):
        open_cache(two.path)


def ratings_of(*targets: str, score: float = 0.5) -> Ratings:
    return {target: {"1": {"train": Part(np.array([0]), np.array([score]))}} for target in targets}


def test_merged_caches_have_the_targets_of_all() -> None:
    row_of = {"a": 0, "b": 1}
    both = [(ratings_of("beauty"), {0: "a"}), (ratings_of("beauty", "age"), {0: "b"})]
    merged = merge_ratings(both, row_of)
    assert {target: splits["1"]["train"].rows.tolist() for target, splits in merged.items()} == {
        "beauty": [0, 1],
        "age": [1],
    }
    with pytest.raises(BadInput, match="some inputs have one rating without a name, others have beauty"):
        merge_ratings([(ratings_of(""), {0: "a"}), (ratings_of("beauty"), {0: "b"})], row_of)


def test_other_programs_find_the_scores_of_each_target(tiny_cache: Path, tmp_path: Path, two: FeatureCache) -> None:

    shards = [open_shard(path, two.recipe) for path in shard_paths(two.path)]
    tables = gather_tables(shards, rows=two.rows, views=two.views)
    (tmp_path / INDEX_NAME).write_bytes(build_index(two.recipe, tables, two.manifest.ratings, shards, {}))
    with h5py.File(tmp_path / INDEX_NAME) as file:
        assert list(file["targets"]) == ["beauty", "opposite"]
        assert "splits" not in file
        found = file["targets/opposite/1/test/score"][()]
    np.testing.assert_array_equal(found, two.of_target("opposite").splits["1"]["test"].scores)
