"""Split files in the LaMem layout: good ones are read exactly, bad ones are refused with every fault at once."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.base.errors import BadInput
from featcache.datasets.dataset import open_dataset
from featcache.datasets.split_files import LARGEST_SCORE
from featcache.datasets.splits import natural_key
from tests.helpers.tiny import ROOT

LAMEM_SPLITS = ROOT.parent / "shared" / "data" / "lamem" / "splits"


def write_dataset(folder: Path, files: dict[str, str | bytes], images: Iterable[str] = ("a.jpg", "b.jpg")) -> Path:
    """Write split files, and an empty file for each image."""
    (folder / "splits").mkdir(parents=True)
    for name, text in files.items():
        (folder / "splits" / f"{name}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    for name in ("images", *(f"images/{image}" for image in images)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).mkdir() if name == "images" else (folder / name).touch()
    return folder


def problems_of(folder: Path) -> list[str]:
    """Return the lines of the one error that a dataset gives, without its folder."""
    with pytest.raises(BadInput) as caught:
        open_dataset(str(folder))
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def test_rows_are_the_sorted_names_and_parts_keep_the_order_of_their_file(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "train_1": "c.jpg 0.25\na.jpg 1\n",
        "val_1": "b.jpg -2.5e-1\n",
        "test_1": "sub/d.jpg .5\n",
    }
    dataset = open_dataset(str(write_dataset(tmp_path / "faces", files, ["a.jpg", "b.jpg", "c.jpg", "sub/d.jpg"])))
    assert dataset.name == "faces"
    assert dataset.names == ("a.jpg", "b.jpg", "c.jpg", "sub/d.jpg")
    assert dataset.path(3) == tmp_path / "faces" / "images" / "sub" / "d.jpg"
    assert list(dataset.splits["1"]) == ["train", "val", "test"]
    train = dataset.splits["1"]["train"]
    assert (train.rows.dtype, train.scores.dtype) == (np.int64, np.float64)
    assert (train.rows.tolist(), train.scores.tolist()) == ([2, 0], [0.25, 1.0])
    assert dataset.splits["1"]["val"].scores.tolist() == [-0.25]
    assert dataset.splits["1"]["test"].rows.tolist() == [3]


def test_one_image_has_its_own_score_in_each_split(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"train_1": "a.jpg 0.1", "test_1": "b.jpg 0.2", "train_2": "b.jpg 0.3"}
    splits = open_dataset(str(write_dataset(tmp_path / "d", files))).splits
    assert splits["1"]["train"].scores.tolist() == [0.1]
    assert (splits["1"]["test"].rows.tolist(), splits["1"]["test"].scores.tolist()) == ([1], [0.2])
    assert (splits["2"]["train"].rows.tolist(), splits["2"]["train"].scores.tolist()) == ([1], [0.3])


def test_a_split_needs_no_val_part(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", {"train_1": "a.jpg 1\n", "test_1": "b.jpg 2\n"})
    assert list(open_dataset(str(folder)).splits["1"]) == ["train", "test"]


def test_splits_are_in_natural_order(tmp_path: Path) -> None:
    splits = ["1", "2", "3", "10", "11", "human", "pilot"]
    folder = write_dataset(tmp_path / "d", {f"train_{split}": "a.jpg 1" for split in reversed(splits)})
    assert list(open_dataset(str(folder)).splits) == splits
    assert sorted(["pilot", "2", "10", "1"], key=natural_key) == ["1", "2", "10", "pilot"]


def test_other_files_beside_the_splits_are_left_alone(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", {"train_1": "a.jpg 1", "README": "?", "train_1.old": "?", "train": "?"})
    assert list(open_dataset(str(folder)).splits) == ["1"]


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg 0.5\nb.jpg 0.25\n",
        "a.jpg 0.5\nb.jpg 0.25",
        "a.jpg 0.5\r\nb.jpg 0.25\r\n",
        "\ufeffa.jpg 0.5\nb.jpg 0.25\n",
        "a.jpg\t0.5\nb.jpg   0.25\n\n",
        "  a.jpg 0.5  \n b.jpg 0.25 \n",
        "a.jpg +5e-1\nb.jpg 2.5E-01\n",
    ],
    ids=["plain", "no final newline", "CRLF", "BOM", "tabs and a blank end", "indented", "exponents"],
)
def test_usual_variants_of_text_files_work(tmp_path: Path, text: str) -> None:
    dataset = open_dataset(str(write_dataset(tmp_path / "d", {"train_1": text})))
    assert dataset.names == ("a.jpg", "b.jpg")
    assert dataset.splits["1"]["train"].scores.tolist() == [0.5, 0.25]


def test_names_may_hold_spaces_and_any_script(tmp_path: Path) -> None:
    names = ["Grüße 1.jpg", "a b  c.jpg", "写真/猫 2.jpg", "x.jpg 0.9"]
    folder = write_dataset(tmp_path / "d", {"train_1": "".join(f"{n} 0.5\n" for n in names)}, names)
    assert open_dataset(str(folder)).names == tuple(sorted(names))


@pytest.mark.parametrize("name", ["lamem", "sun"])
def test_a_known_dataset_is_found_under_its_root_or_in_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_dataset(tmp_path / "data" / name, {"train_1": "a.jpg 1"})
    monkeypatch.chdir(tmp_path)
    for dataset in (open_dataset(name), open_dataset(name, root=tmp_path / "data" / name)):
        assert (dataset.name, dataset.names) == (name, ("a.jpg",))
        assert dataset.path(0).is_file()


def test_a_folder_given_as_a_dot_has_its_real_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_dataset(tmp_path / "faces", {"train_1": "a.jpg 1"}))
    assert open_dataset(".").name == "faces"


def test_a_known_dataset_that_is_not_there_asks_for_its_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=r"data/lamem: no images/ and no splits/ folder.*Pass --root DIR"):
        open_dataset("lamem")


def test_a_folder_in_another_layout_is_told_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(BadInput, match=r"no splits/ folder.*lines `NAME SCORE`\.$"):
        open_dataset(str(tmp_path))
    (tmp_path / "splits").mkdir()
    with pytest.raises(BadInput, match=r"splits: no file named \{train,val,test\}_K\.txt"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("a.jpg", "expected `NAME SCORE`, found 'a.jpg'"),
        ("", "expected `NAME SCORE`, found ''"),
        ("a.jpg\r", "expected `NAME SCORE`, found 'a.jpg'"),
        ("a.jpg nan", "the score of 'a.jpg' is not a finite decimal number: 'nan'"),
        ("a.jpg inf", "the score of 'a.jpg' is not a finite decimal number: 'inf'"),
        ("a.jpg -Infinity", "the score of 'a.jpg' is not a finite decimal number: '-Infinity'"),
        ("a.jpg 1e999", "the score of 'a.jpg' is not a finite decimal number: '1e999'"),
        ("a.jpg -2e15", "the score of 'a.jpg' is beyond 1e+15: '-2e15'"),
        ("a.jpg 1,5", "the score of 'a.jpg' is not a finite decimal number: '1,5'"),
        ("a.jpg 1_0", "the score of 'a.jpg' is not a finite decimal number: '1_0'"),
        ("a.jpg 0x1", "the score of 'a.jpg' is not a finite decimal number: '0x1'"),
        ("a.jpg b.jpg", "the score of 'a.jpg' is not a finite decimal number: 'b.jpg'"),
        ("/etc/passwd 1", "'/etc/passwd' leaves the images/ folder"),
        ("../a.jpg 1", "'../a.jpg' leaves the images/ folder"),
        ("sub/../../a.jpg 1", "'sub/../../a.jpg' leaves the images/ folder"),
        ("./a.jpg 1", "'./a.jpg' is not a plain path inside images/"),
        ("sub//a.jpg 1", "'sub//a.jpg' is not a plain path inside images/"),
        ("a\0.jpg 1", "'a\\x00.jpg' is not a plain path inside images/"),
        ("a.jpg 1\rb.jpg 1", "'a.jpg 1\\rb.jpg' is not a plain path inside images/"),
        ("gone.jpg 1", "no such image: images/gone.jpg"),
        ("sub/b.jpg 1", "no such image: images/sub/b.jpg; the folder has b.jpg, which differs in folders"),
        ("A.JPG 1", "no such image: images/A.JPG; the folder has a.jpg, which differs in case"),
        ("x" * 70 + " y", f"the score of '{'x' * 57}...' is not a finite decimal number: 'y'"),
    ],
)
def test_a_faulty_line_is_named_with_its_place(tmp_path: Path, line: str, problem: str) -> None:
    folder = write_dataset(tmp_path / "d", {"train_1": f"b.jpg 0.5\n{line}\na.png 1\n"}, ["a.jpg", "b.jpg", "a.png"])
    head, *problems, way_out = problems_of(folder)
    assert head.endswith("d: 1 problems in the dataset:")
    assert problems == [f"  splits/train_1.txt:2: {problem}"]
    assert way_out == "Mend or remove these lines, then run the same command again; nothing was computed."


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "splits/train_1.txt: the file is empty"),
        (b"\r\n \n", "splits/train_1.txt: the file is empty"),
        (b"\xef\xbb\xbf", "splits/train_1.txt: the file is empty"),
        (b"a.jpg 1\nb\xe9.jpg 1\n", "splits/train_1.txt: not UTF-8 text (byte 9)"),
        ("a.jpg 1\n".encode("utf-16"), "splits/train_1.txt: not UTF-8 text (byte 0)"),
    ],
)
def test_a_file_that_holds_no_text_is_named(tmp_path: Path, data: bytes, problem: str) -> None:
    folder = write_dataset(tmp_path / "d", {"train_1": data, "test_1": "b.jpg 1"})
    assert problems_of(folder)[1:-1] == [f"  {problem}"]


def test_a_folder_in_the_place_of_a_split_file_is_named(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", {"test_1": "b.jpg 1"})
    (folder / "splits" / "train_1.txt").mkdir()
    assert problems_of(folder)[1:-1] == ["  splits/train_1.txt: cannot be read: Is a directory"]


def test_all_faults_of_all_files_come_in_one_error(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "train_1": "a.jpg 0.5\nb.jpg nan\nb.jpg 1,5\nc.jpg 0.5\na.jpg 0.7\n../d.jpg 1\n",
        "val_1": b"\xff\xfe",
        "test_1": "/c.jpg 1\nc.jpg 0.5\ngone.jpg 1\nbroken\n",
        "train_2": "",
        "test_2": "gone.jpg 2\nc.jpg 1\nlost.jpg 1\n",
    }
    assert problems_of(write_dataset(tmp_path / "d", files, ["a.jpg", "b.jpg", "c.jpg"]))[1:-1] == [
        "  splits/train_1.txt:2: the score of 'b.jpg' is not a finite decimal number: 'nan'",
        "  splits/train_1.txt:3: the score of 'b.jpg' is not a finite decimal number: '1,5'",
        "  splits/train_1.txt:5: a.jpg is already on line 1",
        "  splits/train_1.txt:6: '../d.jpg' leaves the images/ folder",
        "  splits/val_1.txt: not UTF-8 text (byte 0)",
        "  splits/test_1.txt:1: '/c.jpg' leaves the images/ folder",
        "  splits/test_1.txt:4: expected `NAME SCORE`, found 'broken'",
        "  splits/train_2.txt: the file is empty",
        "  splits/test_1.txt:2: c.jpg is in another part of the same split, splits/train_1.txt:4",
        "  splits/test_1.txt:3: no such image: images/gone.jpg",
        "  splits/test_2.txt:3: no such image: images/lost.jpg",
    ]


def test_a_thousand_faults_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    text = "".join(f"gone{n}.jpg 1\n" for n in range(1009))
    head, *problems, _ = problems_of(write_dataset(tmp_path / "d", {"train_1": text}))
    assert head.endswith("1,009 problems in the dataset:")
    assert len(problems) == 1001
    assert problems[-1] == "  ... and 9 more"


# what a name in images/ can be made of: printable, no separators but single inner spaces, and no '/'
PIECE = st.text(
    st.characters(categories=["L", "M", "N", "P", "S"], exclude_characters="/"), min_size=1, max_size=8
).filter(lambda piece: piece not in (".", ".."))
NAME = st.lists(st.lists(PIECE, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=3).map("/".join)
SCORE = st.floats(-LARGEST_SCORE, LARGEST_SCORE)


def without_folders(lines: dict[str, float]) -> dict[str, float]:
    """Leave out names that are a folder of another name: one path cannot be both."""
    return {name: score for name, score in lines.items() if not any(other.startswith(f"{name}/") for other in lines)}


@settings(deadline=None, max_examples=60)
@given(
    lines=st.dictionaries(NAME, SCORE, min_size=1, max_size=7).map(without_folders),
    gap=st.sampled_from([" ", "\t", "  "]),
    newline=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
    final_newline=st.booleans(),
)
def test_any_valid_lines_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    lines: dict[str, float],
    gap: str,
    newline: str,
    bom: bool,
    final_newline: bool,
) -> None:
    text = "\ufeff" * bom + newline.join(f"{name}{gap}{score!r}" for name, score in lines.items())
    folder = tmp_path_factory.mktemp("lines") / "d"
    dataset = open_dataset(str(write_dataset(folder, {"train_1": text + newline * final_newline}, lines)))
    part = dataset.splits["1"]["train"]
    assert dataset.names == tuple(sorted(lines))
    assert [dataset.names[row] for row in part.rows] == list(lines)
    assert part.scores.tolist() == list(lines.values())


@pytest.mark.skipif(not LAMEM_SPLITS.is_dir(), reason="LaMem's split files are not on this machine")
def test_the_real_lamem_splits_hold_what_their_paper_says(tmp_path: Path) -> None:
    texts = {path.name: path.read_text() for path in LAMEM_SPLITS.glob("*_?.txt")}
    names = {line.split(" ")[0] for text in texts.values() for line in text.splitlines()}
    (tmp_path / "images").mkdir()
    for name in names:  # stand-ins: only names are checked
        os.close(os.open(tmp_path / "images" / name, os.O_CREAT))
    (tmp_path / "splits").symlink_to(LAMEM_SPLITS)
    dataset = open_dataset("lamem", root=tmp_path)
    assert len(dataset.names) == 58_741
    assert list(dataset.splits) == ["1", "2", "3", "4", "5"]
    for split, parts in dataset.splits.items():
        assert {part: len(parts[part].rows) for part in parts} == {"train": 45_000, "val": 3_741, "test": 10_000}
        first = texts[f"train_{split}.txt"].split(maxsplit=2)
        assert (dataset.names[parts["train"].rows[0]], parts["train"].scores[0]) == (first[0], float(first[1]))
        rows = np.concatenate([parts[part].rows for part in parts])
        assert sorted(rows) == list(range(58_741))


def test_a_linked_folder_has_the_name_it_was_called_by(tiny_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(tiny_dataset)
    assert open_dataset(str(tmp_path / "mine")).name == "mine"
    assert open_dataset(str(tiny_dataset / "images" / "..")).name == tiny_dataset.name
