"""The measurements run and print one JSON line each; their figures are for people, not for assertions."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

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
import bench.stacks
import bench.starts
import bench.train
from featcache.backbones.descriptors.descriptors import DESCRIPTORS
from featcache.datasets.dataset import open_dataset
from featcache.store.cache import open_cache
from head.evaluation.metrics import spearman
from head.evaluation.score import score_run
from head.runs.run import read_run
from tests.helpers.stacks import MEMBERS
from tests.helpers.tiny import SPLITS


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
        "none, images that selected nothing", "none, 15 images cross-validated", "linear, 15 images cross-validated",
        "isotonic, 15 images cross-validated",
    ]  # fmt: skip
    assert all(0 <= found[name]["coverage"] <= 1 for name in ways)
    assert found["selection"] == 4
    more = CliRunner().invoke(bench.intervals.main, ["--cache", str(tiny_cache), "--splits", "1", "--selection", "9"])
    found_of_more = json.loads(more.stdout)
    assert found_of_more["selection"] == 9 and "none, images that selected nothing" not in found_of_more
    refused = CliRunner().invoke(bench.intervals.main, ["--cache", str(tiny_cache), "--selection", "32"])
    assert refused.exit_code == 2 and "--selection may be 31 at most, as 41 images are there" in refused.stderr
    assert found["none"]["half_width_over_sd"] == pytest.approx(
        found["none"]["half_width"] / found["none"]["residual_sd"], rel=0.01
    )


def test_ways_to_weigh_members_are_compared_on_their_finished_runs(
    tiny_cache: Path, member_runs: Path, tmp_path: Path
) -> None:
    arguments = ["--cache", tiny_cache, "--runs", member_runs, "--seeds", "1", "--work", tmp_path / "work"]
    arguments += [word for name in MEMBERS[:2] for word in ("--member", name)]
    done = CliRunner().invoke(bench.stacks.main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.exception
    found, ways = json.loads(done.stdout), json.loads(done.stdout)["ways"]
    scored = [
        [
            score_run(read_run(member_runs / "tiny" / name / f"split-{split}"), open_cache(tiny_cache))
            for name in MEMBERS[:2]
        ]
        for split in SPLITS
    ]
    members = {name: np.mean([of_split[k].metrics.rho for of_split in scored]) for k, name in enumerate(MEMBERS[:2])}
    assert found["members"] == pytest.approx(members, abs=1e-4)
    mean = [spearman(np.mean([one.prediction for one in of_split], axis=0), of_split[0].truth) for of_split in scored]
    assert set(ways) == set(bench.stacks.WAYS)
    assert ways["plain mean"]["test"] == pytest.approx(np.mean(mean), abs=1e-4)
    assert ways["plain mean"]["less plain mean"][0] == ways["best member on val"]["less best member"][0] == 0
    for way in ways.values():
        assert way["less plain mean"][0] == pytest.approx(way["test"] - ways["plain mean"]["test"], abs=2e-4)
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "work").rglob("*") if file.is_file()}
    assert len(kept) == 2 * 5 * len(SPLITS)  # of each member without each fold
    again = CliRunner().invoke(bench.stacks.main, [str(argument) for argument in arguments])
    assert again.stdout == done.stdout and {file: file.stat().st_mtime_ns for file in kept} == kept


def test_weights_of_stacks_are_least_squares_shrunk_towards_equal_ones() -> None:
    rng = np.random.default_rng(3)
    predictions = rng.normal(size=(41, 3))
    part = bench.stacks.Part(predictions, predictions @ [0.7, 0.0, 0.2])
    np.testing.assert_allclose(bench.stacks.least_squares(part), [0.7, 0.0, 0.2], atol=1e-9)
    nearly_equal = bench.stacks.least_squares(part, 1e6)
    assert np.ptp(nearly_equal) < 1e-3 * nearly_equal.mean()


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


def test_no_round_of_extraction_finds_what_another_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], *, env: dict[str, str], **_: object) -> SimpleNamespace:
        return SimpleNamespace(stdout=json.dumps(env["XDG_CACHE_HOME"]))

    monkeypatch.setattr(bench.extract.subprocess, "run", run)
    case = bench.extract.Case("images", "resnet18", augs=0, image_size=32, limit=1, per_view=False)
    for room in (tmp_path / "1", tmp_path / "2"):
        found = str(bench.extract.in_process("ours", case, room / "ours"))
        assert Path(found).parent == room and not Path(found).exists()


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
def test_training_is_compared_with_other_ways_and_with_another_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (bench.features, bench.train):
        monkeypatch.setattr(module, "POSITIONS", 9)
        monkeypatch.setattr(module, "CHANNELS", 13)
    root = Path(bench.train.__file__).parents[1]
    arguments = ["--images", "12", "--batch", "4", "--rounds", "1", "--against", str(root)]
    done = CliRunner().invoke(bench.train.main, arguments)
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    rates = found["images_per_second"]
    others = {"plain", "plain_dataloader", "published", "limit_fp32", "limit_bf16"} | (
        {"compiled_bf16"} if shutil.which("g++") else set()
    )
    own = {"own", "own_in_memory", "own_resident", "no_attention"}
    against = {"own_of_against", "own_in_memory_of_against"}
    assert set(rates) == own | others | against
    assert set(found["over"]) == own
    assert found["over"]["own"]["plain"] == pytest.approx(rates["own"] / rates["plain"], rel=0.05, abs=0.01)
    assert set(found["waiting_for_data"]) == own | against
    assert all(0 <= share <= 1 for share in found["waiting_for_data"].values())
    assert all(start["to_the_end_of_the_first_step"] > 0 for start in found["start"].values())


def test_a_way_of_training_that_is_not_there_is_refused() -> None:
    done = CliRunner().invoke(bench.train.main, ["--ways", "own,quickest"])
    assert done.exit_code == 2
    assert "no way is called quickest; there are own," in done.output


def test_loops_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.loops, "POSITIONS", 3)
    monkeypatch.setattr(bench.loops, "CHANNELS", 5)
    monkeypatch.setattr(bench.loops.torch, "compile", lambda formula, dynamic: formula)
    done = CliRunner().invoke(bench.loops.main, ["--batch", "2", "--rounds", "1"])
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    assert set(found) == {"standardise", "attend", "energy_gradient", "state_gradient", "key_gradient"}
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


def test_starts_of_processes_are_compared_by_median(tmp_path: Path) -> None:
    code = "import sys, time; sys.stderr.write('a'); sys.stderr.flush(); time.sleep(0.3)"
    first, end = bench.starts.timed([sys.executable, "-c", code], tmp_path, tmp_path)
    assert first is not None and end - first > 0.25
    assert bench.starts.timed([sys.executable, "-c", ""], tmp_path, tmp_path).first_word is None
    with pytest.raises(RuntimeError, match="no such"):
        bench.starts.timed([sys.executable, "-c", "raise SystemExit('no such')"], tmp_path, tmp_path)
    times = {"import torch": (2.0, 2.0), "predict": (6.0, 12.0)}
    found = {
        name: {
            whose: [bench.starts.Timed(0.1 if name == "predict" else None, end) for _ in range(3)]
            for whose, end in zip(("here", "older"), ends, strict=True)
        }
        for name, ends in times.items()
    }
    predicted = bench.starts.summary(found)["predict"]
    assert predicted["of_older"] == 0.5
    assert predicted["here"] == {"first_word": 0.1, "end": 6.0, "times_importing_torch": 3.0}
