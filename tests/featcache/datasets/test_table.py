"""Tables are read as spreadsheets and pandas write them; what is not clear in them is an error with its place."""

from pathlib import Path

import pytest

from featcache.base.errors import BadInput
from featcache.datasets.dataset import open_dataset
from featcache.datasets.table import read_table
from tests.featcache.datasets.test_ratings import write


def table_of(folder: Path, text: str, name: str = "mine.csv") -> tuple[list[str], list[list[str]], list[str]]:
    header, lines, _, notes = read_table(Path(write(folder, text, name=name)))
    return header, [cells for _, cells in lines], notes


def test_empty_last_columns_and_lines_are_left_out(tmp_path: Path) -> None:
    text = "path,score,,\r\na.jpg,1,,\r\nb.jpg,2, ,,,\r\nc.jpg,3\r\n,,,\r\n,,,\r\n"
    header, lines, notes = table_of(tmp_path, text)
    assert (header, lines) == (["path", "score"], [["a.jpg", "1"], ["b.jpg", "2"], ["c.jpg", "3"]])
    assert notes == ["empty columns without a name, ignored: 3, 4"]


def test_an_empty_column_between_others_is_left_out(tmp_path: Path) -> None:
    assert table_of(tmp_path, "path,,score\na.jpg,,1\n")[:2] == (["path", "score"], [["a.jpg", "1"]])


def test_content_in_a_column_without_a_name_is_an_error_that_names_both(tmp_path: Path) -> None:
    expected = "mine.csv:1: column 3 has no name, but line 4 has 'blurred' there; name it, or empty it$"
    with pytest.raises(BadInput, match=expected):
        table_of(tmp_path, "path,score,\na.jpg,1,\n\nb.jpg,2,blurred\n")


def test_numbers_of_lines_in_front_are_left_out(tmp_path: Path) -> None:
    header, lines, notes = table_of(tmp_path, ",path,score\n0,a.jpg,1\n7,b.jpg,2\n")
    assert (header, lines) == (["path", "score"], [["a.jpg", "1"], ["b.jpg", "2"]])
    assert notes == ["the first column has no name and numbers the lines, ignored"]
    with pytest.raises(BadInput, match="column 1 has no name, but line 2 has '0' there"):
        table_of(tmp_path, ",path,score\n0,a.jpg,1\n0,b.jpg,2\n")


@pytest.mark.parametrize(
    ("name", "text", "notes"),
    [
        ("mine.csv", "path,score\na.jpg,1\n", []),
        ("mine.tsv", "path\tscore\na.jpg\t1\n", []),
        ("mine.txt", "path\tscore\na.jpg\t1\n", []),
        ("mine.csv", "path\tscore\na.jpg\t1\n", ["columns are separated by tabs"]),
        ("mine.tsv", "path,score\na.jpg,1\n", ["columns are separated by commas"]),
        ("mine.CSV", "path;score\na.jpg;1\n", ["columns are separated by semicolons"]),
        ("mine.csv", "sep=;\r\npath;score\r\na.jpg;1\r\n", ["columns are separated by semicolons"]),
        ("mine.csv", "\ufeff\r\n;;\r\npath;score\r\na.jpg;1\r\n", ["columns are separated by semicolons"]),
    ],
)
def test_the_separator_is_found(tmp_path: Path, name: str, text: str, notes: list[str]) -> None:
    assert table_of(tmp_path, text, name) == (["path", "score"], [["a.jpg", "1"]], notes)


def test_a_comma_in_the_header_does_not_hide_the_separator(tmp_path: Path) -> None:
    header = table_of(tmp_path, "image;mos;age, sex, country\na.jpg;1;-\n")[0]
    assert header == ["image", "mos", "age, sex, country"]


def test_lines_are_numbered_as_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="mine.csv:4: the score of 'b.jpg' is not a finite decimal number: 'x'"):
        open_dataset(write(tmp_path, "sep=;\npath;score\na.jpg;1\nb.jpg;x\n", images=("a.jpg", "b.jpg")))


def scores_of(folder: Path, text: str) -> list[float]:
    found = open_dataset(write(folder, text, images=("a.jpg", "b.jpg", "c.jpg")))
    return sorted({score for parts in found.splits.values() for part in parts.values() for score in part.scores})


def test_decimal_commas_are_read_between_semicolons_and_said(tmp_path: Path) -> None:
    text = "path;score\na.jpg;1,5\nb.jpg;-0,25\nc.jpg;3\n"
    assert scores_of(tmp_path, text) == [-0.25, 1.5, 3]
    assert "numbers have decimal commas: '1,5'" in open_dataset(str(tmp_path / "mine.csv")).notes


def test_decimal_points_between_semicolons_stay(tmp_path: Path) -> None:
    assert scores_of(tmp_path, "path;score\na.jpg;1.5\nb.jpg;.25\nc.jpg;3\n") == [0.25, 1.5, 3]


def test_commas_and_points_in_one_column_are_not_guessed_at(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"'987,5' at .*:3 has a decimal comma, '1.234' at .*:2 a decimal point; use one"
    ):
        scores_of(tmp_path, "path;score\na.jpg;1.234\nb.jpg;987,5\n")
    with pytest.raises(BadInput, match=r"not a finite decimal number: '1\.234,5'"):
        scores_of(tmp_path, "path;score\na.jpg;1.234,5\nb.jpg;987,5\n")


@pytest.mark.parametrize("text", ['path,score\na.jpg,"1,5"\n', "path\tscore\na.jpg\t1,5\n"])
def test_decimal_commas_elsewhere_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput, match="not a finite decimal number: '1,5'"):
        scores_of(tmp_path, text)
