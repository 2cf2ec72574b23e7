"""Shards made by workers, in processes and on a cluster: the bytes of one process, whoever dies on the way."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import featcache.extraction.plan
from cli import main
from featcache.backbones.backbone import Backbone, load_backbone
from featcache.base.errors import BadInput, CacheIncomplete, Mismatch, StorageError
from featcache.base.jobs import Workers
from featcache.base.progress import Progress
from featcache.datasets.dataset import open_dataset
from featcache.extraction.calibration import settle_target
from featcache.extraction.extract import extract
from featcache.extraction.log import ExtractReport
from featcache.extraction.plan import make_plan
from featcache.extraction.run import ExtractionJob, ShardJob, WrittenShard, _run_shard, run_here
from featcache.maintenance.merge import merge_caches
from featcache.settings import ExtractSettings
from featcache.store.cache import open_cache
from featcache.store.folder import TIMINGS_NAME as TIMINGS
from tests.helpers.clusters import RunningCluster, running_cluster
from tests.helpers.tiny import QUICK_EXTRACT

TWO = Workers(jobs=2)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(featcache.extraction.plan, "ROWS_PER_SHARD", 3)


@pytest.fixture(scope="module")
def alone(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes, with shards of 3 rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(featcache.extraction.plan, "ROWS_PER_SHARD", 3)
        out = tmp_path_factory.mktemp("alone") / "cache"
        extract(open_dataset(str(tiny_dataset)), QUICK_EXTRACT, out)
    return out


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    with running_cluster(workers=2) as running:
        yield running


def run(dataset: Path, out: Path, workers: Workers, settings: ExtractSettings = QUICK_EXTRACT) -> ExtractReport:
    return extract(open_dataset(str(dataset)), settings, out, workers=workers)


def sealed(folder: Path) -> dict[str, bytes]:
    """Return every file of a cache but the lock and the timings, whose content is another every time."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("lock", TIMINGS)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def hosts_and_processes(folder: Path) -> set[str]:
    return {line.split(",")[3] for line in (folder / TIMINGS).read_text().splitlines()[1:]}


def test_two_dask_workers_make_the_cache_of_one_process_byte_by_byte(
    tiny_dataset: Path, alone: Path, tmp_path: Path, cluster: RunningCluster
) -> None:
    run(tiny_dataset, tmp_path / "cache", Workers(cluster=cluster.address))
    assert sealed(tmp_path / "cache") == sealed(alone)
    assert hosts_and_processes(tmp_path / "cache") == {str(pid) for pid in cluster.worker_pids}


def test_a_dask_worker_killed_in_the_middle_changes_nothing(tiny_dataset: Path, alone: Path, tmp_path: Path) -> None:
    with running_cluster(workers=2) as cluster:
        left = [cluster.worker_pids[0]]

        def kill_once(progress: Progress) -> None:
            if progress.stage == "extract" and progress.done < progress.total and left:
                os.kill(left.pop(), signal.SIGKILL)

        out, workers = tmp_path / "cache", Workers(cluster=cluster.address)
        extract(open_dataset(str(tiny_dataset)), QUICK_EXTRACT, out, workers=workers, on_progress=kill_once)
    assert left == []
    assert sealed(out) == sealed(alone)
    assert str(cluster.worker_pids[1]) in hosts_and_processes(out)


