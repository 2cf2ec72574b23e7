"""A split's part as a torch dataset gives what the cache holds, in order, in batches and in other processes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from featcache.base.errors import InvalidSettings
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.torch_dataset import FeatureDataset


@pytest.fixture(scope="module")
def cache(tiny_cache: Path) -> FeatureCache:
    return open_cache(tiny_cache)


def test_items_are_the_parts_images_in_order_with_their_scores(cache: FeatureCache) -> None:
    dataset, part = FeatureDataset(cache, "1", "test"), cache.splits["1"]["test"]
    assert len(dataset) == len(part.rows)
    assert dataset.names == [cache.images[row].name for row in part.rows]
    for i in (0, 3, -1):
        features, score = dataset[i]
        assert (features.dtype, score.dtype, score.shape) == (torch.float32, torch.float32, ())
        assert torch.equal(features, torch.from_numpy(cache.read([part.rows[i]], 0)[0]).float())
        assert score == np.float32(part.scores[i])
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_every_view_of_an_image_follows_the_other(cache: FeatureCache) -> None:
    assert cache.views > 2
    views = range(1, cache.views)
    dataset, part = FeatureDataset(cache, "1", "train", views=views), cache.splits["1"]["train"]
    assert len(dataset) == len(part.rows) * len(views)
    item = len(views) * 2 + 1  # the third image in the second of its views
    assert torch.equal(dataset[item][0], torch.from_numpy(cache.read([part.rows[2]], 2)[0]).float())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_reads_batches_of_it_in_any_process(cache: FeatureCache, workers: int) -> None:
    dataset = FeatureDataset(cache, "1", "val", pooled=True)
    batches = list(DataLoader(dataset, batch_size=3, num_workers=workers))
    rows = cache.splits["1"]["val"].rows
    assert [len(scores) for _, scores in batches] == [3] * (len(rows) // 3) + [len(rows) % 3] * (len(rows) % 3 > 0)
    assert torch.equal(torch.cat([features for features, _ in batches]), torch.from_numpy(cache.read_pooled(rows, 0)))
    assert torch.cat([scores for _, scores in batches]).tolist() == pytest.approx(cache.splits["1"]["val"].scores)


def test_a_batch_is_one_read(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    read = cache.read
    monkeypatch.setattr(cache, "read", lambda rows, *rest: reads.append(len(rows)) or read(rows, *rest))
    list(DataLoader(FeatureDataset(cache, "1", "test"), batch_size=4, shuffle=True))
    assert sum(reads) == len(cache.splits["1"]["test"].rows)
    assert max(reads) == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"split": "9", "part": "test"}, "no test part of split 9; it has 1 train/val/test"),
        ({"split": "1", "part": "tset"}, "no tset part of split 1"),
        ({"split": "1", "part": "test", "views": [99]}, r"views must be some of 0 to \d, found \[99\]"),
        ({"split": "1", "part": "test", "views": []}, "views must be some of"),
        ({"split": "1", "part": "test", "layer": "nowhere"}, "has no layer nowhere"),
    ],
)
def test_what_the_cache_does_not_have_is_refused(cache: FeatureCache, given: dict, message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        FeatureDataset(cache, **given)


def test_a_batch_with_an_item_that_is_not_there_is_an_error(tiny_cache: Path) -> None:
    dataset = FeatureDataset(open_cache(tiny_cache), "1", "test")
    with pytest.raises(IndexError, match=f"item {len(dataset)} of {len(dataset)}"):
        dataset.__getitems__([0, len(dataset)])
    torch.testing.assert_close(dataset.__getitems__([-1])[0], dataset[len(dataset) - 1])
