"""A repair brings back the same files, computes no more than was lost, and never makes anything up."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from PIL import Image

from featcache.base.errors import BadInput, CacheIncomplete, HostileFile, Locked, Mismatch, StorageError
from featcache.base.lock import writer_lock
from featcache.datasets.dataset import open_dataset
from featcache.extraction import pipeline, plan
from featcache.extraction.extract import extract
from featcache.maintenance import repair, verify
from featcache.maintenance.repair import repair_cache
from featcache.maintenance.verify import verify_cache
from featcache.settings import view_settings_of
from featcache.store.cache import open_cache
from featcache.store.shards.opening import open_shard
from tests.helpers.tiny import QUICK_EXTRACT


@pytest.fixture
def own(tiny_cache: Path, tmp_path: Path) -> Path:
    """A copy of the tiny cache."""
    shutil.copytree(tiny_cache, tmp_path / "own")
    return tmp_path / "own"


@pytest.fixture
def own_images(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A copy of the tiny dataset."""
    shutil.copytree(tiny_dataset, tmp_path / "data")
    return tmp_path / "data"


def contents(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((cache / "shards").iterdir())}


def flip_chunk(cache: Path, row: int, view: int = 1) -> None:
    """Flip a bit in the stored features of a row."""
    (path,) = (cache / "shards").iterdir()
    index = open_shard(path).arrays["features/layer3"]
    data = bytearray(path.read_bytes())
    data[int(index.offsets[row, view]) + 11] ^= 4
    path.write_bytes(data)


def test_a_sound_cache_is_left_alone(own: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in own.rglob("*") if path.name != "lock"}
    report = repair_cache(own)
    assert (report.repaired, report.rows_computed, report.unrepaired) == ([], 0, [])
    assert before == {path: path.stat().st_mtime_ns for path in own.rglob("*") if path.name != "lock"}


def test_only_damaged_rows_are_computed_and_the_file_is_the_same(own: Path, tiny_cache: Path) -> None:
    flip_chunk(own, 7)
    flip_chunk(own, 19, view=0)
    report = repair_cache(own)
    assert report.rows_computed == 2
    assert report.changed == []
    assert report.repaired == [f"shards/{name}" for name in contents(tiny_cache)]
    assert contents(own) == contents(tiny_cache)
    assert (own / "manifest.json").read_bytes() == (tiny_cache / "manifest.json").read_bytes()
    assert "2 rows were computed anew" in report.as_text()


def test_published_views_come_out_the_same(tiny_dataset: Path, tmp_path: Path) -> None:
    settings = replace(QUICK_EXTRACT, views=view_settings_of("published", image_size=64))
    extract(open_dataset(str(tiny_dataset)), settings, tmp_path / "published")
    whole = contents(tmp_path / "published")
    flip_chunk(tmp_path / "published", 7)
    flip_chunk(tmp_path / "published", 19, view=0)
    report = repair_cache(tmp_path / "published")
    assert (report.rows_computed, report.changed) == (2, [])
    assert contents(tmp_path / "published") == whole


@pytest.mark.parametrize("damage", ["missing", "cut", "tables"])
def test_a_shard_that_cannot_be_opened_is_computed_whole(own: Path, tiny_cache: Path, damage: str) -> None:
    (path,) = (own / "shards").iterdir()
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        at = whole.index(int(open_shard(path).arrays["features/layer3"].digests[3, 0]).to_bytes(8, "little"))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    report = repair_cache(own)
    assert report.rows_computed == 41
    assert contents(own) == contents(tiny_cache)
    assert verify_cache(own).ok


def test_a_good_chunk_is_not_computed_again_where_only_hdf5s_own_bytes_are_damaged(own: Path, tiny_cache: Path) -> None:
    (path,) = (own / "shards").iterdir()
    size, whole = path.stat().st_size, path.read_bytes()
    used = np.zeros(size, bool)
    for index in open_shard(path).arrays.values():
        for offset, length in zip(index.offsets.ravel().tolist(), index.sizes.ravel().tolist(), strict=True):
            used[offset : offset + length] = True
    for at in np.flatnonzero(~used)[::-13].tolist():
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        try:
            open_shard(path)
        except ValueError:
            continue
        break
    else:
        pytest.fail("no byte of the file is unread")
    report = repair_cache(own)
    assert report.rows_computed == 0
    assert contents(own) == contents(tiny_cache)


def test_a_damaged_index_is_written_anew(own: Path) -> None:
    (own / "cache.h5").write_bytes(b"nonsense")
    report = repair_cache(own)
    assert (report.repaired, report.rows_computed) == (["cache.h5"], 0)
    assert verify_cache(own).ok
    assert open_cache(own).rows == 41


def test_rows_whose_image_was_changed_or_is_gone_are_left_and_named(own: Path, own_images: Path) -> None:
    names = [image.name for image in open_cache(own).images]
    Image.new("RGB", (50, 50)).save(own_images / "images" / names[7], "JPEG")
    (own_images / "images" / names[9]).unlink()
    for row in (7, 8, 9):
        flip_chunk(own, row)
    report = repair_cache(own, root=own_images)
    (problem,) = report.unrepaired
    assert problem.rows == [7, 8, 9]
    assert f"{names[7]} is not the image whose features were lost" in problem.what
    assert f"{names[9]} is not there" in problem.what
    assert report.repaired == []
    shutil.copytree(Path(open_cache(own).manifest.source["root"]), own_images, dirs_exist_ok=True)
    assert repair_cache(own, root=own_images).rows_computed == 3
    assert verify_cache(own).ok