@pytest.mark.slow
def test_a_process_killed_in_the_middle_changes_nothing(tiny_dataset: Path, alone: Path, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill_once(progress: Progress) -> None:
        if progress.stage == "extract" and not killed:
            killed.extend(int(process) for process in hosts_and_processes(tmp_path / "cache"))
            os.kill(killed[0], signal.SIGKILL)

    extract(open_dataset(str(tiny_dataset)), QUICK_EXTRACT, tmp_path / "cache", workers=TWO, on_progress=kill_once)
    assert killed
    assert sealed(tmp_path / "cache") == sealed(alone)
    assert str(os.getpid()) not in hosts_and_processes(tmp_path / "cache")


def test_workers_go_on_where_one_process_was_stopped(
    tiny_dataset: Path, alone: Path, tmp_path: Path, cluster: RunningCluster
) -> None:
    out = tmp_path / "cache"
    (out / "shards").mkdir(parents=True)
    for path in sorted((alone / "shards").iterdir())[::2]:
        shutil.copy(path, out / "shards")
    assert run(tiny_dataset, out, Workers(cluster=cluster.address)).views_computed == 60  # 7 shards, the last is short
    assert sealed(out) == sealed(alone)


def test_bad_images_are_left_out_by_workers_as_by_one_process(
    tiny_dataset: Path, tmp_path: Path, cluster: RunningCluster
) -> None:
    own, away = Path(shutil.copytree(tiny_dataset, tmp_path / "own")), Workers(cluster=cluster.address)
    (own / "images" / "05.jpg").write_bytes(b"no image")
    reports = [run(own, tmp_path / name, workers) for name, workers in (("one", Workers()), ("two", away))]
    assert reports[0].absent == reports[1].absent
    assert [name for name, _ in reports[1].absent] == ["05.jpg"]
    assert sealed(tmp_path / "one") == sealed(tmp_path / "two")
    with pytest.raises(BadInput, match=r"05\.jpg: unidentified.*; mend it, or use --on-bad-image skip"):
        run(own, tmp_path / "three", away, replace(QUICK_EXTRACT, on_bad_image="stop"))


def test_notes_of_images_come_from_workers_as_from_one_process(
    tiny_dataset: Path, tmp_path: Path, cluster: RunningCluster
) -> None:
    own = Path(shutil.copytree(tiny_dataset, tmp_path / "own"))
    Image.new("RGB", (5, 7)).save(own / "images" / "05.jpg")
    Image.fromarray(np.full((40, 40), 4095, np.uint16)).save(own / "images" / "30.jpg", "PNG")
    reports = [
        run(own, tmp_path / f"{k}", workers) for k, workers in enumerate((Workers(), Workers(cluster=cluster.address)))
    ]
    few = "few-bits: no value above 4,095 of 65,535, as in 12-bit data; read as 16-bit data"
    assert [report.notes for report in reports] == [[("05.jpg", "small: 5 x 7 pixels"), ("30.jpg", few)]] * 2
    assert sealed(tmp_path / "0") == sealed(tmp_path / "1")
    assert run(own, tmp_path / "0", Workers()).notes == []  # nothing was read


def test_uint8_by_workers_is_uint8_by_one_process(tiny_dataset: Path, tmp_path: Path, cluster: RunningCluster) -> None:
    settings = replace(QUICK_EXTRACT, encoding="uint8")
    for name, workers in (("one", Workers()), ("two", Workers(cluster=cluster.address))):
        run(tiny_dataset, tmp_path / name, workers, settings)
    assert sealed(tmp_path / "one") == sealed(tmp_path / "two")


def task_for(dataset: Path, out: Path, number: int = 0, **changes: object) -> ShardJob:
    """Return the task of one shard of the tiny dataset."""
    settings = replace(QUICK_EXTRACT, precision="fp32", runtime="torch", device="cpu")
    backbone = load_backbone(settings)
    found = open_dataset(str(dataset))
    target = settle_target(backbone, settings, [], found)
    target = replace(target, recipe=replace(target.recipe, **changes))
    plan = make_plan([], found.names, found.root / "images", views=3, recipe=target.recipe)
    job = ExtractionJob(found.root / "images", out, settings, target, room_for=0)
    block = plan.todo[number]
    return ShardJob(job, block, tuple(plan.names[slice(*block.rows)]), 1)


def test_a_task_done_twice_finds_the_shard_of_the_first_time(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_for(tiny_dataset, tmp_path / "cache")
    first = _run_shard(task)
    monkeypatch.setattr(Backbone, "maps", None)  # nothing may be computed
    second = _run_shard(task)
    assert (second.file, second.sha256, second.bytes) == (first.file, first.sha256, first.bytes)


def test_a_task_done_twice_has_the_notes_of_the_first_time(tiny_dataset: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(tiny_dataset, tmp_path / "own"))
    Image.new("RGB", (5, 7)).save(own / "images" / "00.jpg")
    task = task_for(own, tmp_path / "cache")
    notes = [_run_shard(task).notes for _ in range(2)]
    assert notes == [(("00.jpg", "small: 5 x 7 pixels"),)] * 2


def test_a_damaged_shard_is_not_taken_for_the_task_s(tiny_dataset: Path, tmp_path: Path) -> None:
    task = task_for(tiny_dataset, tmp_path / "cache")
    path = tmp_path / "cache" / "shards" / _run_shard(task).file
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000] + bytes(1000))
    _run_shard(task)
    assert path.read_bytes() == whole


