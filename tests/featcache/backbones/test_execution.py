"""A network gives the same features however it is executed, and what 'auto' stands for can be told beforehand."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torchvision.models import get_model

from featcache.backbones import execution, runner
from featcache.backbones.backbone import Backbone
from featcache.backbones.execution import (
    COMPILE_FROM,
    OPENVINO_FROM,
    Execution,
    available_runtime,
    check_computable,
    explain_execution,
    openvino_computes,
    resolve_batch_size,
    resolve_runtime,
)
from featcache.backbones.families.extractor import Extractor
from featcache.backbones.families.folding import fold_batch_norms
from featcache.backbones.families.torchvision_networks import build_torchvision
from featcache.backbones.families.weights import digest_of_weights
from featcache.backbones.runner import Runner, start
from featcache.base.errors import InvalidSettings, Mismatch, ResourceError
from featcache.datasets.dataset import open_dataset
from featcache.extraction.forecast import forecast
from tests.helpers.networks import build, pixels, saved, with_lively_norms
from tests.helpers.tiny import QUICK_EXTRACT

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
NAME, LAYERS = "timm:test_resnet", ("layer3", "layer1")  # not in the order of the graph
needs_openvino = pytest.mark.skipif(not execution.has_openvino(), reason="needs OpenVINO")
Weights = Callable[[str], str]  # name of a backbone to file
both_runtimes = pytest.mark.parametrize("runtime", ["torch", pytest.param("openvino", marks=needs_openvino)])


@cache
def tiny(runtime: str, threads: int, precision: str = "fp32") -> Backbone:
    return build(NAME, *LAYERS, runtime=runtime, threads=threads, precision=precision)


def batches(count: int) -> list[Tensor]:
    """Return different batches of three random pictures."""
    views = pixels(3 * count)
    return list(views.split(3))


class Listed(nn.Module):
    """A network whose output is in a list, as `Runner` takes them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, values: Tensor) -> list[Tensor]:
        return [self.network(values)]


def failing(error: Exception) -> Callable[..., Any]:
    """Return a function that raises error whatever it is called with."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def kept(maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a copy of what `maps` gave, which the next call may overwrite."""
    return {layer: values.clone() for layer, values in maps.items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[layer], b[layer]) for layer in a)


