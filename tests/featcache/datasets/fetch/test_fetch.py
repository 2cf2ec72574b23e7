"""After fetch a dataset is in place as extract wants it, or nothing is, whatever comes between."""

import gzip
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bench.fetch
from bench.cutting_server import Served, serving
from bench.hostile_archives import DATASET, hostile_archives, tar_of, zip_of
from featcache.base.errors import (
    BadInput,
    CorruptFile,
    FeatcacheError,
    HostileFile,
    InvalidSettings,
    Locked,
    Mismatch,
    ResourceError,
)
from featcache.base.lock import writer_lock
from featcache.datasets.dataset import KNOWN, open_dataset
from featcache.datasets.fetch import fetch as module
from featcache.datasets.fetch import sources
from featcache.datasets.fetch.download import Patience
from featcache.datasets.fetch.fetch import WORK, fetch
from tests.helpers.command_line import amnet
from tests.helpers.isola import matrices, write
from tests.helpers.tiny import ROOT

HASTE = Patience(tries=2, first_wait=0.001, longest_wait=0.002, timeout=5.0)
TAR = tar_of(DATASET)
FILES = {name.removeprefix("lamem/"): data for name, data in DATASET.items()}


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy stands before the servers here, and os.sync, which waits for the whole machine, is not waited for."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module.os, "sync", lambda: None)


