"""A table of ratings becomes splits, images in a folder or anywhere; what is wrong in it is said with its line."""

from pathlib import Path

import pytest

from featcache.base.errors import BadInput, InvalidSettings
from featcache.datasets.dataset import Dataset, images_of, open_dataset

HEADER = "path,score,split\n"


def write(folder: Path, text: str, *, images: tuple[str, ...] = (), name: str = "mine.csv") -> str:
    for image in images:
        path = folder / image
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    table = folder / name
    table.write_text(text, encoding="utf-8")
    return str(table)


def parts(found: Dataset, split: str = "1") -> dict[str, list[tuple[str, float]]]:
    return {
        part: [(found.names[row], score) for row, score in zip(values.rows, values.scores, strict=True)]
        for part, values in found.splits[split].items()
    }


def test_a_table_is_a_dataset_of_its_own_name_with_paths_below_its_folder(tmp_path: Path) -> None:
    text = HEADER + "b.jpg,0.5,train\nsub/a.jpg,-1e-1,test\n\nc d.jpg,.25,train\n"
    found = open_dataset(write(tmp_path, text, images=("b.jpg", "sub/a.jpg", "c d.jpg")))
    assert (found.name, found.images, found.names) == ("mine", tmp_path, ("b.jpg", "c d.jpg", "sub/a.jpg"))
    assert parts(found) == {"train": [("b.jpg", 0.5), ("c d.jpg", 0.25)], "test": [("sub/a.jpg", -0.1)]}
    assert found.path(2) == tmp_path / "sub" / "a.jpg"
    assert images_of(found.source) == tmp_path
    assert images_of(found.source, tmp_path / "moved") == tmp_path / "moved"


def test_columns_come_in_any_order_and_others_are_named(tmp_path: Path) -> None:
    text = "\ufeffRater, Split ,Score,PATH\r\nx,train,1,a.jpg\r\ny,TEST,2,b.jpg\r\n"
    found = open_dataset(write(tmp_path, text, images=("a.jpg", "b.jpg")))
    assert found.ignored == ("Rater",)
    assert parts(found) == {"train": [("a.jpg", 1)], "test": [("b.jpg", 2)]}


def test_there_may_be_several_splits(tmp_path: Path) -> None:
    text = "path,score,split_2,split_10\na.jpg,1,train,test\nb.jpg,2,val,train\n"
    found = open_dataset(write(tmp_path, text, images=("a.jpg", "b.jpg")))
    assert list(found.splits) == ["2", "10"]
    assert parts(found, "10") == {"train": [("b.jpg", 2)], "test": [("a.jpg", 1)]}


@pytest.mark.parametrize(("count", "sizes"), [(400, (280, 40, 80)), (100, (80, 0, 20)), (10, (8, 0, 2))])
def test_without_a_column_splits_are_drawn_the_same_for_the_same_table(
    tmp_path: Path, count: int, sizes: tuple[int, int, int]
) -> None:
    images = [f"{k}.jpg" for k in range(count)]
    lines = [f"{image},{k}\n" for k, image in enumerate(images)]
    found = open_dataset(write(tmp_path, "path,score\n" + "".join(lines), images=tuple(images)))
    again = open_dataset(write(tmp_path, "path,score\n" + "".join(reversed(lines))))
    assert list(found.splits) == ["1", "2", "3", "4", "5"]
    seen = []
    for split in found.splits:
        mine = parts(found, split)
        assert tuple(len(mine.get(part, [])) for part in ("train", "val", "test")) == sizes
        assert {image for part in mine.values() for image, _ in part} == set(images)
        assert mine == parts(again, split)
        seen.append(frozenset(mine["test"]))
    assert len(set(seen)) > 3
    assert "5 splits were drawn, stratified by score" in found.notes[-1]


# several ratings


