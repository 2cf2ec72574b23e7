"""A name that no file has is told with the file that comes near; one in another Unicode form is that file."""

import os
import re
import time
import unicodedata
from pathlib import Path

import pytest

from featcache.base.errors import BadInput
from featcache.datasets.dataset import open_dataset
from featcache.datasets.image_files import find_image_files
from featcache.datasets.split_files import Line
from tests.featcache.datasets.test_dataset import problems_of, write_dataset
from tests.featcache.datasets.test_ratings import write

NFC, NFD = (unicodedata.normalize(form, "Grüße/é.jpg") for form in ("NFC", "NFD"))


def problems_with(folder: Path, names: list[str], files: list[str]) -> list[str]:
    """Return the problems of a table of names beside files, without the table's folder and the places of its lines."""
    text = "path,score\n" + "".join(f'"{name}",{k}\n' for k, name in enumerate(names))
    with pytest.raises(BadInput) as raised:
        open_dataset(write(folder, text, images=tuple(files)))
    lines = str(raised.value).replace(f"{folder}/", "").splitlines()[1:-1]
    return [re.sub(r"^  (mine\.csv:\d+: )?", "", line) for line in lines]


@pytest.mark.parametrize(
    ("name", "file", "differences"),
    [
        ("Cat.jpg", "cat.jpg", "case"),
        ("cat.jpg", "cat.JPG", "case"),
        ("cat.jpg", "cat.jpeg", "suffix"),
        ("cat.jpg", "cat.png", "suffix"),
        ("cat", "cat.jpg", "suffix"),
        ("cat.jpg", "cat", "suffix"),
        ("cat.jpg", "Cat.JPEG", "case and suffix"),
        ("sub\\cat.jpg", "sub/cat.jpg", "backslashes"),
        ("C:\\Users\\me\\cat.jpg", "cat.jpg", "backslashes and folders"),
        ("7.jpg", "007.jpg", "leading zeros"),
        ("007.jpg", "7.jpg", "leading zeros"),
        ("img_7.jpg", "img_007.jpg", "leading zeros"),
        ("7", "007.jpg", "suffix and leading zeros"),
        ("cat .jpg", "cat.jpg", "spaces, hyphens or underscores"),
        ("cat.jpg", " cat.jpg", "spaces at an end"),
        ("a cat.jpg", "a_cat.jpg", "spaces, hyphens or underscores"),
        ("a%20cat.jpg", "a cat.jpg", "%20 and the like"),
        ("photos/cat.jpg", "cat.jpg", "folders"),
        ("cat.jpg", "photos/cat.jpg", "folders"),
        ("there/cat.jpg", "here/cat.jpg", "folders"),
        ("Photos/cat.jpg", "photos/cat.jpg", "case"),
        ("ﬁsh.jpg", "fish.jpg", "Unicode form"),
    ],
)
def test_the_file_that_comes_near_is_named_with_the_difference(
    tmp_path: Path, name: str, file: str, differences: str
) -> None:
    folder = tmp_path / "photos"
    assert problems_with(folder, ["there.jpg", name], ["there.jpg", "other.jpg", file]) == [
        f"no such image: {name}; the folder has {file}, which differs in {differences}"
    ]


@pytest.mark.parametrize("name", ["gone.jpg", "___", "10.jpg", "1.jpg.txt", "%", "\\"])
def test_what_is_not_near_is_not_named(tmp_path: Path, name: str) -> None:
    assert problems_with(tmp_path, ["1.jpg", name], ["1.jpg", "-"]) == [f"no such image: {name}"]


def test_the_nearest_of_several_files_is_named(tmp_path: Path) -> None:
    found = problems_with(tmp_path, ["1.jpg", "Cat.jpg"], ["1.jpg", "cat.png", "cat.jpg", "CAT.jpeg"])
    assert found == ["no such image: Cat.jpg; the folder has cat.jpg, which differs in case"]


