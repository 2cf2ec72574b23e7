"""The drawn dataset: every picture a function of (seed, i), with a score that its scene explains."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.base.errors import InvalidSettings
from featcache.base.progress import Progress
from featcache.datasets.dataset import open_dataset
from head.demo import FEWEST_IMAGES, SPLITS, Scene, draw, make_dataset

fraction = st.floats(0, 1)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("demo") / "demo", images=FEWEST_IMAGES, seed=3)


def test_a_picture_depends_on_seed_and_number_alone() -> None:
    def drawn(seed: int, i: int) -> tuple[bytes, float]:
        picture, score = draw(np.random.default_rng([seed, i]))
        return picture.tobytes(), score

    assert drawn(0, 7) == drawn(0, 7)
    assert len({drawn(seed, i) for seed in (0, 1) for i in (7, 8)}) == 4


def test_pictures_are_rgb_of_varied_sizes() -> None:
    pictures = [draw(np.random.default_rng([0, i]))[0] for i in range(5)]
    assert {picture.mode for picture in pictures} == {"RGB"}
    assert all(256 <= side < 400 for picture in pictures for side in picture.size)
    assert len({picture.size for picture in pictures}) == 5


@given(fraction, fraction, fraction, st.floats(-10, 10))
def test_a_score_is_from_0_to_1(face_size: float, vividness: float, clutter: float, noise: float) -> None:
    assert 0 <= Scene(face_size, vividness, clutter).score(noise) <= 1


def test_a_larger_or_more_vivid_face_scores_higher_and_clutter_lower() -> None:
    middle = Scene(0.5, 0.5, 0.5).score(0)
    assert Scene(0.6, 0.5, 0.5).score(0) > middle
    assert Scene(0.5, 0.6, 0.5).score(0) > middle
    assert Scene(0.5, 0.5, 0.6).score(0) < middle


def test_the_score_is_mostly_that_of_the_scene() -> None:
    scenes, scores = [], []
    for i in range(60):
        scenes.append(Scene(*np.random.default_rng([0, i]).uniform(size=3)).score(0))
        scores.append(draw(np.random.default_rng([0, i]))[1])
    assert np.corrcoef(scenes, scores)[0, 1] > 0.95
    assert np.std(scores) > 0.1


def test_the_demo_is_a_dataset_of_three_splits_over_all_pictures(demo: Path) -> None:
    dataset = open_dataset(str(demo))
    assert dataset.name == "demo"
    assert list(dataset.splits) == [str(split) for split in range(1, SPLITS + 1)]
    assert dataset.names == tuple(f"{i:05d}.jpg" for i in range(FEWEST_IMAGES))
    for parts in dataset.splits.values():
        assert {name: len(part.rows) for name, part in parts.items()} == {"train": 42, "val": 6, "test": 12}
        rows = np.concatenate([part.rows for part in parts.values()])
        np.testing.assert_array_equal(np.sort(rows), np.arange(FEWEST_IMAGES))
        for part in parts.values():
            wanted = [draw(np.random.default_rng([3, row]))[1] for row in part.rows[:2]]
            np.testing.assert_allclose(part.scores[:2], wanted, atol=1e-6)
    assert not np.array_equal(dataset.splits["1"]["test"].rows, dataset.splits["2"]["test"].rows)


def test_making_it_again_changes_no_byte(demo: Path) -> None:
    before = {path: path.read_bytes() for path in demo.rglob("*") if path.is_file()}
    seen: list[Progress] = []
    assert make_dataset(demo, images=FEWEST_IMAGES, seed=3, on_progress=seen.append) == demo
    assert {path: path.read_bytes() for path in demo.rglob("*") if path.is_file()} == before
    assert (seen[-1].done, seen[-1].total) == (FEWEST_IMAGES, FEWEST_IMAGES)


@pytest.mark.parametrize("changes", [{"seed": 4}, {"images": FEWEST_IMAGES + 1}])
def test_a_demo_of_other_settings_in_the_same_folder_is_refused(demo: Path, changes: dict[str, int]) -> None:
    before = sorted(demo.rglob("*"))
    with pytest.raises(InvalidSettings, match=r"holds the demo of other settings; .*--out"):
        make_dataset(demo, **{"images": FEWEST_IMAGES, "seed": 3, **changes})
    assert sorted(demo.rglob("*")) == before
    assert json.loads((demo / "demo.json").read_text()) == {"images": FEWEST_IMAGES, "seed": 3}


@pytest.mark.parametrize("images", [-1, FEWEST_IMAGES - 1, 100_001])
def test_too_few_or_too_many_pictures_are_refused_before_anything_is_made(tmp_path: Path, images: int) -> None:
    with pytest.raises(InvalidSettings, match=rf"--images must be 60 to 100,000, found {images}"):
        make_dataset(tmp_path / "demo", images=images, seed=0)
    assert not (tmp_path / "demo").exists()