def test_each_target_has_splits_of_the_images_that_were_rated(tmp_path: Path) -> None:
    images = [f"{k}.jpg" for k in range(8)]
    lines = [f"{image},{k},{'' if k == 3 else 9 - k}\n" for k, image in enumerate(images)]
    text = "path,score.beauty,score.age\n" + "".join(lines)
    found = open_dataset(write(tmp_path, text, images=tuple(images)))
    assert list(found.ratings) == ["beauty", "age"]
    scores = {
        target: {
            found.names[row]: score
            for part in splits["1"].values()
            for row, score in zip(part.rows, part.scores, strict=True)
        }
        for target, splits in found.ratings.items()
    }
    assert scores["beauty"] == {f"{k}.jpg": k for k in range(8)}
    assert scores["age"] == {f"{k}.jpg": 9 - k for k in range(8) if k != 3}
    with pytest.raises(InvalidSettings, match="mine has several ratings: beauty, age"):
        _ = found.splits


def test_a_target_that_no_image_is_rated_for_is_left_out_and_told(tmp_path: Path) -> None:
    text = "path,score.beauty,score.age\n" + "".join(f"{k}.jpg,{k},\n" for k in range(8))
    found = open_dataset(write(tmp_path, text, images=tuple(f"{k}.jpg" for k in range(8))))
    assert list(found.ratings) == ["beauty"]
    assert "target age: its column is empty, ignored" in found.notes


def test_a_cell_that_is_no_number_is_named_with_its_target(tmp_path: Path) -> None:
    text = "path,score.beauty,score.age,split\na.jpg,1,old,train\nb.jpg,,,test\n"
    with pytest.raises(BadInput) as raised:
        open_dataset(write(tmp_path, text, images=("a.jpg", "b.jpg")))
    assert "mine.csv:2: the score of age of 'a.jpg' is not a finite decimal number: 'old'" in str(raised.value)
    assert "mine.csv:3: 'b.jpg' has no score" in str(raised.value)


# groups


def test_images_of_a_group_are_in_one_part(tmp_path: Path) -> None:
    images = [f"{k}.jpg" for k in range(30)]
    lines = [f"{image},{k % 7},{k // 3 if k < 24 else ''}\n" for k, image in enumerate(images)]
    found = open_dataset(write(tmp_path, "path,score,group\n" + "".join(lines), images=tuple(images)))
    for split in found.splits:
        part_of = {image: part for part, lines in parts(found, split).items() for image, _ in lines}
        assert len(part_of) == 30
        for first in range(0, 24, 3):
            assert len({part_of[f"{k}.jpg"] for k in range(first, first + 3)}) == 1
    assert "column 'group': the images of each of 8 groups are in one part together" in found.notes


def test_groups_that_given_splits_cut_are_told(tmp_path: Path) -> None:
    text = "path,score,split,group\na.jpg,1,train,x\nb.jpg,2,test,x\nc.jpg,3,train,y\nd.jpg,4,train,y\n"
    found = open_dataset(write(tmp_path, text, images=("a.jpg", "b.jpg", "c.jpg", "d.jpg")))
    assert any(
        "1 group is in several parts of a split, first 'x' in test and train of split 1" in one for one in found.notes
    )


def test_absolute_paths_have_the_folder_they_share(tmp_path: Path) -> None:
    home = tmp_path / "photos"
    text = HEADER + f"{home}/x/a.jpg,1,train\n{home}/y/b.jpg,2,test\n"
    (tmp_path / "tables").mkdir()
    write(home, "", images=("x/a.jpg", "y/b.jpg"), name="x/a.jpg")
    found = open_dataset(write(tmp_path / "tables", text))
    assert (found.images, found.names) == (home, ("x/a.jpg", "y/b.jpg"))


