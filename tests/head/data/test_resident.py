"""Features that are held give the batches that the cache gives, each read and checked once."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featcache.base.errors import CorruptFile, InvalidSettings, ResourceError
from featcache.maintenance.project import project_cache
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.folder import existing_shards
from head.data import resident as resident_module
from head.data.batches import split_data
from head.data.inputs import HeadInput
from head.data.resident import Resident, Wanted, free_on, resident_for, wanted_by
from tests.helpers.gpu import EACH_DEVICE
from tests.helpers.tiny import TINY_TRAIN

CPU = torch.device("cpu")
INPUTS = [
    HeadInput(("layer3",), "maps"),
    HeadInput(("layer3",), "mean"),
    HeadInput(("layer3",), "mean+deviation"),
    HeadInput(("layer2", "layer3"), "maps"),
    HeadInput(("layer2", "layer3"), "mean"),
]


def all_of(cache: FeatureCache) -> Wanted:
    pairs = np.zeros((cache.rows, cache.views), bool)
    pairs[cache.present] = True
    return Wanted(pairs, reads=10**9)


def drawn_batches(cache: FeatureCache, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    rows = rng.permutation(np.flatnonzero(cache.present))
    views = rng.integers(0, cache.views, len(rows))
    return [(rows[start : start + 7], views[start : start + 7]) for start in range(0, len(rows), 7)]


@EACH_DEVICE
@pytest.mark.parametrize(
    ("name", "source"), [*(("layered_cache", one) for one in INPUTS), *(("tiny_cache", one) for one in INPUTS[:3])]
)
def test_batches_are_those_of_the_cache_however_often_they_are_read(
    name: str, source: HeadInput, device: str, request: pytest.FixtureRequest
) -> None:
    cache = open_cache(request.getfixturevalue(name))
    held = Resident(cache, source, all_of(cache).pairs, torch.device(device))
    for seed in (0, 1, 0):
        pairs = drawn_batches(cache, seed)
        found = list(held.batches(pairs))
        wanted = [values.clone() for values in source.batches(cache, pairs)]
        assert len(found) == len(wanted) == 6
        for own, theirs in zip(found, wanted, strict=True):
            assert own.dtype == theirs.dtype
            assert own.device.type == device
            torch.testing.assert_close(own.cpu(), theirs, rtol=0, atol=0)


@pytest.mark.parametrize("pooling", ["maps", "mean+deviation"])
def test_features_of_a_projected_cache_are_held_as_it_stores_them(
    pooling: str, tiny_cache: Path, tmp_path: Path
) -> None:
    project_cache(tiny_cache, tmp_path / "projected", channels=7, split="1")
    cache, source = open_cache(tmp_path / "projected"), HeadInput(("layer3",), pooling)
    assert source.constants(cache) and not source.codes(cache)
    held, pairs = Resident(cache, source, all_of(cache).pairs, CPU), drawn_batches(cache, 0)
    for own, (rows, views) in zip(held.batches(pairs), pairs, strict=True):
        assert own.shape[-1] == (7 if pooling == "maps" else 14)
        assert torch.equal(own.float(), source.read(cache, rows, views))


def test_each_view_is_read_once(tiny_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, read = open_cache(tiny_cache), []
    source = HeadInput(("layer3",), "maps")
    held = Resident(cache, source, all_of(cache).pairs, CPU)
    own = FeatureCache.read

    def told(self: FeatureCache, rows: Any, views: Any, layer: str) -> Any:
        read.extend(zip(rows.tolist(), views.tolist(), strict=True))
        return own(self, rows, views, layer)

    monkeypatch.setattr(FeatureCache, "read", told)
    asked = set()
    for seed in (0, 1, 0, 2):
        pairs = drawn_batches(cache, seed)
        asked |= {pair for rows, views in pairs for pair in zip(rows.tolist(), views.tolist(), strict=True)}
        for _ in held.batches(pairs):
            pass
    assert len(read) == len(set(read))
    assert set(read) == asked


def test_a_damaged_chunk_is_an_error_whenever_it_is_asked_for(tiny_cache: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_cache, tmp_path / "copy"))
    cache = open_cache(copy)
    shard = existing_shards(copy)[0]
    chunk = shard.arrays["features/layer3"]
    row = shard.block.rows[0] + 3
    with shard.path.open("r+b") as file:
        file.seek(int(chunk.offsets[3, 1]))
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    held = Resident(cache, HeadInput(("layer3",), "maps"), all_of(cache).pairs, CPU)
    damaged = [(np.array([row]), np.array([1]))]
    for _ in range(2):
        with pytest.raises(CorruptFile):
            list(held.batches(damaged))
    assert len(list(held.batches([(np.array([row]), np.array([0]))]))) == 1


def test_what_was_not_to_be_held_is_not_made_up(tiny_cache: Path) -> None:
    cache = open_cache(tiny_cache)
    pairs = np.zeros((cache.rows, cache.views), bool)
    pairs[:5, 1] = True
    held = Resident(cache, HeadInput(("layer3",), "maps"), pairs, CPU)
    with pytest.raises(ValueError, match="a view is asked for that was not to be held"):
        list(held.batches([(np.array([2, 3]), np.array([1, 0]))]))


def test_training_wants_augmented_views_to_train_on_and_the_first_to_select(tiny_cache: Path) -> None:
    cache = open_cache(tiny_cache)
    data = split_data(cache, "1", TINY_TRAIN)
    wanted = wanted_by(cache, data, epochs=3)
    assert wanted.reads == 3 * 30
    assert wanted.pairs.sum() == 23 * 2 + 7
    assert wanted.pairs[data.train.rows].tolist() == [[False, True, True]] * 23
    assert wanted.pairs[data.select.rows].tolist() == [[True, False, False]] * 7


def test_auto_holds_what_fits_in_half_of_the_free_memory_and_is_read_twice(
    tiny_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, source = open_cache(tiny_cache), HeadInput(("layer3",), "maps")
    wanted = all_of(cache)
    bytes_ = 41 * 3 * 16 * 256 * 2

    def held(asked: str, free: int, **changes: Any) -> bool:
        monkeypatch.setattr(resident_module, "free_bytes", lambda: free)
        found = resident_for(asked, cache, source, replace(wanted, **changes), CPU)
        assert found is None or found.bytes == bytes_
        return found is not None

    assert held("auto", 2 * bytes_)
    assert not held("auto", 2 * bytes_ - 1)
    assert held("auto", 8 * bytes_, processes=4)
    assert not held("auto", 8 * bytes_ - 1, processes=4)
    assert not held("auto", 2 * bytes_, reads=41 * 3)
    assert held("auto", 2 * bytes_, reads=41 * 3 + 1)
    assert held("yes", bytes_, reads=0)
    assert not held("no", 10**15)
    with pytest.raises(
        ResourceError,
        match=r"--resident yes: the features of 123 views that training reads take 0.00202 GB in 2 processes, and "
        r"0.00202 GB are free on cpu; use --resident no",
    ):
        held("yes", 2 * bytes_ - 1, processes=2)
    with pytest.raises(InvalidSettings, match="--resident must be auto or no or yes, found 'maybe'"):
        held("maybe", 1)


def test_on_a_gpu_memory_that_an_earlier_training_gave_back_to_the_allocator_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    for name, value in (("mem_get_info", (11, 101)), ("memory_reserved", 67), ("memory_allocated", 5)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: (asked.append(device), value)[1])
    assert free_on(torch.device("cuda", 1)) == 11 + 67 - 5
    assert set(asked) == {torch.device("cuda", 1)}