@pytest.fixture(scope="module")
def lively_weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """Return the file of a model's weights whose batch norms do something; it is made once."""
    folder = tmp_path_factory.mktemp("weights")

    @cache
    def weights_of(name: str) -> str:
        return saved(with_lively_norms(get_model(name, weights=None)), folder / f"{name}.safetensors")

    return weights_of


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Say what this machine has: OpenVINO, and a compiler for the CPU and for GPUs."""

    def has(*, openvino: bool, compiler: bool, openvino_bf16: bool = True) -> None:
        monkeypatch.setattr(execution, "_openvino_takes", lambda precision: openvino_bf16)
        there = {"openvino": openvino, "triton": compiler}
        monkeypatch.setattr(execution.importlib.util, "find_spec", lambda name: there[name] or None)
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        if compiler:
            (tmp_path / "g++").touch(0o755)

    return has


# --- what 'auto' is


@pytest.mark.parametrize(
    ("device", "views", "openvino", "compiler", "wanted"),
    [
        (CPU, 1, True, True, "torch"),
        (CPU, OPENVINO_FROM - 1, True, True, "torch"),
        (CPU, OPENVINO_FROM, True, True, "openvino"),
        (CPU, OPENVINO_FROM, True, False, "openvino"),
        (CPU, COMPILE_FROM, True, True, "openvino"),
        (CPU, OPENVINO_FROM, False, True, "torch"),
        (CPU, COMPILE_FROM - 1, False, True, "torch"),
        (CPU, COMPILE_FROM, False, True, "compile"),
        (CPU, COMPILE_FROM, False, False, "torch"),
        (CUDA, COMPILE_FROM - 1, True, True, "torch"),
        (CUDA, COMPILE_FROM, True, True, "compile"),
        (CUDA, COMPILE_FROM, True, False, "torch"),
        (MPS, 10 * COMPILE_FROM, True, True, "torch"),
    ],
)
def test_auto_depends_on_views_device_and_what_is_installed(
    machine: Any, device: torch.device, views: int, openvino: bool, compiler: bool, wanted: str
) -> None:
    machine(openvino=openvino, compiler=compiler)
    assert resolve_runtime("auto", device, views) == wanted


def test_what_is_asked_for_is_taken_however_few_views_there_are(machine: Any) -> None:
    machine(openvino=True, compiler=True)
    assert [resolve_runtime(name, CPU, 1) for name in ("torch", "compile", "openvino")] == [
        "torch",
        "compile",
        "openvino",
    ]
    assert [resolve_runtime(name, CUDA, 1) for name in ("torch", "compile")] == ["torch", "compile"]


@pytest.mark.parametrize(
    ("runtime", "device", "message"),
    [
        ("onnx", CPU, "--runtime must be one of auto, torch, compile, openvino, found 'onnx'"),
        ("", CPU, "--runtime must be one of auto, torch, compile, openvino, found ''"),
        ("openvino", torch.device("cuda", 1), "--runtime openvino runs on the CPU, not on cuda:1; use --device cpu"),
        ("openvino", CPU, r"--runtime openvino: not installed; pip install 'amnet-featcache\[openvino\]'"),
        ("compile", CPU, "--runtime compile: no compiler for cpu found; use --runtime torch"),
        ("compile", CUDA, "--runtime compile: no compiler for cuda found; use --runtime torch"),
        ("compile", MPS, "--runtime compile: no compiler for mps found; use --runtime torch"),
    ],
)
def test_a_runtime_that_is_not_there_says_the_way_out(
    machine: Any, runtime: str, device: torch.device, message: str
) -> None:
    machine(openvino=False, compiler=False)
    with pytest.raises(InvalidSettings, match=message):
        resolve_runtime(runtime, device, 10**6)


def test_openvino_is_not_asked_for_an_arithmetic_that_it_would_not_take(machine: Any) -> None:
    machine(openvino=True, compiler=True, openvino_bf16=False)
    assert resolve_runtime("auto", CPU, OPENVINO_FROM, "fp32") == "openvino"
    assert resolve_runtime("auto", CPU, OPENVINO_FROM, "bf16") == "torch"
    assert [available_runtime("openvino", "cpu", precision) for precision in ("fp32", "bf16")] == ["openvino", "torch"]
    with pytest.raises(InvalidSettings, match="openvino has no bf16 on this CPU; use --runtime torch or --precision f"):
        resolve_runtime("openvino", CPU, 1, "bf16")
    text = explain_execution(Execution(CPU, "bf16", "torch", 2), "bf16", "auto", views=OPENVINO_FROM)
    assert text.endswith("; runtime auto: OpenVINO has no bf16 on this CPU")
    machine(openvino=True, compiler=True)
    assert resolve_runtime("auto", CPU, OPENVINO_FROM, "bf16") == "openvino"


@needs_openvino
def test_a_broken_openvino_has_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    monkeypatch.setattr(openvino, "Core", failing(RuntimeError("Cannot load library libopenvino_intel_cpu_plugin.so")))
    openvino_takes = execution._openvino_takes.__wrapped__
    assert not openvino_takes("bf16")
    monkeypatch.setattr(openvino, "Core", failing(RuntimeError("DefaultCPUAllocator: can't allocate memory")))
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        openvino_takes("bf16")


def test_what_cannot_be_computed_here_is_said_of_what_is_stored(machine: Any) -> None:
    machine(openvino=True, compiler=True, openvino_bf16=False)
    told = {"where": "cache/mine", "way_out": "go on there"}
    with pytest.raises(
        Mismatch, match="^cache/mine: made in bf16 by OpenVINO, which has none on this CPU; go on there$"
    ):
        check_computable("bf16-openvino", CPU, **told)
    with pytest.raises(Mismatch, match="^cache/mine: made in fp16, on a GPU; go on there$"):
        check_computable("fp16-compile", CPU, **told)
    for arithmetic, device in [("fp32", CPU), ("bf16", CPU), ("bf16-compile", CPU), ("fp16", CUDA)]:
        check_computable(arithmetic, device, **told)
    machine(openvino=True, compiler=True)
    check_computable("bf16-openvino", CPU, **told)


@needs_openvino
def test_openvino_says_which_arithmetic_it_took() -> None:
    assert openvino_computes("fp32")
    assert not openvino_computes("fp16")
    network, values = nn.Linear(64, 64, bias=False), torch.rand(16, 64)
    exact, reduced = (
        Runner(Listed(network), Execution(CPU, precision, "openvino", 1), values, "")(values)[0].clone()
        for precision in ("fp32", "bf16")
    )
    assert openvino_computes("bf16") == (not torch.equal(exact, reduced))


def test_the_compiler_is_the_one_that_cxx_names(machine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(openvino=False, compiler=True)
    monkeypatch.setenv("CXX", "other")
    with pytest.raises(InvalidSettings, match="no compiler for cpu found"):
        resolve_runtime("compile", CPU, 1)
    (tmp_path / "other").touch(0o755)
    assert resolve_runtime("compile", CPU, 1) == "compile"


def test_a_caches_runtime_is_used_again_where_it_is_there(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("torch", "compile", "openvino", "of the future")
    machine(openvino=True, compiler=True)
    assert [available_runtime(name, "cpu") for name in names] == ["torch", "compile", "openvino", "torch"]
    machine(openvino=False, compiler=False)
    (Path(execution.os.environ["PATH"]) / "g++").unlink()
    assert [available_runtime(name, "cpu") for name in names] == ["torch"] * 4
    machine(openvino=True, compiler=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert available_runtime("openvino", "auto") == "torch"  # made on a CPU, gone on with on a GPU


def test_a_device_that_is_not_here_is_not_hidden_by_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ResourceError, match="--device cuda: no such device here"):
        available_runtime("torch", "cuda")


# --- streams and threads


@pytest.mark.parametrize(
    ("threads", "streams", "per_stream"), [(1, 1, 1), (2, 2, 1), (3, 3, 1), (8, 8, 1), (16, 8, 2), (64, 8, 8)]
)
def test_cores_are_shared_out_among_the_streams(threads: int, streams: int, per_stream: int) -> None:
    execution = Execution(CPU, "fp32", "torch", threads)
    assert (execution.streams, execution.threads_per_stream) == (streams, per_stream)


def test_no_more_threads_than_cores_are_used() -> None:
    for threads in range(1, 130):
        execution = Execution(CPU, "fp32", "torch", threads)
        assert 1 <= execution.streams * execution.threads_per_stream <= threads


@pytest.mark.parametrize("threads", [1, 2, 64])
def test_a_gpu_has_two_streams_whatever_the_cores(threads: int) -> None:
    execution = Execution(CUDA, "fp16", "torch", threads)
    assert execution.streams == 2
    assert execution.threads_per_stream >= 1


# --- how it is told


@pytest.mark.parametrize(
    ("execution", "asked", "text"),
    [
        (
            Execution(CPU, "fp32", "openvino", 2),
            ("fp32", "openvino"),
            "fp32 by OpenVINO on cpu, 2 batches at once on 2 cores",
        ),
        (
            Execution(CPU, "fp32", "openvino", 16),
            ("auto", "auto"),
            "fp32 by OpenVINO on cpu, 8 batches at once on 16 cores; precision auto: this CPU has no bfloat16 units",
        ),
        (
            Execution(CPU, "bf16", "torch", 2),
            ("auto", "auto"),
            "bf16 by PyTorch on cpu, 2 batches at once on 2 cores; precision auto: this CPU has bfloat16 units; "
            "runtime auto: fewer than 1,000 views",
        ),
        (
            Execution(torch.device("cuda", 1), "fp16", "compile", 2),
            ("auto", "auto"),
            "fp16 by torch.compile on cuda:1, 2 batches at once; precision auto: this device has float16 units",
        ),
        (Execution(CUDA, "fp32", "torch", 2), ("fp32", "auto"), "fp32 by PyTorch on cuda, 2 batches at once"),
    ],
)
def test_an_execution_is_told_with_the_reasons_of_what_was_auto(
    machine: Any, execution: Execution, asked: tuple[str, str], text: str
) -> None:
    machine(openvino=True, compiler=True)
    assert explain_execution(execution, *asked, views=999) == text


@pytest.mark.parametrize("runtime", ["torch", "compile"])
def test_without_openvino_it_is_told_how_to_be_faster(machine: Any, runtime: str) -> None:
    machine(openvino=False, compiler=True)
    text = explain_execution(Execution(CPU, "fp32", runtime, 2), "fp32", "auto", views=OPENVINO_FROM)
    assert text.endswith(
        "; runtime auto: OpenVINO is faster, but not installed: pip install 'amnet-featcache[openvino]'"
    )


# --- the same features from every runtime, any number of threads, and any thread


@needs_openvino
def test_features_by_openvino_are_those_by_torch(lively_weights: Weights) -> None:
    options = {"weights": lively_weights("resnet18"), "threads": 2}
    layers = ("layer1", "bn1", "layer1.1")  # not in the graph's order; the last is the first by another name
    by_torch = build("resnet18", *layers, **options)(pixels(5))
    by_openvino = build("resnet18", *layers, **options, runtime="openvino")(pixels(5))
    assert list(by_openvino) == list(layers)
    for layer, features in by_torch.items():
        found = by_openvino[layer]
        assert (found.dtype, found.shape) == (torch.float32, features.shape)
        assert (found - features).norm() <= 1e-4 * features.norm()
        torch.testing.assert_close(found, features, rtol=1e-4, atol=1e-4 * float(features.abs().max()))


@both_runtimes
def test_features_are_the_same_bits_for_one_thread_and_for_two(runtime: str) -> None:
    for batch in batches(3):
        assert same(tiny(runtime, 1)(batch), tiny(runtime, 2)(batch))


@both_runtimes
def test_many_batches_through_the_pool_give_what_each_gives_alone(runtime: str) -> None:
    backbone, many = tiny(runtime, 2), batches(64)
    alone = [kept(backbone.maps(batch)) for batch in many]
    assert not same(alone[0], alone[1])
    with backbone.pool() as pool:
        for _ in range(2):
            together = list(pool.map(lambda batch: kept(backbone.maps(batch)), many))
            assert all(same(a, b) for a, b in zip(together, alone, strict=True))


@both_runtimes
def test_more_threads_than_streams_disturb_nothing(runtime: str) -> None:
    backbone, many = tiny(runtime, 2), batches(32)
    alone = [kept(backbone.maps(batch)) for batch in many]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda batch: kept(backbone.maps(batch)), many))
    assert all(same(a, b) for a, b in zip(together, alone, strict=True))


@both_runtimes
def test_features_are_good_while_other_threads_compute(runtime: str) -> None:
    backbone, (first, *others) = tiny(runtime, 2), batches(9)
    wanted = kept(backbone.maps(first))

    def compute(batch: Tensor) -> None:
        backbone.maps(batch)

    with ThreadPoolExecutor(1) as holder, ThreadPoolExecutor(4) as pool:
        features = holder.submit(backbone.maps, first).result()
        list(pool.map(compute, others * 2))
        assert same(features, wanted)
    assert same(features, wanted)  # its thread has ended


@both_runtimes
def test_a_runner_leaves_its_views_as_they_were(runtime: str) -> None:
    batch = pixels(3)
    tiny(runtime, 1).maps(batch)
    assert torch.equal(batch, pixels(3))


@both_runtimes
def test_views_in_any_memory_layout_have_the_same_features(runtime: str) -> None:
    strided = pixels(3).permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    assert not strided.is_contiguous()
    wanted = kept(tiny(runtime, 1).maps(pixels(3)))
    assert same(tiny(runtime, 1).maps(strided), wanted)
    assert same(tiny(runtime, 1)(strided), wanted)


@both_runtimes
def test_features_do_not_depend_on_the_views_they_are_among(runtime: str) -> None:
    backbone, views = tiny(runtime, 2), pixels(7)
    features, order = backbone(views), torch.tensor([4, 2, 0, 1, 3, 6, 5])
    shuffled = backbone(views[order])
    assert all(torch.equal(shuffled[layer], features[layer][order]) for layer in LAYERS)


@both_runtimes
def test_bf16_is_near_fp32_and_not_the_same(runtime: str) -> None:
    if runtime == "openvino" and not openvino_computes("bf16"):
        with pytest.raises(InvalidSettings, match="openvino has no bf16 on this CPU"):
            tiny(runtime, 1, "bf16")
        return
    exact, reduced = tiny(runtime, 1)(pixels(3)), tiny(runtime, 1, "bf16")(pixels(3))
    for layer, features in exact.items():
        assert reduced[layer].dtype == torch.float32
        assert 1e-4 < (reduced[layer] - features).norm() / features.norm() < 0.02


# --- the pool


@pytest.fixture
def three_torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def threads_of_a_new_thread() -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


@both_runtimes
@pytest.mark.parametrize("failing", [False, True])
def test_torchs_threads_are_restored_when_the_pool_ends(three_torch_threads: None, runtime: str, failing: bool) -> None:
    backbone, batch = tiny(runtime, 2), pixels(3)
    ended: AbstractContextManager[Any] = pytest.raises(KeyError, match="lost") if failing else nullcontext()
    with ended, backbone.pool() as pool:
        pool.submit(backbone.maps, batch).result()
        assert pool.submit(torch.get_num_threads).result() == 1
        if failing:
            raise KeyError("lost")
    assert torch.get_num_threads() == threads_of_a_new_thread() == 3
    assert "mkl_get_max_threads() : 3" in torch.__config__.parallel_info()


def test_each_thread_of_the_pool_computes_on_the_cores_of_a_stream() -> None:
    runner = Runner(nn.Identity(), Execution(CPU, "fp32", "torch", 16), torch.zeros(1), "")
    with runner.pool() as pool:
        together = threading.Barrier(8, timeout=20)  # broken if there are fewer than 8 threads

        def threads() -> int:
            together.wait()
            return torch.get_num_threads()

        assert [work.result() for work in [pool.submit(threads) for _ in range(8)]] == [2] * 8


def test_what_waits_in_a_pool_that_ends_is_dropped_and_no_thread_is_left() -> None:
    runner, go, running = (
        Runner(nn.Identity(), Execution(CPU, "fp32", "torch", 1), torch.zeros(1), ""),
        threading.Event(),
        threading.Event(),
    )

    def work() -> bool:
        running.set()
        return go.wait(20)

    with runner.pool() as pool:
        first, second = pool.submit(work), pool.submit(work)
        running.wait(20)
        threading.Timer(0.2, go.set).start()
    assert first.result()
    assert second.cancelled()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("backbone")]


# --- networks that cannot be converted


unexportable = failing(RuntimeError("a loop that depends on data\nand a long story"))


@needs_openvino
def test_a_network_that_cannot_be_exported_runs_by_torch_under_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.export, "export", unexportable)
    backbone = build(NAME, *LAYERS, views=OPENVINO_FROM, threads=1)
    assert backbone.execution == Execution(CPU, "fp32", "torch", 1)
    assert same(backbone(pixels(3)), tiny("torch", 1)(pixels(3)))


@needs_openvino
def test_a_network_that_cannot_be_exported_is_an_error_where_openvino_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.export, "export", unexportable)
    message = r"--runtime openvino cannot run this network \(a loop that depends on data\); use --runtime torch$"
    with pytest.raises(InvalidSettings, match=message):
        build(NAME, *LAYERS, runtime="openvino")


@needs_openvino
@pytest.mark.parametrize(
    ("error", "told"),
    [(KeyError("aten.x"), "aten.x"), (AssertionError(), "AssertionError"), (NotImplementedError("op"), "op")],
)
def test_an_error_without_words_is_told_by_its_name(
    monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    monkeypatch.setattr(torch.export, "export", failing(error))
    execution = Execution(CPU, "fp32", "openvino", 1)
    with pytest.raises(InvalidSettings, match=f"cannot run this network .*{told}.*; use --runtime torch"):
        start(nn.Identity(), execution, torch.zeros(1), fall_back=False)
    assert start(nn.Identity(), execution, torch.zeros(1), fall_back=True).execution.runtime == "torch"


@needs_openvino
def test_memory_that_runs_out_while_a_network_is_converted_is_no_reason_for_another_runtime(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.export, "export", failing(RuntimeError("DefaultCPUAllocator: can't allocate memory")))
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        start(nn.Identity(), Execution(CPU, "fp32", "openvino", 1), torch.zeros(1), fall_back=True)


@needs_openvino
def test_a_network_of_an_operation_that_openvino_lacks_runs_by_torch_under_auto() -> None:
    backbone = build("timm:test_vit", views=OPENVINO_FROM)  # resizes its positions by aten._upsample_bicubic2d_aa
    assert backbone.execution.runtime == "torch"


@needs_openvino
def test_an_operation_that_openvino_lacks_is_told_where_openvino_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino.frontend

    def convert(*_: Any) -> Any:
        raise openvino.frontend.OpConversionFailure("No conversion rule found for operations: aten.x")

    monkeypatch.setattr(openvino, "convert_model", convert)
    with pytest.raises(InvalidSettings, match=r"cannot run this network \(No conversion rule.*; use --runtime torch"):
        start(nn.Identity(), Execution(CPU, "fp32", "openvino", 1), torch.zeros(1), fall_back=False)


@needs_openvino
def test_a_network_that_fell_back_is_not_told_to_have_few_views(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.export, "export", unexportable)
    monkeypatch.setattr(execution, "OPENVINO_FROM", 10)
    told = forecast(open_dataset(str(tiny_dataset)), QUICK_EXTRACT, tmp_path / "out").execution
    assert "by PyTorch" in told
    assert told.endswith("runtime auto: OpenVINO cannot run this network")


# --- on a GPU, as far as one can go without


class FakePixels:
    """Pixels that go to any device, noting how."""

    def __init__(self, moves: list[Any]) -> None:
        self._moves = moves

    def to(self, device: torch.device, *, non_blocking: bool) -> Tensor:
        self._moves.append(("to", device, non_blocking))
        return torch.ones(1)


class FakeCuda:
    """Stands in for torch.cuda and torch.autocast: notes streams, what runs in them, and the arithmetic."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[Any] = []
        self.streams: list[Any] = []
        self._current = threading.local()
        monkeypatch.setattr(runner, "_prepare_torch", lambda network, execution: network)
        monkeypatch.setattr(torch.cuda, "Stream", self._new_stream)
        monkeypatch.setattr(torch.cuda, "stream", self._entered)
        monkeypatch.setattr(torch.cuda, "current_stream", self._current_stream)
        monkeypatch.setattr(torch, "autocast", self._autocast)

    def _new_stream(self, device: torch.device) -> "FakeCuda.Stream":
        self.streams.append(FakeCuda.Stream(self, device))
        return self.streams[-1]

    class Stream:
        def __init__(self, cuda: "FakeCuda", device: torch.device) -> None:
            self.cuda, self.device = cuda, device

        def synchronize(self) -> None:
            self.cuda.events.append(("wait for", self))

        def wait_stream(self, other: "FakeCuda.Stream") -> None:
            assert other.device == self.device

        def __enter__(self) -> None:
            self.cuda._current.stream = self

        def __exit__(self, *_: Any) -> None:
            self.cuda._current.stream = None

    def _entered(self, stream: Stream) -> Stream:
        return stream

    def _current_stream(self, device: torch.device) -> Stream:
        current = getattr(self._current, "stream", None) or FakeCuda.Stream(self, device)
        assert current.device == device
        return current

    def _autocast(self, kind: str, *, dtype: torch.dtype | None, enabled: bool) -> Any:
        self.events.append(("autocast", kind, dtype, enabled))
        return nullcontext()


