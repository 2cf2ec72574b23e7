"""cache.h5 shows the whole cache to any HDF5 program."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from featcache.base.errors import CorruptFile, Mismatch
from featcache.base.files import digest_of_file
from featcache.store.index import gather_tables, read_tables
from featcache.store.shards.format import Block, array_specs
from featcache.store.shards.opening import open_shard
from tests.helpers.synthetic import ABSENT, BLOCKS, RECIPE, ROWS, VIEWS, image, make_arrays, make_cache, write_shard


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return make_cache(tmp_path / "made", make_arrays(), BLOCKS)


def test_other_programs_see_one_array_per_layer(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # sources are found relative to cache.h5, wherever one stands
    arrays = make_arrays()
    present = np.arange(ROWS) != ABSENT
    with h5py.File(os.path.relpath(cache / "cache.h5"), "r") as file:
        for array, spec in array_specs(RECIPE).items():
            values = file[array][()]
            assert values.shape == (ROWS, VIEWS, *spec.chunk_shape)
            assert values.dtype == spec.dtype
            np.testing.assert_array_equal(values[present], arrays[array][present])
            assert np.isnan(values[ABSENT]).all()


def test_tables_and_splits_are_the_documented_ones(cache: Path) -> None:
    with h5py.File(cache / "cache.h5", "r") as file:
        names: list[str] = []
        file.visit(names.append)
        assert file["images/name"].asstr()[3] == "dir/003 é.jpg"
        assert file["splits/1/test/row"][()].tolist() == [5, 4]
        assert file["splits/1/test/score"][()].tolist() == [1.0, 0.0]
        assert file["views/box"].shape == (ROWS, VIEWS, 4)
        assert file.attrs["fingerprint"].decode() == RECIPE.fingerprint
        assert set(file.attrs) == {"format_version", "fingerprint", "recipe", "versions"}
    assert {name for name in names if name.count("/") == 1} == {
        "features/first", "features/second.bn", "pooled/first", "pooled/second.bn", "images/name", "images/sha256",
        "images/width", "images/height", "images/absent", "views/box", "views/flip", "splits/1",
    }  # fmt: skip


def test_tables_read_back_are_those_of_the_shards(cache: Path) -> None:
    shards = [open_shard(path) for path in sorted((cache / "shards").iterdir())]
    gathered = gather_tables(shards, rows=ROWS, views=VIEWS)
    stored = read_tables(cache / "cache.h5", digest_of_file(cache / "cache.h5"))
    assert stored is not None
    assert stored.images == gathered.images == [image(row) for row in range(ROWS)]
    np.testing.assert_array_equal(stored.box, gathered.box)
    np.testing.assert_array_equal(stored.flip, gathered.flip)


def test_shards_must_cover_everything_once(tmp_path: Path) -> None:
    arrays = make_arrays()
    half = open_shard(write_shard(tmp_path, arrays, Block((0, 6), (0, 2))))
    overlap = open_shard(write_shard(tmp_path, arrays, Block((5, 13), (0, 2))))
    with pytest.raises(CorruptFile, match="row 6, view 0 is in no shard"):
        gather_tables([half], rows=ROWS, views=VIEWS)
    with pytest.raises(CorruptFile, match="covered twice"):
        gather_tables([half, overlap], rows=ROWS, views=VIEWS)


def test_two_files_under_one_name_are_a_mismatch(tmp_path: Path) -> None:
    import dataclasses

    arrays = make_arrays()
    first = open_shard(write_shard(tmp_path, arrays, Block((0, 13), (0, 1))))
    second = open_shard(write_shard(tmp_path, arrays, Block((0, 13), (1, 2))))
    changed = [dataclasses.replace(image, sha256="f" * 64) for image in second.images]
    with pytest.raises(Mismatch, match=r"000 é\.jpg is not the image"):
        gather_tables([first, dataclasses.replace(second, images=changed)], rows=ROWS, views=VIEWS)
