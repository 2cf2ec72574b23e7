"""Stage 1 on real files: right features, resumed after every kind of interruption, extended without recomputing."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import featcache.base.files
import featcache.extraction.extract
import featcache.extraction.plan
import featcache.images.decode
import featcache.images.early
import featcache.images.loading
from featcache.backbones.backbone import Backbone, load_backbone
from featcache.base.errors import BadInput, CorruptFile, InvalidSettings, Locked, Mismatch, StorageError
from featcache.base.lock import writer_lock
from featcache.base.progress import Progress
from featcache.datasets.dataset import open_dataset
from featcache.extraction.calibration import COMPRESSED_IMAGES
from featcache.extraction.extract import extract
from featcache.extraction.log import ExtractReport
from featcache.images.views import View, render, view_of
from featcache.settings import ExtractSettings, ViewSettings, view_settings_of
from featcache.store.cache import open_cache
from featcache.store.manifest import read_manifest
from tests.helpers.processes import Forked
from tests.helpers.tiny import QUICK_EXTRACT

SETTINGS = dataclasses.replace(QUICK_EXTRACT, batch_size=7)
PUBLISHED = dataclasses.replace(SETTINGS, views=view_settings_of("published", image_size=64))
SCRIPT = """
import sys
from pathlib import Path
import featcache.extraction.plan, torch
from tests.helpers.tiny import QUICK_EXTRACT
from featcache.datasets.dataset import open_dataset
from featcache.extraction.extract import extract
featcache.extraction.plan.ROWS_PER_SHARD = 8
torch.set_num_threads(1)
extract(open_dataset(sys.argv[1]), QUICK_EXTRACT, Path(sys.argv[2]), on_progress=lambda p: print(p.done, flush=True))
"""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(featcache.extraction.plan, "ROWS_PER_SHARD", 8)


@pytest.fixture
def own_dataset(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A copy of the dataset, to be changed."""
    return Path(shutil.copytree(tiny_dataset, tmp_path / "own"))


def run(
    dataset: Path, out: Path, settings: ExtractSettings = SETTINGS, **kwargs: Callable[[Progress], None]
) -> ExtractReport:
    return extract(open_dataset(str(dataset)), settings, out, **kwargs)


