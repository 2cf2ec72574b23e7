"""Columns are found by the words that people call them by; what could mean two is asked, not guessed."""

import re
from pathlib import Path

import pytest

from featcache.base.errors import BadInput, InvalidSettings
from featcache.datasets.columns import Columns, find_columns, part_of
from featcache.datasets.dataset import open_dataset
from tests.featcache.datasets.test_ratings import parts, write
from tests.helpers.command_line import amnet


def columns_of(header: str, *, path: str = "", score: str = "", line: str = "") -> Columns:
    return find_columns(
        header.split(","),
        [line.split(",")] if line else [],
        place="t.csv:1",
        path=path,
        scores=[score] if score else [],
    )


@pytest.mark.parametrize(
    "name",
    [
        *(
            "image",
            "Images",
            "img",
            "file",
            "file_name",
            "FileName",
            "file name",
            "filename",
            "image_name",
            "imageName",
        ),
        *("image-path", "ImageFile", "img_path", "stimulus", "Stimuli", "photo", "picture", "image_id", "Name"),
        *("filepath", "relative_path", "image file name", " PATH "),
    ],
)
def test_the_path_has_many_names(name: str) -> None:
    found = columns_of(f"age,{name},score")
    assert (found.path, found.scores, found.ignored) == (1, {"": 2}, ("age",))
    said = () if name.strip().lower() == "path" else (f"column {name!r} is read as the path",)
    assert found.notes == said


@pytest.mark.parametrize(
    "name",
    [
        *("mos", "MOS", "MOS_zscore", "rating", "Ratings", "mean", "mean_rating", "Mean Rating", "rating-mean"),
        *(
            "memorability",
            "memorability_score",
            "Average Score",
            "avg_rating",
            "aesthetic score",
            "image_quality",
            "DMOS",
        ),
        *("Mean Opinion Score (1-5)", "z-score", "hit_rate", "mem_score"),
    ],
)
def test_the_score_has_many_names(name: str) -> None:
    found = columns_of(f"path,rating_sd,{name},num_ratings")
    assert (found.scores, found.ignored) == ({"": 2}, ("rating_sd", "num_ratings"))
    assert found.notes == (f"column {name!r} is read as the score",)


def test_what_could_be_the_score_twice_is_asked_with_options_to_paste() -> None:
    expected = (
        "t.csv:1: the score could be any of 'MOS', 'mean rating'; "
        "say which with --score-column MOS or --score-column 'mean rating'"
    )
    with pytest.raises(BadInput, match=f"^{re.escape(expected)}$"):
        columns_of("image,MOS,mean rating")
    with pytest.raises(
        BadInput, match=r"the path could be any of 'image', 'file_name'; say which with --path-column im"
    ):
        columns_of("image,file_name,mos")


def test_the_documented_names_win() -> None:
    found = columns_of("image,path,mos,score")
    assert (found.path, found.scores, found.ignored, found.notes) == (1, {"": 3}, ("image", "mos"), ())


def test_a_name_of_a_file_wins_over_a_number_of_an_image() -> None:
    assert columns_of("image_id,image_name,mos").path == 1


def test_a_given_column_is_taken_whatever_it_is_called() -> None:
    found = columns_of("x,image,MOS,SD", path="x", score="sd")
    assert (found.path, found.scores, found.ignored, found.notes) == (0, {"": 3}, ("image", "MOS"), ())
    assert columns_of("mos,rating", path="mos").scores == {"": 1}
    with pytest.raises(InvalidSettings, match="t.csv:1: no column 'y' for --score-column; there are 'path', 'score'"):
        columns_of("path,score", score="y")
    with pytest.raises(BadInput, match="column 'path' cannot be both the path and the score"):
        columns_of("path,score", path="path", score="path")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("train", "Training", "training-set", " TRAIN "), "train"),
        (("val", "valid", "Validation", "dev", "development"), "val"),
        (("test", "testing", "Test set"), "test"),
        (("holdout", "", "1", "trial"), None),
    ],
)
def test_parts_have_many_names(words: tuple[str, ...], part: str | None) -> None:
    assert [part_of(word) for word in words] == [part] * len(words)