def identity_maps() -> nn.Module:
    class Maps(nn.Module):
        def forward(self, x: Tensor) -> Sequence[Tensor]:
            return [2 * x]

    return Maps()


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", None)])
def test_a_gpu_computes_in_the_precision_asked_for(
    monkeypatch: pytest.MonkeyPatch, precision: str, dtype: torch.dtype | None
) -> None:
    cuda = FakeCuda(monkeypatch)
    runner = Runner(identity_maps(), Execution(CUDA, precision, "torch", 2), torch.zeros(1), "")
    (features,) = runner(FakePixels(cuda.events))  # type: ignore[arg-type]
    assert features == 2
    (stream,) = cuda.streams
    assert cuda.events == [
        ("autocast", "cuda", dtype, dtype is not None),
        ("to", CUDA, True),
        ("wait for", stream),
    ]


def test_each_thread_of_a_gpus_pool_has_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    runner = Runner(identity_maps(), Execution(torch.device("cuda", 1), "fp32", "torch", 2), torch.zeros(1), "")
    before = torch.get_num_threads()
    with runner.pool() as pool:
        together = threading.Barrier(2, timeout=20)

        def run(_: int) -> Any:
            together.wait()
            with runner.stream():
                return cuda._current.stream

        used = list(pool.map(run, range(8)))
        assert pool.submit(torch.get_num_threads).result() == before
    assert set(used) == set(cuda.streams)
    assert len(cuda.streams) == 2
    assert {stream.device for stream in cuda.streams} == {torch.device("cuda", 1)}


