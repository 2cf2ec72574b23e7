"""How a frozen network is executed: eager PyTorch, torch.compile, or OpenVINO; and in which arithmetic.

In float32 a runtime changes no more than the last bit of a feature (of float16 features, 0.4 to 1.3% differ in theirs).
In bf16 and fp16 runtimes round at other places, and differ as much from each other as from float32; so what is in the
recipe is the `arithmetic`. What 'auto' means depends on the machine and on how many views there are in
all, never on how many are left, so that a run that goes on is computed as it was begun.
"""

import functools
import importlib.util
import os
import shutil
from dataclasses import dataclass

import torch

from featcache.base.commands import pip_install
from featcache.base.devices import resolve_device
from featcache.base.errors import InvalidSettings, Mismatch, ran_out_of_memory
from featcache.settings import PRECISIONS, RUNTIMES

OPENVINO_FROM = 1_000  # views that repay converting the network: 4 s, against 20 to 30 ms saved on each (ResNet50)
COMPILE_FROM = 10_000  # views that repay torch.compile: 25 to 40 s, against about 10 ms saved on each (ResNet50)
_MOST_STREAMS = 8  # bounds memory on machines of many cores
BATCH = 16  # views, on a CPU, where every stream has a batch of its own
_BATCHES = {64: 8 << 30, 32: 4 << 30}  # views, and the bytes of a GPU from which they fit twice, of 224 x 224 pixels
OPENVINO_NAMES = {"fp32": "f32", "bf16": "bf16"}


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
        by_torch = self.precision == "fp32" or self.runtime == "torch"
        return self.precision if by_torch else f"{self.precision}-{self.runtime}"

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


def resolve_batch_size(batch_size: int | None, device: torch.device, image_size: int) -> int:
    """Return how many views are computed at once; None is 16 on a CPU, and on a GPU up to 64, as its memory has room.

    Batches end where a shard ends, so of more than 64 views more would be padding (`extraction/plan.py`).
    """
    if batch_size is not None:
        return batch_size
    if device.type != "cuda":
        return BATCH
    memory = torch.cuda.get_device_properties(device).total_memory
    pixels = max(1.0, (image_size / 224) ** 2)
    return next((views for views, needed in _BATCHES.items() if memory >= needed * pixels), BATCH)


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
        raise InvalidSettings(f"--runtime openvino: not installed; {pip_install('openvino')}")
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
    known = precision in OPENVINO_NAMES and has_openvino()
    return known and (precision == "fp32" or _openvino_takes(precision))


@functools.cache
def _openvino_takes(precision: str) -> bool:
    """Ask OpenVINO for a precision, and then which it took; a broken installation takes none."""
    name, wanted = "INFERENCE_PRECISION_HINT", OPENVINO_NAMES[precision]
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
    where = f"{execution.device}, {execution.streams} batches at once"
    cores = f" on {execution.threads} cores" if on_cpu else ""
    parts = [f"{execution.precision} by {names[execution.runtime]} on {where}{cores}"]
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
        return f"OpenVINO is faster, but not installed: {pip_install('openvino')}"
    if not openvino_computes(precision):
        return f"OpenVINO has no {precision} on this CPU"
    return "OpenVINO cannot run this network"