def files_in(root: Path) -> dict[str, bytes]:
    """Return every file under root."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def archive_file(folder: Path, data: bytes) -> Path:
    """Return a file that holds an archive."""
    (folder / "archive").write_bytes(data)
    return folder / "archive"


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.tar", TAR), ("a.tar.gz", gzip.compress(TAR)), ("a.zip", zip_of(DATASET))],
    ids=["tar", "tar.gz", "zip"],
)
def test_a_dataset_is_downloaded_unpacked_and_in_place(tmp_path: Path, name: str, data: bytes) -> None:
    with serving(Served(data)) as url:
        done = fetch("lamem", tmp_path / "root", url=f"{url}/{name}?x=1")
    assert files_in(tmp_path / "root") == FILES
    assert (done.images, done.splits, done.size, done.received) == (2, 1, len(data), len(data))
    assert done.sha256 == hashlib.sha256(data).hexdigest()
    assert done.source == f"{url}/{name}?x=1"
    assert not done.already


def test_a_file_is_unpacked_and_left_alone(tmp_path: Path) -> None:
    archive = archive_file(tmp_path, TAR)
    done = fetch("lamem", tmp_path / "root", file=archive)
    assert files_in(tmp_path / "root") == FILES
    assert archive.read_bytes() == TAR
    assert (done.source, done.received, done.sha256) == (str(archive), 0, hashlib.sha256(TAR).hexdigest())


@pytest.mark.parametrize("home", ["", "./", "SUN_memorability/", "a/b/c/"])
def test_the_folder_that_holds_images_and_splits_may_lie_anywhere(tmp_path: Path, home: str) -> None:
    files = {home + name: data for name, data in FILES.items()}
    litter = {f"{home}readme.txt": b"", f"__MACOSX/{home.removeprefix('./')}images/._1.jpg": b"",
              "__MACOSX/splits/train_1.txt": b"", f"{home}images/.DS_Store": b""}  # fmt: skip
    fetch("lamem", tmp_path / "root", file=archive_file(tmp_path, tar_of(files | litter)))
    assert files_in(tmp_path / "root") == FILES


@pytest.mark.parametrize(
    "files",
    [
        {"lamem/images/1.jpg": b""},
        {"lamem/splits/train_1.txt": b"1.jpg 0.5\n"},
        {"a/images/1.jpg": b"", "b/splits/train_1.txt": b"1.jpg 0.5\n"},
        {"images/1.jpg": b"", "splits/readme.txt": b""},
        {f"{home}/{name}": data for home in "ab" for name, data in FILES.items()},
        {},
    ],
)
def test_an_archive_of_another_layout_is_refused_with_what_is_expected(tmp_path: Path, files: dict[str, bytes]) -> None:
    files = files or {"x": b""}
    with pytest.raises(BadInput, match=r"expected, .*images/ and splits/\{train,val,test\}_K\.txt.*found"):
        fetch("lamem", tmp_path / "root", file=archive_file(tmp_path, tar_of(files)))
    assert not any((tmp_path / "root" / part).exists() for part in sources.FOLDERS)


def test_sun_says_which_archives_it_takes(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"or the \.mat files of Isola et al\. \(CVPR 2011\)"):
        fetch("sun", tmp_path / "root", file=archive_file(tmp_path, tar_of({"x": b""})))


def test_sun_is_made_of_the_archive_of_its_authors(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", matrices())
    data = zip_of({f"cvpr_memorability_data/Data/{name}": content for name, content in files_in(raw).items()})
    done = fetch("sun", tmp_path / "sun", file=archive_file(tmp_path, data))
    assert (done.images, done.splits) == (11, 25)
    assert sorted(path.name for path in (tmp_path / "sun").iterdir()) == ["images", "splits"]
    assert done.warnings() == ["warning: sun was published with 2,222 images and 25 splits; here are 11 and 25"]


def test_sun_in_the_lamem_layout_is_taken_too(tmp_path: Path) -> None:
    fetch("sun", tmp_path / "sun", file=archive_file(tmp_path, zip_of(DATASET)))
    assert files_in(tmp_path / "sun") == FILES


def test_scores_by_other_people_are_taken_from_an_archive(tmp_path: Path) -> None:
    more = {"lamem/splits/test_9.txt": b"1.jpg 0.25\n", "lamem/splits/others_9.txt": b"1.jpg 0.75\n"}
    fetch("lamem", tmp_path / "root", file=archive_file(tmp_path, tar_of({**DATASET, **more})))
    assert open_dataset("lamem", root=tmp_path / "root").others["9"].scores.tolist() == [0.75]


def test_a_split_file_that_names_a_missing_image_keeps_all_of_it_out(tmp_path: Path) -> None:
    data = tar_of(DATASET | {"lamem/splits/test_1.txt": b"3.jpg 0.5\n"})
    with pytest.raises(
        BadInput, match=r"is not a dataset that can be used; nothing was put in place[\s\S]*no such image"
    ):
        fetch("lamem", tmp_path / "root", file=archive_file(tmp_path, data))
    assert not any((tmp_path / "root" / part).exists() for part in sources.FOLDERS)


def test_a_dataset_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    served = Served(TAR)
    with serving(served) as url:
        fetch("lamem", tmp_path / "root", url=url)
        before = files_in(tmp_path / "root")
        again = fetch("lamem", tmp_path / "root", url=url)
    assert again.already
    assert (again.images, again.splits, again.sha256) == (2, 1, "")
    assert files_in(tmp_path / "root") == before
    assert len(served.requests) == 1


def test_a_dataset_that_is_there_and_damaged_is_told(tmp_path: Path) -> None:
    fetch("lamem", tmp_path / "root", file=archive_file(tmp_path, TAR))
    (tmp_path / "root" / "images" / "1.jpg").unlink()
    with pytest.raises(BadInput, match="no such image"):
        fetch("lamem", tmp_path / "root", file=tmp_path / "archive")


@pytest.mark.parametrize("part", sources.FOLDERS)
def test_half_a_dataset_of_somebody_else_is_not_touched(tmp_path: Path, part: str) -> None:
    (tmp_path / "root" / part).mkdir(parents=True)
    with pytest.raises(BadInput, match=rf"holds {part}/ that no fetch has left.*--root"):
        fetch("lamem", tmp_path / "root", file=archive_file(tmp_path, TAR))
    assert [path.name for path in (tmp_path / "root").iterdir()] == [part]


def test_other_files_in_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "notes.txt").write_text("mine")
    fetch("lamem", tmp_path / "root", file=archive_file(tmp_path, TAR))
    assert files_in(tmp_path / "root") == FILES | {"notes.txt": b"mine"}


def test_the_archive_is_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    with serving(Served(TAR)) as url:
        done = fetch("lamem", tmp_path / "root", url=f"{url}/lamem%20v1.tar", keep=True)
    assert done.archive == tmp_path / "root" / "lamem_v1.tar"
    assert files_in(tmp_path / "root") == FILES | {"lamem_v1.tar": TAR}


@pytest.mark.parametrize("taken", ["lamem.tar", "images"])
def test_a_file_of_the_users_is_not_replaced_by_the_archive(tmp_path: Path, taken: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    if taken != "images":
        (root / taken).write_text("mine")
    with pytest.raises(InvalidSettings, match=f"--keep: the archive would be {root / taken}, which is taken"):
        fetch("lamem", root, url=f"http://127.0.0.1:9/{taken}", keep=True)
    assert [path.read_text() for path in root.iterdir()] == ["mine"] * (taken != "images")


def test_a_digest_that_was_given_is_checked(tmp_path: Path) -> None:
    right, wrong = hashlib.sha256(TAR).hexdigest(), "0" * 64
    served = Served(TAR)
    with serving(served) as url:
        with pytest.raises(Mismatch, match=rf"expected sha256 {wrong}, found {right}; nothing was unpacked"):
            fetch("lamem", tmp_path / "root", url=url, sha256=wrong)
        assert not any((tmp_path / "root" / part).exists() for part in sources.FOLDERS)
        fetch("lamem", tmp_path / "root", url=url, sha256=f" {right.upper()} ")
    assert len(served.requests) == 1
    assert files_in(tmp_path / "root") == FILES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "faces"}, "--dataset 'faces': expected lamem or sun"),
        ({"url": "http://a/b", "file": Path(__file__)}, "--url and --file: give one of them"),
        ({"file": Path(__file__), "keep": True}, "--keep is for a download"),
        ({"sha256": "abc"}, "--sha256: expected 64 hexadecimal digits"),
        ({"file": Path("no/such.tar")}, "--file no/such.tar: no such file"),
        ({"url": "gopher://a/b"}, "expected http://HOST/PATH"),
    ],
)
def test_options_are_checked_before_anything_is_done(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        fetch(**{"name": "lamem", "root": tmp_path / "root", **options})
    assert not (tmp_path / "root").exists()


def test_all_wrong_options_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="--dataset.*--url and --file.*--keep.*--sha256"):
        fetch("x", tmp_path / "root", url="http://a/b", file=Path(__file__), keep=True, sha256="1")


def test_two_fetches_do_not_write_one_file(tmp_path: Path) -> None:
    (tmp_path / "root" / WORK).mkdir(parents=True)
    with writer_lock(tmp_path / "root" / WORK), pytest.raises(Locked, match="being written by process"):
        fetch("lamem", tmp_path / "root", file=archive_file(tmp_path, TAR))


def test_a_damaged_download_is_told_and_removing_it_mends_it(tmp_path: Path) -> None:
    damaged = bytearray(gzip.compress(TAR))
    damaged[len(damaged) // 2] ^= 8
    served = Served(bytes(damaged))
    with serving(served) as url:
        with pytest.raises(CorruptFile, match="Remove what was downloaded, or get the file of --file anew, then run"):
            fetch("lamem", tmp_path / "root", url=f"{url}/a.tgz")
        served.data = gzip.compress(TAR)
        (whole,) = (tmp_path / "root" / WORK).glob("*-a.tgz")
        whole.unlink()
        fetch("lamem", tmp_path / "root", url=f"{url}/a.tgz")
    assert files_in(tmp_path / "root") == FILES


def test_what_another_url_left_is_no_part_of_this_one(tmp_path: Path) -> None:
    first, second = Served(TAR[::-1], cuts=[4001, 4001]), Served(TAR)
    with serving(first) as url, pytest.raises(ResourceError):
        fetch("lamem", tmp_path / "root", url=f"{url}/a.tar", patience=HASTE)
    with serving(second) as url:
        fetch("lamem", tmp_path / "root", url=f"{url}/a.tar", patience=HASTE)
    assert "Range" not in second.requests[0]
    assert files_in(tmp_path / "root") == FILES


STEPS: list[tuple[object, str, str]] = [
    (module, "list_members", "before"),
    (module, "unpack_dataset", "before"),
    (module, "unpack_dataset", "after"),
    (module, "open_dataset", "before"),
    (module, "_put_in_place", "before"),
    (module, "_put_in_place", "after"),
    (module, "_tidy", "before"),
]


@pytest.mark.parametrize(("owner", "step", "when"), STEPS, ids=[f"{when} {step}" for _, step, when in STEPS])
def test_a_kill_at_any_step_leaves_all_or_nothing_and_the_same_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, step: str, when: str
) -> None:
    real: Callable[..., Any] = getattr(owner, step)

    def die(*arguments: Any, **options: Any) -> None:
        if when == "after":
            real(*arguments, **options)
        raise KeyboardInterrupt

    served, root = Served(TAR), tmp_path / "root"
    with serving(served) as url:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(owner, step, die)
            fetch("lamem", root, url=url)
        assert {path.name for path in root.iterdir()} in ({WORK}, {WORK, *sources.FOLDERS})
        fetch("lamem", root, url=url)
    assert files_in(root) == FILES
    assert len(served.requests) == 1


def test_a_kill_after_the_archive_was_kept_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*arguments: Any) -> None:
        raise KeyboardInterrupt

    root = tmp_path / "root"
    with serving(Served(TAR)) as url:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(module.shutil, "rmtree", die)
            fetch("lamem", root, url=f"{url}/a.tar", keep=True)
        done = fetch("lamem", root, url=f"{url}/a.tar", keep=True)
    assert (done.already, done.archive) == (True, root / "a.tar")
    assert files_in(root) == FILES | {"a.tar": TAR}


def test_a_file_of_the_users_is_known_beside_a_download_that_was_cut(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / WORK).mkdir(parents=True)
    (root / "a.tar").write_text("mine")
    with pytest.raises(InvalidSettings, match="which is taken"):
        fetch("lamem", root, url="http://127.0.0.1:9/a.tar", keep=True)
    assert (root / "a.tar").read_text() == "mine"


def test_a_kill_between_the_two_folders_is_mended(tmp_path: Path) -> None:
    root = tmp_path / "root"
    fetch("lamem", root, file=archive_file(tmp_path, TAR))
    (root / WORK / "ready").mkdir(parents=True)
    (root / "splits").rename(root / WORK / "ready" / "splits")
    with pytest.raises(BadInput, match="no splits/"):
        open_dataset("lamem", root=root)
    fetch("lamem", root, file=tmp_path / "archive")
    assert files_in(root) == FILES


def test_a_process_killed_while_it_downloads_goes_on(tmp_path: Path) -> None:
    data = tar_of(DATASET | {"lamem/images/3.jpg": np.random.default_rng(0).bytes(600_000)})
    served = Served(data, cuts=[500_000], hang=True)
    code = (
        "import sys\nfrom featcache.datasets.fetch import partial_file\n"
        "partial_file._SYNC_EVERY = 50_000\nfrom featcache.datasets.fetch.fetch import fetch\n"
        "fetch('lamem', sys.argv[1], url=sys.argv[2])"
    )
    with serving(served) as url:
        command = [sys.executable, "-c", code, str(tmp_path / "root"), url]
        with subprocess.Popen(command, cwd=ROOT) as process:
            deadline = time.monotonic() + 60
            while not any(served.at) and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.2)
            process.send_signal(signal.SIGKILL)
        assert [path.name for path in (tmp_path / "root").iterdir()] == [WORK]
        fetch("lamem", tmp_path / "root", url=url, patience=HASTE)
    assert "Range" in served.requests[1]
    assert files_in(tmp_path / "root")["images/3.jpg"] == np.random.default_rng(0).bytes(600_000)


def test_every_hostile_archive_leaves_nothing_outside_the_work_folder(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b" / "root"
    for label, data in hostile_archives().items():
        archive = archive_file(tmp_path, data)
        with pytest.raises((HostileFile, CorruptFile)):
            fetch("lamem", root, file=archive)
        assert sorted(files_in(tmp_path)) == [f"a/b/root/{WORK}/lock", "archive"], label


def test_the_measurement_counts_what_the_server_sent(tmp_path: Path) -> None:
    data = bench.fetch.dataset_archive(2, 0)
    found = bench.fetch.cut_connections(data, 20, 0, tmp_path / "cuts")
    assert (found["requests"], found["bytes_sent"], found["bytes_sent_more_than_once"]) == (21, len(data), 0)
    assert (found["sha256_right"], found["images"], found["left_over"]) == (True, 100, [])
    hostile = bench.fetch.hostile(tmp_path / "hostile")
    assert hostile["written_outside"] == []
    assert set(hostile["outcomes"]) == {"HostileFile", "CorruptFile"}


def test_the_sources_are_those_that_extract_knows() -> None:
    assert tuple(sources.SOURCES) == KNOWN


def test_what_a_person_reads_names_the_next_command(tmp_path: Path) -> None:
    done = fetch("lamem", tmp_path / "root", file=archive_file(tmp_path, TAR))
    assert done.as_text().splitlines() == [
        f"{tmp_path / 'root'}: 2 images, 1 splits",
        f"sha256 {hashlib.sha256(TAR).hexdigest()}, {len(TAR):,} bytes, {tmp_path / 'archive'}",
        f"next: amnet extract --dataset lamem --root {tmp_path / 'root'}",
    ]


def test_the_command_prints_the_dataset_and_its_digest(tmp_path: Path) -> None:
    archive = archive_file(tmp_path, TAR)
    done = amnet("fetch", "--dataset", "lamem", "--root", tmp_path / "root", "--file", archive)
    assert done.stdout.startswith(f"{tmp_path / 'root'}: 2 images, 1 splits\nsha256 {hashlib.sha256(TAR).hexdigest()}")
    assert "warning: lamem was published with 58,741 images and 5 splits; here are 2 and 1" in done.stderr
    assert "pass it as --sha256" in done.stderr
    again = amnet("fetch", "--dataset", "lamem", "--root", tmp_path / "root")
    assert "there already; nothing was done" in again.stdout


def test_the_command_prints_json(tmp_path: Path) -> None:
    archive = archive_file(tmp_path, TAR)
    done = amnet("fetch", "--dataset", "lamem", "--root", tmp_path / "root", "--file", archive, "--json")
    found = json.loads(done.stdout)
    assert (found["images"], found["splits"], found["already"], found["archive"]) == (2, 1, False, None)
    assert found["sha256"] == hashlib.sha256(TAR).hexdigest()


@pytest.mark.parametrize(
    ("data", "options", "status"),
    [
        (TAR, ["--sha256", "abc"], 2),
        (tar_of({"x": b""}), [], 3),
        (TAR[:700], [], 5),
        (TAR, ["--sha256", "0" * 64], 6),
        (hostile_archives()["tar: parent"], [], 10),
    ],
)
def test_the_command_ends_with_the_status_of_its_error(
    tmp_path: Path, data: bytes, options: list[str], status: int
) -> None:
    archive = archive_file(tmp_path, data)
    done = amnet("fetch", "--dataset", "lamem", "--root", tmp_path / "r", "--file", archive, *options, status=status)
    assert done.stderr.splitlines()[-1].strip()
    assert "error: " in done.stderr
    assert issubclass(CorruptFile, FeatcacheError)
