"""Archives are unpacked whole and exactly, or refused before anything is written."""

import gzip
import itertools
import random
import shutil
import struct
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.hostile_archives import DATASET, hostile_archives, tar_of, zip_of
from featcache.base.errors import CorruptFile, FeatcacheError, HostileFile, StorageError
from featcache.base.progress import Progress
from featcache.datasets.fetch import archive_formats
from featcache.datasets.fetch.archive_members import FILE, FOLDER, Limits, Member, clashes, member_problem
from featcache.datasets.fetch.unpack import list_members, unpack

Usage = namedtuple("Usage", "total used free")
FILES = DATASET | {
    f"lamem/images/{'n' * 150}.jpg": b"a name too long for a header",
    "lamem/images/Größe/日本.jpg": b"a name that is not ASCII",
    "lamem/images/empty.jpg": b"",
    "lamem/images/large.jpg": random.Random(7).randbytes(2_500_009),
}
WHOLE = {
    "pax": tar_of(FILES),
    "gnu": tar_of(FILES, format=tarfile.GNU_FORMAT),
    "tar.gz": gzip.compress(tar_of(FILES), 1),
    "two gzip members": gzip.compress(tar_of(FILES)[:1000], 1) + gzip.compress(tar_of(FILES)[1000:], 1),
    "zip": zip_of(FILES),
}
HOSTILE = hostile_archives()


def put(folder: Path, data: bytes) -> Path:
    """Return an archive file of these bytes."""
    folder.mkdir(exist_ok=True)
    (folder / "archive").write_bytes(data)
    return folder / "archive"


def unpacked(archive: Path, folder: Path) -> dict[str, bytes]:
    """Unpack every file and return what lies there then."""
    unpack(archive, {member: member.name for member in list_members(archive) if member.kind == FILE}, folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", WHOLE)
def test_what_was_packed_comes_out(tmp_path: Path, kind: str) -> None:
    assert unpacked(put(tmp_path, WHOLE[kind]), tmp_path / "out") == FILES


@pytest.mark.parametrize("kind", WHOLE)
def test_members_have_their_names_and_sizes(tmp_path: Path, kind: str) -> None:
    found = {member.name: member.size for member in list_members(put(tmp_path, WHOLE[kind]))}
    assert found == {name: len(data) for name, data in FILES.items()}


def test_folders_and_a_dot_before_names_are_plain(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "images").mkdir(parents=True)
    (source / "images" / "1.jpg").write_bytes(b"one")
    with tarfile.open(tmp_path / "archive", "w") as tar:
        tar.add(source, ".")
    found = list_members(tmp_path / "archive")
    assert sorted((member.name, member.kind) for member in found) == [("images", FOLDER), ("images/1.jpg", FILE)]
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.mkdir("images")
        archive.write(source / "images" / "1.jpg", "images/1.jpg")
    assert sorted((member.name, member.kind) for member in list_members(tmp_path / "archive")) == [
        ("images", FOLDER), ("images/1.jpg", FILE),
    ]  # fmt: skip


def test_only_what_is_wanted_is_written_and_under_the_name_given(tmp_path: Path) -> None:
    archive = put(tmp_path, WHOLE["tar.gz"])
    first = next(member for member in list_members(archive) if member.name == "lamem/images/1.jpg")
    seen: list[Progress] = []
    unpack(archive, {first: "images/a.jpg"}, tmp_path / "out", on_progress=seen.append)
    assert [str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")] == [
        "images",
        "images/a.jpg",
    ]
    assert (tmp_path / "out" / "images" / "a.jpg").read_bytes() == b"first image"
    assert [(progress.done, progress.total) for progress in seen] == [(1, 1)]


@pytest.mark.parametrize("label", HOSTILE)
def test_a_hostile_archive_is_refused(tmp_path: Path, label: str) -> None:
    archive = put(tmp_path, HOSTILE[label])
    with pytest.raises((HostileFile, CorruptFile)) as caught:
        list_members(archive)
    assert str(archive) in str(caught.value)
    assert str(caught.value).replace("\n", "").isprintable()
    assert list(tmp_path.iterdir()) == [archive]


def test_all_hostile_members_are_listed_at_once(tmp_path: Path) -> None:
    names = ["/a", "../b", "c\\d", "e//f", "g\x07", "C:h"]
    archive = put(tmp_path, tar_of(FILES, *map(tarfile.TarInfo, names)))
    with pytest.raises(HostileFile, match=f"{len(names)} reasons not to unpack it") as caught:
        list_members(archive)
    for expected in (
        "'/a': is an absolute path",
        "'../b': leaves the folder through ..",
        "'c\\d': is a path of another system",
        "'e//f': is not a plain path",
        "'g\\x07': has control characters",
        "'C:h': is a path of another system",
    ):
        assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/1", "a/1"], "'a/1': stands twice"),
        (["a/1", "A/1"], "'A/1': is the same name as 'a/1'"),
        (["a/1", "A/2"], "'A': is the same name as 'a'"),
        (["a/\u00e9", "a/e\u0301"], "is the same name as"),
        (["a/\u00df", "a/SS"], "is the same name as"),
        (["a", "a/1"], "'a': is a file and a folder"),
        (["a/1", "a"], "'a': is a file and a folder"),
    ],
)
def test_names_that_clash_are_found(names: list[str], message: str) -> None:
    (problem,) = clashes([Member(name, FILE, 0) for name in names])[:1]
    assert message in problem