def test_a_set_column_is_the_split_if_it_holds_nothing_but_parts() -> None:
    found = columns_of("path,score,set", line="a.jpg,1,training")
    assert (found.splits, found.ignored, found.notes) == ({"1": 2}, (), ("column 'set' is read as the split",))
    assert columns_of("path,score,set", line="a.jpg,1,landscapes").splits == {}
    assert columns_of("path,score,set,split_2", line="a.jpg,1,test,train").splits == {"2": 3}
    with pytest.raises(BadInput, match="the split could be any of 'set', 'part'; call one of them split"):
        columns_of("path,score,set,part", line="a.jpg,1,test,train")


@pytest.mark.parametrize(("name", "key"), [("split", "1"), ("Split 2", "2"), ("split-3", "3"), ("split4", "4")])
def test_a_split_is_spelt_in_several_ways(name: str, key: str) -> None:
    assert columns_of(f"path,score,{name}").splits == {key: 2}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_of_other_words_is_read_with_any_separator(tmp_path: Path, separator: str) -> None:
    lines = ["Image Name,MOS,set", "a.jpg,1,training", "b.jpg,2,validation", "c.jpg,3,test"]
    text = "\ufeff" + "\r\n".join(lines).replace(",", separator)
    found = open_dataset(write(tmp_path, text, images=("a.jpg", "b.jpg", "c.jpg")))
    assert parts(found) == {"train": [("a.jpg", 1)], "val": [("b.jpg", 2)], "test": [("c.jpg", 3)]}
    assert "part 'validation' is read as val" in found.notes


def test_extract_says_once_what_it_read_as_what(tmp_path: Path) -> None:
    lines = [
        "file_name,mos,part",
        *(f"{k}.jpg,{k},{'dev' if k < 2 else 'test' if k < 4 else 'training'}" for k in range(9)),
    ]
    table = write(tmp_path, "\n".join(lines), images=tuple(f"{k}.jpg" for k in range(9)))
    done = amnet("extract", "--dataset", table, "--out", tmp_path / "c", "--backbone", "timm:mobilenetv3_small_050",
                 "--weights", "random", "--image-size", 32, "--json", status=3)  # fmt: skip
    for said in (
        "column 'mos' is read as the score",
        "column 'part' is read as the split",
        "part 'dev' is read as val",
    ):
        assert done.stderr.splitlines().count(said) == 1
        assert f'"{said}"' in done.stdout


def test_columns_are_named_only_in_tables(tmp_path: Path) -> None:
    done = amnet("extract", "--dataset", tmp_path, "--score-column", "mos", status=2)
    assert "--path-column and --score-column are of a table" in done.stderr


# several ratings


def test_columns_of_scores_with_a_name_are_targets() -> None:
    found = columns_of("path,score.beauty,score.Complexity,mos", line="a.jpg,1,2,3")
    assert (found.scores, found.ignored) == ({"beauty": 1, "Complexity": 2}, ("mos",))
    assert found.notes == ("2 ratings of each image: beauty, Complexity",)
    assert columns_of("path,score,score.age").scores == {"score": 1, "age": 2}
    assert columns_of("path,score.age").scores == {"age": 1}


def test_several_given_columns_are_targets_called_as_they_are() -> None:
    header = ["file", "MOS z", "age", "mos"]
    found = find_columns(header, [], place="t.csv:1", scores=["age", "MOS z"])
    assert (found.path, found.scores, found.ignored) == (0, {"age": 2, "MOS_z": 1}, ("mos",))
    with pytest.raises(InvalidSettings, match="targets of these names are not told apart"):
        find_columns(header, [], place="t.csv:1", scores=["age", "AGE"])


def test_a_group_is_no_column_that_is_ignored() -> None:
    found = columns_of("path,score,Group,age")
    assert (found.group, found.ignored) == (2, ("age",))
