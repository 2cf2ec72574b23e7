"""others_K.txt: scores of test images by other people are read beside the splits, and never as a part of them."""

import unicodedata
from pathlib import Path

from featcache.datasets.dataset import open_dataset
from tests.featcache.datasets.test_dataset import problems_of, write_dataset

IMAGES = ("a.jpg", "b.jpg", "c.jpg", "d.jpg")
PARTS: dict[str, str | bytes] = {"train_1": "a.jpg 1\nb.jpg 2\n", "test_1": "d.jpg 0.5\nc.jpg 0.25\n"}


def with_others(folder: Path, others: str, **more: str) -> Path:
    return write_dataset(folder, {**PARTS, "others_1": others, **more}, IMAGES)


def test_they_are_rows_and_scores_by_split_and_no_part(tmp_path: Path) -> None:
    second = {"train_2": "c.jpg 1\nd.jpg 2\n", "test_2": "a.jpg 3\n"}
    dataset = open_dataset(str(with_others(tmp_path / "d", "c.jpg 0.75\nd.jpg -1\n", **second)))
    assert list(dataset.others) == ["1"]
    assert (dataset.others["1"].rows.tolist(), dataset.others["1"].scores.tolist()) == ([2, 3], [0.75, -1.0])
    assert {split: list(parts) for split, parts in dataset.splits.items()} == {key: ["train", "test"] for key in "12"}
    assert dataset.splits["1"]["test"].scores.tolist() == [0.5, 0.25]
    assert dataset.ignored == ()
    assert "1 split has scores of test images by other people (others_K.txt)" in dataset.notes


def test_they_may_be_of_some_of_the_test_images(tmp_path: Path) -> None:
    assert open_dataset(str(with_others(tmp_path / "d", "c.jpg 1\n"))).others["1"].rows.tolist() == [2]


def test_a_dataset_without_them_has_none_and_says_nothing(tmp_path: Path) -> None:
    dataset = open_dataset(str(write_dataset(tmp_path / "d", PARTS, IMAGES)))
    assert dataset.others == {}
    assert not [note for note in dataset.notes if "other people" in note]


def test_every_image_that_is_not_in_the_test_part_is_named_with_its_line(tmp_path: Path) -> None:
    assert problems_of(with_others(tmp_path / "d", "c.jpg 1\na.jpg 1\nd.jpg nan\ngone.jpg 2\nc.jpg 3\n"))[1:-1] == [
        "  splits/others_1.txt:3: the score of 'd.jpg' is not a finite decimal number: 'nan'",
        "  splits/others_1.txt:5: c.jpg is already on line 1",
        "  splits/others_1.txt:2: a.jpg is in no good line of test_1.txt",
        "  splits/others_1.txt:4: gone.jpg is in no good line of test_1.txt",
    ]


def test_others_of_a_split_without_a_test_part_are_refused(tmp_path: Path) -> None:
    more = {"train_2": "a.jpg 1\nb.jpg 2\n", "others_2": "a.jpg 1\n", "others_10": "a.jpg 1\n"}
    assert problems_of(with_others(tmp_path / "d", "c.jpg 1\n", **more))[1:-1] == [
        "  splits/others_2.txt: there is no test_2.txt, of whose images these are other scores",
        "  splits/others_10.txt: there is no test_10.txt, of whose images these are other scores",
    ]


def test_an_empty_file_of_others_is_named(tmp_path: Path) -> None:
    assert problems_of(with_others(tmp_path / "d", ""))[1:-1] == ["  splits/others_1.txt: the file is empty"]


def test_names_in_another_unicode_form_are_those_of_the_test_part(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD"))
    for number, (on_disk, in_test, in_others) in enumerate(
        [
            (composed, composed, apart),
            (composed, apart, composed),
            (apart, composed, apart),
            (apart, composed, composed),
        ]
    ):
        files: dict[str, str | bytes] = {"test_1": f"{in_test} 1\nb.jpg 2\n", "others_1": f"{in_others} 5\n"}
        dataset = open_dataset(str(write_dataset(tmp_path / str(number), files, [on_disk, "b.jpg"])))
        assert dataset.others["1"].rows.tolist() == [dataset.names.index(on_disk)]


def test_one_image_in_two_unicode_forms_is_told(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD"))
    files: dict[str, str | bytes] = {"test_1": f"{composed} 1\n", "others_1": f"{composed} 5\n{apart} 6\n"}
    assert problems_of(write_dataset(tmp_path / "d", files, [composed]))[1:-1] == [
        f"  splits/others_1.txt:2: {composed} is already at splits/others_1.txt:1, in another Unicode form"
    ]
