"""train-head of several splits at once, in processes and on a cluster: the heads of one process, to the bit."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli import main
from featcache.base.errors import Locked, ResourceError
from featcache.base.jobs import Workers
from featcache.base.lock import writer_lock
from featcache.base.progress import Progress
from featcache.store.cache import open_cache
from head.runs.history import read_history
from head.runs.run import Run
from head.training.job import TrainingJob
from head.training.jobs import train_all
from tests.helpers.clusters import running_cluster
from tests.helpers.command_line import told
from tests.helpers.event_files import scalars
from tests.helpers.processes import run_forked
from tests.helpers.tiny import SPLITS, TINY_TRAIN

TWO = Workers(jobs=2)
OPTIONS = ["--split", "all", "--name", "paper", "--hidden-size", "7", "--epochs", "3"]
OPTIONS += ["--batch-size", "11", "--lr", "0.01", "--precision", "fp32"]


@pytest.fixture
def here(tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with cache/tiny; every process trains with one thread, as this one does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("featcache.base.jobs.usable_threads", lambda threads: 1)
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
    names = ("config.json", "head.safetensors", "history.csv", "other_ratings.safetensors")
    assert list(files("together")) == [f"tiny/paper/split-{split}/{name}" for split in SPLITS for name in names]
    assert files("together") == files("alone")
    assert together.stdout == alone.stdout.replace("alone/", "together/")
    assert told(together) == "train: 2 of 2 splits\n"


def test_splits_trained_on_a_cluster_are_those_trained_here(here: Path) -> None:
    alone = train_head("--runs", "alone")
    with running_cluster() as cluster:
        away = train_head("--runs", "away", "--cluster", cluster.address)
    assert files("away") == files("alone")
    assert (away.stdout, told(away)) == (alone.stdout.replace("alone/", "away/"), "train: 2 of 2 splits\n")


def test_runs_are_in_the_order_of_splits_and_found_where_they_were_asked_for(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("head.training.jobs.run_jobs", last_first)
    reports: list[Progress] = []
    cache = open_cache(Path("cache/tiny"))
    short = replace(TINY_TRAIN, epochs=1)
    jobs = [TrainingJob(cache, split, short, Path("runs") / split, "paper") for split in ("2", "1")]
    runs = train_all(jobs, TWO, on_progress=reports.append).runs
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
    assert (one.exit_code, told(one)) == (0, "split 2: 3 of 3 epochs" + one.stderr.partition("epochs")[2])


def test_options_that_exclude_each_other_are_refused_before_anything_is_read(here: Path) -> None:
    refused = train_head("--jobs", "2", "--cluster", "tcp://localhost:8786", "--cache", "nowhere", status=2)
    assert "leave one out" in refused.stderr
    assert "--cluster must be like tcp://HOST:8786" in train_head("--cluster", "localhost", status=2).stderr


def test_no_scheduler_is_said_with_what_to_start(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featcache.base.jobs.PATIENCE_SECONDS", 1)
    refused = train_head("--cluster", "tcp://127.0.0.1:9", status=ResourceError.exit_code)
    assert told(refused).startswith("error: tcp://127.0.0.1:9: no Dask scheduler answers")
    assert refused.stderr.endswith("start one there with `dask scheduler`\n")


# grids


GRID = ["--split", "all", "--epochs", "2", "--batch-size", "11", "--lr", "0.01", "--hidden-size", "7", "--name", "grid"]
GRID += ["--attention", "off", "--steps", "1,2", "--precision", "fp32"]


def train_grid(*arguments: str, status: int = 0) -> Result:
    """Train 1 and 2 steps on both splits and check the exit status."""
    result = CliRunner().invoke(main, ["train-head", *GRID, *arguments])
    assert result.exit_code == status, (result.exit_code, result.stdout, result.stderr, result.exception)
    return result


def test_a_grid_trains_every_point_on_every_split_and_says_which(here: Path) -> None:
    done = train_grid()
    places = [f"runs/tiny/grid,steps={steps}/split-{split}" for steps in (1, 2) for split in SPLITS]
    assert [line.partition(": rho ")[0] for line in done.stdout.splitlines()] == places
    assert [line.partition(": 2 of 2 epochs")[0] for line in told(done).splitlines()] == [
        "grid,steps=1 split 1 (1 of 4)",
        "grid,steps=1 split 2 (2 of 4)",
        "grid,steps=2 split 1 (3 of 4)",
        "grid,steps=2 split 2 (4 of 4)",
    ]
    document = json.loads(train_grid("--json").stdout)
    assert [(run["run"], run["name"], run["split"]) for run in document] == [
        (place, place.split("/")[2], place[-1]) for place in places
    ]


def test_an_error_of_one_run_does_not_end_the_others(here: Path) -> None:
    folder = here / "runs/tiny/grid,steps=1/split-2"
    folder.mkdir(parents=True)
    with writer_lock(folder):
        refused = train_grid(status=Locked.exit_code)
    assert [line.partition(": rho ")[0] for line in refused.stdout.splitlines()] == [
        "runs/tiny/grid,steps=1/split-1", "runs/tiny/grid,steps=2/split-1", "runs/tiny/grid,steps=2/split-2",
    ]  # fmt: skip
    assert refused.stderr.splitlines()[-1].startswith("error: runs/tiny/grid,steps=1/split-2: being written by process")
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("head.safetensors")}
    assert len(train_grid().stdout.splitlines()) == 4
    assert before.items() <= {path: path.stat().st_mtime_ns for path in Path("runs").rglob("head.safetensors")}.items()


def test_errors_of_several_runs_are_told_together(here: Path) -> None:
    folders = [here / f"runs/tiny/grid,steps=1/split-{split}" for split in SPLITS]
    for folder in folders:
        folder.mkdir(parents=True)
    with writer_lock(folders[0]), writer_lock(folders[1]):
        lines = train_grid(status=Locked.exit_code).stderr.splitlines()[-4:]
    assert lines[0] == "error: 2 of 4 runs were not trained:"
    assert lines[1].startswith("  runs/tiny/grid,steps=1/split-1: being written by process ")
    assert lines[2].startswith("  runs/tiny/grid,steps=1/split-2: being written by process ")
    assert lines[3] == "Run the same command again for these alone; others are done."


def test_all_that_cannot_be_trained_is_said_before_anything_is(here: Path) -> None:
    unknown = train_grid("--split", "1,7,9", status=2)
    assert "cache/tiny has no split 7, 9; it has 1, 2" in unknown.stderr
    train_grid("--split", "2")
    shutil.rmtree("runs/tiny/grid,steps=1")
    refused = told(train_grid("--lr", "0.5", status=6)).splitlines()
    assert refused[0] == "error: runs/tiny/grid,steps=2/split-2: holds a run of other settings or data:"
    assert refused[1] == "  lr: 0.01 there, 0.5 asked for"
    assert not Path("runs/tiny/grid,steps=1").exists()
    missing = train_grid("--layer", "layer9", status=2)
    assert told(missing).startswith("error: 4 of 4 runs cannot be trained:\n")
    assert "layer9" in missing.stderr
    assert missing.stderr.endswith("Nothing was trained.\n")


@pytest.mark.slow
def test_a_grid_in_processes_is_the_grid_of_one(here: Path) -> None:
    alone = train_grid("--runs", "alone", "--tensorboard", "events")
    together = train_grid("--runs", "together", "--jobs", "2", "--tensorboard", "more-events")
    assert files("together") == files("alone")
    assert together.stdout == alone.stdout.replace("alone/", "together/")
    assert told(together).startswith("train: 4 of 4 runs, grid,steps=")
    for steps, split in ((1, 1), (1, 2), (2, 1), (2, 2)):
        one, other = (
            scalars(Path(home, f"tiny/grid,steps={steps}/split-{split}")) for home in ("events", "more-events")
        )
        assert one["val/rho"] == other["val/rho"]
        assert [step for step, _ in one["val/rho"]] == [1, 2]


# TensorBoard


KILLED = """
import os, signal, sys
import head.training.gradients.checkpoint
from cli import main
from featcache.base.progress import Progress
from tests.helpers.command_line import told

