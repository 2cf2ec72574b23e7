"""The archive of Isola et al. becomes a dataset whose pixels, splits and scores are those of its .mat files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from featcache.base.errors import CorruptFile
from featcache.base.progress import Progress
from featcache.datasets.dataset import open_dataset
from featcache.datasets.fetch.archive_members import FILE, FOLDER, Member
from featcache.datasets.fetch.sources import isola_members, make_isola_dataset
from tests.helpers.isola import ANALYSED, NAMES, SPLITS, matrices, write


def test_pixels_splits_and_scores_are_those_of_the_files(tmp_path: Path) -> None:
    values = matrices()
    seen: list[Progress] = []
    make_isola_dataset(write(tmp_path / "raw", values), tmp_path / "sun", on_progress=seen.append)
    dataset = open_dataset("sun", root=tmp_path / "sun")
    assert list(dataset.splits) == [str(number) for number in range(1, SPLITS + 1)]
    assert list(dataset.names) == [f"{number:04d}.png" for number in range(1, ANALYSED + 1)]
    for number in range(1, ANALYSED + 1):
        with Image.open(tmp_path / "sun" / "images" / f"{number:04d}.png") as image:
            assert np.array_equal(np.asarray(image), values["img"][..., number - 1])
    for split in range(SPLITS):
        for part, rates in (("train", "subject_hrs1"), ("test", "subject_hrs2")):
            rows = values[f"image_{part}_indices"][split].astype(int) - 1
            found = dataset.splits[str(split + 1)][part]
            assert found.rows.tolist() == rows.tolist()
            assert found.scores == pytest.approx(values[rates][split][rows], abs=5e-7)
        of_test, others = dataset.splits[str(split + 1)]["test"].rows, dataset.others[str(split + 1)]
        assert others.rows.tolist() == of_test.tolist()
        assert others.scores == pytest.approx(values["subject_hrs1"][split][of_test], abs=5e-7)
    assert (seen[-1].done, seen[-1].total) == (ANALYSED, ANALYSED)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("img", np.zeros((7, 5, 3, 13)), r"expected img, \(H, W, 3, N\) uint8; found float64 \(7, 5, 3, 13\)"),
        ("img", np.zeros((7, 5, 4, 13), np.uint8), r"found uint8 \(7, 5, 4, 13\)"),
        ("img", np.zeros((7, 5, 3, 10), np.uint8), "expected numbers of images from 1 to 10"),
        ("image_train_indices", np.zeros((25, 5)), "image_train_indices.mat: expected numbers of images from 1 to 11"),
        ("image_test_indices", np.full((25, 5), 12.0), "image_test_indices.mat: expected numbers of images from 1 "),
        ("image_test_indices", np.full((25, 5), 1.5), "expected numbers of images"),
        ("image_test_indices", np.full((25, 5), np.nan), "expected numbers of images"),
        ("image_test_indices", np.ones((24, 5)), r"expected 25 rows or more, found \(24, 5\)"),
        ("subject_hrs1", np.ones((25, 9)), "image_train_indices.mat: expected numbers of images from 1 to 9"),
        ("subject_hrs1", np.ones((24, 11)), r"expected 25 rows or more, found .* and \(24, 11\)"),
        ("subject_hrs2", np.array([["a"]], dtype=object), "something else under this name; expected subject_hrs2"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_its_readme_says_is_told(
    tmp_path: Path, variable: str, value: np.ndarray, message: str
) -> None:
    raw = write(tmp_path / "raw", matrices() | {variable: value})
    with pytest.raises(CorruptFile, match=message):
        make_isola_dataset(raw, tmp_path / "sun")


def test_a_variable_that_is_missing_is_told(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", matrices())
    savemat(raw / NAMES[3], {"other": np.ones((25, 11))})
    with pytest.raises(CorruptFile, match="holds no subject_hrs1"):
        make_isola_dataset(raw, tmp_path / "sun")


def test_a_test_image_that_the_other_half_did_not_see_is_left_out_of_others(tmp_path: Path) -> None:
    values = matrices()
    unseen, *seen = (values["image_test_indices"][3].astype(int) - 1).tolist()
    values["subject_hrs1"][3, unseen] = np.nan
    make_isola_dataset(write(tmp_path / "raw", values), tmp_path / "sun")
    dataset = open_dataset("sun", root=tmp_path / "sun")
    assert dataset.others["4"].rows.tolist() == seen
    assert dataset.splits["4"]["test"].rows.tolist() == [unseen, *seen]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", [0, 60, 200])
def test_a_damaged_file_is_told(tmp_path: Path, name: str, keep: int) -> None:
    raw = write(tmp_path / "raw", matrices())
    (raw / name).write_bytes((raw / name).read_bytes()[:keep])
    with pytest.raises(CorruptFile, match=r"\.mat: "):
        make_isola_dataset(raw, tmp_path / "sun")


def test_the_archive_is_known_by_its_members() -> None:
    members = [Member(f"cvpr_memorability_data/Data/{name}", FILE, 1) for name in NAMES]
    others = [Member("cvpr_memorability_data/Data", FOLDER, 0), Member("__MACOSX/Data/" + NAMES[0], FILE, 1)]
    assert isola_members([*others, *members]) == dict(zip(members, NAMES, strict=True))
    assert isola_members(members[1:]) == {}
    assert isola_members([*members, Member(f"copy/{NAMES[0]}", FILE, 1)]) == {}
