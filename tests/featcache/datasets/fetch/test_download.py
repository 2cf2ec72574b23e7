"""A download survives what networks and servers do, and never puts a file together from two versions."""

import hashlib
import itertools
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from bench.cutting_server import DATE, Served, serving
from featcache.base.errors import BadInput, CorruptFile, InvalidSettings, ResourceError, StorageError
from featcache.base.progress import Progress, silent
from featcache.datasets.fetch import partial_file
from featcache.datasets.fetch.download import Downloaded, Patience, download
from tests.helpers.tiny import ROOT

HASTE = Patience(tries=3, first_wait=0.001, longest_wait=0.002, timeout=5.0)
DATA = random.Random(20180618).randbytes(300_007)
OTHER = random.Random(11).randbytes(300_007)
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def get(served: Served, path: Path, *, patience: Patience = HASTE, on_progress: Any = silent) -> Downloaded:
    """Download what is served, and compare it with what the server has."""
    with serving(served) as url:
        done = download(f"{url}/file", path, patience=patience, on_progress=on_progress)
    assert path.read_bytes() == served.data
    assert done.sha256 == hashlib.sha256(served.data).hexdigest()
    assert (done.path, done.size) == (path, len(served.data))
    assert done.requests == len(served.requests)
    return done


def cut_once(served: Served, path: Path, at: int) -> str:
    """Download until the connection is cut at an offset, and give up; return the port's URL, which stays the same."""
    served.cuts = [at]
    with serving(served) as url, pytest.raises(ResourceError):
        download(f"{url}/file", path, patience=Patience(tries=1))
    return url


def pretend_url(path: Path, url: str) -> None:
    """Let a partial file be one of another URL, since every server here has a port of its own."""
    state = path.with_name(path.name + ".json")
    state.write_text(json.dumps(json.loads(state.read_text()) | {"url": url}))


def go_on(served: Served, path: Path) -> Downloaded:
    """Download what is served to where another server was cut."""
    with serving(served) as url:
        pretend_url(path, f"{url}/file")
        done = download(f"{url}/file", path, patience=HASTE)
    assert path.read_bytes() == served.data
    assert done.sha256 == hashlib.sha256(served.data).hexdigest()
    return done


@pytest.mark.parametrize("chunked", [False, True])
def test_twenty_cut_connections_send_every_byte_once(tmp_path: Path, chunked: bool) -> None:
    cuts = sorted(random.Random(3).sample(range(1, len(DATA)), 20))
    served = Served(DATA, cuts=list(cuts), chunked=chunked)
    done = get(served, tmp_path / "f")
    assert served.sent == list(itertools.pairwise([0, *cuts, len(DATA)]))
    assert (done.requests, done.received) == (21, len(DATA))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "f.json"]


def test_a_reset_connection_keeps_what_arrived(tmp_path: Path) -> None:
    done = get(Served(DATA, cuts=[70_001, 200_003], reset=True), tmp_path / "f")
    assert done.received == len(DATA)


def test_a_server_that_falls_silent_is_asked_again(tmp_path: Path) -> None:
    served = Served(DATA, cuts=[100_003], hang=True)
    get(served, tmp_path / "f", patience=Patience(tries=2, first_wait=0.001, timeout=0.3))
    assert served.requests[1]["Range"] == "bytes=100003-"


def test_a_server_that_is_not_there_is_given_up(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ResourceError, match=r"3 tries in a row brought nothing new; the last: Connection refused"):
        download(f"http://127.0.0.1:{port}/file", tmp_path / "f", patience=HASTE)


def test_a_later_call_goes_on_with_the_version_it_has(tmp_path: Path) -> None:
    cut_once(Served(DATA), tmp_path / "f", 123_457)
    served = Served(DATA)
    done = go_on(served, tmp_path / "f")
    assert (served.requests[0]["Range"], served.requests[0]["If-Range"]) == ("bytes=123457-", '"1"')
    assert done.received == len(DATA) - 123_457


def test_a_file_that_changed_starts_over_instead_of_being_mixed(tmp_path: Path) -> None:
    cut_once(Served(DATA), tmp_path / "f", 123_457)
    done = go_on(Served(OTHER, etag='"2"', last_modified="Thu, 02 Jan 2020 00:00:00 GMT"), tmp_path / "f")
    assert done.received == len(OTHER)


