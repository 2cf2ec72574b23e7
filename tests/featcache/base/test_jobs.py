"""Jobs one by one, in processes and on a cluster: the same results, whatever dies, and nothing left behind."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from featcache.base import jobs
from featcache.base.cores import usable_threads
from featcache.base.errors import BadImage, InvalidSettings, Mismatch, ResourceError
from featcache.base.jobs import Workers, run_jobs, threads_per_job
from tests.helpers.clusters import ROOT, RunningCluster, running_cluster

HERE, TWO = Workers(), Workers(jobs=2)
SQUARES = [(number, number**2) for number in range(7)]


def square(number: int) -> int:
    return number**2


def process_of(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def refuse(number: int) -> int:
    if number == 3:
        raise BadImage("truncated", "12 bytes missing")
    return number


def arithmetic_threads(number: int) -> list[str]:
    return [os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")]


def die_once(mark: Path) -> int:
    """Kill the process, unless that was done before."""
    with contextlib.suppress(FileExistsError):
        mark.mkdir()
        die(0)
    time.sleep(0.1)
    return 1


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def alone(mark: Path) -> bool:
    """Return whether no other job of this process was at work meanwhile."""
    path = mark / str(os.getpid())
    try:
        path.mkdir()
    except FileExistsError:
        return False
    time.sleep(0.05)
    path.rmdir()
    return True


def sleep_in_company(folder: Path) -> None:
    """Leave word of this process, and sleep for long."""
    (folder / str(os.getpid())).touch()
    time.sleep(600)


def waited_for(condition: object, seconds: float = 20) -> bool:
    """Return whether condition() became true in time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.05)
    return bool(condition())  # type: ignore[operator]


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


# what is asked for


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, "--jobs must be 1 or more, found 0"),
        ({"jobs": -1}, "--jobs must be 1 or more, found -1"),
        ({"jobs": 2, "cluster": "tcp://h:1"}, "--jobs 2 asks for processes here, --cluster tcp://h:1 for others"),
        *(
            ({"cluster": address}, f"--cluster must be like tcp://HOST:8786 or tls://HOST:8786, found '{address}'")
            for address in ("host:8786", "tcp://host", "http://host:8786", "tcp://:8786", "tcp://h:0", "tcp://h:65536")
        ),
    ],
)
def test_workers_that_cannot_be_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidSettings, match=re.escape(message)):
        Workers(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["tcp://10.0.0.7:8786", "tls://scheduler.example:443", "tcp://[::1]:65535"])
def test_addresses_of_schedulers(address: str) -> None:
    assert Workers(cluster=address).cluster == address


