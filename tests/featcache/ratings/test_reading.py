"""Files as people save them: read as they stand, or called what they are, with the lines of what is wrong."""

import os
from pathlib import Path

import pytest

from featcache.base.errors import MOST_PROBLEMS_SHOWN, FeatcacheError, StorageError, refuse
from featcache.ratings import reading
from featcache.ratings.reading import read_responses
from featcache.ratings.settings import RatingSettings
from tests.helpers.command_line import amnet, told

FEW = "image,worker,rating\na.jpg,w1,3\nb.jpg,w1,5\na.jpg,w2,1\nb.jpg,w2,2\nc.jpg,w2,2\n"


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str) -> Path:
    Path("table.csv").write_text(text)
    return Path("table.csv")


def scores() -> list[str]:
    return Path("ratings.csv").read_text().splitlines()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "table.csv:1: no header"),
        ("image,worker,rating\n", "no responses below the header"),
        ("image,worker,rating\na,w,3\nb,,4\n,w,four\n", "table.csv:4: no image"),
        ("image,worker,rating\na,w,3\nb,,4\n,w,four\n", "table.csv:3: no worker"),
        ("image,worker,rating\na,w,3\nb,,4\n,w,four\n", "table.csv:4: the rating 'four' is no number"),
        ("image,worker,rating\na,w,inf\n", "table.csv:2: the rating 'inf' is no number"),
        ("image,worker,rating\na,w,3,4\n", "table.csv:2: 4 cells"),
        (
            "image,worker,rating\na,w,NA\n",
            "no response is left to make scores of. Left out are 1: the rating is missing",
        ),
    ],
)
def test_faults_of_a_table_are_named_with_their_lines(text: str, message: str) -> None:
    assert message in amnet("ratings", write(text), "--score", "mean", status=3).stderr
    assert not Path("ratings.csv").exists()


def test_lines_of_faults_are_those_of_the_file() -> None:
    text = 'image,worker,"rating\n(1-5)"\n"a\nb",w,3\n\n"c ""d\n""",w,bad\ne,w,\nf,,3\n'
    message = amnet("ratings", write(text), "--score", "mean", "--rating-column", "rating (1-5)", status=3).stderr
    assert "table.csv:6: the rating 'bad' is no number" in message and "table.csv:9: no worker" in message
    log = 'image,worker,condition,response,trial\n"a\n",w,first,no,9\n\n"a\n",w,repeat,yes,2\n'
    assert "table.csv:5: the repeat" in amnet("ratings", write(log), "--score", "lag", status=3).stderr


def test_what_stands_before_the_header_is_read_as_spreadsheets_write_it() -> None:
    Path("table.csv").write_bytes(b"\xef\xbb\xbfsep=;\r\n" + FEW.replace(",", ";").replace("\n", "\r\n").encode())
    amnet("ratings", "table.csv", "--score", "mean")
    expected = scores()
    assert expected[2] == "b.jpg,3.5,2,1.5"
    Path("table.csv").write_bytes(b'\xef\xbb\xbf"image"' + FEW.removeprefix("image").encode())
    amnet("ratings", "table.csv", "--score", "mean")
    assert scores() == expected
    message = amnet("ratings", write("sep=;\nimage;worker;rating\na;w;x\n"), "--score", "mean", status=3).stderr
    assert "table.csv:3: the rating 'x' is no number" in message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (FEW.encode("utf-16"), "is UTF-16 text, not UTF-8; save it as CSV in UTF-8, in Excel as 'CSV UTF-8"),
        (b"\xfe\xff" + FEW.encode("utf-16-be"), "iconv -f UTF-16 -t UTF-8 table.csv > NEW.csv"),
        (FEW.encode("utf-16-le"), "iconv -f UTF-16LE -t UTF-8 table.csv > NEW.csv"),
        (b"PK\x03\x04\x14\x00rest", "is an Excel workbook or another zip archive, no text"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "is an Excel workbook of the old kind"),
        (b"\x1f\x8b\x08rest", "is compressed with gzip; gzip -dc table.csv > NEW.csv"),
        (FEW.replace("\n", "\r").encode(), "has lines that end in a carriage return alone"),
        (b"imag\xe9,worker,rating\na,w,3\n", "table.csv:1: the header is not UTF-8 text"),
        (b'image,worker,"rating\na,w,3\n', "table.csv:1: a quotation mark of the header is not closed"),
        (b'image,worker,rating\na,w,3\n5" b,w,3\nc,w,3\n6" d,w,3\n', "table.csv:3: a quotation mark inside a cell"),
        (b'image,worker,rating\na,w,3\n"b,w,3\nc,w,3\n', "table.csv:3: a quotation mark that no other closes"),
        (b"image\tworker\trating\na\tw\t3,5\n", "Decimal commas are read where semicolons separate columns"),
        (b"image;worker;rating\na;w;3,5\nb;w;2\nc;w;1.200\n",
         "'3,5' at table.csv:2 has a decimal comma, '1.200' at table.csv:4 a decimal point"),
        (b"image,worker,rating\na,w,1e200\nb,w,inf\n", "the rating '1e200' is beyond 1e+100"),
        (b"image,worker,rating,rating\na,w,3,4\n", "rename all but one, as several are called alike"),
    ],
)  # fmt: skip
def test_files_of_other_kinds_are_called_what_they_are(data: bytes, message: str) -> None:
    Path("table.csv").write_bytes(data)
    assert message in amnet("ratings", "table.csv", "--score", "mean", status=3).stderr
    assert not Path("ratings.csv").exists()


def test_a_pipe_is_refused() -> None:
    os.mkfifo("pipe.csv")
    message = amnet("ratings", "pipe.csv", "--score", "mean", status=3).stderr
    assert "pipe.csv: is a pipe or device" in message


def test_more_faults_than_are_listed_are_counted() -> None:
    text = "image,worker,rating\n" + "".join(f"{k},w,x\n" for k in range(1257))
    lines = told(amnet("ratings", write(text), "--score", "mean", status=3)).splitlines()
    assert "1,257 in all" in lines[0] and lines[-2].strip() == "... and 257 more" and len(lines) == 1003


def test_lines_of_too_many_cells_are_counted_without_keeping_each(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = list[int]()

    def counting(kind: type[FeatcacheError], title: str, problems: list[str], way_out: str, *, total: int = 0) -> None:
        kept.append(len(problems))
        refuse(kind, title, problems, way_out, total=total)

    monkeypatch.setattr(reading, "refuse", counting)
    text = "image,worker,rating\n" + "".join(f"{k},w,1,\n" for k in range(1257))
    lines = told(amnet("ratings", write(text), "--score", "mean", status=3)).splitlines()
    assert lines[1].strip() == "table.csv:2: 4 cells" and lines[-2].strip() == "... and 257 more"
    assert kept[-1] == MOST_PROBLEMS_SHOWN


def test_a_file_that_is_not_there_is_no_pipe(desk: Path) -> None:
    for name, problem in (("none.csv", "No such file"), (".", "Is a directory")):
        with pytest.raises(StorageError, match=f"cannot read: {problem}"):
            read_responses(desk / name, RatingSettings(score="mean"))


def test_text_that_is_not_utf8_is_named() -> None:
    Path("table.csv").write_bytes(b"image,worker,rating\na,w,3\nb\xff,w,4\n")
    assert "table.csv:3: not UTF-8 text" in amnet("ratings", "table.csv", "--score", "mean", status=3).stderr
