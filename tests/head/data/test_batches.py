"""Which rows train and which select, which views an epoch sees, and the scale of the features."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import head.data.batches
from featcache.base.errors import BadInput, InvalidSettings
from featcache.datasets.splits import Part
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.manifest import read_manifest, write_manifest
from head.data.batches import SplitData, cross_validation_folds, epoch_batches, feature_scale, split_data
from head.data.inputs import HeadInput
from head.settings import TrainSettings
from tests.helpers.tiny import PART_SIZES


def part_of(n: int) -> Part:
    """Return a part of n scattered rows whose scores tell them apart."""
    rows = np.random.default_rng(n).permutation(10 * n)[:n]
    return Part(rows, rows / 1000)


def cache_with(cache_folder: Path, split: str, **parts: Part | None) -> FeatureCache:
    """Return the cache as if a split had these parts; None removes one."""
    cache = open_cache(cache_folder)
    kept = {name: part for name, part in {**cache.splits[split], **parts}.items() if part is not None}
    cache.splits[split] = kept
    return cache


def test_the_val_part_selects_the_epoch(tiny_cache: Path) -> None:
    cache = open_cache(tiny_cache)
    data = split_data(cache, "2", TrainSettings())
    for found, part in ((data.train, "train"), (data.select, "val")):
        np.testing.assert_array_equal(found.rows, cache.splits["2"][part].rows)
        np.testing.assert_array_equal(found.scores, cache.splits["2"][part].scores)
    assert (data.selected_on, data.absent) == ("the val part", 0)


def test_selecting_on_test_is_called_optimistic(tiny_cache: Path) -> None:
    cache = open_cache(tiny_cache)
    data = split_data(cache, "1", TrainSettings(select_on="test"))
    np.testing.assert_array_equal(data.select.rows, cache.splits["1"]["test"].rows)
    assert "test part" in data.selected_on
    assert "optimistic" in data.selected_on


@pytest.fixture
def two_images_select(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a part held out of train select however small it is."""
    monkeypatch.setattr("head.data.batches.FEWEST_TO_SELECT", 2)


@pytest.mark.usefixtures("two_images_select")
def test_without_a_val_part_a_seeded_tenth_of_train_is_held_out(tiny_cache: Path) -> None:
    cache = cache_with(tiny_cache, "1", val=None)
    train = cache.splits["1"]["train"]
    score_of = dict(zip(train.rows.tolist(), train.scores.tolist(), strict=True))
    data = split_data(cache, "1", TrainSettings(seed=3))
    kept, held = data.train.rows.tolist(), data.select.rows.tolist()
    assert len(held) == round(0.1 * PART_SIZES["train"])
    assert sorted(kept + held) == sorted(score_of)  # disjoint, and nothing is lost
    for part in (data.train, data.select):
        assert part.scores.tolist() == [score_of[row] for row in part.rows.tolist()]
    assert "held-out 10% of train" in data.selected_on


@pytest.mark.usefixtures("two_images_select")
def test_what_is_held_out_depends_on_the_seed_alone(tiny_cache: Path) -> None:
    cache = cache_with(tiny_cache, "1", val=None)

    def held(seed: int, lr: float = 1e-3) -> list[int]:
        settings = TrainSettings(val_fraction=0.4, seed=seed, lr=lr)
        return split_data(cache, "1", settings).select.rows.tolist()

    assert len(held(0)) == round(0.4 * PART_SIZES["train"])
    assert held(0) == held(0, lr=0.1)
    assert held(0) != held(1)


def test_images_without_features_are_left_out_and_counted(torn_cache: Path) -> None:
    cache = open_cache(torn_cache)
    data = split_data(cache, "1", TrainSettings())
    train = cache.splits["1"]["train"]
    assert data.absent == 2  # the first of train and the first of test
    np.testing.assert_array_equal(data.train.rows, train.rows[1:])
    np.testing.assert_array_equal(data.train.scores, train.scores[1:])


def test_an_unknown_split_is_refused_with_those_there_are(tiny_cache: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"has no split 7; it has 1, 2"):
        split_data(open_cache(tiny_cache), "7", TrainSettings())


