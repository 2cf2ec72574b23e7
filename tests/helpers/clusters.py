"""A real Dask scheduler and real workers on loopback, each a process of its own."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.helpers.processes import Forked
from tests.helpers.tiny import ROOT

_START_SECONDS = 60
_IN_A_FORK = """
import sys, runpy, dask
dask.config.refresh()  # its environment was read before there was this one
log = open(sys.argv[3], "a", buffering=1)
sys.stdout = sys.stderr = log
sys.path.insert(0, sys.argv[2])
module = f"distributed.cli.{sys.argv[1]}"
sys.argv = [module, *sys.argv[4:]]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class RunningCluster:
    """The scheduler's address, and the process id of the scheduler and of each worker."""

    address: str
    scheduler_pid: int
    worker_pids: tuple[int, ...]


@contextlib.contextmanager
def running_cluster(workers: int = 2, *, threads: int = 1, path: str = "") -> Iterator[RunningCluster]:
    """Run a scheduler and workers of so many threads; end them all afterwards.

    With a path, they are new interpreters that import modules from there; otherwise they have what is imported
    here. A worker is one process: nobody starts another in the place of one that is killed.
    """
    with TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        scheduler_file = Path(folder) / "scheduler.json"
        scheduler = stack.enter_context(
            _process(
                folder,
                path,
                "dask_scheduler",
                "--host",
                "127.0.0.1",
                "--port",
                "0",
                "--scheduler-file",
                str(scheduler_file),
            )
        )
        address = _address(scheduler_file, scheduler)
        arguments = ("dask_worker", address, "--nthreads", str(threads), "--no-nanny", "--local-directory", folder)
        started = [stack.enter_context(_process(folder, path, *arguments)) for _ in range(workers)]
        if workers:
            _wait_for_workers(address, workers)
        yield RunningCluster(address, scheduler.pid, tuple(worker.pid for worker in started))


@contextlib.contextmanager
def _process(folder: str, path: str, module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes] | Forked]:
    process: subprocess.Popen[bytes] | Forked
    if path:
        command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments, "--no-dashboard"]
        with (Path(folder) / "log").open("ab") as log:
            environment = {**os.environ, "PYTHONPATH": path}
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    else:
        given = (module, str(ROOT / "tests"), str(Path(folder) / "log"), *arguments, "--no-dashboard")
        process = Forked(_IN_A_FORK, *given, folder=folder)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if isinstance(process, Forked):
            process.close()


def _address(scheduler_file: Path, scheduler: subprocess.Popen[bytes] | Forked) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and scheduler.poll() is None:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):  # not there, or written in part
            return str(json.loads(scheduler_file.read_text())["address"])
        time.sleep(0.05)
    raise RuntimeError(f"the scheduler did not start: {(scheduler_file.parent / 'log').read_text()}")


def _wait_for_workers(address: str, workers: int) -> None:
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(workers, timeout=_START_SECONDS)