def test_a_file_that_changes_between_two_cuts_starts_over(tmp_path: Path) -> None:
    served = Served(DATA, cuts=[100_003, 200_003])

    def change(progress: Progress) -> None:
        if "again in" in progress.note and served.data is DATA:
            served.data, served.etag, served.last_modified = OTHER, '"2"', ""

    get(served, tmp_path / "f", on_progress=change)
    assert [first for first, _ in served.sent] == [0, 0, 200_003]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": "bytes 1000-300006/300007"},
        {"Content-Range": "bytes 1001-300006/300007", "ETag": '"2"'},
        {"Content-Range": "bytes 1001-300007/300007"},
        {"Content-Range": "bytes 1001-300006/300008"},
        {"Content-Range": "bytes 1001-1000/300007"},
        {"Content-Range": "items 1001-300006/300007"},
        {},
    ],
)
def test_a_part_that_does_not_fit_is_not_taken(tmp_path: Path, headers: dict[str, str]) -> None:
    cut_once(Served(DATA), tmp_path / "f", 1001)
    served = Served(DATA, answers=[(206, headers, OTHER[1001:])])
    done = go_on(served, tmp_path / "f")
    assert done.received == len(DATA)
    assert "Range" not in served.requests[1]


def test_a_part_of_the_part_is_taken_and_the_rest_asked_for(tmp_path: Path) -> None:
    cut_once(Served(DATA), tmp_path / "f", 1001)
    served = Served(DATA, answers=[(206, {"Content-Range": "bytes 1001-2000/300007"}, DATA[1001:2001])])
    go_on(served, tmp_path / "f")
    assert served.requests[1]["Range"] == "bytes=2001-"


def test_a_range_beyond_the_end_starts_over(tmp_path: Path) -> None:
    cut_once(Served(DATA), tmp_path / "f", 123_457)
    served = Served(OTHER[:1009])  # shorter now, though the server calls it the same version
    go_on(served, tmp_path / "f")
    assert len(served.requests) == 2


def test_a_file_of_unknown_length_that_is_all_there_is_not_fetched_again(tmp_path: Path) -> None:
    served = Served(DATA, chunked=True, cuts=[len(DATA)])  # all of it, but not the mark at its end
    done = get(served, tmp_path / "f")
    assert (done.requests, done.received) == (2, len(DATA))


def test_a_file_without_a_length_ends_with_its_connection(tmp_path: Path) -> None:
    seen: list[Progress] = []
    get(Served(DATA, length=False), tmp_path / "f", on_progress=seen.append)
    assert all(progress.total > progress.done and "does not say" in progress.note for progress in seen)


def test_a_length_that_is_a_lie_is_told_after_the_last_try(tmp_path: Path) -> None:
    served = Served(DATA, extra={"Content-Length": "400000"}, length=False)
    with serving(served) as url, pytest.raises(ResourceError, match=r"\d tries in a row brought nothing new"):
        download(f"{url}/file", tmp_path / "f", patience=HASTE)
    assert not (tmp_path / "f").exists()


def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    assert get(Served(b""), tmp_path / "f").size == 0


def test_a_server_without_ranges_sends_it_all_again(tmp_path: Path) -> None:
    served = Served(DATA, ranges=False, cuts=[250_007])
    done = get(served, tmp_path / "f")
    assert done.received == 250_007 + len(DATA)


def test_a_server_without_ranges_that_always_cuts_is_given_up(tmp_path: Path) -> None:
    served = Served(DATA, ranges=False, cuts=[250_007] * 50)
    with serving(served) as url, pytest.raises(ResourceError, match="so that a cut starts over: give a mirror"):
        download(f"{url}/file", tmp_path / "f", patience=HASTE)
    assert len(served.requests) == HASTE.tries


@pytest.mark.parametrize(
    ("etag", "last_modified", "expected"),
    [
        ('"1"', DATE, '"1"'),
        ('W/"1"', DATE, DATE),
        ("1", DATE, DATE),
        ("", DATE, DATE),
        ("", "", None),
        ('W/"1"', "", None),
        ("", "Wed, 01 Jan 2098 00:00:00 GMT", None),  # as young as the answer: it may change within its second
        ("", "yesterday", None),
    ],
)
def test_only_a_strong_validator_is_relied_on(
    tmp_path: Path, etag: str, last_modified: str, expected: str | None
) -> None:
    served = Served(DATA, etag=etag, last_modified=last_modified, cuts=[1001])
    get(served, tmp_path / "f")
    assert served.requests[1].get("If-Range") == expected
    assert ("Range" in served.requests[1]) == (expected is not None)