def test_on_a_cpu_there_are_no_streams_and_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    runner = Runner(identity_maps(), Execution(CPU, "bf16", "torch", 2), torch.zeros(1), "")
    runner(torch.ones(1))
    assert cuda.events == [("autocast", "cpu", torch.bfloat16, True)]
    assert not cuda.streams


# --- batch norms folded into convolutions


def norms_in(module: Any) -> list[Any]:
    """Return the nodes of a graph that call a batch norm."""
    children = dict(module.named_modules())
    nodes = [node for node in module.graph.nodes if node.op == "call_module"]
    return [node for node in nodes if isinstance(children[node.target], nn.BatchNorm2d)]


def extractor_of(name: str, layers: tuple[str, ...], weights: str) -> Extractor:
    extractor = build_torchvision(name, layers, weights)
    extractor.module.eval().requires_grad_(False)
    return extractor


def lively(module: nn.Module) -> fx.GraphModule:
    return fx.symbolic_trace(with_lively_norms(module)).requires_grad_(False)


def picture(channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "layers"),
    [("resnet18", ("layer3",)), ("resnet50", ("layer1", "layer3")), ("resnet18", ("bn1", "layer2.0.bn2", "layer3"))],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_folded_norms_give_the_same_features_and_leave_none_behind(
    lively_weights: Weights, name: str, layers: tuple[str, ...]
) -> None:
    extractor = extractor_of(name, layers, lively_weights(name))
    before = [fmap.clone() for fmap in extractor.maps(picture())]
    assert norms_in(extractor.module)
    fold_batch_norms(extractor.module)
    assert not norms_in(extractor.module)
    for found, wanted in zip(extractor.maps(picture()), before, strict=True):
        assert (found - wanted).norm() <= 1e-5 * wanted.norm()
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))
    assert not any(parameter.requires_grad for parameter in extractor.module.parameters())


