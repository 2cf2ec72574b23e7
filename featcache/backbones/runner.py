"""A network ready to run, by PyTorch, torch.compile or OpenVINO. Which of them is decided in `execution`."""

import contextlib
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from featcache.backbones.execution import OPENVINO_NAMES, Execution
from featcache.backbones.kept import compiled_once
from featcache.base.devices import keep_float32
from featcache.base.errors import InvalidSettings, first_line, ran_out_of_memory

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
Maps = Sequence[Tensor]


class Runner:
    """A network ready to run: pixels (B, S, S, 3) uint8 in, one map (B, L, D) for each layer out, B fixed.

    Safe in several threads, best those of `pool`. On a CPU each stream computes on cores of its own: no stream
    waits for a thread of another that decoding or compressing has taken the core from.
    """

    def __init__(self, network: nn.Module, execution: Execution, example: Tensor, what: str) -> None:
        self.execution = execution
        self._local = threading.local()
        if execution.runtime == "openvino":
            self._compiled = _compile_openvino(network, execution, example, what)
        else:
            self._network = _prepare_torch(network, execution)
        if execution.runtime == "compile":
            self._compile_now(example)

    def __call__(self, pixels: Tensor) -> Maps:
        """Return the maps of a batch; with OpenVINO, they are good until the same thread's next call."""
        return self._run_openvino(pixels) if self.execution.runtime == "openvino" else self._run_torch(pixels)

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
            raise InvalidSettings(
                f"--runtime compile fails here ({first_line(error)[:200]}); use --runtime torch"
            ) from error

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


def start(network: nn.Module, execution: Execution, example: Tensor, *, fall_back: bool, what: str = "") -> Runner:
    """Return the network ready to run on batches like example; fall_back allows PyTorch where OpenVINO cannot.

    what says what of the network is computed, which its modules and weights do not tell.
    """
    try:
        return Runner(network, execution, example, what)
    except InvalidSettings:
        if not fall_back:
            raise
    return Runner(network, replace(execution, runtime="torch"), example, what)


def _prepare_torch(network: nn.Module, execution: Execution) -> Callable[[Tensor], Maps]:
    if execution.precision == "fp32":
        keep_float32(execution.device)  # the recipe says fp32
    network = network.to(device=execution.device).to(memory_format=torch.channels_last)
    if execution.runtime != "compile":
        return network
    compiled: Callable[[Tensor], Maps] = torch.compile(network, options={"freezing": True})  # folds batch norms
    return compiled


def _compile_openvino(network: nn.Module, execution: Execution, example: Tensor, what: str) -> Any:
    """Return OpenVINO's compiled model; raise `InvalidSettings` if the network cannot be converted."""
    options = {
        "INFERENCE_PRECISION_HINT": OPENVINO_NAMES[execution.precision],
        "NUM_STREAMS": execution.streams,
        "INFERENCE_NUM_THREADS": execution.streams * execution.threads_per_stream,
        "ENABLE_CPU_PINNING": False,  # cores are shared with decoding, and with other processes
    }
    try:
        import openvino

        core = openvino.Core()

        def compile_() -> Any:
            with torch.no_grad():
                exported = torch.export.export(network, (example,))
            return core.compile_model(openvino.convert_model(exported), "CPU", options)

        return compiled_once(network, core, options, f"{what} of {tuple(example.shape)}", compile_)
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
        *(kind for name, kind in vars(frontend).items() if name.endswith("Failure") and isinstance(kind, type)),
    )
