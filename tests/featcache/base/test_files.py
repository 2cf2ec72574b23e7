"""A file is either complete or not there, whatever happens to its writer."""

import errno
import hashlib
import json
import math
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.base import files
from featcache.base.errors import CorruptFile, InvalidSettings, StorageError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


def fail_with(code: int) -> Callable[..., NoReturn]:
    """Return a function that fails as a system call does."""

    def fail(*_: Any, **__: Any) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("size", [0, 1, 31])
@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_what_is_written_is_there_and_its_digest_is_returned(tmp_path: Path, size: int, kind: type) -> None:
    data = bytes(range(size))
    digest = files.write_durably(tmp_path / "f", kind(data))
    assert (tmp_path / "f").read_bytes() == data
    assert digest == hashlib.sha256(data).hexdigest() == files.digest_of_file(tmp_path / "f")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_data_of_several_writes_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_WRITE_SIZE", 7)
    files.write_durably(tmp_path / "f", bytes(range(53)))
    assert (tmp_path / "f").read_bytes() == bytes(range(53))


def test_a_view_of_wide_items_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_WRITE_SIZE", 4)
    data = bytes(range(8 * 13))
    files.write_durably(tmp_path / "f", memoryview(data).cast("d"))
    assert (tmp_path / "f").read_bytes() == data


def test_who_reads_the_old_file_keeps_it_whole(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    with (tmp_path / "f").open("rb") as reader:
        files.write_durably(tmp_path / "f", b"new")
        assert reader.read() == b"old"
    assert (tmp_path / "f").read_bytes() == b"new"


def test_bytes_are_on_the_disk_before_their_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[bool, list[str]]] = []

    def fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append((is_folder, [path.name[:5] for path in tmp_path.iterdir()]))

    monkeypatch.setattr(os, "fsync", fsync)
    files.write_durably(tmp_path / "f", b"x")
    assert synced == [(False, [".tmp-"]), (True, ["f"])]


@pytest.mark.parametrize(
    ("call", "code", "message"),
    [
        ("posix_fallocate", errno.ENOSPC, "No space left on device"),
        ("fsync", errno.EIO, "Input/output error"),
    ],
)
def test_a_failing_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, message: str
) -> None:
    (tmp_path / "f").write_bytes(b"old")
    monkeypatch.setattr(os, call, fail_with(code))
    with pytest.raises(StorageError, match=rf"f: cannot write \(1,234 bytes needed\): {message}.*run the same command"):
        files.write_durably(tmp_path / "f", bytes(1234))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"f": b"old"}


