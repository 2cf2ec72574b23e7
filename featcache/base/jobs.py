"""One road for lists of independent jobs: one by one here, in processes here, or on a Dask cluster.

Nothing here knows what a job does.
"""

import contextlib
import importlib.metadata
import logging
import os
import pickle
import re
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, as_completed
from dataclasses import dataclass
from typing import Any, TypeVar

from featcache.base.commands import PACKAGE, command, pip_install
from featcache.base.cores import usable_threads
from featcache.base.errors import InvalidSettings, Mismatch, ResourceError

MOST_DEATHS = 3
PATIENCE_SECONDS = 10
WATCH_SECONDS = 0.5
_ONE_AT_A_TIME = threading.Lock()
_THREAD_COUNTS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS", "NUMEXPR_NUM_THREADS",
)  # fmt: skip
_LOGGERS = ("distributed", "distributed.client", "distributed.core", "distributed.worker", "tornado.application")
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Workers:
    """Where independent jobs run: `jobs` processes here, or the Dask cluster whose scheduler is at `cluster`."""

    jobs: int = 1
    cluster: str = ""

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise InvalidSettings(f"--jobs must be 1 or more, found {self.jobs}")
        if self.jobs > 1 and self.cluster:
            raise InvalidSettings(
                f"--jobs {self.jobs} asks for processes here, --cluster {self.cluster} for others; leave one out"
            )
        address = re.fullmatch(r"(?:tcp|tls)://[^\s/]+:([0-9]{1,5})", self.cluster)
        if self.cluster and not (address and 0 < int(address[1]) < 65536):
            raise InvalidSettings(f"--cluster must be like tcp://HOST:8786 or tls://HOST:8786, found {self.cluster!r}")


def threads_per_job(workers: Workers) -> int:
    """Return how many threads a job should use: this process's cores shared by the jobs; one on a cluster.

    `dask worker` gives its processes one thread for arithmetic, so a cluster should have a process for each core.
    """
    return 1 if workers.cluster else max(1, usable_threads(None) // workers.jobs)


def run_jobs(
    function: Callable[[Item], Result], items: Sequence[Item], workers: Workers
) -> Generator[tuple[int, Result], None, None]:
    """Yield (index of the item, function(item)) as jobs finish, in any order.

    With other processes at work, function (of a module, not of __main__), items and results are pickled, and an item
    whose worker died is given to another, so function may be called again for it. To end early, close the generator
    (`contextlib.closing`): processes here are killed, what runs on a cluster at that moment ends in its own time.
    Raises what function raises; `ResourceError` if workers keep dying, or the cluster has none or does not answer;
    `Mismatch` if it has another version of this package; `InvalidSettings` if Dask is not installed.
    """
    if workers == Workers():
        for index, item in enumerate(items):
            yield index, function(item)
        return
    # pickled here, so that what fails as they are unpickled fails in the job, with its own error
    calls = {index: pickle.dumps((function, item)) for index, item in enumerate(items)}
    yield from _on_cluster(calls, workers.cluster) if workers.cluster else _in_processes(calls, workers)


def _perform(index: int, work: bytes, version: str) -> tuple[int, Any]:
    """Do one job, in a worker. Random state and number of threads belong to the process: one job at a time in each."""
    if version != installed_version():
        raise Mismatch(
            f"{socket.gethostname()}: the worker has {PACKAGE} {installed_version()}, this is {version}; "
            "install the same version for every worker"
        )
    function, item = pickle.loads(work)
    with _ONE_AT_A_TIME:
        return index, function(item)


def installed_version() -> str:
    """Return the version of this package that is installed, in words where none is."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _in_processes(calls: dict[int, bytes], workers: Workers) -> Generator[tuple[int, Any], None, None]:
    from joblib.externals.loky.process_executor import ProcessPoolExecutor, TerminatedWorkerError

    threads = dict.fromkeys(_THREAD_COUNTS, str(threads_per_job(workers)))
    left, deaths = dict(calls), 0
    while left:
        pool = ProcessPoolExecutor(workers.jobs, initializer=end_with, initargs=(os.getpid(),), env=threads)
        try:
            for job in as_completed(
                [pool.submit(_perform, index, work, installed_version()) for index, work in left.items()]
            ):
                index, result = job.result()
                del left[index]
                deaths = 0
                yield index, result
        except TerminatedWorkerError as error:  # of one worker; it ends the others, too
            deaths += 1
            if deaths == MOST_DEATHS:
                raise ResourceError(
                    f"worker processes died {deaths} times in a row, and {len(left)} of {len(calls)} jobs are left; "
                    "memory is the usual reason: run the same command again with fewer --jobs or a smaller --batch-size"
                ) from error
        finally:
            pool.shutdown(kill_workers=True)


def end_with(parent: int) -> None:
    """End this worker process when its parent ends, however that ends; an interrupt at the keyboard is the parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)


def _on_cluster(calls: dict[int, bytes], address: str) -> Generator[tuple[int, Any], None, None]:
    with _connected(address) as client:
        import distributed

        # nothing else holds the jobs, and each is released: what is done is not done again when its worker dies
        submitted = (
            client.submit(_attempt, index, work, installed_version(), pure=False) for index, work in calls.items()
        )
        for job in distributed.as_completed(list(submitted), loop=client.loop):
            try:
                outcome = job.result()
                job.release()
            except (CancelledError, OSError) as error:
                raise ResourceError(
                    f"{address}: the connection to the scheduler was lost; "
                    "see that it runs, and run the same command again"
                ) from error
            except distributed.KilledWorker as error:
                raise ResourceError(
                    f"{address}: workers keep dying of one job; memory is the usual reason: see the log of "
                    f"{error.last_worker.address}, give workers more memory, or use a smaller --batch-size"
                ) from error
            except Exception as error:  # of any kind: the job did not run, for it would return its own error
                raise Mismatch(
                    f"{address}: a worker cannot run jobs of {PACKAGE} {installed_version()} "
                    f"({' '.join(str(error).split())}); install the same version, with the same dask, for every worker"
                ) from error
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome


def _attempt(*call: Any) -> tuple[int, Any] | Exception:
    """Do one job of a cluster; its error is returned, so that what Dask raises is of a job that could not run."""
    try:
        return _perform(*call)
    except Exception as error:  # noqa: BLE001  # raised where the result is wanted
        error.add_note(traceback.format_exc())  # the place in the worker, which pickling loses
        return error


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Give a client of a scheduler that has a worker."""
    try:
        from distributed import Client, Security
    except ModuleNotFoundError as error:
        raise InvalidSettings(f"--cluster needs Dask: {pip_install('cluster')}") from error
    if address.startswith("tls:") and Security().get_connection_args("client")["ssl_context"] is None:
        raise InvalidSettings(
            f"{address}: no certificates for TLS; name them in Dask's configuration, distributed.comm.tls"
        )
    with contextlib.ExitStack() as stack:
        for logger in map(logging.getLogger, _LOGGERS):  # kept off the terminal meanwhile: what matters is raised
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL + 1)
        try:
            client = Client(address, timeout=PATIENCE_SECONDS, set_as_default=False)
        except OSError as error:
            raise ResourceError(
                f"{address}: no Dask scheduler answers ({error}); start one there with `dask scheduler`"
            ) from error
        with client:
            try:
                client.wait_for_workers(1, timeout=PATIENCE_SECONDS)
            except TimeoutError as error:
                hint = command("dask", "worker", address, "--nworkers", "CORES", "--nthreads", "1")
                raise ResourceError(f"{address}: the scheduler has no workers; start some with `{hint}`") from error
            yield client