def test_progress_resets_the_count_of_tries(tmp_path: Path) -> None:
    served = Served(DATA, cuts=list(range(1, 31)))
    done = get(served, tmp_path / "f", patience=Patience(tries=2, first_wait=0.001))
    assert done.requests == 31


def test_tries_without_progress_end_with_what_is_there(tmp_path: Path) -> None:
    served = Served(DATA, cuts=[1001] * 9)
    with (
        serving(served) as url,
        pytest.raises(ResourceError, match=r"the last: the connection was cut\. 1,001 of 300,007"),
    ):
        download(f"{url}/file", tmp_path / "f", patience=HASTE)
    assert len(served.requests) == 3


def test_waits_grow_to_a_limit_and_honour_the_server() -> None:
    patience = Patience(first_wait=1.0, longest_wait=60.0)
    assert [patience.wait(failed, 0.0) for failed in (1, 2, 3, 6, 7, 500)] == [1, 2, 4, 32, 60, 60]
    assert patience.wait(1, 17.0) == 17
    assert patience.wait(1, 1e9) == 60


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_an_error_that_passes_is_waited_for(tmp_path: Path, status: int) -> None:
    seen: list[Progress] = []
    served = Served(DATA, answers=[(status, {"Retry-After": "0"}, b"busy")])
    get(served, tmp_path / "f", on_progress=seen.append)
    assert f"answered {status}" in seen[0].note
    assert "try 2 of 3" in seen[0].note


@pytest.mark.parametrize("status", [204, 401, 403, 404, 410, 501])
def test_an_error_that_stays_is_told_at_once(tmp_path: Path, status: int) -> None:
    served = Served(DATA, answers=[(status, {}, b"")])
    with serving(served) as url, pytest.raises(BadInput, match=rf"/file: answered {status}.*check the URL"):
        download(f"{url}/file", tmp_path / "f", patience=HASTE)
    assert len(served.requests) == 1


def test_a_redirect_is_followed_with_the_range(tmp_path: Path) -> None:
    cut_once(Served(DATA), tmp_path / "f", 1001)
    served = Served(DATA, answers=[(302, {"Location": "/elsewhere"}, b"")])
    go_on(served, tmp_path / "f")
    assert served.requests[1]["Range"] == "bytes=1001-"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/file", "data:text/plain,x"])
def test_a_redirect_to_another_scheme_is_refused(tmp_path: Path, target: str) -> None:
    served = Served(DATA, answers=[(302, {"Location": target}, b"")])
    with serving(served) as url, pytest.raises(BadInput, match="which is refused|is not allowed"):
        download(f"{url}/file", tmp_path / "f", patience=HASTE)


def test_redirects_in_a_circle_end(tmp_path: Path) -> None:
    served = Served(DATA, answers=[(302, {"Location": "/file"}, b"")] * 50)
    with serving(served) as url, pytest.raises(BadInput, match="answered 302"):
        download(f"{url}/file", tmp_path / "f", patience=HASTE)
    assert len(served.requests) < 20


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/file", "expected http://HOST/PATH"),
        ("file:///etc/passwd", "expected http://HOST/PATH"),
        ("lamem.tar.gz", "expected http://HOST/PATH"),
        ("http://", "expected http://HOST/PATH"),
        ("http://host:port/file", "expected http://HOST/PATH"),
        ("http://[::1/file", "expected http://HOST/PATH"),
        ("http://host/a b", "expected http://HOST/PATH"),
        ("http://host/a\r\nX: y", "expected http://HOST/PATH"),
        ("http://höst/file", "expected http://HOST/PATH"),
        ("http://me:secret@host/file", "a URL with a name or password"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(InvalidSettings, match=message) as caught:
        download(url, tmp_path / "new" / "f", patience=HASTE)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_disk_too_small_is_told_before_a_byte_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**6, 10**6, 2 * len(DATA) - 1))
    with serving(Served(DATA)) as url:
        with pytest.raises(StorageError, match=r"about 600,014 bytes are needed, 600,013 are free.*--root"):
            download(f"{url}/file", tmp_path / "f", patience=HASTE, copies=2)
        assert (tmp_path / "f.part").stat().st_size == 0
        assert download(f"{url}/file", tmp_path / "f", patience=HASTE).size == len(DATA)


def test_a_whole_file_is_not_asked_for_again(tmp_path: Path) -> None:
    served = Served(DATA)
    with serving(served) as url:
        first = download(f"{url}/file", tmp_path / "f", patience=HASTE)
        again = download(f"{url}/file", tmp_path / "f", patience=HASTE)
    assert (again.sha256, again.received, again.requests) == (first.sha256, 0, 0)
    assert len(served.requests) == 1