@pytest.mark.parametrize(("written", "there"), [(NFC, NFD), (NFD, NFC)])
def test_a_name_in_another_unicode_form_is_the_file(tmp_path: Path, written: str, there: str) -> None:
    table = write(tmp_path, f"path,score,split\n{written},1,train\nb.jpg,2,train\n", images=(there, "b.jpg"))
    found = open_dataset(table)
    assert set(found.names) == {there, "b.jpg"}
    assert all(found.path(row).is_file() for row in range(2))
    folder = write_dataset(tmp_path / "d", {"train_1": f"{written} 1\nb.jpg 2\n"}, [there, "b.jpg"])
    assert set(open_dataset(str(folder)).names) == {there, "b.jpg"}


def test_both_forms_may_be_files_of_their_own(tmp_path: Path) -> None:
    found = open_dataset(write(tmp_path, f"path,score\n{NFC},1\n{NFD},2\n", images=(NFC, NFD)))
    assert set(found.names) == {NFC, NFD}


def test_one_file_in_two_forms_is_one_image_twice(tmp_path: Path) -> None:
    found = problems_with(tmp_path, [NFC, NFD, "b.jpg"], [NFD, "b.jpg"])
    assert found == [f"{NFD} is already at mine.csv:2, in another Unicode form"]
    folder = write_dataset(tmp_path / "d", {"train_1": f"{NFC} 1\n", "test_1": f"{NFD} 1\nb.jpg 2\n"}, [NFD, "b.jpg"])
    expected = f"  splits/test_1.txt:1: {NFD} is in another part of the same split, splits/train_1.txt:1"
    assert problems_of(folder)[1:-1] == [expected]


@pytest.mark.parametrize(
    ("names", "files", "said"),
    [
        ("{}", "{}.jpg", "all 120 names lack a suffix: the folder has them as .jpg"),
        ("{}.jpg", "{}.png", "all 120 names have another suffix: the folder has them as .png"),
        ("x{}.JPG", "X{}.jpg", "all 120 names differ from their files in case: x1.JPG is X1.jpg"),
        ("{}.jpg", "my images/{}.jpg",
         "all 120 names differ from their files in folders: 1.jpg is my images/1.jpg; pass --root 'my images'"),
    ],
)  # fmt: skip
def test_names_that_all_differ_alike_are_summed_up(tmp_path: Path, names: str, files: str, said: str) -> None:
    numbers = range(1, 121)
    found = problems_with(tmp_path, [names.format(n) for n in numbers], [files.format(n) for n in numbers])
    assert found[0] == said
    assert [line.partition(";")[0] for line in found[1:]] == [f"no such image: {names.format(n)}" for n in range(1, 6)]


def test_names_that_differ_in_many_ways_are_all_named(tmp_path: Path) -> None:
    names, files = [f"{n}.jpg" for n in range(1, 9)], [f"{n}.{'png' if n < 5 else 'JPG'}" for n in range(1, 9)]
    assert len(problems_with(tmp_path, names, files)) == 8


def test_absolute_paths_of_another_machine_are_looked_for_beside_the_table(tmp_path: Path) -> None:
    found = problems_with(tmp_path, ["/no/such/home/a.jpg", "/no/such/home/b.jpg"], ["a.jpg"])
    assert found == [
        "no such image: /no/such/home/a.jpg; the folder has a.jpg, which differs in folders",
        "no such image: /no/such/home/b.jpg",
    ]


def test_absolute_paths_are_not_helped_by_another_root(tmp_path: Path) -> None:
    found = problems_with(tmp_path, [f"/no/such/home/{n}.jpg" for n in range(9)], [f"{n}.jpg" for n in range(9)])
    assert found[0] == "all 9 names differ from their files in folders: /no/such/home/0.jpg is 0.jpg"


def test_tens_of_thousands_of_names_take_seconds(tmp_path: Path) -> None:
    count = 20_000
    for n in range(count):
        os.close(os.open(tmp_path / f"{n:06}.jpg", os.O_CREAT))
    problems: list[str] = []
    started = time.perf_counter()
    find_image_files(tmp_path, [Line(f"t:{n}", f"{n}.JPG", 0) for n in range(count)], problems, home=tmp_path)
    assert problems[0].startswith(f"all {count:,} names differ from their files in case and leading zeros: 0.JPG")
    assert time.perf_counter() - started < 10  # 1.2 s on an idle machine
