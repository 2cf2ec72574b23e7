"""The measurements run and print one JSON line each; their figures are for people, not for assertions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torchvision.transforms.v2 import Normalize

import bench.codecs
import bench.descriptors
import bench.encodings
import bench.extract
import bench.features
import bench.intervals
import bench.loops
import bench.memory
import bench.orders
import bench.plain
import bench.products
import bench.rating_intervals
import bench.ratings
import bench.read
import bench.train
from featcache.backbones.descriptors.descriptors import DESCRIPTORS
from featcache.datasets.dataset import open_dataset


def test_readers_read_the_same_and_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.features, "POSITIONS", 9)
    monkeypatch.setattr(bench.features, "CHANNELS", 13)
    done = CliRunner().invoke(bench.read.main, ["--images", "70", "--views", "2", "--batch", "5", "--rounds", "2"])
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    for encoding, largest in (("float16", 1.5), ("uint8", 0.9)):
        figures = found[encoding]
        assert 0 < figures["share_of_raw_float16"] < largest
        speed = figures["views_per_second"]
        assert figures["times_h5py"] == pytest.approx(speed["reader_2_threads"] / speed["h5py"], rel=0.05, abs=0.01)
        over_memmap = speed["not_compressed_2_threads"] / speed["npy_memmap"]
        assert figures["not_compressed_times_npy_memmap"] == pytest.approx(over_memmap, rel=0.05, abs=0.01)
        assert set(speed) == {
            "reader_2_threads", "reader_1_thread", "not_compressed_2_threads", "not_compressed_1_thread",
            "h5py", "h5py_on_shards", "npy_memmap", "memcpy",
            "dataloader_h5py_2_workers",
        }  # fmt: skip


def test_orders_are_compared_by_what_they_read_and_by_rho(monkeypatch: pytest.MonkeyPatch, tiny_cache: Path) -> None:
    monkeypatch.setattr(bench.features, "POSITIONS", 9)
    monkeypatch.setattr(bench.features, "CHANNELS", 13)
    monkeypatch.setattr(bench.orders.head.data.batches, "WINDOW", 2)
    options = ["--images", "80", "--views", "1", "--rows-per-shard", "4", "--batch", "8", "--rounds", "1"]
    done = CliRunner().invoke(bench.orders.main, options)
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    assert found["files"] == 20
    assert found["shards"]["opened"] < found["random"]["opened"]
    assert all(found[order]["images_per_second"] > 0 for order in ("random", "shards"))
    options = ["--cache", str(tiny_cache), "--window", "1", "--seeds", "2", "--epochs", "2", "--hidden-size", "8"]
    done = CliRunner().invoke(bench.orders.main, options)
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    assert found["mean_difference"] == pytest.approx(np.mean(found["differences"]), abs=1e-5)
    assert found["test_rho_shards"] - found["test_rho_random"] == pytest.approx(found["mean_difference"], abs=2e-4)


def test_codecs_are_compared_and_the_chosen_ones_are_small(tmp_path: Path) -> None:
    drawn = bench.features.drawn(2)
    assert (drawn == 0).mean() == pytest.approx(0.7, abs=0.01)
    found = dict(bench.codecs.measure(drawn, tmp_path))
    assert found["float16"]["none"]["share"] == pytest.approx(1, abs=0.01)
    assert found["float16"]["shuffle + zstd 1"]["share"] < 0.45
    assert found["uint8"]["zstd 1"]["share"] < 0.24


def test_intervals_of_random_splits_are_compared(tiny_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.intervals, "FEW", 15)
    monkeypatch.setattr(bench.intervals, "LEVEL", 0.5)
    done = CliRunner().invoke(bench.intervals.main, ["--cache", str(tiny_cache), "--splits", "2"])
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    ways = [name for name in found if isinstance(found[name], dict)]
    assert ways == [
        "none", "linear", "linear, residuals it was fitted to", "isotonic", "isotonic, residuals it was fitted to",
        "none, images that selected nothing", "none, 15 images cross-validated",
    ]  # fmt: skip
    assert all(0 <= found[name]["coverage"] <= 1 for name in ways)
    assert found["none"]["half_width_over_sd"] == pytest.approx(
        found["none"]["half_width"] / found["none"]["residual_sd"], rel=0.01
    )


def test_a_difference_over_seeds_has_students_interval() -> None:
    found = bench.encodings.paired([0.01, 0.02, 0.06])
    assert found["mean_difference"] == pytest.approx(0.03)
    assert found["half_width_95"] == pytest.approx(4.3027 * 0.026458 / 3**0.5, rel=1e-3)
    assert bench.encodings.paired([0.01])["half_width_95"] is None


TINY_EXTRACTION = ["--backbone", "resnet18", "--image-size", "32", "--limit", "5", "--augs", "3", "--rounds", "1"]


def test_extraction_is_compared_with_a_plain_loop_of_the_same_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.extract, "in_process", bench.extract.run_side)  # three processes import torch for 15 s
    monkeypatch.setattr(bench.plain, "WORKERS", 0)
    done = CliRunner().invoke(bench.extract.main, TINY_EXTRACTION)
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    assert (found["images"], found["augs"], found["drawn"]) == (5, 3, True)
    assert found["least_cosine_to_plain"] > 0.999
    assert list(found)[:2] == ["with_start", "steady"]
    for figures in (found["with_start"], found["steady"]):
        speed = figures["views_per_second"]
        assert set(speed) == {"plain", "ours", "limit"}
        assert figures["times_plain"] == pytest.approx(speed["ours"] / speed["plain"], rel=0.05, abs=0.01)
        assert figures["of_limit"] == pytest.approx(speed["ours"] / speed["limit"], rel=0.05, abs=0.01)
    assert found["with_start"]["views_per_second"]["ours"] < found["steady"]["views_per_second"]["ours"]


@pytest.mark.slow
def test_extraction_is_measured_in_processes_of_their_own() -> None:
    done = CliRunner().invoke(bench.extract.main, [*TINY_EXTRACTION, "--per-view"])
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    assert found["least_cosine_to_plain"] > 0.999
    assert all(value > 0 for part in ("with_start", "steady") for value in found[part]["views_per_second"].values())


def test_a_view_is_the_same_decoded_for_itself_or_with_its_image(tiny_dataset: Path) -> None:
    case = bench.extract.Case(str(tiny_dataset), "resnet18", augs=2, image_size=32, limit=3, per_view=False)
    normalise = Normalize([0.5] * 3, [0.25] * 3)
    by_image, by_view = (
        bench.plain.Views(case.dataset(), case.settings(), normalise, per_view=per) for per in (False, True)
    )
    assert (len(by_image), len(by_view)) == (3, 9)
    assert by_image[1].shape == (3, 3, 32, 32)
    assert torch.equal(torch.cat([by_image[i] for i in range(3)]), torch.cat([by_view[k] for k in range(9)]))


def test_a_limit_keeps_the_first_images_and_their_scores(tiny_dataset: Path) -> None:
    case = bench.extract.Case(str(tiny_dataset), "resnet18", augs=0, image_size=32, limit=7, per_view=False)
    cut, whole = case.dataset(), open_dataset(str(tiny_dataset))
    assert cut.names == whole.names[:7]
    rows = [row for part in cut.splits["2"].values() for row in part.rows]
    assert sorted(rows) == list(range(7))
    scores = dict(zip(whole.splits["2"]["train"].rows, whole.splits["2"]["train"].scores, strict=True))
    kept = cut.splits["2"]["train"]
    assert [scores[row] for row in kept.rows] == list(kept.scores)


@pytest.mark.slow
def test_memory_is_measured_in_processes_of_their_own() -> None:
    arguments = ["--images", "60", "61", "--backbone", "resnet18", "--weights", "random", "--augs", "0"]
    done = CliRunner().invoke(bench.memory.main, arguments)
    assert done.exit_code == 0, done.exception
    assert 0.8 < json.loads(done.stdout)["ratio"] < 1.25


@pytest.mark.slow
def test_training_is_compared_with_other_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (bench.features, bench.train):
        monkeypatch.setattr(module, "POSITIONS", 9)
        monkeypatch.setattr(module, "CHANNELS", 13)
    done = CliRunner().invoke(bench.train.main, ["--images", "12", "--batch", "4", "--rounds", "1"])
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    rates = found["images_per_second"]
    assert set(rates) == {
        "own", "no_attention", "plain", "plain_dataloader", "published", "limit_fp32", "limit_bf16"
    }  # fmt: skip
    assert found["own_over"]["plain"] == pytest.approx(rates["own"] / rates["plain"], rel=0.05, abs=0.01)
    assert 0 <= found["waiting_for_data"] <= 1
    assert all(start["to_the_end_of_the_first_step"] > 0 for start in found["start"].values())


def test_loops_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.loops, "POSITIONS", 3)
    monkeypatch.setattr(bench.loops, "CHANNELS", 5)
    monkeypatch.setattr(bench.loops.torch, "compile", lambda formula, dynamic: formula)
    done = CliRunner().invoke(bench.loops.main, ["--batch", "2", "--rounds", "1"])
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    assert set(found) == {"energies", "state_gradient", "key_gradient"}
    assert all(set(loop["milliseconds"]) == {"numba", "torch_compile", "eager"} for loop in found.values())


def test_precisions_of_products_are_compared_by_seed(monkeypatch: pytest.MonkeyPatch, tiny_cache: Path) -> None:
    def rho(cache: object, home: Path, *, seed: int, precision: str, epochs: int, attention: bool) -> float:
        return 0.5 + 0.01 * seed + (0.002 * seed if precision == "bf16" else 0)

    monkeypatch.setattr(bench.products, "mean_rho", rho)
    done = CliRunner().invoke(bench.products.main, ["--cache", str(tiny_cache), "--seeds", "3", "--no-attention"])
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    assert found["differences"] == [0, 0.002, 0.004]
    assert (found["test_rho_fp32"], found["mean_difference"], found["attention"]) == (0.51, 0.002, False)


def test_descriptors_are_timed_alone_and_together(tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.descriptors, "SIDE", 64)
    monkeypatch.setattr(bench.descriptors, "WORDS", 20)
    arguments = ["--images", str(tiny_dataset / "images"), "--limit", "3"]
    done = CliRunner().invoke(bench.descriptors.main, arguments)
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    assert set(found["milliseconds"]) == set(DESCRIPTORS)
    assert set(found["milliseconds_before_words"]) == {"hog2x2", "sift", "ssim"}
    for name, milliseconds in found["milliseconds"].items():
        assert found["images_per_second"][name] == pytest.approx(1000 / milliseconds, rel=0.2)
    assert min(found["all_images_per_second"].values()) > 0


@pytest.mark.parametrize("score", ["zmean", "dprime"])
def test_ratings_are_made_of_a_drawn_table(score: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.ratings, "IMAGES", 17)
    monkeypatch.setattr(bench.ratings, "WORKERS", 29)
    found = bench.ratings.measure(1500, score, tmp_path)
    assert found["lines"] == 1500 and found["responses"] > 400 and 50 < found["peak_mb"] < 1000


def test_an_interval_of_consistency_and_a_plain_bootstrap_are_drawn() -> None:
    r, (low, high), (lowest, highest) = bench.rating_intervals.intervals("few workers", seed=0)
    assert low < r < high and lowest < highest