def test_cores_are_shared_by_the_jobs() -> None:
    cores = usable_threads(None)
    assert threads_per_job(HERE) == cores
    assert threads_per_job(TWO) == max(1, cores // 2)
    assert threads_per_job(Workers(jobs=1000)) == 1
    assert threads_per_job(Workers(cluster="tcp://h:1")) == 1


# here


def test_a_single_job_at_a_time_runs_in_this_process_and_only_when_its_result_is_asked_for() -> None:
    done: list[int] = []
    results = run_jobs(done.append, [5, 6], HERE)
    assert next(results) == (0, None)
    assert done == [5]
    assert list(run_jobs(process_of, [0.0], HERE)) == [(0, os.getpid())]


# in processes


def test_processes_give_the_same_results_as_none() -> None:
    assert sorted(run_jobs(square, range(7), TWO)) == list(run_jobs(square, range(7), HERE)) == SQUARES
    assert list(run_jobs(square, [], TWO)) == list(run_jobs(square, [], HERE)) == []


def test_jobs_run_in_as_many_processes_as_were_asked_for_and_their_results_come_as_they_end() -> None:
    results = list(run_jobs(process_of, [1.0, 0.0, 0.0], TWO))
    assert [index for index, _ in results] == [1, 2, 0]
    pids = {pid for _, pid in results} - {os.getpid()}
    assert len(pids) == 2
    assert waited_for(lambda: not any(map(is_alive, pids)))  # none is left when all are done


def test_libraries_in_a_worker_use_the_threads_of_a_job() -> None:
    share = str(threads_per_job(TWO))
    assert list(run_jobs(arithmetic_threads, [0], TWO)) == [(0, [share] * 3)]


def test_what_cannot_be_sent_to_a_process_is_refused_before_one_starts() -> None:
    with pytest.raises(AttributeError, match="local object"):
        list(run_jobs(lambda number: number, [1], TWO))


def test_an_error_arrives_as_it_was_raised() -> None:
    with pytest.raises(BadImage) as caught:
        list(run_jobs(refuse, range(7), TWO))
    assert (type(caught.value), str(caught.value)) == (BadImage, "truncated: 12 bytes missing")


def test_jobs_of_a_worker_that_is_killed_are_done_by_another(tmp_path: Path) -> None:
    marks = [tmp_path / "mark"] * 6
    assert sorted(run_jobs(die_once, marks, TWO)) == [(index, 1) for index in range(6)]


def test_workers_that_always_die_end_the_run_with_what_is_left_and_what_to_do() -> None:
    with pytest.raises(
        ResourceError, match=r"died 3 times in a row, and 2 of 2 jobs are left.*fewer --jobs or a smaller --batch-size"
    ):
        list(run_jobs(die, range(2), TWO))


@pytest.mark.slow
def test_no_process_is_left_when_the_results_are_no_longer_wanted(tmp_path: Path) -> None:
    left: list[int] = []
    with contextlib.closing(run_jobs(process_of, [0.0, 0.0, 600.0, 600.0], TWO)) as results:
        left = [pid for _, pid in (next(results), next(results))]
        assert any(map(is_alive, left))
    assert waited_for(lambda: not any(map(is_alive, left)))


PARENT = """
import signal, sys
from pathlib import Path
from featcache.base.jobs import Workers, run_jobs
from tests.featcache.base.test_jobs import sleep_in_company

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
list(run_jobs(sleep_in_company, [Path(sys.argv[1])] * 3, Workers(jobs=2)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent_however_it_ends(tmp_path: Path, number: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], env=environment, stderr=subprocess.PIPE, start_new_session=True
    )
    assert waited_for(lambda: len(list(tmp_path.iterdir())) == 2)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    if number == signal.SIGINT:  # as a terminal does: the whole group gets it
        os.killpg(parent.pid, number)
    else:
        parent.send_signal(number)
    _, messages = parent.communicate(timeout=20)
    assert waited_for(lambda: not any(map(is_alive, workers)))
    assert messages.count(b"Traceback") == (number == signal.SIGINT)  # the parent's own


# on a cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    """A scheduler and two workers, for tests that kill none of them."""
    with running_cluster() as running:
        yield running


def test_a_cluster_gives_the_same_results_and_prints_nothing(
    cluster: RunningCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sorted(run_jobs(square, range(7), Workers(cluster=cluster.address))) == SQUARES
    assert capfd.readouterr() == ("", "")


def test_results_come_from_the_workers_as_jobs_end(cluster: RunningCluster) -> None:
    results = list(run_jobs(process_of, [1.0, 0.0, 0.0], Workers(cluster=cluster.address)))
    assert results[-1][0] == 0
    assert {pid for _, pid in results} <= set(cluster.worker_pids)


def test_an_error_arrives_from_a_cluster_as_it_was_raised(
    cluster: RunningCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadImage) as caught:
        list(run_jobs(refuse, range(7), Workers(cluster=cluster.address)))
    assert (type(caught.value), str(caught.value)) == (BadImage, "truncated: 12 bytes missing")
    assert capfd.readouterr() == ("", "")


def test_a_cluster_can_be_left_early_and_used_again(cluster: RunningCluster) -> None:
    workers = Workers(cluster=cluster.address)
    with contextlib.closing(run_jobs(process_of, [0.1] * 40, workers)) as results:
        next(results)
    assert sorted(run_jobs(square, range(7), workers)) == SQUARES


def test_workers_of_another_version_are_refused(cluster: RunningCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "installed_version", lambda: "9.9")
    with pytest.raises(Mismatch, match=r"the worker has amnet-featcache .*, this is 9\.9; install the same version"):
        list(run_jobs(square, range(2), Workers(cluster=cluster.address)))


@pytest.mark.slow
def test_a_worker_with_several_threads_does_one_job_at_a_time(tmp_path: Path) -> None:
    with running_cluster(1, threads=3) as cluster:
        results = sorted(run_jobs(alone, [tmp_path] * 6, Workers(cluster=cluster.address)))
    assert results == [(index, True) for index in range(6)]


def test_jobs_of_a_killed_worker_are_done_by_another_and_then_the_scheduler_is_killed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with running_cluster() as cluster:
        workers, results = Workers(cluster=cluster.address), []
        for index, pid in run_jobs(process_of, [0.3] * 8, workers):
            results.append((index, pid))
            if len(results) == 2:
                os.kill(cluster.worker_pids[0], signal.SIGKILL)
        assert sorted(index for index, _ in results) == list(range(8))
        assert {pid for _, pid in results[4:]} == {cluster.worker_pids[1]}  # a single core: not in this process
        with pytest.raises(ResourceError, match=r"the connection to the scheduler was lost; .* run the same command"):
            for _ in run_jobs(process_of, [0.1, 600.0], workers):
                os.kill(cluster.scheduler_pid, signal.SIGKILL)
    assert capfd.readouterr() == ("", "")


def test_a_job_that_kills_its_workers_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    with (
        running_cluster(1) as cluster,
        pytest.raises(ResourceError, match=r"keep dying of one job; .*log of tcp://127.*smaller --batch-size"),
    ):
        list(run_jobs(die, [0], Workers(cluster=cluster.address)))


@pytest.mark.slow
def test_workers_without_this_package_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['featcache'] = None")
    with (
        running_cluster(1, path=str(tmp_path)) as cluster,
        pytest.raises(Mismatch, match=r"a worker cannot run jobs of amnet-featcache .*install the same version"),
    ):
        list(run_jobs(square, range(2), Workers(cluster=cluster.address)))


@pytest.mark.slow
def test_a_scheduler_without_workers_and_an_address_without_a_scheduler_are_refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jobs, "PATIENCE_SECONDS", 1)
    with running_cluster(0) as cluster:
        workers = Workers(cluster=cluster.address)
        with pytest.raises(ResourceError, match=f"has no workers; start some with `dask worker {cluster.address}"):
            list(run_jobs(square, range(2), workers))
    with pytest.raises(ResourceError, match=r"no Dask scheduler answers .*; start one there with `dask scheduler`"):
        list(run_jobs(square, range(2), workers))
    assert capfd.readouterr() == ("", "")


def test_a_scheduler_behind_tls_needs_certificates() -> None:
    with pytest.raises(InvalidSettings, match=r"name them in Dask's configuration, distributed\.comm\.tls"):
        list(run_jobs(square, range(2), Workers(cluster="tls://127.0.0.1:8786")))


def test_without_dask_a_cluster_is_refused_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InvalidSettings, match=r"pip install 'amnet-featcache\[cluster\]'"):
        list(run_jobs(square, range(2), Workers(cluster="tcp://127.0.0.1:8786")))