def test_paths_that_lead_out_and_back_are_found(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    write(tmp_path / "photos", "", images=("a.jpg", "b.jpg"), name="a.jpg")
    text = HEADER + "../photos/a.jpg,1,train\n../photos/b.jpg,2,test\n"
    assert open_dataset(write(tmp_path / "tables", text)).names == ("a.jpg", "b.jpg")


def test_paths_are_relative_to_the_root_that_is_given(tmp_path: Path) -> None:
    write(tmp_path / "photos", "", images=("a.jpg", "b.jpg"), name="a.jpg")
    table = write(tmp_path, HEADER + "a.jpg,1,train\nb.jpg,2,test\n")
    assert open_dataset(table, root=tmp_path / "photos").images == tmp_path / "photos"


def test_every_faulty_line_is_named_at_once(tmp_path: Path) -> None:
    lines = [
        "a.jpg,1,train",
        "a.jpg,2,train",
        "b.jpg,nan,train",
        ",1,test",
        "c.jpg,1",
        "d.jpg,1,holdout",
        "gone.jpg,1,val",
    ]
    with pytest.raises(BadInput) as raised:
        open_dataset(write(tmp_path, HEADER + "\n".join(lines), images=("a.jpg",)))
    table = tmp_path / "mine.csv"
    assert str(raised.value).splitlines() == [
        f"{table}: 6 problems in the dataset:",
        f"  {table}:4: the score of 'b.jpg' is not a finite decimal number: 'nan'",
        f"  {table}:5: no path of an image",
        f"  {table}:6: expected 3 columns, found 2",
        f"  {table}:7: the part of 'd.jpg' is not train, val or test: 'holdout'",
        f"  {table}:3: 'a.jpg' is already at {table}:2; average the scores of an image",
        f"  {table}:8: no such image: {tmp_path / 'gone.jpg'}",
        "Mend or remove these lines, then run the same command again; nothing was computed.",
    ]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "mine.csv: the file is empty"),
        (b"path,score\n", "mine.csv: no images below the header"),
        (
            b"subject,label\na.jpg,1\n",
            "mine.csv:1: no column path and no column score in 'subject,label'; expected .*"
            "or columns that you name with --path-column NAME and --score-column NAME",
        ),
        (b"path;label\na.jpg;1,5\n", "mine.csv:1: no column score in 'path,label'"),
        (b"path,score,score\na.jpg,1,1\n", "mine.csv:1: a column twice"),
        (b"path,score\n\xff\n", r"mine.csv: not UTF-8 text \(byte 11\)"),
        (b'path,score\n"a.jpg,1\n', "mine.csv:2: not a line of CSV: "),
    ],
)
def test_a_file_that_is_no_table_says_what_one_is(tmp_path: Path, data: bytes, problem: str) -> None:
    (tmp_path / "mine.csv").write_bytes(data)
    with pytest.raises(BadInput, match=problem):
        open_dataset(str(tmp_path / "mine.csv"))


def test_a_table_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="mine.csv: cannot be read: No such file or directory; a table of ratings has a"):
        open_dataset(str(tmp_path / "mine.csv"))


def test_a_line_ends_where_csv_ends_it(tmp_path: Path) -> None:
    text = 'path,score,caption\na.jpg,1,"one\u2028two\x0bthree"\nb.jpg,2,\x85\n'
    assert open_dataset(write(tmp_path, text, images=("a.jpg", "b.jpg"))).names == ("a.jpg", "b.jpg")


def test_split_and_split_1_are_the_same_column(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="mine.csv:1: a column twice"):
        open_dataset(write(tmp_path, "path,score,split,split_1\na.jpg,1,train,test\n", images=("a.jpg",)))


def test_an_image_elsewhere_moves_no_others(tmp_path: Path) -> None:
    home, images = tmp_path / "mine", tuple(f"{k}.jpg" for k in range(60))
    text = "path,score\n" + "".join(f"{image},1\n" for image in images)
    home.mkdir()
    before = parts(open_dataset(write(home, text, images=images)))
    (tmp_path / "other.jpg").touch()
    after = parts(open_dataset(write(home, text + "../other.jpg,1\n")))
    part_of = {f"mine/{image}": part for part, lines in before.items() for image, _ in lines}
    moved = [image for part, lines in after.items() for image, _ in lines if part_of.get(image, part) != part]
    assert len(moved) <= 8


def test_a_table_of_raters_is_told_in_a_few_lines(tmp_path: Path) -> None:
    text = "path,score\n" + "a.jpg,1\nb.jpg,2\n" * 30
    with pytest.raises(BadInput) as raised:
        open_dataset(write(tmp_path, text, images=("a.jpg", "b.jpg")))
    lines = str(raised.value).splitlines()
    assert len(lines) == 8
    assert lines[-2] == (
        f"  {tmp_path / 'mine.csv'}: 60 lines for 2 images; average the scores of an image, in one line"
    )


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(BadInput, match="mine.csv:2: no such image: .*photos"):
        open_dataset(write(tmp_path, "path,score\nphotos,1\nb.jpg,2\n", images=("b.jpg",)))