def test_splits_keep_their_natural_order_on_disk(tiny_cache: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_cache, tmp_path / "tiny")
    manifest = read_manifest(tiny_cache)
    splits = manifest.ratings[""]
    write_manifest(tmp_path / "tiny", replace(manifest, ratings={"": {**splits, "10": splits["1"]}}))
    with pytest.raises(InvalidSettings, match=r"has no split 7; it has 1, 2, 10"):
        split_data(open_cache(tmp_path / "tiny"), "7", TrainSettings())


def test_a_split_without_a_train_part_is_refused(tiny_cache: Path) -> None:
    with pytest.raises(BadInput, match="split 1 has no train part"):
        split_data(cache_with(tiny_cache, "1", train=None), "1", TrainSettings())


def test_selecting_on_a_test_part_that_is_not_there_is_refused(tiny_cache: Path) -> None:
    with pytest.raises(BadInput, match=r"split 1 has no test part$"):
        split_data(cache_with(tiny_cache, "1", test=None), "1", TrainSettings(select_on="test"))


@pytest.mark.parametrize(
    ("n", "score", "why"),
    [
        (1, None, "has 1 image, and needs 2 of different scores"),
        (5, 0.5, "has 5 images, all of the score 0.5, and needs different scores"),
    ],
)
def test_a_train_part_of_one_image_or_of_one_score_is_refused(
    tiny_cache: Path, n: int, score: float | None, why: str
) -> None:
    whole = open_cache(tiny_cache).splits["1"]["train"]
    scores = whole.scores[:n] if score is None else np.full(n, score)
    cache = cache_with(tiny_cache, "1", train=Part(whole.rows[:n], scores))
    with pytest.raises(BadInput, match=f"the train part of split 1 {why}$"):
        split_data(cache, "1", TrainSettings())


def test_a_train_part_whose_images_could_not_be_read_says_so(tiny_cache: Path) -> None:
    cache = open_cache(tiny_cache)
    part = cache.splits["1"]["train"]
    cache.present = np.isin(np.arange(cache.rows), part.rows[0])
    expected = (
        "the train part of split 1 has 1 image, and needs 2 of different scores; "
        f"{len(part.rows) - 1} more could not be read, and are listed in failures.csv$"
    )
    with pytest.raises(BadInput, match=expected):
        split_data(cache, "1", TrainSettings())


# cross-validation


@pytest.mark.parametrize("val", [None, Part(np.array([5]), np.array([0.5])), Part(np.arange(3), np.ones(3))])
def test_where_val_cannot_select_and_train_is_small_all_of_train_does(tiny_cache: Path, val: Part | None) -> None:
    cache = cache_with(tiny_cache, "1", val=val)
    train = cache.splits["1"]["train"]
    data = split_data(cache, "1", TrainSettings())
    assert (data.selected_on, data.cross_validated) == ("5-fold cross-validation within train", True)
    np.testing.assert_array_equal(data.train.rows, train.rows)
    assert sorted(data.select.rows) == sorted(train.rows)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 2.5]), min_size=2, max_size=40), st.integers(0, 5))