def test_other_weights_are_refused_before_anything_is_written(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip_chunk(own, 7)
    damaged = contents(own)
    real = repair.backbone_of

    def other_weights(recipe: object, **options: object) -> object:
        return real(replace(recipe, weights="0" * 64), **options)  # type: ignore[type-var]

    monkeypatch.setattr(repair, "backbone_of", other_weights)
    with pytest.raises(Mismatch, match="(?s)weights: .*Pass the weights"):
        repair_cache(own)
    assert contents(own) == damaged


def test_a_repair_that_was_killed_goes_on(own: Path, tiny_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own / "cache.h5").write_bytes(b"nonsense")
    flip_chunk(own, 7)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(repair.CacheWriter, "seal", killed)
        with pytest.raises(KeyboardInterrupt):
            repair_cache(own)
    assert contents(own) == contents(tiny_cache)
    report = repair_cache(own)
    assert (report.repaired, report.rows_computed) == (["cache.h5"], 0)
    assert verify_cache(own).ok


def test_features_that_come_out_different_get_a_new_file_and_are_reported(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip_chunk(own, 7)
    before = open_cache(own)
    real = pipeline.encode
    monkeypatch.setattr(pipeline, "encode", lambda features, constants: real(features * 1.001, constants))
    report = repair_cache(own)
    assert report.changed == [f"shards/{before.manifest.shards[0].file}"]
    after = open_cache(own)
    assert verify_cache(own).ok
    assert after.manifest.shards[0].file != before.manifest.shards[0].file
    assert [path.name for path in (own / "shards").iterdir()] == [after.manifest.shards[0].file]
    with pytest.raises(Mismatch, match="was changed while it was read"):
        before.read(3, 0)


def test_without_a_manifest_a_damaged_shard_is_left_to_extract(own: Path) -> None:
    (own / "manifest.json").unlink()
    flip_chunk(own, 7)
    report = repair_cache(own)
    assert len(report.repaired) == 1
    assert [path.suffix for path in (own / "shards").iterdir()] == [".damaged"]  # nothing is deleted


def test_the_image_of_a_row_is_never_guessed(own: Path) -> None:
    (own / "cache.h5").write_bytes(b"")
    (path,) = (own / "shards").iterdir()
    path.unlink()
    report = repair_cache(own)
    assert "cache.h5 is damaged as well" in report.unrepaired[0].what
    assert report.repaired == []


def test_absent_images_stay_absent(torn_cache: Path, tmp_path: Path) -> None:
    shutil.copytree(torn_cache, tmp_path / "own")
    (path,) = (tmp_path / "own" / "shards").iterdir()
    path.unlink()
    assert repair_cache(tmp_path / "own").rows_computed == 39
    assert contents(tmp_path / "own") == contents(torn_cache)


def test_a_second_writer_is_refused(own: Path) -> None:
    with writer_lock(own), pytest.raises(Locked):
        repair_cache(own)


def test_no_cache_is_incomplete(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(CacheIncomplete):
        repair_cache(tmp_path / "x")


def test_what_is_no_proof_of_damage_stays_where_it_is(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own / "manifest.json").unlink()
    before = contents(own)
    for error in (StorageError("Input/output error"), Mismatch("format version 2"), HostileFile("a link")):

        def fail(*_: object, error: Exception = error) -> NoReturn:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(verify, "open_shard", fail)
            report = repair_cache(own)
        assert (report.repaired, len(report.unrepaired)) == ([], 1)
        assert contents(own) == before


def test_a_feature_that_is_not_finite_is_never_stored(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip_chunk(own, 7)
    damaged = contents(own)
    real = pipeline.encode
    monkeypatch.setattr(pipeline, "encode", lambda features, constants: real(features * float("inf"), constants))
    with pytest.raises(BadInput, match="gave a value that is NaN"):
        repair_cache(own)
    assert contents(own) == damaged


def test_a_missing_folder_of_shards_is_made_whole(own: Path, tiny_cache: Path) -> None:
    shutil.rmtree(own / "shards")
    assert not verify_cache(own).ok
    assert repair_cache(own).rows_computed == 41
    assert contents(own) == contents(tiny_cache)


def test_a_folder_that_is_no_cache_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".tmp-mine").write_text("mine")
    with pytest.raises(CacheIncomplete, match="no cache there"):
        repair_cache(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".tmp-mine"]


def test_a_shard_that_came_out_different_waits_for_the_others_and_is_not_computed_twice(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "ROWS_PER_SHARD", 21)
    extract(open_dataset(str(tiny_dataset)), QUICK_EXTRACT, tmp_path / "own")
    cache = open_cache(tmp_path / "own")
    first, second = (entry.file for entry in cache.manifest.shards)
    for name in (first, second):
        (tmp_path / "own" / "shards" / name).unlink()
    shutil.copytree(tiny_dataset, tmp_path / "data")
    lost = tmp_path / "data" / "images" / cache.images[40].name
    lost.rename(tmp_path / "aside")
    real = pipeline.encode
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "encode", lambda features, constants: real(features * 1.001, constants))
        report = repair_cache(tmp_path / "own", root=tmp_path / "data")
    assert report.repaired == []
    assert {problem.file for problem in report.unrepaired} == {f"shards/{first}", f"shards/{second}"}
    (tmp_path / "aside").rename(lost)
    report = repair_cache(tmp_path / "own", root=tmp_path / "data")
    assert (report.repaired, report.rows_computed) == ([f"shards/{first}", f"shards/{second}"], 20)
    assert report.changed == [f"shards/{first}"]
    assert verify_cache(tmp_path / "own").ok
