"""Work in forked children of a warm process, so that what dies or hangs there is a result here."""

import contextlib
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")

HANGS_AFTER = 60.0  # seconds without a result


class Died:
    """What a child ended by instead of giving a result."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


def fork(work: Callable[[], int], *, stdout: Path | None = None, stderr: Path | None = None) -> int:
    """Start work in a child whose exit status it returns; return the process id. Output goes to files or nowhere."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = 1  # as for a program that an exception ends
    try:
        _send_output(stdout, stderr)
        status = work()
    except BaseException:  # noqa: BLE001  # the child must end here, whatever happened, and say so
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _send_output(stdout: Path | None, stderr: Path | None) -> None:
    for number, path in ((1, stdout), (2, stderr)):
        descriptor = os.open(path or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(descriptor, number)
        os.close(descriptor)


def undisturbed(work: Callable[[], int]) -> None:
    """Do work in a child; raise `RuntimeError` unless it returns 0: without that there is nothing to compare with."""
    status = wait(fork(work))
    if status != 0:
        raise RuntimeError(f"the undisturbed command ended with {status}")


def wait(child: int, seconds: float = HANGS_AFTER) -> int | Died:
    """Return a child's exit status, negative for a signal as in subprocess; kill it when it hangs."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return Died(f"no end after {seconds:.0f} seconds")


def start(work: Callable[[], Any]) -> Callable[[float], Any]:
    """Begin work in a child; the function returned waits so many seconds for what it returns, or gives `Died`."""
    receiver, child = _start(lambda _: work(), [None])

    def result(seconds: float) -> Any:
        found = _receive(receiver, child, seconds)
        receiver.close()
        if not isinstance(found, Died):
            os.waitpid(child, 0)
        return found

    return result


def in_child(work: Callable[[], Any], seconds: float = HANGS_AFTER) -> Any:
    """Return what work returns in a child, or `Died`."""
    return start(work)(seconds)


def map_in_children(
    check: Callable[[Item], Any], items: Sequence[Item], seconds: float = HANGS_AFTER
) -> Iterator[tuple[Item, Any]]:
    """Yield each item with what check returns for it in a child, or with `Died`; then a new child goes on behind it."""
    position = 0
    while position < len(items):
        receiver, child = _start(check, items[position:])
        ended: Died | None = None
        while position < len(items) and ended is None:
            result = ended = _receive(receiver, child, seconds)
            if not isinstance(ended, Died):
                ended = None
            yield items[position], result
            position += 1
        receiver.close()
        if ended is None:
            os.waitpid(child, 0)


def limit_memory(more: int) -> None:
    """Let this process's address space grow by no more than so many bytes, once and for all."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def _start(check: Callable[[Item], Any], items: Sequence[Item]) -> tuple[Connection, int]:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        receiver.close()
        _serve(sender, check, items)
    sender.close()
    return receiver, child


def _serve(sender: Connection, check: Callable[[Item], Any], items: Sequence[Item]) -> None:
    """Answer every item, then end this process."""
    try:
        _send_output(None, None)
        for item in items:
            sender.send_bytes(pickle.dumps(check(item)))
        os._exit(0)
    except BaseException:  # noqa: BLE001  # the child must end here, whatever happened, and say so
        with contextlib.suppress(OSError):
            sender.send_bytes(pickle.dumps(Died(f"the harness failed: {traceback.format_exc()}")))
        os._exit(70)


def _receive(receiver: Connection, child: int, seconds: float) -> Any:
    try:
        if receiver.poll(seconds):
            result = pickle.loads(receiver.recv_bytes())  # our own child's
            if isinstance(result, Died):
                os.waitpid(child, 0)
            return result
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return Died(f"no answer after {seconds:.0f} seconds")
    except EOFError:
        _, status = os.waitpid(child, 0)
        return Died(f"the process ended with {os.waitstatus_to_exitcode(status)}")