head.training.gradients.checkpoint.CHECKPOINT_SECONDS = -1  # after every epoch

def killed_at_four(progress):
    if progress.done == 4:
        os.kill(os.getpid(), signal.SIGKILL)

import contextlib, commandline.heads
commandline.heads.progress_bar = lambda: contextlib.nullcontext(killed_at_four)
main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_in_tensorboard_without_doing_an_epoch_twice(here: Path) -> None:
    arguments = ["train-head", *OPTIONS, "--epochs", "6", "--split", "1", "--tensorboard", "events"]
    assert run_forked(KILLED, *arguments).returncode == -signal.SIGKILL
    folder = Path("events/tiny/paper/split-1")
    before = scalars(folder)
    assert [step for step, _ in before["val/rho"]] == [1, 2, 3, 4]
    CliRunner().invoke(main, arguments, catch_exceptions=False)
    found = scalars(folder)
    assert found["val/rho"] == [
        (int(epoch["epoch"]), pytest.approx(epoch["val_rho"], rel=1e-6))
        for epoch in read_history(Path("runs/tiny/paper/split-1"))
    ]
    assert [step for step, _ in found["train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert found["speed/images_per_second"][:3] == before["speed/images_per_second"][:3]  # of the checkpoint


def test_a_finished_run_is_written_for_tensorboard_once(here: Path) -> None:
    train_head("--split", "2")
    for _ in range(2):
        train_head("--split", "2", "--tensorboard", "events")
    folder = Path("events/tiny/paper/split-2")
    assert len(list(folder.iterdir())) == 1
    assert [step for step, _ in scalars(folder)["val/rho"]] == [1, 2, 3]


def test_without_tensorboard_its_option_is_refused_before_anything_is_read(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused = train_head("--tensorboard", "events", "--cache", "nowhere", status=2)
    assert told(refused) == "error: --tensorboard needs TensorBoard: pip install 'amnet-featcache[tensorboard]'\n"
