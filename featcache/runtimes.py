"""How a frozen network is executed: eager PyTorch, torch.compile, or OpenVINO; and in which arithmetic.

In float32 a runtime changes no more than the last bit of a feature (of float16 features, 0.4 to 1.3% differ in theirs).
In bf16 and fp16 runtimes round at other places, and differ as much from each other as from float32; so what is in the
recipe is the `arithmetic`. What 'auto' means depends on the machine and on how many views there are in
all, never on how many are left, so that a run that goes on is computed as it was begun.
"""

import contextlib
import functools
import importlib.util
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .choices import PRECISIONS, RUNTIMES
from .errors import InvalidSettings, Mismatch, ResourceError, ran_out_of_memory

OPENVINO_FROM = 1_000  # views that repay converting the network: 4 s, against 20 to 30 ms saved on each (ResNet50)
COMPILE_FROM = 10_000  # views that repay torch.compile: 25 to 40 s, against about 10 ms saved on each (ResNet50)
_MOST_STREAMS = 8  # bounds memory on machines of many cores
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_OPENVINO_NAMES = {"fp32": "f32", "bf16": "bf16"}

Maps = Sequence[Tensor]


@dataclass(frozen=True)
class Execution:
    """Where and how a network runs, nothing left to 'auto'; threads is how many cores it may use on a CPU."""

    device: torch.device
    precision: str
    runtime: str
    threads: int

    @property
    def arithmetic(self) -> str:
        """What the features depend on: 'fp32', 'bf16' or 'fp16' by PyTorch, or such as 'bf16-openvino'."""
        return (
            self.precision
            if self.precision == "fp32" or self.runtime == "torch"
            else f"{self.precision}-{self.runtime}"
        )

    @property
    def streams(self) -> int:
        """Batches that are computed side by side: each on its own cores, or two on a GPU to hide the copies."""
        if self.device.type != "cpu":
            return 2 if self.device.type == "cuda" else 1
        fewest = min(self.threads, _MOST_STREAMS // 2)
        counts = range(fewest, min(self.threads, _MOST_STREAMS) + 1)
        return max(counts, key=lambda streams: (streams * (self.threads // streams), streams))  # fewest cores idle

    @property
    def threads_per_stream(self) -> int:
        """Cores for each of the streams."""
        return max(1, self.threads // self.streams)


def resolve_device(device: str) -> torch.device:
    """Return the device that 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps' means here; raise `ResourceError` if absent."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError:
        raise InvalidSettings(f"--device must be auto, cpu, cuda, cuda:N or mps, found {device!r}") from None
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(target.type, False) or (target.index or 0) >= max(1, torch.cuda.device_count()):
        raise ResourceError(f"--device {device}: no such device here; use --device auto")
    return target


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return 'fp32', 'bf16' or 'fp16'; auto is the fastest that the device has in hardware."""
    if precision not in PRECISIONS:
        raise InvalidSettings(f"--precision must be one of {', '.join(PRECISIONS)}, found {precision!r}")
    if precision == "fp16" and device.type == "cpu":
        raise InvalidSettings("--precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "fp16"
    return "bf16" if device.type == "cpu" and has_bfloat16() else "fp32"


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; where it does not, bf16 is slower than fp32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def split_arithmetic(arithmetic: str) -> tuple[str, str]:
    """Return precision and runtime that give an `Execution.arithmetic`; 'auto' where any runtime does."""
    precision, _, runtime = arithmetic.partition("-")
    return precision, runtime or ("auto" if precision == "fp32" else "torch")


def check_computable(arithmetic: str, device: torch.device, *, where: str, way_out: str) -> None:
    """Raise `Mismatch` if device cannot compute what is stored at where in an `Execution.arithmetic`."""
    precision, runtime = split_arithmetic(arithmetic)
    if precision == "fp16" and device.type == "cpu":
        raise Mismatch(f"{where}: made in fp16, on a GPU; {way_out}")
    if runtime == "openvino" and has_openvino() and not openvino_computes(precision):
        raise Mismatch(f"{where}: made in {precision} by OpenVINO, which has none on this CPU; {way_out}")


def resolve_runtime(runtime: str, device: torch.device, views: int, precision: str = "fp32") -> str:
    """Return 'torch', 'compile' or 'openvino'; auto is the fastest that has the precision, for so many views in all.

    Raises `InvalidSettings` for a runtime that is not there, or not for this device.
    """
    if runtime not in RUNTIMES:
        raise InvalidSettings(f"--runtime must be one of {', '.join(RUNTIMES)}, found {runtime!r}")
    if runtime == "openvino" and device.type != "cpu":
        raise InvalidSettings(f"--runtime openvino runs on the CPU, not on {device}; use --device cpu")
    if runtime == "openvino" and not has_openvino():
        raise InvalidSettings("--runtime openvino: not installed; pip install 'amnet-featcache[openvino]'")
    if runtime == "openvino" and not openvino_computes(precision):
        raise InvalidSettings(
            f"--runtime openvino has no {precision} on this CPU; use --runtime torch or --precision fp32"
        )
    if runtime == "compile" and not _can_compile(device):
        raise InvalidSettings(f"--runtime compile: no compiler for {device} found; use --runtime torch")
    if runtime != "auto":
        return runtime
    if device.type == "cpu" and views >= OPENVINO_FROM and openvino_computes(precision):
        return "openvino"
    return "compile" if views >= COMPILE_FROM and _can_compile(device) else "torch"


def available_runtime(runtime: str, device: str, precision: str = "fp32") -> str:
    """Return the runtime that a cache was made with if it is there for device and precision, else 'torch'."""
    try:
        return resolve_runtime(runtime, resolve_device(device), views=1, precision=precision)
    except InvalidSettings:
        return "torch"


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


def openvino_computes(precision: str) -> bool:
    """Whether OpenVINO is installed and has the precision on this CPU.

    It has bf16 where there is AVX-512 or AVX2-VNNI-2, if only to emulate it. Elsewhere it computes in float32 without
    a word when asked for bf16, and the features would not be what the recipe says.
    """
    known = precision in _OPENVINO_NAMES and has_openvino()
    return known and (precision == "fp32" or _openvino_takes(precision))


@functools.cache
def _openvino_takes(precision: str) -> bool:
    """Ask OpenVINO for a precision, and then which it took; a broken installation takes none."""
    name, wanted = "INFERENCE_PRECISION_HINT", _OPENVINO_NAMES[precision]
    try:
        import openvino

        core = openvino.Core()
        core.set_property("CPU", {name: wanted})
        return bool(core.get_property("CPU", name).to_string() == wanted)
    except (ImportError, RuntimeError) as error:
        if ran_out_of_memory(error):
            raise
        return False


def _can_compile(device: torch.device) -> bool:
    if device.type == "cuda":
        return importlib.util.find_spec("triton") is not None
    return device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is not None


def explain_execution(execution: Execution, precision: str, runtime: str, views: int) -> str:
    """Return how the network runs, as text, and why where precision or runtime was asked for as 'auto'."""
    on_cpu = execution.device.type == "cpu"
    names = {"torch": "PyTorch", "compile": "torch.compile", "openvino": "OpenVINO"}
    where = f"{execution.device}, {execution.streams} batches at once" + (
        f" on {execution.threads} cores" if on_cpu else ""
    )
    parts = [f"{execution.precision} by {names[execution.runtime]} on {where}"]
    if precision == "auto":
        hardware = "has" if execution.precision != "fp32" else "has no"
        reduced = "bfloat16 units" if on_cpu else "float16 units"
        parts.append(f"precision auto: this {'CPU' if on_cpu else 'device'} {hardware} {reduced}")
    if runtime == "auto" and on_cpu and execution.runtime != "openvino":
        parts.append(f"runtime auto: {_why_not_openvino(execution.precision, views)}")
    return "; ".join(parts)


def _why_not_openvino(precision: str, views: int) -> str:
    if views < OPENVINO_FROM:
        return f"fewer than {OPENVINO_FROM:,} views"
    if not has_openvino():
        return "OpenVINO is faster, but not installed: pip install 'amnet-featcache[openvino]'"
    if not openvino_computes(precision):
        return f"OpenVINO has no {precision} on this CPU"
    return "OpenVINO cannot run this network"


class Runner:
    """A network ready to run: pixels (B, S, S, 3) uint8 in, one map (B, L, D) for each layer out, B fixed.

    Safe in several threads, best those of `pool`. On a CPU each stream computes on cores of its own: no stream
    waits for a thread of another that decoding or compressing has taken the core from.
    """

    def __init__(self, network: nn.Module, execution: Execution, example: Tensor) -> None:
        self.execution = execution
        self._local = threading.local()
        if execution.runtime == "openvino":
            self._compiled = _compile_openvino(network, execution, example)
            self._run: Callable[[Tensor], Maps] = self._run_openvino
        else:
            self._network = _prepare_torch(network, execution)
            self._run = self._run_torch
        if execution.runtime == "compile":
            self._compile_now(example)

    def __call__(self, pixels: Tensor) -> Maps:
        """Return the maps of a batch; with OpenVINO, they are good until the same thread's next call."""
        return self._run(pixels)

    @contextlib.contextmanager
    def pool(self) -> Iterator[ThreadPoolExecutor]:
        """Give a pool of threads that are prepared to call this, as many as it is worth calling it from."""
        per_stream, before = self.execution.threads_per_stream, torch.get_num_threads()
        on_cpu = self.execution.device.type == "cpu"
        queued = 1 if self.execution.runtime == "openvino" else 0  # keeps its streams busy while a caller encodes
        pool = ThreadPoolExecutor(
            self.execution.streams + queued,
            thread_name_prefix="backbone",
            initializer=lambda: torch.set_num_threads(per_stream) if on_cpu else None,
        )
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)  # MKL keeps one number for all threads

    def _compile_now(self, example: Tensor) -> None:
        """Compile, in a thread like those that will call; raise `InvalidSettings` where no compiler does."""
        try:
            with self.pool() as pool:
                pool.submit(self._run_torch, example).result()
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            if ran_out_of_memory(error):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise InvalidSettings(f"--runtime compile fails here ({reason}); use --runtime torch") from error

    @torch.inference_mode()
    def _run_torch(self, pixels: Tensor) -> Maps:
        device, dtype = self.execution.device, _DTYPES.get(self.execution.precision)
        with self.stream(), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            maps: Maps = self._network(pixels.to(device, non_blocking=True))
        return maps

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        """On a GPU, queue work in the calling thread's own stream, so that one copies while another computes."""
        if self.execution.device.type != "cuda":
            yield
            return
        if not hasattr(self._local, "stream"):
            self._local.stream = torch.cuda.Stream(self.execution.device)  # type: ignore[no-untyped-call]
        outside = torch.cuda.current_stream(self.execution.device)
        self._local.stream.wait_stream(outside)  # what the block reads may still be on its way there
        with torch.cuda.stream(self._local.stream):
            yield
        self._local.stream.synchronize()  # what the block leaves may be used, and freed, in any stream

    def _run_openvino(self, pixels: Tensor) -> Maps:
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        outputs = self._local.request.infer([pixels.numpy()], share_inputs=True, share_outputs=True)
        return [torch.from_numpy(values) for values in outputs.values()]


def start(network: nn.Module, execution: Execution, example: Tensor, *, fall_back: bool) -> Runner:
    """Return the network ready to run on batches like example; fall_back allows PyTorch where OpenVINO cannot."""
    try:
        return Runner(network, execution, example)
    except InvalidSettings:
        if not fall_back:
            raise
    return Runner(network, replace(execution, runtime="torch"), example)


def _prepare_torch(network: nn.Module, execution: Execution) -> Callable[[Tensor], Maps]:
    if execution.device.type == "cuda" and execution.precision == "fp32":
        torch.backends.cudnn.allow_tf32 = False  # convolutions would keep 10 bits of 23, and the recipe says fp32
    network = network.to(device=execution.device).to(memory_format=torch.channels_last)
    if execution.runtime != "compile":
        return network
    compiled: Callable[[Tensor], Maps] = torch.compile(network, options={"freezing": True})  # folds batch norms
    return compiled


def _compile_openvino(network: nn.Module, execution: Execution, example: Tensor) -> Any:
    """Return OpenVINO's compiled model; raise `InvalidSettings` if the network cannot be converted."""
    options = {
        "INFERENCE_PRECISION_HINT": _OPENVINO_NAMES[execution.precision],
        "NUM_STREAMS": execution.streams,
        "INFERENCE_NUM_THREADS": execution.streams * execution.threads_per_stream,
        "ENABLE_CPU_PINNING": False,  # cores are shared with decoding, and with other processes
    }
    try:
        import openvino

        with torch.no_grad():
            exported = torch.export.export(network, (example,))
        return openvino.Core().compile_model(openvino.convert_model(exported), "CPU", options)
    except _failures_to_convert() as error:
        if ran_out_of_memory(error):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = next((line for line in lines if line.startswith("No conversion rule")), lines[0])[:200]
        raise InvalidSettings(f"--runtime openvino cannot run this network ({reason}); use --runtime torch") from error


def _failures_to_convert() -> tuple[type[Exception], ...]:
    """Return what export and OpenVINO raise for a network they cannot take; some have no base but Exception."""
    common = (ImportError, RuntimeError, ValueError, TypeError, LookupError, AssertionError)
    try:
        from openvino import frontend
    except ImportError:  # a broken installation
        return common
    return (
        *common,
        frontend.GeneralFailure,
        frontend.InitializationFailure,
        frontend.NotImplementedFailure,
        frontend.OpConversionFailure,
        frontend.OpValidationFailure,
    )