def test_a_folder_may_stand_twice() -> None:
    assert clashes([Member("a", FOLDER, 0), Member("a/b", FILE, 0), Member("a", FOLDER, 0)]) == []


@given(st.text(max_size=40))
@settings(max_examples=300)
def test_a_name_without_a_problem_stays_inside(name: str) -> None:
    if member_problem(Member(name, FILE, 0)) is None:
        inside = Path("/root/of/all")
        path = inside / name
        assert path.resolve().is_relative_to(inside)
        assert str(path) == f"{inside}/{name}"
        assert name.isprintable()


def test_more_members_than_allowed_are_refused(tmp_path: Path) -> None:
    archive = put(tmp_path, tar_of({str(i): b"" for i in range(12)}))
    with pytest.raises(HostileFile, match="more than 11 members; the rest was not looked at"):
        list_members(archive, limits=Limits(members=11))
    assert len(list_members(archive, limits=Limits(members=12))) == 12


@pytest.mark.parametrize("kind", ["pax", "tar.gz", "zip"])
def test_more_bytes_than_allowed_are_refused(tmp_path: Path, kind: str) -> None:
    archive = put(tmp_path, WHOLE[kind])
    total = sum(map(len, FILES.values()))
    with pytest.raises(HostileFile, match=rf"declare {total:,} and more, beyond {total - 1:,}"):
        list_members(archive, limits=Limits(unpacked=total - 1))
    list_members(archive, limits=Limits(unpacked=total))


@pytest.mark.parametrize("pack", [lambda files: gzip.compress(tar_of(files)), zip_of])
def test_a_bomb_is_known_by_its_ratio(tmp_path: Path, pack: object) -> None:
    archive = put(tmp_path, pack({"zeros": bytes(10**7)}))  # type: ignore[operator]
    with pytest.raises(HostileFile, match="declare 10,000,000 and more, beyond"):
        list_members(archive, limits=Limits(ratio=100, free=10**6))
    assert len(list_members(archive, limits=Limits(ratio=2000, free=10**6))) == 1


def test_a_bomb_behind_the_end_of_a_tar_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_formats, "_LARGEST_READ", 1 << 20)
    archive = put(tmp_path, gzip.compress(tar_of(DATASET) + bytes(10**7)))
    with pytest.raises(HostileFile, match=r"unpacks to more than 1,000,000 bytes"):
        list_members(archive, limits=Limits(ratio=1, free=10**6))


def test_a_zip_directory_larger_than_any_dataset_needs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = put(tmp_path, zip_of({f"{i:0200d}": b"" for i in range(5000)}))
    assert len(list_members(archive)) == 5000
    monkeypatch.setattr(archive_formats, "_LARGEST_READ", 10**6)
    with pytest.raises(HostileFile, match="its directory declares 1,230,000 bytes, more than 1,000,000"):
        list_members(archive)


@pytest.mark.parametrize("kind", ["pax", "gnu", "tar.gz", "zip"])
def test_an_archive_cut_short_is_told(tmp_path: Path, kind: str) -> None:
    rng = random.Random(5)
    whole = WHOLE[kind]
    end = len(whole.rstrip(b"\0")) if kind in ("pax", "gnu") else len(whole)
    for at in [1, 511, 512, 513, *rng.sample(range(1, end), 8), end - 1]:
        archive = put(tmp_path, whole[:at])
        with pytest.raises(CorruptFile, match="damaged or cut short|neither tar, tar.gz nor zip"):
            list_members(archive)


