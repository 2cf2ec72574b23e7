"""Features that are held in memory change no bit of what is trained."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from featcache.base.errors import FeatcacheError, ResourceError
from featcache.base.jobs import Workers
from featcache.base.progress import Progress
from featcache.store.cache import FeatureCache, open_cache
from head.data import resident as resident_module
from head.data.resident import Resident
from head.runs.run import HEAD_NAME, Run
from head.settings import TrainSettings, settings_of
from head.training.forecasts.forecast import forecast
from head.training.forecasts.results import GradientForecast
from head.training.gradients.trainer import enough_memory
from head.training.job import TrainingJob
from head.training.jobs import train_all
from head.training.train import train
from tests.helpers.tiny import TINY_TRAIN

CPU = torch.device("cpu")
SHORT: dict[str, Any] = {"epochs": 4, "batch_size": 10, "precision": "fp32"}


def run_of(cache: FeatureCache, folder: Path, settings: TrainSettings, resident: str, **how: Any) -> Run:
    return train(TrainingJob(cache, "1", settings, folder / resident, "run", resident=resident, **how))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tiny_cache", replace(TINY_TRAIN, epochs=4)),
        ("tiny_cache", replace(TINY_TRAIN, epochs=4, attention=False)),
        ("tiny_cache", settings_of(head="ep", **SHORT)),
        ("layered_cache", replace(TINY_TRAIN, epochs=4, layers=("layer3",))),
        ("layered_cache", replace(TINY_TRAIN, epochs=4, layers=("all",))),
    ],
    ids=["maps", "vectors", "probe", "uint8", "layers"],
)
def test_weights_history_and_predictions_are_the_same_bytes(
    name: str, settings: TrainSettings, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    cache = open_cache(request.getfixturevalue(name))
    held, read = (run_of(cache, tmp_path, settings, resident) for resident in ("yes", "no"))
    files = sorted(path.name for path in held.folder.iterdir())
    assert {HEAD_NAME, "history.csv", "config.json"} <= set(files)
    assert files == sorted(path.name for path in read.folder.iterdir())
    for file in files:
        assert (held.folder / file).read_bytes() == (read.folder / file).read_bytes(), file


@pytest.mark.parametrize(("resident", "wanted"), [("auto", True), ("no", False)])
def test_it_is_told_what_is_held(resident: str, wanted: bool, tiny_cache: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    settings = replace(TINY_TRAIN, epochs=4)
    train(TrainingJob(open_cache(tiny_cache), "1", settings, tmp_path, "run", resident=resident), told.append)
    assert [one.done for one in told] == [1, 2, 3, 4]
    assert all(("; 0.000434 GB of features held on cpu" in one.note) == wanted for one in told)


def test_the_folds_of_a_cross_validation_share_what_is_held(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, made = open_cache(tiny_cache), []
    for parts in cache.splits.values():
        del parts["val"]
    own = Resident.__init__
    monkeypatch.setattr(Resident, "__init__", lambda self, *given: (made.append(self), own(self, *given))[1])
    held, read = (run_of(cache, tmp_path, replace(TINY_TRAIN, epochs=3), resident) for resident in ("yes", "no"))
    assert "cross-validation" in held.config.selected_on
    assert len(made) == 1
    assert (held.folder / HEAD_NAME).read_bytes() == (read.folder / HEAD_NAME).read_bytes()


def test_processes_side_by_side_share_the_memory_that_is_free(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, seen = open_cache(tiny_cache), []

    def sent(_: Any, jobs: list[TrainingJob], workers: Workers) -> Iterator[tuple[int, FeatcacheError]]:
        seen.append(jobs)
        yield from enumerate([ResourceError("trained nowhere")] * len(jobs))

    monkeypatch.setattr("head.training.jobs.run_jobs", sent)
    jobs = [TrainingJob(cache, split, TINY_TRAIN, tmp_path / split, "run") for split in ("1", "2")]
    for workers in (Workers(jobs=2), Workers(cluster="tcp://somewhere:8786"), Workers(jobs=16)):
        assert len(train_all(jobs, workers).errors) == 2
    [two, away, more_than_runs] = seen
    assert [(job.processes, job.resident) for job in [*two, *more_than_runs]] == [(2, "auto")] * 4
    assert [(job.processes, job.resident) for job in away] == [(1, "no")] * 2


def test_what_does_not_fit_is_refused_before_anything_is_trained(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache(tiny_cache)
    monkeypatch.setattr(resident_module, "free_bytes", lambda: 1000)
    with pytest.raises(ResourceError, match=r"take 0.000434 GB, and 1e-06 GB are free on cpu; use --resident no"):
        run_of(cache, tmp_path, TINY_TRAIN, "yes")
    made: list[Resident] = []
    own = Resident.__init__
    monkeypatch.setattr(Resident, "__init__", lambda self, *given: (made.append(self), own(self, *given))[1])
    run_of(cache, tmp_path, replace(TINY_TRAIN, epochs=4), "auto")
    assert made == []


def test_a_dry_run_counts_what_will_be_held(tiny_cache: Path, tmp_path: Path) -> None:
    cache = open_cache(tiny_cache)
    for resident, epochs, wanted in (("auto", 12, 53 * 16 * 256 * 2), ("auto", 1, None), ("no", 12, None)):
        settings = replace(TINY_TRAIN, epochs=epochs)
        job = TrainingJob(cache, "1", settings, tmp_path / "run", "run", resident=resident)
        [one] = forecast([job], Workers()).trainings
        assert isinstance(one, GradientForecast)
        assert one.memory.get("resident features") == wanted


@pytest.mark.parametrize(
    ("resident", "channels", "wanted"), [("auto", 0, True), ("yes", 0, True), ("no", 0, False), ("auto", 7, False)]
)
def test_out_of_memory_the_way_out_is_to_hold_no_features(
    resident: str, channels: int, wanted: bool, tiny_cache: Path, tmp_path: Path
) -> None:
    settings = replace(TINY_TRAIN, channels=channels)
    job = TrainingJob(open_cache(tiny_cache), "1", settings, tmp_path, "run", resident=resident)
    with pytest.raises(ResourceError, match="use a smaller --batch-size") as raised, enough_memory(job, CPU):
        raise MemoryError
    assert ("or --resident no" in str(raised.value)) == wanted
