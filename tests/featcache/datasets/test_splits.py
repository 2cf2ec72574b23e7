"""Splits that cannot be trained on are refused before any work, with numbers; weak parts are told."""

from pathlib import Path

import pytest

from featcache.base.errors import BadInput
from featcache.datasets.dataset import Dataset, open_dataset, refuse_untrainable
from tests.featcache.datasets.test_dataset import write_dataset
from tests.featcache.datasets.test_ratings import write
from tests.helpers.command_line import amnet


def table(folder: Path, lines: list[str], header: str = "path,score") -> Dataset:
    images = tuple(line.partition(",")[0] for line in lines)
    return open_dataset(write(folder, "\n".join([header, *lines]), images=images))


def refusal(dataset: Dataset) -> list[str]:
    with pytest.raises(BadInput) as raised:
        refuse_untrainable(dataset)
    return str(raised.value).splitlines()


@pytest.mark.parametrize(
    ("count", "reason"),
    [
        (1, "split 1: its test part takes 1 image, which leaves none to train"),
        (2, "split 1: its test part takes 2 images, which leaves none to train"),
        (3, "splits 1, 2: its train part has 1 image, and needs 2 of different scores"),
    ],
)
def test_too_few_images_for_drawn_splits_are_refused_with_what_each_part_gets(
    tmp_path: Path, count: int, reason: str
) -> None:
    assert refusal(table(tmp_path, [f"{k}.jpg,{k}" for k in range(count)])) == [
        "mine: splits that cannot be trained on:",
        f"  {reason}",
        "Splits can be drawn from 4 images of different scores, or more, where those of a group and those of the same "
        "file count as one; add images, or a column split with train, val and test in each line; nothing was computed.",
    ]


def test_four_images_are_enough(tmp_path: Path) -> None:
    found = table(tmp_path, [f"{k}.jpg,{k}" for k in range(4)])
    refuse_untrainable(found)
    for parts in found.splits.values():
        assert {part: len(set(values.scores)) for part, values in parts.items()} == {"train": 2, "test": 2}


def test_one_score_for_all_images_is_refused(tmp_path: Path) -> None:
    found = refusal(table(tmp_path, [f"{k}.jpg,3.5" for k in range(30)]))
    assert found[1:-1] == [
        "  splits 1, 2, 3, 4, 5: its train part has 24 images, all of the score 3.5, and needs different scores"
    ]


def test_given_splits_are_refused_by_their_train_part_alone(tmp_path: Path) -> None:
    lines = ["a.jpg,1,train,train", "b.jpg,1,train,val", "c.jpg,2,test,val", "d.jpg,2,test,test"]
    found = table(tmp_path, lines, "path,score,split_1,split_2")
    assert refusal(found) == [
        "mine: splits that cannot be trained on:",
        "  split 1: its train part has 2 images, all of the score 1, and needs different scores",
        "  split 2: its train part has 1 image, and needs 2 of different scores",
        "Move images between the parts, or leave these splits out; nothing was computed.",
    ]
    assert found.notes == (
        "warning: split 1: its test part has 2 images, all of the score 2, and needs different scores: "
        "no rank correlation can be computed on it",
        "warning: split 2: its test part has 1 image, and needs 2 of different scores: "
        "no rank correlation can be computed on it",
    )


def test_weak_parts_of_given_splits_are_told_and_not_refused(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "train_1": "a.jpg 1\nb.jpg 2\n", "val_1": "c.jpg 3\nd.jpg 3\n", "test_1": "e.jpg 1\nf.jpg 2\n",
        "train_2": "a.jpg 1\nb.jpg 2\nc.jpg 3\n",
    }  # fmt: skip
    found = open_dataset(str(write_dataset(tmp_path / "d", files, [f"{name}.jpg" for name in "abcdef"])))
    refuse_untrainable(found)
    assert found.notes == (
        "warning: split 1: its val part has 2 images, all of the score 3, and needs different scores: "
        "a share of train selects heads instead",
        "warning: split 2: there is no test part, by which heads could be judged",
    )


def test_splits_without_a_test_part_are_told(tmp_path: Path) -> None:
    found = table(tmp_path, [f"{k}.jpg,{k},{'val' if k > 5 else 'train'}" for k in range(9)], "path,score,split")
    refuse_untrainable(found)
    assert found.notes == ("warning: split 1: there is no test part, by which heads could be judged",)


def test_a_split_without_a_train_part_may_be_there_to_be_scored(tmp_path: Path) -> None:
    found = open_dataset(str(write_dataset(tmp_path / "d", {"test_1": "a.jpg 1\nb.jpg 2\n"})))
    refuse_untrainable(found)
    assert (list(found.splits["1"]), found.notes) == (["test"], ())


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_extract_refuses_before_it_does_anything(tmp_path: Path, dry: list[str]) -> None:
    table(tmp_path, [f"{k}.jpg,{k}" for k in range(3)])
    done = amnet("extract", "--dataset", tmp_path / "mine.csv", "--out", tmp_path / "cache", *dry, status=3)
    assert "its train part has 1 image, and needs 2 of different scores" in done.stderr
    assert not (tmp_path / "cache").exists()