def test_a_convolution_that_is_asked_for_itself_is_left_alone(lively_weights: Weights) -> None:
    layers = ("conv1", "layer1.0.conv2", "layer1")
    extractor = extractor_of("resnet18", layers, lively_weights("resnet18"))
    before = [fmap.clone() for fmap in extractor.maps(picture())]
    fold_batch_norms(extractor.module)
    assert [node.target for node in norms_in(extractor.module)] == ["bn1", "layer1.0.bn2"]
    conv1, conv2, layer1 = extractor.maps(picture())
    assert torch.equal(conv1, before[0])
    torch.testing.assert_close(conv2, before[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer1, before[2], rtol=1e-4, atol=1e-4)


def test_folding_twice_is_folding_once(lively_weights: Weights) -> None:
    extractor = extractor_of("resnet18", ("layer1",), lively_weights("resnet18"))
    fold_batch_norms(extractor.module)
    (once,) = extractor.maps(picture())
    fold_batch_norms(extractor.module)
    assert torch.equal(extractor.maps(picture())[0], once)


def test_a_convolution_whose_output_is_used_twice_is_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y + self.norm(y)

    graph = lively(Twice())
    before = graph(picture())
    fold_batch_norms(graph)
    assert len(norms_in(graph)) == 1
    assert torch.equal(graph(picture()), before)


def test_a_convolution_that_is_called_twice_is_left_alone() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.norm(self.conv(x)))

    graph = lively(Shared())
    before = graph(picture())
    fold_batch_norms(graph)
    torch.testing.assert_close(graph(picture()), before, rtol=1e-4, atol=1e-5)