def test_a_worker_without_the_images_says_where_it_looked(tiny_dataset: Path, tmp_path: Path) -> None:
    task = task_for(tiny_dataset, tmp_path / "cache")
    elsewhere = replace(task, job=replace(task.job, images=tmp_path / "nowhere"))
    with pytest.raises(StorageError, match=r"nowhere: not there on .*; workers need the images at this path"):
        _run_shard(elsewhere)


def test_a_worker_with_other_weights_refuses(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(Mismatch, match=r"(?s)the worker on .*weights: .*Give every worker the same weights file"):
        _run_shard(task_for(tiny_dataset, tmp_path / "cache", weights="0" * 64))


@pytest.mark.slow
def test_workers_without_a_shared_folder_keep_their_own_and_merge_caches_joins_them(
    tiny_dataset: Path, alone: Path, tmp_path: Path
) -> None:
    for number in range(14):
        _run_shard(task_for(tiny_dataset, tmp_path / f"worker-{number % 2}", number))
    merge_caches(tmp_path / "joined", [tmp_path / "worker-0", tmp_path / "worker-1"])
    report = run(tiny_dataset, tmp_path / "joined", Workers())
    assert report.views_computed == 0
    shards = {path.name: path.read_bytes() for path in (alone / "shards").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "joined" / "shards").iterdir()} == shards


def test_shards_that_only_their_workers_see_are_told_with_the_way_out(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(work: object, job: ExtractionJob, backbone: Backbone, workers: Workers) -> Iterator[WrittenShard]:
        yield from run_here(work, replace(job, out=tmp_path / "theirs"), backbone, lambda image, views: None)

    (tmp_path / "theirs" / "shards").mkdir(parents=True)
    monkeypatch.setattr("featcache.extraction.extract.run_on_workers", elsewhere)
    monkeypatch.setattr("featcache.extraction.extract.SEEN_WITHIN_SECONDS", 0.1)
    with pytest.raises(CacheIncomplete, match=r"(?s)workers made 14 shards .*join them with merge-caches"):
        run(tiny_dataset, tmp_path / "cache", TWO)


@pytest.mark.slow
def test_the_command_line_takes_jobs_and_a_cluster(tiny_dataset: Path, tmp_path: Path, cluster: RunningCluster) -> None:
    common = ["extract", "--dataset", str(tiny_dataset), "--backbone", "timm:test_resnet", "--weights", "random"]
    for name, where in (("jobs", ["--jobs", "2"]), ("cluster", ["--cluster", cluster.address])):
        out = ["--out", str(tmp_path / name), "--image-size", "64", "--json"]
        result = CliRunner().invoke(main, [*common, *out, *where])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["views_computed"] == 41
    assert sealed(tmp_path / "jobs") == sealed(tmp_path / "cluster")


def test_workers_mend_an_absent_image_as_one_process_does(
    tiny_dataset: Path, tmp_path: Path, cluster: RunningCluster
) -> None:
    own, out, away = (
        Path(shutil.copytree(tiny_dataset, tmp_path / "own")),
        tmp_path / "cache",
        Workers(cluster=cluster.address),
    )
    sound = (own / "images" / "05.jpg").read_bytes()
    (own / "images" / "05.jpg").write_bytes(sound[:99])
    assert [name for name, _ in run(own, out, away).absent] == ["05.jpg"]
    (own / "images" / "05.jpg").write_bytes(sound)
    report = run(own, out, away)
    assert (report.absent, report.views_computed) == ([], 9)
    assert open_cache(out).present.all()


def test_a_shard_of_images_that_were_changed_since_is_not_taken_for_the_task_s(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(tiny_dataset, tmp_path / "own"))
    task = task_for(own, tmp_path / "cache")
    first = _run_shard(task)
    name = task.names[0]
    shutil.copy(own / "images" / "40.jpg", own / "images" / name)
    assert _run_shard(task).sha256 != first.sha256


def test_workers_find_a_dataset_that_was_named_by_a_relative_path(
    tiny_dataset: Path, alone: Path, tmp_path: Path, cluster: RunningCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_dataset.parent)  # where no worker stands
    run(Path(tiny_dataset.name), tmp_path / "cache", Workers(cluster=cluster.address))
    shards = {path.name for path in (alone / "shards").iterdir()}
    assert {path.name for path in (tmp_path / "cache" / "shards").iterdir()} == shards
