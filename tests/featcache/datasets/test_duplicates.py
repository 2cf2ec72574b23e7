"""The same file under several names: found, told, kept in one part of drawn splits, and taken out of others."""

import json
import os
from pathlib import Path

import pytest

from featcache.datasets.dataset import open_dataset
from featcache.datasets.duplicates import find_duplicates
from tests.featcache.datasets.test_ratings import parts, write
from tests.helpers.command_line import amnet

QUICK = ("--backbone", "timm:test_resnet", "--weights", "random", "--image-size", "64", "--precision", "fp32")


def test_files_of_the_same_bytes_are_found_whatever_their_names(tmp_path: Path) -> None:
    long = os.urandom(5000)
    contents = [b"a", long, b"b", long, b"a", long[:-1] + b"!", b"", b"", b"a"]
    paths = [tmp_path / f"{k}.jpg" for k in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    assert sorted(find_duplicates([*paths, tmp_path / "gone.jpg"])) == [[0, 4, 8], [1, 3]]
    assert find_duplicates([]) == []


def with_duplicates(folder: Path) -> str:
    """Return a table of ten images, of which 1 is 0, and 3, 5 and 7 are one file."""
    table = write(folder, "path,score\n" + "".join(f"{k}.jpg,{k}\n" for k in range(10)))
    for k in range(10):
        (folder / f"{k}.jpg").write_bytes(bytes([{1: 0, 5: 3, 7: 3}.get(k, k)]) * 9)
    return table


def test_drawn_splits_keep_them_together_and_they_are_told(tmp_path: Path) -> None:
    found = open_dataset(with_duplicates(tmp_path))
    for split in found.splits:
        part_of = {image: part for part, lines in parts(found, split).items() for image, _ in lines}
        assert len(part_of) == 10
        assert part_of["0.jpg"] == part_of["1.jpg"]
        assert part_of["3.jpg"] == part_of["5.jpg"] == part_of["7.jpg"]
    assert "5 images are 2 files under several names: 0.jpg = 1.jpg, 3.jpg = 5.jpg = 7.jpg" in found.notes
    assert not any("later part" in note for note in found.notes)


@pytest.fixture
def given(tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny dataset's photographs in a table: a copy of one of train is in test, one of val's in test."""
    lines = ["path,score,split"]
    for k, path in enumerate(sorted((tiny_dataset / "images").glob("*.jpg"))[:20]):
        (tmp_path / path.name).write_bytes(path.read_bytes())
        lines.append(f"{path.name},{k},{'train' if k < 10 else 'val' if k < 14 else 'test'}")
    names = [line.split(",")[0] for line in lines[1:]]
    for copied, copy in ((names[2], "of_train.jpg"), (names[11], "of_val.jpg")):
        (tmp_path / copy).write_bytes((tmp_path / copied).read_bytes())
        lines.append(f"{copy},7,test")
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_in_given_splits_they_are_told_before_training_with_a_way_out(given: Path) -> None:
    extract = ("extract", "--dataset", "mine.csv", *QUICK)
    said = amnet(*extract).stderr
    assert "warning: split 1: 1 images of train are the same file as one of a later part" in said
    assert "warning: split 1: 1 images of val are the same file as one of a later part" in said
    assert said.count("with --drop-duplicates") == 2
    assert len(json.loads(amnet("cache-info", "--json").stdout)["duplicates"]) == 2
    assert sum(line.startswith("same file ") for line in amnet("cache-info").stdout.splitlines()) == 2
    amnet("train-head", "--split", "1", "--head", "ridge", "--name", "first")
    assert "extract again with --drop-duplicates" in amnet("score-cache", status=3).stderr
    assert "--drop-duplicates" not in amnet(*extract, "--drop-duplicates").stderr
    amnet("train-head", "--split", "1", "--head", "ridge", "--name", "second")
    result = amnet("score-cache")
    assert "first/split-1: it was trained or selected on other images than are there now; left out" in result.stderr
    counts = json.loads(amnet("cache-info", "--json").stdout)["splits"]["1"]
    assert counts == {"train": 9, "val": 3, "test": 8}