def test_every_image_is_held_out_once_and_each_fold_has_low_and_high_scores(scores: list[float], seed: int) -> None:
    part = Part(np.arange(len(scores)) * 3, np.array(scores))
    folds = cross_validation_folds(part, seed=seed)
    assert len(folds) == min(5, len(scores))
    assert sorted(row for _, held in folds for row in held.rows) == part.rows.tolist()
    for train, held in folds:
        assert sorted([*train.rows, *held.rows]) == part.rows.tolist()
        assert np.array_equal(held.scores, part.scores[held.rows // 3])
    sizes = [len(held.rows) for _, held in folds]
    assert max(sizes) - min(sizes) <= 1
    for score in set(scores):  # neighbours in score are dealt out, so no fold has many more of a score than another
        counts = [int(np.sum(held.scores == score)) for _, held in folds]
        assert max(counts) - min(counts) <= 2


def test_the_seed_decides_the_folds() -> None:
    part = Part(np.arange(23), np.linspace(0, 1, 23))
    first, again, other = (cross_validation_folds(part, seed=seed)[0][1].rows.tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_the_datas_digest_sees_every_row_and_score_and_file(tiny_cache: Path) -> None:
    cache = open_cache(tiny_cache)
    train, select = cache.splits["1"]["train"], cache.splits["1"]["val"]
    digest = SplitData("1", train, select, "", 0).digest(cache)
    assert digest == SplitData("1", train, select, "the val part", 3).digest(cache)
    moved = train.rows.copy()
    moved[4] = moved[5]
    nudged = train.scores.copy()
    nudged[4] = np.nextafter(nudged[4], 1)
    for other in (Part(moved, train.scores), Part(train.rows, nudged), select):
        assert SplitData("1", other, select, "", 0).digest(cache) != digest
    cache.images[train.rows[3]] = replace(cache.images[train.rows[3]], sha256="f" * 64)
    assert SplitData("1", train, select, "", 0).digest(cache) != digest


def test_an_epoch_shows_each_image_once_as_one_of_its_augmented_views() -> None:
    part = part_of(101)
    batches = list(epoch_batches(part, views=4, seed=0, epoch=1, batch_size=16))
    assert [len(rows) for rows, _, _ in batches] == [16] * 6 + [5]
    rows, views, scores = (np.concatenate(column) for column in zip(*batches, strict=True))
    np.testing.assert_array_equal(np.sort(rows), np.sort(part.rows))
    np.testing.assert_array_equal(scores, rows / 1000)  # each with its own score
    assert set(views) == {1, 2, 3}


def test_an_epoch_shows_view_0_if_the_cache_holds_no_other() -> None:
    for _, views, _ in epoch_batches(part_of(7), views=1, seed=0, epoch=1, batch_size=3):
        assert not views.any()


def test_an_epoch_is_drawn_by_seed_and_epoch() -> None:
    def drawn(seed: int, epoch: int, batch_size: int = 10) -> list[tuple[int, int]]:
        batches = epoch_batches(part_of(50), views=3, seed=seed, epoch=epoch, batch_size=batch_size)
        return [pair for rows, views, _ in batches for pair in zip(rows.tolist(), views.tolist(), strict=True)]

    assert drawn(0, 1) == drawn(0, 1) == drawn(0, 1, batch_size=7)
    assert len({tuple(drawn(seed, epoch)) for seed in (0, 1, 2) for epoch in (1, 2, 3)}) == 9


def by_tens(rows: NDArray[np.int64], views: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the shard of each image of a cache whose shards have ten rows."""
    return (rows // 10).astype(np.int32)


def test_an_epoch_by_shards_goes_through_a_few_after_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head.data.batches, "WINDOW", 3)
    rows = np.random.default_rng(3).permutation(100)
    part, firsts = Part(rows, rows / 1000), []
    for epoch in (1, 2):
        batches = list(epoch_batches(part, views=4, seed=0, epoch=epoch, batch_size=16, shards_of=by_tens))
        assert [len(rows) for rows, _, _ in batches] == [16] * 6 + [4]
        rows, views, scores = (np.concatenate(column) for column in zip(*batches, strict=True))
        np.testing.assert_array_equal(np.sort(rows), np.arange(100))
        np.testing.assert_array_equal(scores, rows / 1000)  # each with its own score
        assert set(views) == {1, 2, 3}
        windows = [by_tens(rows[start : start + 30], views) for start in range(0, 100, 30)]
        assert [len(set(window)) for window in windows] == [3, 3, 3, 1]
        assert len({shard for window in windows for shard in window}) == 10
        assert all((np.diff(window) != 0).sum() > 9 for window in windows[:3])  # 2 if they were not mixed
        firsts.append(set(windows[0]))
    assert firsts[0] != firsts[1]


def test_an_epoch_by_shards_is_drawn_by_seed_and_epoch_and_shows_the_views_of_a_random_one() -> None:
    def drawn(seed: int, epoch: int, batch_size: int = 10, **by: Any) -> list[tuple[int, int]]:
        batches = epoch_batches(part_of(500), views=3, seed=seed, epoch=epoch, batch_size=batch_size, **by)
        return [pair for rows, views, _ in batches for pair in zip(rows.tolist(), views.tolist(), strict=True)]

    by = {"shards_of": by_tens}
    assert drawn(0, 1, **by) == drawn(0, 1, batch_size=7, **by) != drawn(0, 1)
    assert sorted(drawn(0, 1, **by)) == sorted(drawn(0, 1))
    assert len({tuple(drawn(seed, epoch, **by)) for seed in (0, 1, 2) for epoch in (1, 2, 3)}) == 9


def test_over_many_epochs_every_view_of_an_image_is_seen_equally_often() -> None:
    part, epochs, k = part_of(20), 200, 3
    seen = np.zeros((200, k + 1), int)
    for epoch in range(epochs):
        for rows, views, _ in epoch_batches(part, views=k + 1, seed=0, epoch=epoch, batch_size=20):
            np.add.at(seen, (rows, views), 1)
    counts = seen[part.rows, 1:]  # binomial: mean 66.7, deviation 6.7
    assert (abs(counts - epochs / k) < 30).all()


def test_the_feature_scale_is_numpys_over_the_features_read_back(tiny_cache: Path) -> None:
    cache = open_cache(tiny_cache)
    part = cache.splits["1"]["train"]
    mean, std = feature_scale(cache, part, source=HeadInput(("layer3",), "maps"), seed=5)
    batches = epoch_batches(part, views=cache.views, seed=5, epoch=0, batch_size=1024)
    features = np.concatenate([cache.read(rows, views) for rows, views, _ in batches]).astype(np.float64)
    assert (mean.dtype, std.dtype) == (torch.float32, torch.float32)
    np.testing.assert_allclose(mean, features.mean(axis=(0, 1)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(std, features.std(axis=(0, 1)), rtol=1e-5, atol=1e-6)


def test_features_are_what_the_cache_holds_or_without_attention_their_mean(tiny_cache: Path) -> None:
    cache = open_cache(tiny_cache)
    rows, views = np.array([5, 0, 5]), np.array([2, 0, 1])
    whole = HeadInput(("layer3",), "maps").read(cache, rows, views)
    mean = HeadInput(("layer3",), "mean").read(cache, rows, views)
    assert (whole.dtype, mean.dtype, mean.shape) == (torch.float32, torch.float32, (3, 1, 256))
    np.testing.assert_array_equal(whole, cache.read(rows, views).astype(np.float32))
    torch.testing.assert_close(mean, whole.mean(dim=1, keepdim=True), rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 6), min_size=4, max_size=40), st.integers(0, 3))
def test_folds_never_cut_a_unit(units: list[int], seed: int) -> None:
    numbers = np.unique(units, return_inverse=True)[1]
    part = Part(np.arange(len(units)), np.arange(len(units)) % 5 + 0.0)
    folds = cross_validation_folds(part, seed=seed, units=numbers)
    assert sorted(row for _, held in folds for row in held.rows.tolist()) == part.rows.tolist()
    for kept, held in folds:
        assert len(kept.rows)
        if numbers.max() > 0:
            assert not set(numbers[kept.rows]) & set(numbers[held.rows])


def test_groups_and_copies_are_held_out_together(tiny_cache: Path) -> None:
    cache = open_cache(tiny_cache)
    train = cache.splits["1"]["train"]
    rows = train.rows.tolist()
    cache.manifest = replace(
        cache.manifest, groups=(tuple(rows[:5]),), near_duplicates=((rows[4], rows[9]), (rows[6], rows[7]))
    )
    del cache.manifest.ratings[""]["1"]["val"]
    data = split_data(cache, "1", TrainSettings())
    assert data.cross_validated
    for _, held in data.folds:
        there = set(held.rows.tolist())
        assert len(there & {*rows[:5], rows[9]}) in (0, 6)
        assert len(there & {rows[6], rows[7]}) in (0, 2)
