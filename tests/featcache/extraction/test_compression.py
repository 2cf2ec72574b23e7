"""Codecs are chosen once for each layer and kept; vectors that are not stored are the bits that would be."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

import featcache.extraction.calibration
import featcache.extraction.plan
from featcache.base.errors import InvalidSettings
from featcache.base.jobs import Workers
from featcache.datasets.dataset import open_dataset
from featcache.extraction.extract import extract
from featcache.extraction.forecast import forecast
from featcache.maintenance.info import read_info
from featcache.maintenance.merge import merge_caches
from featcache.maintenance.repair import repair_cache
from featcache.maintenance.verify import verify_cache
from featcache.settings import COMPRESSIONS, ExtractSettings
from featcache.store.cache import open_cache
from featcache.store.folder import shard_paths
from featcache.store.manifest import read_manifest
from featcache.store.shards import format as shard_format
from featcache.store.shards.opening import open_shard
from tests.helpers.tiny import QUICK_EXTRACT

LAYERS = ("blocks.5", "cls")
VIT = replace(
    QUICK_EXTRACT,
    backbone="timm:test_vit",
    layers=LAYERS,
    views=replace(QUICK_EXTRACT.views, image_size=80),  # 25 positions, whose pooled vectors are stored
    augs=1,
    runtime="torch",
)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(featcache.extraction.plan, "ROWS_PER_SHARD", 17)


def run(dataset: Path, out: Path, settings: ExtractSettings = VIT) -> Path:
    extract(open_dataset(str(dataset)), settings, out)
    return out


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in shard_paths(folder)}


def compressions(folder: Path, layer: str = LAYERS[0]) -> list[str]:
    """Return how the features of a layer are compressed in each shard, by rows and views."""
    opened = sorted(map(open_shard, shard_paths(folder)), key=lambda shard: (shard.block.rows, shard.block.views))
    return [shard.codecs[f"features/{layer}"].compression for shard in opened]


def everything(folder: Path) -> dict[str, bytes]:
    """Return what is read of a cache, by array."""
    cache = open_cache(folder)
    views = np.repeat(np.arange(cache.views), cache.rows)
    rows = np.tile(np.arange(cache.rows), cache.views)
    found = {f"features/{layer}": cache.read(rows, views, layer).tobytes() for layer in cache.recipe.layer_names}
    return found | {f"pooled/{layer}": cache.read_pooled(rows, views, layer).tobytes() for layer in LAYERS}


@pytest.mark.parametrize("worth", [0.0, 100.0])
def test_auto_compresses_where_the_sample_says_that_it_pays(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worth: float
) -> None:
    monkeypatch.setattr(featcache.extraction.calibration, "WORTH_IT", worth)
    chosen = "none" if worth else "zstd"
    asked = replace(VIT, compression=chosen)
    assert shards(run(tiny_dataset, tmp_path / "auto")) == shards(run(tiny_dataset, tmp_path / "asked", asked))
    assert compressions(tmp_path / "auto") == [chosen] * 3


def test_dense_layers_are_not_compressed_and_those_behind_a_relu_are(tiny_dataset: Path, tmp_path: Path) -> None:
    run(tiny_dataset, tmp_path / "dense")
    run(tiny_dataset, tmp_path / "relu", QUICK_EXTRACT)
    assert {*compressions(tmp_path / "dense"), *compressions(tmp_path / "dense", "cls")} == {"none"}
    assert set(compressions(tmp_path / "relu", "layer3")) == {"zstd"}


@pytest.mark.parametrize("encoding", ["float16", "uint8"])
def test_whatever_the_codec_the_features_and_vectors_are_the_same_bits(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    settings = replace(VIT, encoding=encoding)
    with monkeypatch.context() as patch:
        patch.setattr(shard_format, "POOLED_ABOVE", 0)
        run(tiny_dataset, tmp_path / "earlier", replace(settings, compression="zstd"))
    assert read_manifest(tmp_path / "earlier").format_version == 1
    expected = everything(tmp_path / "earlier")
    for compression in ("none", "lz4", "zstd"):
        out = run(tiny_dataset, tmp_path / compression, replace(settings, compression=compression))
        assert set(compressions(out)) == {compression}
        assert everything(out) == expected
        assert verify_cache(out).ok
        assert read_manifest(out).format_version == 2
        with h5py.File(out / "cache.h5") as file:  # as other programs read it
            assert file["features/cls"][()].swapaxes(0, 1).tobytes() == expected["features/cls"]
            assert sorted(file["pooled"]) == ["blocks.5"]


def test_a_killed_run_goes_on_to_the_same_bytes(tiny_dataset: Path, tmp_path: Path) -> None:
    whole = run(tiny_dataset, tmp_path / "whole")
    shutil.copytree(whole, tmp_path / "killed")
    (tmp_path / "killed" / "manifest.json").unlink()
    for path in shard_paths(tmp_path / "killed")[1:]:
        path.unlink()
    assert shards(run(tiny_dataset, tmp_path / "killed")) == shards(whole)


def test_a_cache_keeps_its_codecs_unless_others_are_asked_for(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:  # a cache as earlier versions made it
        patch.setattr(shard_format, "POOLED_ABOVE", 0)
        run(tiny_dataset, tmp_path / "c", replace(VIT, compression="zstd"))
    sound = shards(tmp_path / "c")
    run(tiny_dataset, tmp_path / "c", replace(VIT, augs=2))
    assert compressions(tmp_path / "c") == ["zstd"] * 6
    assert read_manifest(tmp_path / "c").format_version == 1  # so that earlier versions read it still
    run(tiny_dataset, tmp_path / "c", replace(VIT, augs=3, compression="lz4"))
    assert compressions(tmp_path / "c") == ["zstd", "zstd", "lz4"] * 3
    assert sound.items() <= shards(tmp_path / "c").items()
    assert verify_cache(tmp_path / "c").ok
    manifest = read_manifest(tmp_path / "c")
    assert (manifest.format_version, len(manifest.codecs)) == (2, 2)


def test_a_lost_shard_of_a_cache_of_several_codecs_comes_out_the_same(tiny_dataset: Path, tmp_path: Path) -> None:
    for augs, compression in enumerate(("none", "zstd", "lz4")):
        run(tiny_dataset, tmp_path / "c", replace(VIT, augs=augs, compression=compression))
    whole = shards(tmp_path / "c")
    for path in shard_paths(tmp_path / "c"):
        path.unlink()
    report = repair_cache(tmp_path / "c")
    assert report.changed == []
    assert shards(tmp_path / "c") == whole


def test_caches_of_different_codecs_are_merged(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shard_format, "POOLED_ABOVE", 0)
        run(tiny_dataset, tmp_path / "whole", replace(VIT, compression="zstd"))
    for number, compression in enumerate(("none", "lz4")):
        shutil.copytree(tiny_dataset, tmp_path / compression / "data")
        for part in (tmp_path / compression / "data" / "splits").iterdir():
            lines = part.read_text().splitlines(keepends=True)
            part.write_text("".join(lines[number::2]))
        settings = replace(VIT, compression=compression)
        run(tmp_path / compression / "data", tmp_path / compression / "c", settings)
    inputs = [tmp_path / name / "c" for name in ("none", "lz4")]
    merge_caches(tmp_path / "joined", [*inputs, tmp_path / "whole"])
    assert set(compressions(tmp_path / "joined")) >= {"none", "lz4"}
    assert verify_cache(tmp_path / "joined").ok
    joined, whole = open_cache(tmp_path / "joined"), open_cache(tmp_path / "whole")
    row_of = {image.name: row for row, image in enumerate(whole.images)}
    rows = [row_of[image.name] for image in joined.images]
    for layer in LAYERS:
        everywhere = range(joined.rows)
        np.testing.assert_array_equal(joined.read(everywhere, 1, layer), whole.read(rows, 1, layer))
        np.testing.assert_array_equal(joined.read_pooled(everywhere, 1, layer), whole.read_pooled(rows, 1, layer))


def test_workers_are_told_the_codecs(tiny_dataset: Path, tmp_path: Path) -> None:
    alone = run(tiny_dataset, tmp_path / "alone")
    extract(open_dataset(str(tiny_dataset)), VIT, tmp_path / "two", workers=Workers(2))
    assert shards(tmp_path / "two") == shards(alone)


def test_forecast_and_cache_info_say_how_layers_are_stored(tiny_dataset: Path, tmp_path: Path) -> None:
    found = forecast(open_dataset(str(tiny_dataset)), replace(VIT, compression="lz4"), tmp_path / "c")
    assert found.codecs == {"blocks.5": "lz4", "cls": "lz4"}
    assert "stored  blocks.5 lz4\n" in found.as_text()
    info = read_info(run(tiny_dataset, tmp_path / "c"))
    layers = json.loads(json.dumps(info.as_json()))["layers"]
    assert layers["cls"]["codecs"] == ["not compressed"]
    assert layers["cls"]["raw_bytes"] == 41 * 2 * 64 * 2
    assert layers["cls"]["bytes"] == layers["cls"]["raw_bytes"] + 41 * 2 * 4  # checksums
    assert (layers["cls"]["pooled_bytes"], layers["blocks.5"]["pooled_bytes"]) == (0, 41 * 2 * (2 * 64 * 4 + 4))
    assert "cls: 1x1x64 (L = 1), not compressed, 0.0 MB (1.03 of its raw bytes)\n" in info.as_text()


def test_a_shard_that_cannot_be_opened_is_left_out_of_the_sizes(tiny_dataset: Path, tmp_path: Path) -> None:
    whole = read_info(run(tiny_dataset, tmp_path / "c")).as_json()["layers"]["cls"]["bytes"]
    path = shard_paths(tmp_path / "c")[1]
    path.write_bytes(bytes(path.stat().st_size))
    assert 0 < read_info(tmp_path / "c").as_json()["layers"]["cls"]["bytes"] < whole


def test_an_unknown_compression_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="--compression must be auto or none or lz4 or zstd, found 'gzip'"):
        ExtractSettings(compression="gzip")
    assert [ExtractSettings(compression=name).compression for name in COMPRESSIONS] == list(COMPRESSIONS)