@pytest.mark.parametrize("kept", [b"", b"new, or ner", b"new, or ne", b"new, or newe"])
def test_a_disk_that_keeps_other_bytes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bytes) -> None:
    (tmp_path / "f").write_bytes(b"old")
    monkeypatch.setattr(files, "_COMPARED", 4)
    monkeypatch.setattr(files, "_write_and_sync", lambda path, data: path.write_bytes(kept))
    with pytest.raises(StorageError, match="did not keep what was written; nothing was replaced"):
        files.write_durably(tmp_path / "f", b"new, or new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"f": b"old"}


def test_a_write_over_a_folder_leaves_no_temporary(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(StorageError, match="Is a directory"):
        files.write_durably(tmp_path / "f", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_write_into_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"gone/f: cannot write \(1 bytes needed\): No such file or directory"):
        files.write_durably(tmp_path / "gone" / "f", b"x")


def test_a_limit_of_the_system_on_file_size_is_a_storage_error(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from featcache.base import errors, files\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: files.write_durably(Path(sys.argv[1]), bytes(1001))\n"
        "except errors.StorageError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "f"], capture_output=True, text=True, check=True)
    assert "cannot write (1,001 bytes needed): File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_writer_killed_at_any_instant_leaves_a_complete_file(tmp_path: Path) -> None:
    code = (
        "import itertools, sys; from pathlib import Path; from featcache.base import files\n"
        "for n in itertools.count():\n"
        "    files.write_durably(Path(sys.argv[1]), bytes([n % 251]) * 300_001)\n"
        "    if n == 0: print(flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "f"], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        seen: set[bytes] = set()
        while len(seen) < 7:
            data = (tmp_path / "f").read_bytes()
            assert data == data[:1] * 300_001
            seen.add(data[:1])
        writer.send_signal(signal.SIGKILL)
    data = (tmp_path / "f").read_bytes()
    assert data == data[:1] * 300_001
    files.remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_only_temporaries_are_removed_and_counted(tmp_path: Path) -> None:
    for name in (".tmp-a.h5-host-1", ".tmp-b", "a.h5", ".hidden"):
        (tmp_path / name).touch()
    assert files.remove_temporaries(tmp_path) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "a.h5"]


def test_every_folder_that_gained_an_entry_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[Path] = set()
    monkeypatch.setattr(files, "sync_folder", synced.add)
    assert files.make_folder(tmp_path / "a" / "b" / "c") == tmp_path / "a" / "b" / "c"
    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert synced >= {tmp_path, tmp_path / "a", tmp_path / "a" / "b"}


def test_a_folder_that_is_there_is_kept_and_a_file_in_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    files.make_folder(tmp_path)
    with pytest.raises(StorageError, match="file: cannot write: File exists"):
        files.make_folder(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_canonical_json_is_one_text_for_one_value() -> None:
    assert files.canonical_json({"b": [1, 2.5, None], "a": "ü"}) == '{"a":"ü","b":[1,2.5,null]}'
    assert files.canonical_json({"b": 1, "a": 2}) == files.canonical_json({"a": 2, "b": 1})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_canonical_json_refuses_what_json_cannot_say(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.canonical_json({"a": value})


@settings(deadline=None, max_examples=50)
@given(value=st.dictionaries(st.text(), JSON))
def test_json_reads_back_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("json") / "f"
    path.write_text(files.canonical_json(value), encoding="utf-8")
    assert files.read_json(path, largest=1 << 20) == json.loads(files.canonical_json(value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not a JSON object"),
        (b'{"a":1', "not a JSON object"),
        (b'{"a":1,"a":2}', "not a JSON object: a key stands twice"),
        (b'{"x":{"a":1,"a":2}}', "not a JSON object: a key stands twice"),
        (b'{"a":NaN}', "not a JSON object"),
        (b'{"a":-Infinity}', "not a JSON object"),
        (b"\xff\xfe\x00", "not a JSON object"),
        (b"[" * 100_000, "not a JSON object"),
        (b'{"a":' + b"9" * 5000 + b"}", "not a JSON object"),
        (b"[1]", "expected a JSON object, found list"),
        (b'{"a":"' + b"x" * 200_000 + b'"}', "larger than 150,000 bytes"),
    ],
)
def test_anything_but_one_plain_json_object_is_corrupt(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "f.json").write_bytes(text)
    with pytest.raises(CorruptFile, match=f"f.json: {message}"):
        files.read_json(tmp_path / "f.json", largest=150_000)


def test_json_that_cannot_be_read_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"gone\.json: cannot read: No such file"):
        files.read_json(tmp_path / "gone.json", largest=100)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_fsync_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(os, "fsync", fail_with(code))
    with pytest.raises(StorageError, match="this file system cannot fsync, so nothing on it is safe"):
        files.write_durably(tmp_path / "f", b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_a_user_names_is_written_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "real" / "there.csv")
    files.write_output(tmp_path / "link.csv", b"1")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real" / "there.csv").read_bytes() == b"1"
    files.write_output(tmp_path / "new" / "folder" / "a.csv", b"2")
    assert (tmp_path / "new" / "folder" / "a.csv").read_bytes() == b"2"


def test_a_pipe_or_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/null"), tmp_path / "link"):
        with pytest.raises(InvalidSettings, match="is no regular file, and would be replaced; name another"):
            files.check_output(place)
        with pytest.raises(InvalidSettings):
            files.write_output(place, b"1")
    assert (tmp_path / "pipe").is_fifo()


def test_links_that_lead_nowhere_and_names_that_cannot_be_are_no_tracebacks(tmp_path: Path) -> None:
    (tmp_path / "far").symlink_to(tmp_path / "new" / "a.csv")
    files.write_output(tmp_path / "far", b"1")
    assert (tmp_path / "new" / "a.csv").read_bytes() == b"1"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    files.write_output(tmp_path / "loop", b"2")
    assert (tmp_path / "loop").read_bytes() == b"2"
    with pytest.raises(InvalidSettings, match="is a folder; name a file"):
        files.check_output(tmp_path)
    with pytest.raises(StorageError):
        files.write_output(tmp_path / ("x" * 300), b"3")


def test_what_nobody_else_has_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own"
    path.write_bytes(b"own")
    assert files.read_trusted(path) == b"own"
    with pytest.raises(FileNotFoundError):
        files.read_trusted(tmp_path / "none")
    path.chmod(0o646)
    with pytest.raises(PermissionError, match="another user's"):
        files.read_trusted(path)
    path.chmod(0o600)
    found = path.stat()
    of_another = os.stat_result((*found[:4], found.st_uid + 7, *found[5:10]))
    monkeypatch.setattr(os, "fstat", lambda _: of_another)
    with pytest.raises(PermissionError, match="another user's"):
        files.read_trusted(path)
