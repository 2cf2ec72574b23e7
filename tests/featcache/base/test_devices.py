"""Processes that share several GPUs take different ones; a claim dies with its process."""

import contextlib
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from featcache.base.devices import claimed, devices_for
from tests.helpers.tiny import ROOT

TWO = ("cuda:0", "cuda:1")
# a torch that is only a name makes these processes start at once
CLAIM = """
import sys, types
from pathlib import Path
sys.modules["torch"] = types.SimpleNamespace(device=object, cuda=None, Tensor=object)
from featcache.base.devices import claimed
print(claimed(tuple(sys.argv[2:]), Path(sys.argv[1])), flush=True)
sys.stdin.readline()
"""
Start = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a process that claims one of the devices and holds it; gives the process and the device's name."""
    with contextlib.ExitStack() as stack:

        def begin(*devices: str) -> tuple[subprocess.Popen[str], str]:
            process = subprocess.Popen(
                [sys.executable, "-c", CLAIM, tmp_path, *devices],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            )  # fmt: skip
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None
            return process, process.stdout.readline().strip()

        yield begin


@pytest.mark.parametrize(
    ("device", "wanted"),
    [
        ("cuda", ("cuda:0", "cuda:1", "cuda:2")),
        ("cuda:1", ("cuda:1",)),
        ("cuda:0", ("cuda:0",)),  # its number is 0, which is a number
        ("cpu", ("cpu",)),
        ("mps", ("mps",)),
    ],
)
def test_jobs_share_every_gpu_unless_one_is_named(
    monkeypatch: pytest.MonkeyPatch, device: str, wanted: tuple[str, ...]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert devices_for(torch.device(device)) == wanted


def test_two_processes_get_different_devices(start: Start) -> None:
    (_, first), (_, second) = start(*TWO), start(*TWO)
    assert (first, second) == TWO


def test_a_killed_process_leaves_its_device_free(start: Start) -> None:
    (killed, first), (_, second) = start(*TWO), start(*TWO)
    killed.kill()
    killed.wait()
    assert start(*TWO)[1] == first != second


def test_a_process_that_ends_leaves_its_device_free(start: Start) -> None:
    (ending, first), _ = start(*TWO), start(*TWO)
    ending.communicate("\n")
    assert ending.returncode == 0
    assert start(*TWO)[1] == first


def test_when_all_are_taken_one_is_shared(start: Start) -> None:
    assert {start(*TWO)[1] for _ in TWO} == set(TWO)
    process, shared = start(*TWO)
    assert shared == TWO[process.pid % 2]


def test_who_shares_a_device_does_not_free_it_in_the_end(start: Start) -> None:
    taken = [start(*TWO) for _ in TWO]
    sharing, _ = start(*TWO)
    sharing.communicate("\n")
    taken[1][0].kill()
    taken[1][0].wait()
    assert start(*TWO)[1] == "cuda:1"  # and not cuda:0, which its first claimant still has


def test_processes_that_share_other_devices_do_not_meet(start: Start) -> None:
    assert [start(*devices)[1] for devices in (TWO, ("cuda:2", "cuda:3"), ("cuda:1", "cuda:0"))] == [
        "cuda:0",
        "cuda:2",
        "cuda:1",
    ]


def test_a_process_keeps_its_device(start: Start, tmp_path: Path) -> None:
    assert claimed(TWO, tmp_path / "..") == claimed(TWO, tmp_path / "..")


def test_a_single_device_is_not_claimed_at_all(tmp_path: Path) -> None:
    assert claimed(("cpu",), tmp_path) == "cpu"
    assert not list(tmp_path.iterdir())


def test_no_other_user_can_hold_a_claim(tmp_path: Path) -> None:
    claimed(TWO, tmp_path)
    (path,) = tmp_path.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
