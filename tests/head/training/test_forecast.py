"""What a training is said to take, before it is started: compared with what it takes."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from featcache.base.errors import InvalidSettings, Mismatch
from featcache.base.jobs import Workers
from featcache.datasets.dataset import open_dataset
from featcache.extraction.extract import extract
from featcache.store.cache import FeatureCache, open_cache
from head.grid import Point
from head.settings import TrainSettings, settings_of
from head.training.forecasts import forecast as forecast_module
from head.training.forecasts import memory
from head.training.forecasts.forecast import forecast
from head.training.forecasts.results import BaselineForecast, Forecasts, GradientForecast
from head.training.job import TrainingJob
from head.training.jobs import jobs_of
from head.training.train import train
from tests.helpers.tiny import PART_SIZES, QUICK_EXTRACT, ROOT, TINY_TRAIN

TAIL = settings_of(head="tail", layers=("views",), batch_size=16, epochs=1, precision="fp32")
_PEAK = """
import re, sys, cli
# ru_maxrss would begin with that of the parent
cli.main(sys.argv[1:], standalone_mode=False)
kibibytes = re.search("VmHWM:[^0-9]*([0-9]+)", open("/proc/self/status").read())[1]
print("peak", int(kibibytes) * 1024, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def pixels(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """Views of 160 pixels beside a layer, of an untrained network."""
    out = tmp_path_factory.mktemp("forecast") / "pixels"
    views = replace(QUICK_EXTRACT.views, image_size=160)
    extract(
        open_dataset(str(tiny_dataset)), replace(QUICK_EXTRACT, augs=1, layers=("layer3", "views"), views=views), out
    )
    return open_cache(out)


def of(cache: FeatureCache, folder: Path, *settings: TrainSettings, split: str = "1", jobs: int = 1) -> Forecasts:
    points = [Point(one.default_name(), one) for one in settings]
    return forecast(jobs_of(cache, points, split, runs=folder), Workers(jobs))


def by_gradient(found: Forecasts) -> GradientForecast:
    [one] = found.trainings
    assert isinstance(one, GradientForecast)
    return one


def test_splits_and_seeds_are_runs_of_one_training_whose_seconds_add_up(cache: FeatureCache, tmp_path: Path) -> None:
    seeds = [replace(TINY_TRAIN, seed=seed) for seed in (0, 1, 2)]
    one = by_gradient(of(cache, tmp_path, *seeds, split="all"))
    assert (one.of.runs, one.of.finished, one.at_most_epochs) == (6, 0, 12)
    assert one.epoch_seconds >= PART_SIZES["train"] / one.images_per_second
    assert one.at_most_seconds == pytest.approx(6 * (12 * one.epoch_seconds + one.start_seconds))
    assert "seed" not in one.of.name
    assert list(tmp_path.iterdir()) == []


def test_finished_runs_are_said_and_take_no_time(cache: FeatureCache, tmp_path: Path) -> None:
    settings = replace(TINY_TRAIN, epochs=1)
    [first, _] = jobs_of(cache, [Point("short", settings)], "all", runs=tmp_path)
    train(first)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    both = forecast(jobs_of(cache, [Point("short", settings)], "all", runs=tmp_path), Workers())
    one = by_gradient(both)
    assert (one.of.runs, one.of.finished) == (2, 1)
    assert one.at_most_seconds == pytest.approx(one.epoch_seconds + one.start_seconds)
    assert by_gradient(forecast([first], Workers())).at_most_seconds == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_weights_gradients_and_moments_are_counted_of_what_is_trained(pixels: FeatureCache, tmp_path: Path) -> None:
    whole = by_gradient(of(pixels, tmp_path, TAIL))
    last = by_gradient(of(pixels, tmp_path, replace(TAIL, train="last-1")))
    assert whole.trained == whole.parameters == last.parameters > last.trained > 0
    for one in (whole, last):
        assert one.memory["gradients"] == 4 * one.trained
        assert 0 <= one.memory["moments"] - 8 * one.trained < 1000  # a counter for each tensor beside them
        assert one.memory["weights"] > 4 * one.parameters
        assert one.bytes == sum(one.memory.values())
    assert last.memory["kept for gradients"] < whole.memory["kept for gradients"] / 10
    assert whole.memory["read ahead"] == 3 * 16 * 160 * 160 * 3  # pixels, as they are stored


def test_what_is_kept_grows_with_the_images_of_a_part(pixels: FeatureCache, tmp_path: Path) -> None:
    kept = [
        by_gradient(of(pixels, tmp_path, replace(TAIL, batch_size=size, accumulate=parts))).memory["kept for gradients"]
        for size, parts in ((16, 1), (16, 4), (8, 1))
    ]
    assert kept[1] < kept[2] < kept[0]  # 4, 8 and 16 images at once, beside what does not grow with them
    assert kept[0] - kept[2] == pytest.approx(2 * (kept[2] - kept[1]), rel=0.05)


def test_cross_validation_holds_a_head_a_fold_and_one_of_all(tiny_cache: Path, tmp_path: Path) -> None:
    small = open_cache(tiny_cache)
    whole = by_gradient(of(small, tmp_path, TINY_TRAIN))
    for parts in small.splits.values():
        del parts["val"]
    one = by_gradient(of(small, tmp_path, TINY_TRAIN))
    assert (whole.heads, one.heads) == (1, 6)
    assert one.memory["weights"] == 6 * whole.memory["weights"]
    assert "6 heads at once, as train is cross-validated" in of(small, tmp_path, TINY_TRAIN).as_text()
    assert 4 * PART_SIZES["train"] / one.images_per_second <= one.epoch_seconds


def test_a_baseline_says_its_vectors_and_candidates(cache: FeatureCache, tmp_path: Path) -> None:
    ridge, mlp = of(cache, tmp_path, *(settings_of(head=head) for head in ("ridge", "mlp"))).trainings
    assert isinstance(ridge, BaselineForecast)
    assert (ridge.images, ridge.vectors, ridge.channels, ridge.candidates) == (23, 46, 512, 13)
    assert ridge.bytes == 46 * 512 * 8
    assert "each of at most 60 epochs" in mlp.as_text()
    assert "epochs" not in ridge.as_text()


def test_too_little_memory_is_told_with_what_takes_less(
    pixels: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert of(pixels, tmp_path, TAIL).warnings() == []
    for module in (forecast_module, memory):
        monkeypatch.setattr(module, "resident_bytes", lambda: 1 << 30)
    monkeypatch.setattr(forecast_module, "free_bytes", lambda: 1 << 28)
    [warning] = of(pixels, tmp_path, TAIL, split="all", jobs=2).warnings()
    assert "GB are free; use --accumulate 2 or --batch-size 8 or --jobs 1" in warning


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (settings_of(layers=("views",)), InvalidSettings, "pixels of views themselves"),
        (settings_of(layers=("nothing",)), InvalidSettings, "has no layer nothing"),
    ],
)
def test_what_training_refuses_is_refused(
    pixels: FeatureCache, tmp_path: Path, settings: TrainSettings, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        of(pixels, tmp_path, settings)


def test_a_run_of_other_settings_in_its_place_is_refused(cache: FeatureCache, tmp_path: Path) -> None:
    train(TrainingJob(cache, "1", replace(TINY_TRAIN, epochs=1), tmp_path / "run", "run"))
    other = TrainingJob(cache, "1", replace(TINY_TRAIN, epochs=2), tmp_path / "run", "run")
    with pytest.raises(Mismatch, match="holds a run of other settings or data"):
        forecast([other], Workers())


@pytest.mark.skipif(sys.platform != "linux", reason="memory at its most is read from /proc")
@pytest.mark.parametrize(
    "asked",
    [
        ["--layer", "layer3", "--hidden-size", "512"],
        ["--layer", "views", "--head", "tail", "--batch-size", "20"],
    ],
    ids=["amnet", "tail"],
)
def test_the_memory_said_is_that_of_a_training_to_a_third(
    pixels: FeatureCache, tmp_path: Path, asked: list[str]
) -> None:
    where = ["--cache", str(pixels.path), "--runs", str(tmp_path)]
    asked = ["train-head", *where, "--split", "1", "--epochs", "2", *asked]
    [said] = json.loads(_alone([*asked, "--dry-run", "--json"]).stdout)
    assert not list(tmp_path.iterdir())
    peak = int(_alone(asked).stderr.rsplit("peak", 1)[1])
    assert said["bytes"] == pytest.approx(peak, rel=0.3)


def _alone(arguments: Sequence[str]) -> Any:
    command = [sys.executable, "-c", _PEAK, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