def test_a_whole_file_that_lost_bytes_is_refused(tmp_path: Path) -> None:
    with serving(Served(DATA)) as url:
        download(f"{url}/file", tmp_path / "f", patience=HASTE)
        (tmp_path / "f").write_bytes(DATA[:-1])
        with pytest.raises(CorruptFile, match=r"expected 300,007 bytes, found 300,006.*Remove it"):
            download(f"{url}/file", tmp_path / "f", patience=HASTE)
        (tmp_path / "f").unlink()
        assert download(f"{url}/file", tmp_path / "f", patience=HASTE).received == len(DATA)


def test_bytes_that_the_record_does_not_vouch_for_are_fetched_again(tmp_path: Path) -> None:
    cut_once(Served(DATA), tmp_path / "f", 1001)
    with (tmp_path / "f.part").open("ab") as file:
        file.write(bytes(5000))  # as a power cut leaves a file: longer than what was written to it
    served = Served(DATA)
    go_on(served, tmp_path / "f")
    assert served.requests[0]["Range"] == "bytes=1001-"


def test_a_record_of_more_bytes_than_there_are_is_not_trusted(tmp_path: Path) -> None:
    cut_once(Served(DATA), tmp_path / "f", 1001)
    (tmp_path / "f.part").write_bytes(DATA[:503])
    served = Served(DATA)
    go_on(served, tmp_path / "f")
    assert served.requests[0]["Range"] == "bytes=503-"


@pytest.mark.parametrize("record", ["", "{", "[]", "{}", '{"url": 3}', "nul"])
def test_a_damaged_record_starts_over(tmp_path: Path, record: str) -> None:
    cut_once(Served(DATA), tmp_path / "f", 1001)
    (tmp_path / "f.json").write_text(record)
    served = Served(DATA)
    get(served, tmp_path / "f")
    assert "Range" not in served.requests[0]


def test_a_partial_file_of_another_url_starts_over(tmp_path: Path) -> None:
    cut_once(Served(OTHER), tmp_path / "f", 1001)
    served = Served(DATA)
    get(served, tmp_path / "f")
    assert "Range" not in served.requests[0]


def test_a_process_killed_between_the_last_byte_and_the_name_ends_without_a_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_: Any) -> None:
        raise KeyboardInterrupt

    served = Served(DATA)
    with serving(served) as url:
        for method in ("finish", "_take_name"):
            with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
                patched.setattr(partial_file.PartialFile, method, die)
                download(f"{url}/file", tmp_path / "f", patience=HASTE)
            assert not (tmp_path / "f").exists()
        assert download(f"{url}/file", tmp_path / "f", patience=HASTE).sha256 == hashlib.sha256(DATA).hexdigest()
    assert len(served.requests) == 1


def test_a_killed_process_loses_no_more_than_was_not_synced(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom featcache.datasets.fetch import partial_file\n"
        "partial_file._SYNC_EVERY = 20_000\n"
        "from featcache.datasets.fetch import download\ndownload._PIECE = 10_000\n"
        "download.download(sys.argv[1], Path(sys.argv[2]))"
    )
    served = Served(DATA, cuts=[199_999], hang=True)
    with serving(served) as url:
        command = [sys.executable, "-c", code, f"{url}/file", str(tmp_path / "f")]
        with subprocess.Popen(command, cwd=ROOT) as process:
            part = tmp_path / "f.part"
            deadline = time.monotonic() + 30
            while not (part.exists() and part.stat().st_size >= 160_000) and time.monotonic() < deadline:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        done = download(f"{url}/file", tmp_path / "f", patience=HASTE)
    assert done.sha256 == hashlib.sha256(DATA).hexdigest()
    assert int(served.requests[1]["Range"].removeprefix("bytes=").rstrip("-")) >= 140_000


def test_progress_counts_bytes_and_says_what_was_there_before(tmp_path: Path) -> None:
    cut_once(Served(DATA), tmp_path / "f", 1001)
    seen: list[Progress] = []
    with serving(Served(DATA)) as url:
        pretend_url(tmp_path / "f", f"{url}/file")
        download(f"{url}/file", tmp_path / "f", patience=HASTE, on_progress=seen.append)
    assert (seen[0].done, seen[-1].done) == (1001, len(DATA))
    assert {(progress.total, progress.unit, progress.skipped) for progress in seen} == {(len(DATA), "bytes", 1001)}
