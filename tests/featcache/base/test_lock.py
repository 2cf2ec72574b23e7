"""One writer at a time, by real processes: a lock ends with its holder, even a killed one."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from featcache.base.errors import Locked, StorageError
from featcache.base.lock import writer_lock

HOLD = (
    "import sys; from pathlib import Path; from featcache.base.lock import writer_lock\n"
    "with writer_lock(Path(sys.argv[1])):\n"
    "    print('held', flush=True); sys.stdin.read()\n"
)


@contextmanager
def held_by_another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


def test_the_second_writer_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    with (
        held_by_another_process(tmp_path) as holder,
        pytest.raises(Locked, match=f": being written by process {holder.pid} on .*; wait for it to end"),
        writer_lock(tmp_path),
    ):
        pass


def test_a_killed_writer_locks_nothing(tmp_path: Path) -> None:
    with held_by_another_process(tmp_path) as holder:
        holder.kill()
        holder.wait()
        assert f"process {holder.pid} on" in (tmp_path / "lock").read_text()
        with writer_lock(tmp_path):
            assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_the_text_of_a_longer_name_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("process 1 on a host of a long name\n" * 9)
    with writer_lock(tmp_path):
        assert (tmp_path / "lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"


def test_a_lock_is_not_taken_twice_in_one_process(tmp_path: Path) -> None:
    with writer_lock(tmp_path), pytest.raises(Locked, match=f"process {os.getpid()}"), writer_lock(tmp_path):
        pass


def test_the_lock_ends_with_its_block_even_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writer_lock(tmp_path):
        raise ZeroDivisionError
    with writer_lock(tmp_path):
        pass


def test_a_refused_writer_leaves_the_holder_its_lock(tmp_path: Path) -> None:
    with held_by_another_process(tmp_path):
        for _ in range(2):
            with pytest.raises(Locked), writer_lock(tmp_path):
                pass


def test_folders_are_locked_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with writer_lock(tmp_path / "a"), writer_lock(tmp_path / "b"):
        assert all(
            (tmp_path / name / "lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
            for name in ("a", "b")
        )


def test_a_missing_folder_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="gone/lock: cannot write: No such file"), writer_lock(tmp_path / "gone"):
        pass


def test_an_error_of_the_block_is_not_taken_for_the_locks(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), writer_lock(tmp_path):
        (tmp_path / "gone").read_bytes()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EIO])
def test_a_file_system_without_locks_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    entered = False
    message = rf"{tmp_path}: cannot lock: {os.strerror(number)}\. .* a folder on a local disk, or .*NFS"
    with pytest.raises(StorageError, match=message), writer_lock(tmp_path):
        entered = True
    assert not entered
    assert (tmp_path / "lock").read_text() == ""
