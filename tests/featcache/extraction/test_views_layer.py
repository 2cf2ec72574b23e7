"""The layer `views` in a cache: the pixels that Pillow cuts, whatever happens to the cache on the way."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

import featcache.extraction.plan
from featcache.backbones.backbone import Backbone
from featcache.base.errors import BadInput, CorruptFile, Mismatch
from featcache.base.jobs import Workers
from featcache.datasets.dataset import open_dataset
from featcache.extraction.extract import extract
from featcache.extraction.forecast import forecast
from featcache.images.decode import decode_file
from featcache.images.views import Box, View, render
from featcache.maintenance.info import read_info
from featcache.maintenance.merge import merge_caches
from featcache.maintenance.repair import repair_cache
from featcache.maintenance.verify import verify_cache
from featcache.recipe import recipe_from_json
from featcache.settings import ExtractSettings
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.folder import shard_paths
from featcache.store.manifest import read_manifest
from featcache.store.shards.codec import Codec
from featcache.store.shards.encoding import decode, pool
from featcache.store.torch_dataset import FeatureDataset
from tests.helpers.tiny import QUICK_EXTRACT

S = QUICK_EXTRACT.views.image_size
ALONE = replace(QUICK_EXTRACT, layers=("views",), precision="auto", augs=1)
BESIDE = replace(ALONE, layers=("layer3", "views"))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(featcache.extraction.plan, "ROWS_PER_SHARD", 17)


@pytest.fixture(scope="module")
def whole(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(featcache.extraction.plan, "ROWS_PER_SHARD", 17)
        yield run(tiny_dataset, tmp_path_factory.mktemp("views") / "whole")


def run(dataset: Path, out: Path, settings: ExtractSettings = ALONE) -> Path:
    extract(open_dataset(str(dataset)), settings, out)
    return out


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in shard_paths(folder)}


def as_cut(cache: FeatureCache, dataset: Path, view: int) -> np.ndarray:
    """Return the pixels (N, S * S, 3) of a view of every image, cut by Pillow where the cache says."""
    cut = []
    for row, image in enumerate(cache.images):
        where = View(Box(*cache.box[row, view].tolist()), bool(cache.flip[row, view]))
        decoded = decode_file(dataset / "images" / image.name)
        cut.append(render(decoded.rgb, where, cache.recipe.view_settings).reshape(S * S, 3))
    return np.stack(cut)


@pytest.mark.parametrize(
    "settings", [ALONE, BESIDE, replace(ALONE, encoding="uint8"), replace(BESIDE, encoding="uint8")]
)
def test_a_cache_holds_the_very_pixels_whatever_the_encoding(
    tiny_dataset: Path, tmp_path: Path, settings: ExtractSettings
) -> None:
    cache = open_cache(run(tiny_dataset, tmp_path / "c", settings))
    assert cache.constants("views") is None
    assert ("layer3" in cache.recipe.layer_names and settings.encoding == "uint8") == bool(cache.recipe.calibration)
    for view in range(cache.views):
        stored, wanted = cache.read(range(cache.rows), view, "views"), as_cut(cache, tiny_dataset, view)
        assert stored.dtype == np.uint8
        np.testing.assert_array_equal(stored, wanted)
        means = cache.read_pooled(range(cache.rows), view, "views")
        np.testing.assert_allclose(means[:, 0], wanted.mean(axis=1), rtol=1e-6)
        np.testing.assert_allclose(means[:, 1], wanted.std(axis=1), rtol=1e-5)
    assert verify_cache(cache.path).ok


def test_other_programs_read_them_as_uint8(whole: Path, tiny_dataset: Path) -> None:
    cache = open_cache(whole)
    with h5py.File(whole / "cache.h5") as file:
        assert file["features/views"].dtype == np.uint8
        np.testing.assert_array_equal(file["features/views"][:, 1], as_cut(cache, tiny_dataset, 1))
        assert "encoding" not in file


def test_the_other_layers_are_stored_as_they_are_without(tiny_dataset: Path, tmp_path: Path) -> None:
    for encoding in ("float16", "uint8"):
        beside = open_cache(run(tiny_dataset, tmp_path / f"beside-{encoding}", replace(BESIDE, encoding=encoding)))
        settings = replace(ALONE, layers=("layer3",), encoding=encoding)
        alone = open_cache(run(tiny_dataset, tmp_path / f"alone-{encoding}", settings))
        rows = range(alone.rows)
        np.testing.assert_array_equal(beside.read(rows, 1, "layer3"), alone.read(rows, 1, "layer3"))
        np.testing.assert_array_equal(beside.constants("layer3"), alone.constants("layer3"))
        assert (beside.recipe.calibration, beside.recipe.weights) == (alone.recipe.calibration, alone.recipe.weights)


def test_views_that_a_gpu_would_cut_give_the_same_file(
    whole: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backbone, "cuts_views", property(lambda self: True))
    assert shards(run(tiny_dataset, tmp_path / "device")) == shards(whole)


def test_a_killed_run_goes_on_to_the_same_bytes_and_grows(whole: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "killed")
    (tmp_path / "killed" / "manifest.json").unlink()
    for path in shard_paths(tmp_path / "killed")[1:]:
        path.unlink()
    assert shards(run(tiny_dataset, tmp_path / "killed")) == shards(whole)
    grown = open_cache(run(tiny_dataset, tmp_path / "killed", replace(ALONE, augs=2)))
    np.testing.assert_array_equal(grown.read(range(grown.rows), 2), as_cut(grown, tiny_dataset, 2))


def test_workers_make_the_same_files(whole: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    extract(open_dataset(str(tiny_dataset)), ALONE, tmp_path / "two", workers=Workers(2))
    assert shards(tmp_path / "two") == shards(whole)


def test_a_lost_and_a_damaged_shard_come_out_the_same(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "c")
    lost, damaged, *_ = shard_paths(tmp_path / "c")
    lost.unlink()
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    assert not verify_cache(tmp_path / "c").ok
    assert repair_cache(tmp_path / "c").changed == []
    assert shards(tmp_path / "c") == shards(whole)


def test_two_halves_are_merged(tiny_dataset: Path, tmp_path: Path) -> None:
    for number in range(2):
        data = tmp_path / f"data{number}"
        shutil.copytree(tiny_dataset, data)
        for part in (data / "splits").iterdir():
            part.write_text("".join(part.read_text().splitlines(keepends=True)[number::2]))
        run(data, tmp_path / str(number))
    merge_caches(tmp_path / "joined", [tmp_path / "0", tmp_path / "1"])
    joined = open_cache(tmp_path / "joined")
    np.testing.assert_array_equal(joined.read(range(joined.rows), 1), as_cut(joined, tiny_dataset, 1))
    assert joined.manifest.near_duplicates is None  # nobody has looked


def test_a_bad_image_has_no_pixels(tiny_dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_dataset, tmp_path / "data")
    (tmp_path / "data" / "images" / "05.jpg").write_bytes(b"no image")
    cache = open_cache(run(tmp_path / "data", tmp_path / "c"))
    row = next(row for row, image in enumerate(cache.images) if image.absent)
    with pytest.raises(BadInput, match=r"05\.jpg: has no features in this cache"):
        cache.read(row, 0)


def test_look_alikes_are_not_looked_for_in_pixels(whole: Path) -> None:
    assert read_manifest(whole).near_duplicates is None


@pytest.mark.parametrize(("drawn", "chosen"), [("noise", "none"), ("flat", "zstd")])
def test_the_codec_is_chosen_by_a_sample_of_the_pixels_themselves(tmp_path: Path, drawn: str, chosen: str) -> None:
    (tmp_path / "data" / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"{number}.png" for number in range(6)]
    for number, name in enumerate(names):
        values = rng.integers(0, 256, (S, S, 3)) if drawn == "noise" else np.full((S, S, 3), 40 * number)
        Image.fromarray(values.astype(np.uint8)).save(tmp_path / "data" / "images" / name)
    (tmp_path / "data" / "splits").mkdir()
    for part, some in zip(("train", "val", "test"), (names[:2], names[2:4], names[4:]), strict=True):
        lines = [f"{name} 0.{number + 1}\n" for number, name in enumerate(some)]
        (tmp_path / "data" / "splits" / f"{part}_1.txt").write_text("".join(lines))
    views = replace(ALONE.views, eval_view="squash", crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    run(tmp_path / "data", tmp_path / "c", replace(ALONE, views=views))
    assert read_info(tmp_path / "c").as_json()["layers"]["views"]["codecs"] == [
        str(Codec("zstd", 1)) if chosen == "zstd" else "not compressed"
    ]


def test_forecast_says_what_they_cost_and_that_no_network_runs(tiny_dataset: Path, tmp_path: Path) -> None:
    data = open_dataset(str(tiny_dataset))
    found = forecast(data, replace(ALONE, compression="none"), tmp_path / "c")
    assert found.raw_bytes_per_view == S * S * 3
    assert found.raw_bytes == 41 * 2 * S * S * 3 <= found.bytes
    assert "GB as uint8," in found.as_text()
    assert "stored  views not compressed\n" in found.as_text()
    assert "runs    no network: views are stored as they are cut\n" in found.as_text()
    beside = forecast(data, BESIDE, tmp_path / "c")
    assert beside.raw_bytes_per_view == S * S * 3 + 2 * _features(beside.layers["layer3"])
    assert "GB as float16 and uint8," in beside.as_text()


def _features(shape: tuple[int, int, int]) -> int:
    return shape[0] * shape[1] * shape[2]


def test_features_of_a_dataset_are_0_to_255(whole: Path) -> None:
    dataset = FeatureDataset(open_cache(whole), "1", "test")
    features, _ = dataset[0]
    stored = dataset.cache.read(dataset.rows[:1], 0)[0]
    assert features.dtype == torch.float32
    assert torch.equal(features, torch.from_numpy(stored.astype(np.float32)))
    assert torch.equal(decode(stored, None), features)


@pytest.mark.parametrize("size", [64, 224])
def test_pooled_vectors_do_not_depend_on_threads(size: int) -> None:
    drawn = torch.randint(0, 256, (size * size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(size))
    found, before = set(), torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.add(pool(drawn, None).numpy().tobytes())
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1


def test_their_recipe_is_of_a_version_that_earlier_programs_refuse(whole: Path) -> None:
    text = json.loads((whole / "manifest.json").read_text())["recipe"]
    assert text["format_version"] == 2
    assert text["layers"] == [["views", S, S, 3]]
    with pytest.raises(Mismatch, match="format version 3, this program reads up to 2; upgrade it"):
        recipe_from_json({**text, "format_version": 3}, "here")
    for wrong in (
        {"format_version": 1},
        {"layers": [["layer3", 4, 4, 256]]},
        {"layers": [["views", S, S, 4]]},
        {"layers": [["views", S, 2 * S, 3]]},
        {"encoding": "uint8", "calibration": "0" * 64},
    ):
        with pytest.raises(CorruptFile, match="here: "):
            recipe_from_json({**text, **wrong}, "here")
