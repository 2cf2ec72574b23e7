"""What is asked of a GPU's libraries, so that float32 is float32 and a training gives the same weights again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from featcache.base.devices import keep_float32, keep_order
from featcache.store.cache import FeatureCache
from head.data.batches import split_data
from head.runs.head_file import load_head
from head.runs.run import read_run
from head.training.gradients.trainer import Trainer
from head.training.job import TrainingJob
from tests.helpers.tiny import TINY_TRAIN

CUDNN, PRODUCTS = torch.backends.cudnn, torch.backends.cuda.matmul


def state() -> dict[str, bool]:
    return {
        "tf32": CUDNN.allow_tf32,
        "sums in bf16": PRODUCTS.allow_bf16_reduced_precision_reduction,
        "any order": not CUDNN.deterministic,
    }


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    """Begin with what PyTorch does by itself, and leave it so."""

    def begin() -> None:
        CUDNN.allow_tf32, CUDNN.deterministic = True, False
        PRODUCTS.allow_bf16_reduced_precision_reduction = True

    begin()
    yield
    begin()


def test_on_a_gpu_float32_is_kept_and_so_is_the_order() -> None:
    keep_float32(torch.device("cuda:1"))
    assert state() == {"tf32": False, "sums in bf16": False, "any order": True}
    keep_order(torch.device("cuda"))
    assert state() == {"tf32": False, "sums in bf16": False, "any order": False}


def test_on_a_cpu_nothing_is_changed() -> None:
    before = state()
    keep_float32(torch.device("cpu"))
    keep_order(torch.device("cpu"))
    assert state() == before == dict.fromkeys(before, True)
    assert not PRODUCTS.allow_tf32  # PyTorch's own default, which products rely on


def test_training_and_loading_a_head_ask_for_it(
    cache: FeatureCache, tiny_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    for module, name in (
        ("head.training.gradients.trainer", "keep_float32"),
        ("head.training.gradients.trainer", "keep_order"),
        ("head.runs.head_file", "keep_float32"),
    ):
        monkeypatch.setattr(f"{module}.{name}", lambda device, what=f"{module}.{name}": asked.append((what, device)))
    cpu = torch.device("cpu")
    job = TrainingJob(cache, "1", TINY_TRAIN, tmp_path, "run")
    data = split_data(cache, "1", TINY_TRAIN)
    Trainer(job, data, device=cpu, on_progress=lambda _: None, on_history=lambda _: None)
    load_head(read_run(tiny_runs / "tiny" / "paper" / "split-1"), cpu)
    wanted = [
        "head.training.gradients.trainer.keep_float32",
        "head.training.gradients.trainer.keep_order",
        "head.runs.head_file.keep_float32",
    ]
    assert asked == [(what, cpu) for what in wanted]
