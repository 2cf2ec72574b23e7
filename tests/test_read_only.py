"""A cache and runs on a disk that can only be read: what reads works, what writes says which folder takes nothing."""

import json
import shutil
from pathlib import Path

import pytest

from tests.helpers.command_line import amnet, told
from tests.helpers.read_only import mount_read_only

READ_ONLY = "Read-only file system"
EXTRACT = ("extract", "--backbone", "resnet18", "--weights", "random", "--image-size", "64")


@pytest.fixture
def mounted(tiny_cache: Path, tiny_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a cache and its runs that can only be read, in which a command is started elsewhere."""
    disk = tmp_path / "disk"
    shutil.copytree(tiny_cache, disk / "cache" / "tiny")
    shutil.copytree(tiny_runs, disk / "runs")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    mount_read_only(monkeypatch, disk)
    return disk


def test_commands_that_read_work_from_a_read_only_disk(mounted: Path, tiny_dataset: Path) -> None:
    cache, run = mounted / "cache/tiny", mounted / "runs/tiny/paper/split-1"
    assert "complete" in amnet("cache-info", "--cache", cache).stdout
    amnet("verify-cache", "--cache", cache)
    assert json.loads(amnet("predict", "--head", run, tiny_dataset / "images/00.jpg", "--json").stdout)[0]["score"]


def test_score_cache_prints_its_table_and_says_once_that_scores_are_not_kept(mounted: Path) -> None:
    done = amnet("score-cache", "--cache", mounted / "cache/tiny", "--runs", mounted / "runs", status=8)
    assert "mean over splits" in " ".join(done.stdout.split())
    (said,) = [line for line in told(done).strip().splitlines() if not line.startswith("warning: ")]
    assert said.startswith("error: the scores of ")
    assert "scores.json: cannot write" in said
    assert READ_ONLY in said
    assert "split-1 is on a read-only disk" in said


def test_a_report_of_a_read_only_disk_is_written_elsewhere(mounted: Path) -> None:
    done = amnet("report", "--cache", mounted / "cache/tiny", "--runs", mounted / "runs", "--out", "r.html", status=8)
    assert Path("r.html").stat().st_size > 10_000
    assert done.stderr.count(READ_ONLY) == 1


def test_commands_that_write_name_the_folder_that_can_only_be_read(mounted: Path, tiny_dataset: Path) -> None:
    cache = mounted / "cache/tiny"
    for arguments in (
        (*EXTRACT, "--dataset", tiny_dataset, "--augs", "3", "--out", cache),
        (*EXTRACT, "--dataset", tiny_dataset, "--out", mounted / "cache/new"),
        ("train-head", "--cache", cache, "--runs", mounted / "runs", "--name", "new", "--epochs", "1", "--split", "1"),
        ("merge-caches", mounted / "cache/merged", cache),
        ("figures", "--cache", cache, "--runs", mounted / "runs", "--out", mounted / "figures"),
    ):
        said = amnet(*arguments, status=8).stderr.strip().splitlines()[-1]
        assert READ_ONLY in said
        assert str(mounted) in said
        assert "is on a read-only disk: name a folder on another, or mount it for writing" in said
