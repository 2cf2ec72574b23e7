"""The machine code of loops outlives its process, and nothing that happens to its files ends a command."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from featcache.base.loops.machine_code import _SignedFiles
from tests.helpers.tiny import ROOT

RUN = """
import numpy as np
from head.models.fused.cpu import attention
keys, state, M, gradient, out = (np.ones(shape, np.float32) for shape in ((2, 3, 5), (2, 5), (3, 5), (2, 3), (2, 5)))
keys[:] = 0
attention.state_gradient(keys, state, M, gradient, out, 0, 2)
assert (out == 3).all()  # the slope of tanh at 0, over three positions
found = attention.state_gradient.stats
print(sum(found.cache_hits.values()), len(found.cache_misses))
"""


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the sources, with no machine code beside them."""
    for package in ("featcache", "head"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def hits(folder: Path) -> list[int]:
    """Return how often a new process found its machine code, and how often it did not."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return [int(count) for count in done.stdout.split()]


def files(folder: Path, suffix: str) -> list[Path]:
    return list((folder / "head/models/fused").rglob(f"*.{suffix}"))


def test_a_second_process_takes_what_the_first_compiled(copied: Path) -> None:
    assert hits(copied) == [0, 1]
    assert hits(copied) == [1, 0]


def test_machine_code_of_other_sources_is_not_taken(copied: Path) -> None:
    assert hits(copied) == [0, 1]
    numbers = copied / "head/models/fused/cpu/numbers.py"  # what loops are made of, beside the file of their own
    numbers.write_text(numbers.read_text() + "# changed\n")
    assert hits(copied) == [0, 1]


def flipped(data: bytes) -> bytes:
    return data[:-40] + bytes(byte ^ 1 for byte in data[-40:-32]) + data[-32:]


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        ("nbi", lambda data: b""),
        ("nbi", lambda data: data[: len(data) // 2]),
        ("nbc", lambda data: b""),
        ("nbc", flipped),
    ],
)
def test_damaged_files_are_compiled_anew_and_replaced(
    copied: Path, suffix: str, damage: Callable[[bytes], bytes]
) -> None:
    hits(copied)
    for path in files(copied, suffix):
        path.write_bytes(damage(path.read_bytes()))
    assert hits(copied) == [0, 1]
    assert hits(copied) == [1, 0]


def test_code_of_other_types_under_the_same_name_is_not_taken(tmp_path: Path) -> None:
    first, second = (_SignedFiles(str(tmp_path), "loop", "sources") for _ in range(2))
    first.save("float32", 1)
    assert second.load("float32") == 1
    second._save_index({"float64": first._data_name(1)})  # as of two processes, neither of which saw the other's
    assert second.load("float64") is None
    second.save("float64", 2)
    assert first.load("float64") == 2


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_what_another_user_may_have_written_is_not_unpickled(tmp_path: Path, suffix: str) -> None:
    files = _SignedFiles(str(tmp_path), "loop", "sources")
    files.save("float32", 1)
    (path,) = tmp_path.glob(f"*.{suffix}")
    path.chmod(0o666)
    if suffix == "nbi":
        with pytest.raises(PermissionError):
            files.load("float32")
    else:
        assert files.load("float32") is None


def test_an_index_of_other_sources_is_empty(tmp_path: Path) -> None:
    _SignedFiles(str(tmp_path), "loop", "sources").save("float32", 1)
    assert _SignedFiles(str(tmp_path), "loop", "others").load("float32") is None
