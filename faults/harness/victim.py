"""The real command in a process that dies on purpose inside its N-th call of one kind, half-way where it can.

As a program of its own (for strace): python -m faults.harness.victim DATASET OUT
"""

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.harness import calls, stub


@dataclass(frozen=True)
class Death:
    """Die in the number-th (from 1) call of that name below the cache: before it, in the middle, or after it."""

    call: str
    number: int
    when: str  # before, half, after


def run_and_die(arguments: list[str], out: Path, death: Death) -> int:
    """Run the command; return its exit status if it does not get as far as death."""
    counted = 0

    def hand(call: calls.Call, real: Callable[..., Any]) -> Any:
        nonlocal counted
        counted += call.name == death.call
        if call.name != death.call or counted != death.number:
            return real(*call.arguments)
        if death.when == "after":
            real(*call.arguments)
        elif death.when == "half":
            _half(call, real)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still alive")

    with calls.through(hand, out):
        return stub.run_command(arguments)


def _half(call: calls.Call, real: Callable[..., Any]) -> None:
    if call.name == "write":
        descriptor, data = call.arguments
        real(descriptor, data[: len(data) // 2])
    elif call.name == "posix_fallocate":
        descriptor, offset, length = call.arguments
        real(descriptor, offset, max(1, length // 2))


def count_calls(work: Callable[[], Any], folder: Path) -> Counter[str]:
    """Return how often work makes each call below folder."""
    counts: Counter[str] = Counter()

    def hand(call: calls.Call, real: Callable[..., Any]) -> Any:
        counts[call.name] += 1
        return real(*call.arguments)

    with calls.through(hand, folder):
        work()
    return counts


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(stub.run_command(stub.command(Path(sys.argv[1]), Path(sys.argv[2]))))
