"""What is decoded on the device is what is decoded on the CPU, and which of the two is chosen by the device alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from featcache.datasets.dataset import open_dataset
from featcache.extraction.extract import extract
from featcache.maintenance.project import project_cache
from featcache.store.cache import FeatureCache, open_cache
from head.data import transfer
from head.data.inputs import HeadInput
from head.data.several import SeveralInputs
from head.data.transfer import batches_on, decodes_there
from tests.helpers.tiny import QUICK_EXTRACT

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PAIRS = [
    (np.array([5, 0, 7]), np.array([0, 2, 1])),
    (np.array([1]), np.array([0])),
    (np.array([3, 9]), np.array([1, 1])),
]


@pytest.fixture(scope="module")
def coded(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """A cache of two maps and a vector, as uint8."""
    out = tmp_path_factory.mktemp("coded") / "cache"
    settings = replace(QUICK_EXTRACT, layers=("layer3", "layer4", "pooled"), encoding="uint8")
    extract(open_dataset(str(tiny_dataset)), settings, out)
    return open_cache(out)


@pytest.mark.parametrize(
    "source",
    [
        HeadInput(("layer3",), "maps"),
        HeadInput(("layer3", "layer4"), "maps"),
        HeadInput(("layer4", "pooled"), "tokens"),
    ],
)
def test_what_is_decoded_on_the_device_is_what_the_cpu_decodes(coded: FeatureCache, source: HeadInput) -> None:
    allocated: list[np.dtype[Any]] = []

    def allocate(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        allocated.append(dtype)
        return np.empty(shape, dtype)

    constants = source.constants(coded)
    assert set(constants) == set(source.layers)
    stored = source.stored_batches(coded, PAIRS, allocate)
    for (rows, views), codes, there, here in zip(
        PAIRS, stored, transfer._decoded_there(CPU, source, coded, PAIRS), batches_on(CPU, source, coded, PAIRS),
        strict=True,
    ):  # fmt: skip
        assert {values.dtype for values in codes.values()} == {torch.uint8}
        assert there.dtype == torch.float32
        assert torch.equal(there, source.read(coded, rows, views))
        assert torch.equal(here, there)
    assert set(allocated) == {np.dtype("u1")}


def test_maps_of_one_layer_of_float16_stay_float16(tiny_cache: Path) -> None:
    cache, source = open_cache(tiny_cache), HeadInput(("layer3",), "maps")
    for (rows, views), there in zip(PAIRS, transfer._decoded_there(CPU, source, cache, PAIRS), strict=True):
        assert there.dtype == torch.float16
        assert torch.equal(there.float(), source.read(cache, rows, views))


def test_features_of_a_projected_cache_are_copied_as_it_stores_them(tiny_cache: Path, tmp_path: Path) -> None:
    project_cache(tiny_cache, tmp_path / "projected", channels=7, split="1")
    cache, source = open_cache(tmp_path / "projected"), HeadInput(("layer3",), "maps")
    for (rows, views), there in zip(PAIRS, transfer._decoded_there(CPU, source, cache, PAIRS), strict=True):
        assert there.dtype == torch.float16
        assert torch.equal(there.float(), source.read(cache, rows, views))


def test_the_device_decides_where_maps_are_decoded() -> None:
    maps, mean = HeadInput(("layer3",), "maps"), HeadInput(("layer3",), "mean")
    several = SeveralInputs((maps, mean))
    assert decodes_there(CUDA, maps)
    assert decodes_there(torch.device("cuda", 1), HeadInput(("layer3", "pooled"), "tokens"))
    assert not any(decodes_there(device, source) for device in (CPU, torch.device("mps")) for source in (maps, mean))
    assert not decodes_there(CUDA, mean) and not decodes_there(CUDA, several)


def test_on_cuda_a_batch_is_pinned_and_copied_before_the_next_is_read_into_its_place(
    coded: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, events = HeadInput(("layer3",), "maps"), list[str]()

    class Codes:
        """What is read, and says how it goes to the GPU."""

        def __init__(self, codes: torch.Tensor) -> None:
            self.codes = codes

        def to(self, device: torch.device, *, non_blocking: bool) -> torch.Tensor:
            assert (device, non_blocking) == (CUDA, True)
            events.append("copy")
            return self.codes

    class Stream:
        def record_event(self) -> "Stream":
            events.append("record")
            return self

        def synchronize(self) -> None:
            events.append("wait")

    def pinned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        events.append("pin")
        return np.empty(shape, dtype)

    plain = HeadInput.stored_batches

    def stored(*args: Any) -> Any:
        for codes in plain(*args):
            yield {layer: Codes(values) for layer, values in codes.items()}

    monkeypatch.setattr(transfer, "pinned", pinned)
    monkeypatch.setattr(HeadInput, "stored_batches", stored)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    found = [batch.clone() for batch in batches_on(CUDA, source, coded, PAIRS)]
    for (rows, views), batch in zip(PAIRS, found, strict=True):
        assert torch.equal(batch, source.read(coded, rows, views))
    assert [event for event in events if event != "pin"] == ["copy", "record", "wait"] * len(PAIRS)
    assert 1 <= events.count("pin") <= 3