def test_a_norm_that_is_behind_no_convolution_is_left_alone() -> None:
    graph = lively(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)))
    before = graph(picture())
    fold_batch_norms(graph)
    assert len(norms_in(graph)) == 2
    assert torch.equal(graph(picture()), before)


@pytest.mark.parametrize("options", [{"bias": False}, {"bias": True}, {"groups": 2}, {"stride": 2, "dilation": 2}])
def test_every_kind_of_convolution_can_be_folded_into(options: dict[str, Any]) -> None:
    graph = lively(nn.Sequential(nn.Conv2d(4, 6, 3, **options), nn.BatchNorm2d(6)))
    before = graph(picture(4))
    fold_batch_norms(graph)
    assert not norms_in(graph)
    torch.testing.assert_close(graph(picture(4)), before, rtol=1e-4, atol=1e-5)


def test_a_module_that_is_no_graph_is_left_alone() -> None:
    module = with_lively_norms(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    fold_batch_norms(module)
    assert [type(child) for child in module] == [nn.Conv2d, nn.BatchNorm2d]
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_the_digest_of_a_backbones_weights_is_of_those_before_folding(lively_weights: Weights) -> None:
    extractor = extractor_of("resnet18", ("layer1",), lively_weights("resnet18"))
    before = digest_of_weights(extractor.module)
    backbone = build("resnet18", "layer1", weights=lively_weights("resnet18"))
    assert not norms_in(backbone.module)
    assert backbone.weights_sha256 == before != digest_of_weights(backbone.module)


@pytest.mark.parametrize(
    ("gigabytes", "image_size", "views"),
    [(2, 224, 16), (4, 224, 32), (7, 224, 32), (8, 224, 64), (8, 128, 64), (80, 224, 64), (8, 448, 16), (16, 448, 32)],
)
def test_a_gpus_batch_is_as_large_as_its_memory_has_room(
    monkeypatch: pytest.MonkeyPatch, gigabytes: int, image_size: int, views: int
) -> None:
    class Properties:
        total_memory = gigabytes << 30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties())
    assert resolve_batch_size(None, CUDA, image_size) == views
    assert resolve_batch_size(7, CUDA, image_size) == 7


@pytest.mark.parametrize("device", [CPU, MPS])
def test_a_batch_is_16_views_where_there_is_no_gpu_with_memory_of_its_own(device: torch.device) -> None:
    assert resolve_batch_size(None, device, 224) == 16
    assert resolve_batch_size(5, device, 224) == 5
