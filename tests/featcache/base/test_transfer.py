"""Arrays and tensors hold the same values on both sides; on a GPU nothing waits before all copies are under way."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featcache.base.devices import to_device, to_host

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)


class FakeTensor:
    """A tensor that is said to be on a GPU, and notes what is done to it in a shared list."""

    def __init__(self, name: str, events: list[Any], values: torch.Tensor | None = None) -> None:
        self.name, self.events, self.values = name, events, values
        self.device, self.is_cuda = CUDA, True
        self.shape = () if values is None else values.shape
        self.dtype = torch.float32 if values is None else values.dtype

    def pin_memory(self) -> "FakeTensor":
        self.events.append(("pin", self.name))
        return FakeTensor(f"pinned {self.name}", self.events)

    def to(self, device: torch.device, **options: Any) -> "FakeTensor":
        self.events.append(("to", self.name, device, options))
        return self

    def copy_(self, source: "FakeTensor", **options: Any) -> None:
        self.events.append(("copy", source.name, options))
        assert self.values is not None
        assert source.values is not None
        self.values.copy_(source.values)

    def numpy(self) -> Any:
        self.events.append(("numpy", self.name))
        assert self.values is not None
        return self.values.numpy()


def test_a_tensor_on_the_cpu_shares_the_arrays_memory() -> None:
    values = np.zeros((2, 3), np.uint8)
    tensor = to_device(values, CPU)
    values[1, 2] = 7
    assert tensor[1, 2] == 7
    assert tensor.data_ptr() == values.ctypes.data


def test_an_array_of_a_tensor_on_the_cpu_shares_its_memory() -> None:
    tensor = torch.zeros(2, 3)
    (values,) = to_host([tensor])
    tensor[1, 2] = 7
    assert values[1, 2] == 7


@given(
    dtype=st.sampled_from(["u1", "f2", "f4", "f8", "i4", "i8", "?"]),
    shape=st.lists(st.integers(0, 4), max_size=4),
    seed=st.integers(0, 9),
)
def test_there_and_back_is_the_same(dtype: str, shape: list[int], seed: int) -> None:
    values = np.asarray(np.random.default_rng(seed).integers(0, 2, shape)).astype(dtype)
    (back,) = to_host([to_device(values, CPU)])
    assert (back.dtype, back.shape) == (values.dtype, values.shape)
    np.testing.assert_array_equal(back, values)


def test_several_tensors_come_back_in_their_order() -> None:
    tensors = [torch.full((n,), n, dtype=dtype) for n, dtype in ((3, torch.float16), (1, torch.uint8), (2, torch.bool))]
    found = to_host(tensors)
    assert [(values.shape, values.dtype) for values in found] == [((3,), "f2"), ((1,), "u1"), ((2,), "?")]


def test_strided_arrays_and_tensors_keep_their_values() -> None:
    values = np.arange(24.0).reshape(2, 3, 4)[:, ::2].transpose(2, 0, 1)
    np.testing.assert_array_equal(to_device(values, CPU).numpy(), values)
    tensor = torch.from_numpy(values).permute(1, 2, 0)
    np.testing.assert_array_equal(to_host([tensor])[0], values.transpose(1, 2, 0))


def test_nothing_is_no_arrays() -> None:
    assert to_host([]) == []


def test_an_array_goes_to_a_gpu_through_pinned_memory_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Any] = []
    monkeypatch.setattr(torch, "from_numpy", lambda values: FakeTensor("array", events))
    to_device(np.zeros(3, np.uint8), CUDA)
    assert events == [("pin", "array"), ("to", "pinned array", CUDA, {"non_blocking": True})]


def test_all_copies_from_a_gpu_are_under_way_before_one_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Any] = []

    class Stream:
        def synchronize(self) -> None:
            events.append("wait")

    def empty(shape: Any, *, dtype: torch.dtype, pin_memory: bool) -> FakeTensor:
        assert pin_memory
        return FakeTensor("host", events, torch.zeros(shape, dtype=dtype))

    def current_stream(device: torch.device) -> Stream:
        assert device == CUDA  # and not the GPU that happens to be the current one
        return Stream()

    sources = [FakeTensor("a", events, torch.ones(2)), FakeTensor("b", events, torch.full((3,), 5, dtype=torch.uint8))]
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch.cuda, "current_stream", current_stream)
    a, b = to_host(sources)  # type: ignore[arg-type]
    queued = {"non_blocking": True}
    assert events == [("copy", "a", queued), ("copy", "b", queued), "wait", ("numpy", "host"), ("numpy", "host")]
    assert (a.dtype, a.tolist(), b.dtype, b.tolist()) == ("f4", [1, 1], "u1", [5, 5, 5])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_there_and_back_over_a_gpu_is_the_same() -> None:
    values = np.random.default_rng(0).random((3, 5, 7))
    (back,) = to_host([to_device(values, torch.device("cuda"))])
    np.testing.assert_array_equal(back, values)