def test_a_tar_without_its_end_is_told(tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match="no mark at its end"):
        list_members(put(tmp_path, tar_of(DATASET)[:1024]))  # the first member, header and data


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    damaged = bytearray(tar_of(DATASET))
    damaged[1024] ^= 1  # in the name of the second member
    with pytest.raises(CorruptFile, match="no mark at its end"):
        list_members(put(tmp_path, bytes(damaged)))


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_a_flipped_bit_in_the_data_is_told(tmp_path: Path, kind: str) -> None:
    damaged = bytearray(WHOLE[kind])
    damaged[len(damaged) // 2] ^= 4
    archive = put(tmp_path, bytes(damaged))
    with pytest.raises(CorruptFile, match="damaged or cut short"):
        unpacked(archive, tmp_path / "out")


def test_damage_anywhere_is_an_error_of_this_project_or_does_not_matter(tmp_path: Path) -> None:
    rng = random.Random(13)
    whole = [tar_of(DATASET), gzip.compress(tar_of(DATASET)), zip_of(DATASET)]
    outcomes = set()
    for trial in range(400):
        damaged = bytearray(rng.choice(whole))
        for _ in range(rng.choice([1, 1, 2, 5])):
            damaged[rng.randrange(min(len(damaged), 4096))] = rng.choice([0, 255, rng.randrange(256)])
        try:
            unpacked(put(tmp_path, bytes(damaged)), tmp_path / "out" / str(trial))
            outcomes.add("harmless")
        except FeatcacheError as error:
            outcomes.add(type(error).__name__)
    assert outcomes == {"harmless", "CorruptFile", "HostileFile"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<!DOCTYPE html><html>not found</html>", "It begins like a web page"),
        (b"", "neither tar, tar.gz nor zip"),
        (bytes(10240), "neither tar, tar.gz nor zip"),
        (b"BZh91AY&SY", "neither tar, tar.gz nor zip"),
        (gzip.compress(b"no tar in here", mtime=0), "damaged or cut short"),
    ],
)
def test_what_is_no_archive_is_told(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(CorruptFile, match=message):
        list_members(put(tmp_path, data))


def test_headers_before_headers_without_end_are_told(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a")
    info.pax_headers = {"comment": "x"}
    header = info.tobuf(tarfile.PAX_FORMAT)[:1024]
    with pytest.raises(CorruptFile, match="damaged or cut short"):
        list_members(put(tmp_path, header * 3000))


def test_a_disk_too_small_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = put(tmp_path, WHOLE["zip"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**6, 0, 10**6))
    with pytest.raises(StorageError, match=r"about 2,\d{3},\d{3} bytes are needed, 1,000,000 are free"):
        unpacked(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_archive_that_changes_between_the_passes_is_told(tmp_path: Path) -> None:
    archive = put(tmp_path, tar_of(DATASET))
    members = list_members(archive)
    put(tmp_path, tar_of(DATASET | {"lamem/images/1.jpg": b"longer than before"}))
    with pytest.raises(CorruptFile, match="changed while it was unpacked; 1 members are gone"):
        unpack(archive, {member: member.name for member in members}, tmp_path / "out")


def test_a_target_that_leaves_the_folder_is_stopped_by_a_second_net(tmp_path: Path) -> None:
    archive = put(tmp_path, tar_of({"a": b"x"}))
    (member,) = list_members(archive)
    outside = tmp_path / "outside"
    outside.mkdir()
    with pytest.raises(HostileFile, match="leaves"):
        unpack(archive, {member: "../outside/a"}, tmp_path / "out")
    assert not list(outside.iterdir())


def test_a_zip_that_declares_less_than_it_holds_gives_no_more(tmp_path: Path) -> None:
    whole = bytearray(zip_of({"a": bytes(10**6)}))
    for mark, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        struct.pack_into("<I", whole, whole.index(mark) + at, 10)
    archive = put(tmp_path, bytes(whole))
    with pytest.raises(CorruptFile):
        unpacked(archive, tmp_path / "out")
    assert (tmp_path / "out" / "a").stat().st_size <= 10


def test_progress_goes_from_checking_to_unpacking(tmp_path: Path) -> None:
    seen: list[Progress] = []
    list_members(put(tmp_path, WHOLE["tar.gz"]), on_progress=seen.append)
    assert {progress.stage for progress in seen} == {"check the archive"}
    assert all(earlier.done <= later.done for earlier, later in itertools.pairwise(seen))
    assert seen[-1].done == seen[-1].total == len(WHOLE["tar.gz"])
