"""train-head of several splits at once, in processes and on a cluster: the heads of one process, to the bit."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from clusters import running_cluster
from conftest import SPLITS, TINY_TRAIN

from cli import main
from featcache.cache import open_cache
from featcache.errors import Locked, ResourceError
from featcache.jobs import Workers
from featcache.lock import writer_lock
from featcache.progress import Progress
from head.runs import Run
from head.training_jobs import TrainingJob, train_all

TWO = Workers(jobs=2)
OPTIONS = ["--split", "all", "--name", "paper", "--hidden-size", "7", "--epochs", "3"]
OPTIONS += ["--batch-size", "11", "--lr", "0.01"]


@pytest.fixture
def here(tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with cache/tiny; every process trains with one thread, as this one does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("featcache.jobs.usable_threads", lambda threads: 1)
    shutil.copytree(tiny_cache, tmp_path / "cache" / "tiny")
    return tmp_path


def train_head(*arguments: str, status: int = 0) -> Result:
    """Train both splits and check the exit status."""
    result = CliRunner().invoke(main, ["train-head", *OPTIONS, *arguments])
    assert result.exit_code == status, (result.exit_code, result.stdout, result.stderr, result.exception)
    return result


def last_first(function: Callable[[TrainingJob], Run], jobs: Sequence[TrainingJob], workers: Workers) -> Iterator[Any]:
    """Do what `run_jobs` does, the last job first, and check that the jobs say where they go."""
    for index in reversed(range(len(jobs))):
        assert jobs[index].folder.is_absolute()
        yield index, function(jobs[index])


def files(runs: str) -> dict[str, bytes]:
    """Return every file of the runs but the locks, which hold a process id."""
    found = sorted(path for path in Path(runs).rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(runs)): path.read_bytes() for path in found}


@pytest.mark.slow
def test_splits_trained_at_once_are_those_trained_one_after_another(here: Path) -> None:
    alone, together = train_head("--runs", "alone"), train_head("--runs", "together", "--jobs", "2")
    names = ("config.json", "head.safetensors", "history.csv")
    assert list(files("together")) == [f"tiny/paper/split-{split}/{name}" for split in SPLITS for name in names]
    assert files("together") == files("alone")
    assert together.stdout == alone.stdout.replace("alone/", "together/")
    assert together.stderr == "train: 2 of 2 splits\n"


def test_splits_trained_on_a_cluster_are_those_trained_here(here: Path) -> None:
    alone = train_head("--runs", "alone")
    with running_cluster() as cluster:
        away = train_head("--runs", "away", "--cluster", cluster.address)
    assert files("away") == files("alone")
    assert (away.stdout, away.stderr) == (alone.stdout.replace("alone/", "away/"), "train: 2 of 2 splits\n")


def test_runs_are_in_the_order_of_splits_and_found_where_they_were_asked_for(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("head.training_jobs.run_jobs", last_first)
    reports: list[Progress] = []
    cache = open_cache(Path("cache/tiny"))
    short = replace(TINY_TRAIN, epochs=1)
    jobs = [TrainingJob(cache, split, short, Path("runs") / split, "paper") for split in ("2", "1")]
    runs = train_all(jobs, TWO, on_progress=reports.append)
    assert [(run.split, run.folder, run.finished) for run in runs] == [
        ("2", Path("runs/2"), True),
        ("1", Path("runs/1"), True),
    ]
    assert reports == [Progress("train", done, 2, "splits") for done in (1, 2)]


@pytest.mark.slow
def test_finished_splits_are_kept_when_the_command_is_given_again(here: Path) -> None:
    document = json.loads(train_head("--json").stdout)
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("head.safetensors")}
    assert json.loads(train_head("--jobs", "2", "--json").stdout) == document
    assert [run["split"] for run in document] == list(SPLITS)
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("head.safetensors")} == before


@pytest.mark.slow
def test_an_error_of_a_split_is_the_error_of_the_command(here: Path) -> None:
    folder = here / "runs/tiny/paper/split-2"
    folder.mkdir(parents=True)
    with writer_lock(folder):
        refused = train_head("--jobs", "2", status=Locked.exit_code)
    assert f"error: {folder}: being written by process {os.getpid()}" in refused.stderr


def test_one_split_is_trained_in_this_process(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "joblib", None)
    one = CliRunner().invoke(main, ["train-head", *OPTIONS, "--split", "2", "--jobs", "2"])
    assert (one.exit_code, one.stderr) == (0, "split 2: 3 of 3 epochs" + one.stderr.partition("epochs")[2])


def test_options_that_exclude_each_other_are_refused_before_anything_is_read(here: Path) -> None:
    refused = train_head("--jobs", "2", "--cluster", "tcp://localhost:8786", "--cache", "nowhere", status=2)
    assert "leave one out" in refused.stderr
    assert "--cluster must be like tcp://HOST:8786" in train_head("--cluster", "localhost", status=2).stderr


def test_no_scheduler_is_said_with_what_to_start(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featcache.jobs.PATIENCE_SECONDS", 1)
    refused = train_head("--cluster", "tcp://127.0.0.1:9", status=ResourceError.exit_code)
    assert refused.stderr.startswith("error: tcp://127.0.0.1:9: no Dask scheduler answers")
    assert refused.stderr.endswith("start one there with `dask scheduler`\n")
