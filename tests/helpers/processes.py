"""Python in processes of their own that need not import torch first: forks of one that did, and does nothing else.

Each is a real process with its own signals, pipes and exit status; importing the libraries takes a new interpreter
longer than most of what tests do in one. What is tested of importing, or of the interpreter's start and end, starts
one by `subprocess`.
"""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]
COMMAND_LINE = "from cli import main; main()"
_LOADED = ["torch", "torchvision", "scipy.stats", "h5py", "hdf5plugin", "numba", "distributed", "uvicorn"]
_LOADED += ["featcache.extraction.extract", "head.training.train", "head.evaluation.evaluate", "cli"]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(_LOADED)


class Forked:
    """A process that runs code with arguments, in this folder and environment, as `subprocess.Popen` would show it.

    It computes with one thread, and takes SIGINT as a program in the foreground does.
    """

    def __init__(self, code: str, *arguments: object, env: Mapping[str, str] = os.environ, folder: str = ".") -> None:
        with _one_thread():
            ensure_running()
        out, err = _CONTEXT.Pipe(duplex=False), _CONTEXT.Pipe(duplex=False)
        given = (
            code,
            [str(argument) for argument in arguments],
            dict(env),
            str(Path(folder).absolute()),
            out[1],
            err[1],
        )
        self._process = _CONTEXT.Process(target=_run, args=given)
        self._process.start()
        for _, written in (out, err):
            written.close()
        self.stdout, self.stderr = (os.fdopen(os.dup(read.fileno()), encoding="utf-8") for read, _ in (out, err))
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status, or minus the number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("forked", timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return what is left to read of stdout and stderr, once it has ended."""
        with ThreadPoolExecutor(2) as readers:
            texts = [readers.submit(stream.read) for stream in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()  # so that the readers end
                raise
        self.close()
        return texts[0].result(), texts[1].result()

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        self.stdout.close()
        self.stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self.kill()
        self.wait()
        self.close()


def run_forked(
    code: str, *arguments: object, env: Mapping[str, str] = os.environ, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run code with arguments in a process like those above, and return how it ended."""
    process = Forked(code, *arguments, env=env)
    out, err = process.communicate(timeout)
    assert process.returncode is not None
    return subprocess.CompletedProcess([code, *map(str, arguments)], process.returncode, out, err)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let the process that is forked find what its libraries read of the environment while they are imported."""
    before, here = dict(os.environ), Path.cwd()
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    os.chdir(ROOT)
    try:
        yield
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(before)


def _run(code: str, arguments: list[str], env: dict[str, str], folder: str, out: Connection, err: Connection) -> None:
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    out.close()
    err.close()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None  # read from the environment again
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["-c", *arguments]
    exec(compile(code, "forked", "exec"), {"__name__": "__main__"})