def shard_digests(folder: Path) -> dict[str, str]:
    """Return name and sha256 of every file in shards/."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "shards").iterdir()}


def every_feature(folder: Path) -> NDArray[np.generic]:
    """Return all features that are there, rows in order of image names."""
    cache = open_cache(folder)
    rows = sorted(np.flatnonzero(cache.present).tolist(), key=lambda row: cache.images[row].name)
    return np.stack([cache.read(rows, view) for view in range(cache.views)], axis=1)


@pytest.fixture(scope="module")
def reference(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of an undisturbed run with shards of 8 rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(featcache.extraction.plan, "ROWS_PER_SHARD", 8)
        out = tmp_path_factory.mktemp("reference") / "cache"
        run(tiny_dataset, out)
    return out


def test_features_are_those_of_a_plain_loop(tiny_dataset: Path, reference: Path) -> None:
    backbone, cache = load_backbone(SETTINGS), open_cache(reference)
    assert cache.rows == 41
    for row in (0, 17, 40):
        name = cache.images[row].name
        with Image.open(tiny_dataset / "images" / name) as file:
            picture = file.convert("RGB")
        assert cache.images[row].sha256 == hashlib.sha256((tiny_dataset / "images" / name).read_bytes()).hexdigest()
        assert (cache.images[row].width, cache.images[row].height) == picture.size
        for number in range(3):
            view = view_of(SETTINGS.views, name, number, width=picture.width, height=picture.height)
            assert (tuple(cache.box[row, number]), bool(cache.flip[row, number])) == view
            features = backbone(torch.from_numpy(render(picture, view, ViewSettings(image_size=64)).copy())[None])[
                "layer3"
            ]
            np.testing.assert_array_equal(cache.read([row], number)[0], features[0].half().numpy())
            pooled = cache.read_pooled([row], number)[0]
            np.testing.assert_allclose(pooled[0], features[0].half().float().mean(0).numpy(), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(pooled[1], features[0].half().float().std(0, correction=0), rtol=1e-4, atol=1e-6)


def test_published_features_are_those_of_images_squashed_by_hand(tiny_dataset: Path, tmp_path: Path) -> None:
    run(tiny_dataset, tmp_path, PUBLISHED)
    backbone, cache = load_backbone(PUBLISHED), open_cache(tmp_path)
    for row in (0, 17, 40):
        with Image.open(tiny_dataset / "images" / cache.images[row].name) as file:
            whole = file.convert("RGB")
        squashed = whole.resize((75, 75), Image.Resampling.BILINEAR)
        assert cache.box[row, 0].tolist() == [0, 0, *whole.size]
        for number, source in enumerate((whole, squashed, squashed)):
            crop = source.crop(cache.box[row, number].tolist())
            pixels = np.array(crop.resize((64, 64), Image.Resampling.BILINEAR))
            pixels = pixels[:, ::-1].copy() if cache.flip[row, number] else pixels
            features = backbone(torch.from_numpy(pixels)[None])["layer3"]
            np.testing.assert_array_equal(cache.read([row], number)[0], features[0].half().numpy())
    assert cache.box[:, 1:].max() == 75


def test_a_published_cache_grows_by_views(tiny_dataset: Path, tmp_path: Path) -> None:
    run(tiny_dataset, tmp_path / "grown", PUBLISHED)
    before = shard_digests(tmp_path / "grown")
    assert run(tiny_dataset, tmp_path / "grown", dataclasses.replace(PUBLISHED, augs=4)).views_computed == 2 * 41
    assert before.items() <= shard_digests(tmp_path / "grown").items()
    run(tiny_dataset, tmp_path / "fresh", dataclasses.replace(PUBLISHED, augs=4))
    np.testing.assert_array_equal(every_feature(tmp_path / "grown"), every_feature(tmp_path / "fresh"))
    np.testing.assert_array_equal(open_cache(tmp_path / "grown").box, open_cache(tmp_path / "fresh").box)


@pytest.mark.parametrize("batch_size", [1, 64])
def test_another_batch_size_changes_no_more_than_the_last_bit(
    tiny_dataset: Path, reference: Path, tmp_path: Path, batch_size: int
) -> None:
    run(tiny_dataset, tmp_path, dataclasses.replace(SETTINGS, batch_size=batch_size))
    np.testing.assert_allclose(
        every_feature(tmp_path).astype(float), every_feature(reference).astype(float), rtol=2e-3, atol=1e-5
    )


def test_features_do_not_depend_on_which_other_images_are_there(
    own_dataset: Path, reference: Path, tmp_path: Path
) -> None:
    for path in (own_dataset / "splits").iterdir():
        if path.name != "test_1.txt":
            path.unlink()
    run(own_dataset, tmp_path / "out")
    few, all_images = open_cache(tmp_path / "out"), open_cache(reference)
    row_of = {image.name: row for row, image in enumerate(all_images.images)}
    assert few.rows == 11
    for view in range(3):
        np.testing.assert_array_equal(
            few.read(range(11), view), all_images.read([row_of[image.name] for image in few.images], view)
        )


def test_each_image_is_decoded_once_for_all_its_views_and_a_few_for_the_choice_of_codecs(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []

    def counting(path: Path) -> featcache.images.decode.DecodedImage:
        decoded.append(path)
        return featcache.images.decode.decode_file(path)

    monkeypatch.setattr(featcache.images.loading, "decode_file", counting)
    run(tiny_dataset, tmp_path)
    assert len(set(decoded)) == 41
    assert len(decoded) == 41 + COMPRESSED_IMAGES


def test_a_finished_cache_is_not_computed_again(tiny_dataset: Path, reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "copy")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "copy" / "shards").iterdir()}
    report = run(tiny_dataset, tmp_path / "copy")
    assert (report.views_computed, report.images, report.views) == (0, 41, 3)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "copy" / "shards").iterdir()} == before


@pytest.mark.parametrize("stop_at", [1, 50, 122])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    tiny_dataset: Path, reference: Path, tmp_path: Path, stop_at: int
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done >= stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny_dataset, tmp_path, on_progress=interrupt)
    assert not (tmp_path / "manifest.json").exists()
    assert set(shard_digests(tmp_path).items()) <= set(shard_digests(reference).items())
    run(tiny_dataset, tmp_path)
    assert shard_digests(tmp_path) == shard_digests(reference)
    assert (tmp_path / "manifest.json").read_text() != ""


def test_killed_processes_lose_no_finished_shard(tiny_dataset: Path, reference: Path, tmp_path: Path) -> None:
    rng, finished = np.random.default_rng(0), set[tuple[str, str]]()
    for kill_at in (9, 40, 90):
        with Forked(SCRIPT, tiny_dataset, tmp_path) as process:
            for line in process.stdout:
                if int(line) >= kill_at:
                    break
            time.sleep(float(rng.uniform(0, 0.05)))
            process.send_signal(signal.SIGKILL)
        complete = {item for item in shard_digests(tmp_path).items() if not item[0].startswith(".")}
        assert finished <= complete <= set(shard_digests(reference).items())
        finished = complete
    report = run(tiny_dataset, tmp_path)
    assert shard_digests(tmp_path) == shard_digests(reference)
    assert report.views_computed == 3 * 41 - 3 * 8 * len(finished)


def test_leftovers_of_a_killed_writer_are_removed_and_counted(
    tiny_dataset: Path, reference: Path, tmp_path: Path
) -> None:
    shutil.copytree(reference, tmp_path / "copy")
    (tmp_path / "copy" / "shards" / ".tmp-00000-abc.h5-host-1").write_bytes(b"half")
    assert run(tiny_dataset, tmp_path / "copy").stale_temporaries == 1
    assert shard_digests(tmp_path / "copy") == shard_digests(reference)


def test_more_views_leave_the_old_shards_untouched(tiny_dataset: Path, reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "copy")
    report = run(tiny_dataset, tmp_path / "copy", dataclasses.replace(SETTINGS, augs=4))
    assert report.views_computed == 2 * 41
    assert shard_digests(reference).items() <= shard_digests(tmp_path / "copy").items()
    run(tiny_dataset, tmp_path / "fresh", dataclasses.replace(SETTINGS, augs=4))
    np.testing.assert_array_equal(every_feature(tmp_path / "copy"), every_feature(tmp_path / "fresh"))


def test_added_images_leave_the_old_shards_untouched(own_dataset: Path, reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "copy")
    Image.new("RGB", (70, 50), "teal").save(own_dataset / "images" / "000.png")
    with (own_dataset / "splits" / "test_2.txt").open("a") as file:
        file.write("000.png 0.5\n")
    assert run(own_dataset, tmp_path / "copy").views_computed == 3
    assert shard_digests(reference).items() <= shard_digests(tmp_path / "copy").items()
    cache = open_cache(tmp_path / "copy")
    assert cache.images[41].name == "000.png"
    assert cache.splits["2"]["test"].rows[-1] == 41
    run(own_dataset, tmp_path / "fresh")
    np.testing.assert_array_equal(every_feature(tmp_path / "copy"), every_feature(tmp_path / "fresh"))


def test_changed_scores_are_taken_over_without_computing(own_dataset: Path, reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "copy")
    path = own_dataset / "splits" / "test_1.txt"
    path.write_text("".join(f"{line.split()[0]} 0.125\n" for line in path.read_text().splitlines()))
    assert run(own_dataset, tmp_path / "copy").views_computed == 0
    assert set(open_cache(tmp_path / "copy").splits["1"]["test"].scores) == {0.125}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"backbone": "alexnet", "layers": ("features.5",)}, "backbone"),
        ({"layers": ("layer2",)}, "layers"),
        ({"views": dataclasses.replace(SETTINGS.views, eval_view="squash")}, "eval_view"),
        ({"views": dataclasses.replace(SETTINGS.views, crop_scale=(0.5, 1.0))}, "crop_scale"),
        ({"views": dataclasses.replace(SETTINGS.views, image_size=96)}, "image_size"),
        ({"views": dataclasses.replace(SETTINGS.views, seed=1)}, "weights"),
        ({"views": view_settings_of("published", image_size=64)}, "eval_view"),
        ({"views": view_settings_of("published", image_size=64, eval_view="center")}, "pre_squash"),
        ({"precision": "bf16"}, "precision"),
    ],
)
def test_another_recipe_is_refused_by_name_and_nothing_is_touched(
    tiny_dataset: Path, reference: Path, change: dict[str, object], field: str
) -> None:
    before = shard_digests(reference)
    with pytest.raises(Mismatch, match=f"{field}: .* there, .* asked for"):
        run(tiny_dataset, reference, dataclasses.replace(SETTINGS, **change))  # type: ignore[arg-type]
    assert shard_digests(reference) == before


def test_bad_images_are_left_out_and_listed_and_the_others_are_unchanged(
    own_dataset: Path, reference: Path, tmp_path: Path
) -> None:
    cut, empty = own_dataset / "images" / "05.jpg", own_dataset / "images" / "20.jpg"
    whole = cut.read_bytes(), empty.read_bytes()
    cut.write_bytes(whole[0][: len(whole[0]) // 2])
    empty.write_bytes(b"")
    report = run(own_dataset, tmp_path / "out")
    assert [name for name, _ in report.absent] == ["05.jpg", "20.jpg"]
    assert (tmp_path / "out" / "failures.csv").read_text().splitlines()[0] == "name,reason"
    assert "20.jpg,unidentified: the file is empty" in (tmp_path / "out" / "failures.csv").read_text()
    cache = open_cache(tmp_path / "out")
    rows = np.flatnonzero(cache.present)
    assert len(rows) == 39
    np.testing.assert_array_equal(cache.read(rows, 1), open_cache(reference).read(rows, 1))

    cut.write_bytes(whole[0])
    empty.write_bytes(whole[1])
    healed = run(own_dataset, tmp_path / "out")
    assert (healed.absent, (tmp_path / "out" / "failures.csv").exists()) == ([], False)
    assert shard_digests(tmp_path / "out") == shard_digests(reference)


def test_on_bad_image_stop_ends_at_the_first(own_dataset: Path, tmp_path: Path) -> None:
    (own_dataset / "images" / "00.jpg").write_bytes(b"<html>")
    with pytest.raises(BadInput, match=r"00\.jpg: unidentified.*--on-bad-image skip"):
        run(own_dataset, tmp_path / "out", dataclasses.replace(SETTINGS, on_bad_image="stop"))


def test_an_image_changed_between_two_runs_is_a_mismatch(own_dataset: Path, tmp_path: Path) -> None:
    run(own_dataset, tmp_path / "out", dataclasses.replace(SETTINGS, augs=0))
    Image.new("RGB", (70, 50), "teal").save(own_dataset / "images" / "05.jpg")
    with pytest.raises(Mismatch, match=r"holds features of other images than those now in .*images:\n  05\.jpg"):
        run(own_dataset, tmp_path / "out")
    assert open_cache(tmp_path / "out").views == 1


@pytest.mark.parametrize("value", [float("nan"), 70000.0])
def test_a_feature_that_cannot_be_stored_names_image_and_view(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    plain = Backbone.maps

    def broken(self: Backbone, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        features = plain(self, pixels)["layer3"].clone()
        features[6, 3, 5] = value
        return {"layer3": features}

    monkeypatch.setattr(Backbone, "maps", broken)
    with pytest.raises(BadInput, match=r"02\.jpg, view 0: layer layer3 gave a value"):  # the batch is 7 views
        run(tiny_dataset, tmp_path)
    assert not shard_digests(tmp_path)


def test_two_writers_exclude_each_other(tiny_dataset: Path, tmp_path: Path) -> None:
    with writer_lock(tmp_path), pytest.raises(Locked, match=f"process {os.getpid()} on"):
        run(tiny_dataset, tmp_path)


def test_a_full_disk_is_a_storage_error_and_leaves_no_half_file(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="No space left on device"):
        run(tiny_dataset, tmp_path)
    assert not shard_digests(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(featcache.extraction.plan, "ROWS_PER_SHARD", 8)
    assert run(tiny_dataset, tmp_path).images == 41


def test_a_folder_that_cannot_be_made_is_a_storage_error(tiny_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Not a directory"):
        run(tiny_dataset, tmp_path / "file" / "cache")


def test_several_layers_from_one_pass_equal_those_of_single_passes(tiny_dataset: Path, tmp_path: Path) -> None:
    both = dataclasses.replace(SETTINGS, augs=0, layers=("layer2", "layer3"))
    run(tiny_dataset, tmp_path / "both", both)
    run(tiny_dataset, tmp_path / "one", dataclasses.replace(both, layers=("layer2",)))
    together, alone = open_cache(tmp_path / "both"), open_cache(tmp_path / "one")
    assert together.layer() == "layer3"
    assert together.read([0], 0, "layer2").shape == (1, 64, 48)
    np.testing.assert_array_equal(together.read(range(41), 0, "layer2"), alone.read(range(41), 0))


def test_progress_counts_views_from_where_the_run_starts(tiny_dataset: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []

    def stop(progress: Progress) -> None:
        if progress.done > 80:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny_dataset, tmp_path, on_progress=stop)
    run(tiny_dataset, tmp_path, on_progress=seen.append)
    checks = [progress for progress in seen if progress.stage == "check images"]
    there = len(checks)
    assert [progress.done for progress in checks] == list(range(1, there + 1))
    assert there in (8, 16, 24)  # of three shards that were begun, what was written before the end
    seen = [progress for progress in seen if progress.stage == "extract"]
    assert (seen[0].skipped, seen[0].done) == (3 * there, 3 * there + 3)
    assert (seen[-1].done, seen[-1].total) == (123, 123)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"augs": -1}, "--augs must be 0 to 1000, found -1"),
        ({"batch_size": 0}, "--batch-size must be auto or 1 to 4096, found 0"),
        ({"on_bad_image": "guess"}, "--on-bad-image must be skip or stop, found 'guess'"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        dataclasses.replace(SETTINGS, **change)  # type: ignore[arg-type]


def test_views_render_where_the_tables_say(reference: Path) -> None:
    cache = open_cache(reference)
    view = View(*[tuple(cache.box[3, 2].tolist()), bool(cache.flip[3, 2])])  # type: ignore[arg-type]
    image = cache.images[3]
    assert view == view_of(SETTINGS.views, image.name, 2, width=image.width, height=image.height)


def test_another_dataset_of_the_same_names_is_refused_before_any_work(
    own_dataset: Path, reference: Path, tmp_path: Path
) -> None:
    shutil.copytree(reference, tmp_path / "copy")
    before = (tmp_path / "copy" / "manifest.json").read_bytes()
    for path in (own_dataset / "images").rglob("*.jpg"):
        Image.new("RGB", (50, 60), "teal").save(path)
    with pytest.raises(Mismatch, match=r"holds features of other images than those now in .*own/images"):
        run(own_dataset, tmp_path / "copy")
    assert (tmp_path / "copy" / "manifest.json").read_bytes() == before


def test_mending_the_only_shard_keeps_its_augmented_views(own_dataset: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(featcache.extraction.plan, "ROWS_PER_SHARD", 64)
        bad = own_dataset / "images" / "05.jpg"
        whole = bad.read_bytes()
        bad.write_bytes(whole[:99])
        assert run(own_dataset, tmp_path / "out").views == 3
        bad.write_bytes(whole)
        mended = run(own_dataset, tmp_path / "out", dataclasses.replace(SETTINGS, augs=0))
    assert (mended.views, mended.absent) == (3, [])
    assert len(shard_digests(tmp_path / "out")) == 1
    assert open_cache(tmp_path / "out").read([5], 2).shape == (1, 16, 192)


def test_an_image_that_decodes_only_while_planning_costs_no_shard(
    own_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_dataset / "images" / "05.jpg").write_bytes(b"")
    run(own_dataset, tmp_path / "out")
    monkeypatch.setattr(featcache.extraction.plan, "_decodes", lambda path: True)
    run(own_dataset, tmp_path / "out")
    assert open_cache(tmp_path / "out").rows == 41


def test_a_shard_damaged_before_sealing_is_found_and_the_advice_works(
    tiny_dataset: Path, reference: Path, tmp_path: Path
) -> None:
    shutil.copytree(reference, tmp_path / "copy")
    (tmp_path / "copy" / "manifest.json").unlink()
    shard = min((tmp_path / "copy" / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptFile, match=f"{shard.name}.*Run amnet verify-cache --repair --cache"):
        run(tiny_dataset, tmp_path / "copy")
    shard.unlink()
    run(tiny_dataset, tmp_path / "copy")
    assert shard_digests(tmp_path / "copy") == shard_digests(reference)


def test_a_damaged_manifest_is_made_anew(tiny_dataset: Path, reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "copy")
    manifest = tmp_path / "copy" / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:-9])
    with pytest.raises(CorruptFile, match="run extract again"):
        open_cache(tmp_path / "copy")
    assert run(tiny_dataset, tmp_path / "copy").views_computed == 0
    assert json.loads(manifest.read_text())["shards"] == json.loads(whole)["shards"]


def test_a_disk_that_cannot_hold_the_result_is_refused_before_anything_is_written(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(featcache.base.files.shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    with pytest.raises(StorageError, match=r"about [\d,]{7,} bytes are needed, 100,000 are free.*--force"):
        run(tiny_dataset, tmp_path / "out")
    assert list((tmp_path / "out" / "shards").iterdir()) == []
    forced = dataclasses.replace(SETTINGS, force=True)
    assert run(tiny_dataset, tmp_path / "out", forced).views_computed == 123


def test_a_run_that_computes_nothing_leaves_what_the_manifest_says_of_its_making(
    tiny_dataset: Path, reference: Path, tmp_path: Path
) -> None:
    shutil.copytree(reference, tmp_path / "copy")
    run(tiny_dataset, tmp_path / "copy", dataclasses.replace(SETTINGS, batch_size=5))
    assert open_cache(tmp_path / "copy").manifest.source == open_cache(reference).manifest.source


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoding": "uint4"}, "--encoding must be float16 or uint8, found 'uint4'"),
        ({"calibrate_like": "cache/x"}, "--calibrate-like goes with --encoding uint8"),
    ],
)
def test_encodings_that_do_not_exist_are_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        ExtractSettings(**changes)


def test_of_two_whole_shards_of_one_block_the_listed_one_stays(
    tiny_dataset: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(reference, tmp_path / "copy")
    shards = tmp_path / "copy" / "shards"
    listed = shard_digests(tmp_path / "copy")
    for path in sorted(shards.iterdir()):
        path.with_name(f"{path.name[:6]}{'0' * 16}.h5").write_bytes(path.read_bytes())
    monkeypatch.setattr(
        featcache.extraction.plan, "shard_name", lambda *_: ""
    )  # as if none were whole, so that use decides
    run(tiny_dataset, tmp_path / "copy")
    assert shard_digests(tmp_path / "copy") == listed


def test_ratings_that_are_no_longer_there_are_told(tiny_dataset: Path, tmp_path: Path) -> None:
    dataset = open_dataset(str(tiny_dataset))
    two = dataclasses.replace(dataset, ratings=dict.fromkeys(("calm", "beauty"), dataset.splits))
    one = dataclasses.replace(dataset, ratings={"calm": dataset.splits})
    extract(two, QUICK_EXTRACT, tmp_path / "c")
    (note,) = extract(one, QUICK_EXTRACT, tmp_path / "c").notes_of_ratings
    assert note.startswith("warning: no ratings beauty any more, so its heads are not found")
    assert extract(two, QUICK_EXTRACT, tmp_path / "c").notes_of_ratings == ()


def test_scores_that_changed_since_are_told(tiny_dataset: Path, tmp_path: Path) -> None:
    dataset = open_dataset(str(tiny_dataset))
    assert extract(dataset, QUICK_EXTRACT, tmp_path / "c").notes_of_ratings == ()
    assert extract(dataset, QUICK_EXTRACT, tmp_path / "c").notes_of_ratings == ()
    train = dataset.splits["1"]["train"]
    for parts in dataset.splits.values():
        for name, part in parts.items():
            changed = np.isin(part.rows, train.rows[:3])
            parts[name] = dataclasses.replace(part, scores=np.where(changed, 7.0, part.scores))
    assert extract(dataset, QUICK_EXTRACT, tmp_path / "c").notes_of_ratings == (
        "warning: 3 images have other scores than before; heads trained on those are not scored",
    )


def test_images_are_decoded_and_hashed_while_the_network_is_built(
    own_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network here is built when every image is decoded, or, where they are in the cache, hashed."""
    names = sorted(path.name for path in (own_dataset / "images").rglob("*.jpg"))
    decoded, hashed, build = list[str](), list[str](), featcache.extraction.extract.load_backbone

    def noting(done: list[str], of: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def noted(path: Path) -> Any:
            found = of(path)
            done.append(path.name)
            return found

        return noted

    def building(awaited: list[str]) -> Callable[..., Backbone]:
        def built(*args: Any, **kwargs: Any) -> Backbone:
            deadline = time.monotonic() + 60
            while len(awaited) < len(names):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            return build(*args, **kwargs)

        return built

    monkeypatch.setattr(featcache.images.loading, "decode_file", noting(decoded, featcache.images.loading.decode_file))
    monkeypatch.setattr(featcache.images.early, "digest_of_file", noting(hashed, featcache.base.files.digest_of_file))
    monkeypatch.setattr(featcache.extraction.extract, "load_backbone", building(decoded))
    settings = dataclasses.replace(QUICK_EXTRACT, compression="none")  # or a few would be decoded as a sample
    run(own_dataset, tmp_path / "c", settings)
    assert sorted(decoded) == names
    monkeypatch.setattr(featcache.extraction.extract, "load_backbone", building(hashed))
    assert run(own_dataset, tmp_path / "c", dataclasses.replace(settings, augs=3)).views_computed == len(names)
    assert sorted(hashed) == names


def test_a_network_that_cannot_be_built_leaves_no_thread_and_no_folder(own_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="no_such_network"):
        run(own_dataset, tmp_path / "c", dataclasses.replace(SETTINGS, backbone="no_such_network"))
    assert not (tmp_path / "c").exists()
    for thread in threading.enumerate():
        if thread.name.startswith("early"):
            thread.join(timeout=30)  # at most the image that it was at
            assert not thread.is_alive()


def test_the_batch_size_of_the_device_is_recorded_and_changes_no_bytes(own_dataset: Path, tmp_path: Path) -> None:
    run(own_dataset, tmp_path / "auto", QUICK_EXTRACT)
    run(own_dataset, tmp_path / "named", dataclasses.replace(QUICK_EXTRACT, batch_size=16))
    assert QUICK_EXTRACT.batch_size is None
    assert read_manifest(tmp_path / "auto").source["batch_size"] == "16"
    assert shard_digests(tmp_path / "auto") == shard_digests(tmp_path / "named")
