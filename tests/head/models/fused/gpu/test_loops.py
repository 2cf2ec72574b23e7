"""The GPU's loops give what the formulas give: interpreted on the CPU, and on a GPU; and they compile without one."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from head.models.fused.attention import Loops
from head.models.fused.chunks import IN_CHUNKS
from head.models.fused.gpu import loops
from head.models.fused.loops import loops_for
from tests.helpers.attention_loops import KEYS, SHAPES, check_all
from tests.helpers.gpu import on_gpu
from tests.helpers.tiny import ROOT

POINTERS = ["keys", "state", "states", "M", "gradient", "gradients", "out", "parts"]
TILE = {"ROWS": 8, "COLUMNS": 128}


def test_interpreted_on_the_cpu_they_give_what_the_formulas_give_in_float64() -> None:
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "tests.helpers.attention_loops"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{len(SHAPES) * len(KEYS)} cases\n"


@pytest.mark.parametrize("device", [on_gpu])
def test_on_a_gpu_they_give_what_the_formulas_give_in_float64(device: str) -> None:
    assert check_all(device) == len(SHAPES) * len(KEYS)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("keys", ["*fp32", "*bf16"])
@pytest.mark.parametrize("name", ["energies", "state_gradient", "key_gradient"])
def test_they_compile_for_gpus_that_are_not_here_and_add_nothing_atomically(
    name: str, keys: str, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from head.models.fused.gpu import kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel: Any = getattr(kernels, name)
    types = dict.fromkeys(POINTERS, "*fp32") | {"keys": keys} | dict.fromkeys(TILE, "constexpr")
    signature = {one: types.get(one, "i32") for one in kernel.arg_names}
    source = ASTSource(kernel, signature, constexprs={(kernel.arg_names.index(one),): TILE[one] for one in TILE})
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert f".target sm_{capability}" in compiled.asm["ptx"]
    assert re.findall(r"^\s*(?:@\S+ )?(atom|red)\.", compiled.asm["ptx"], re.MULTILINE) == []
    assert compiled.asm["cubin"][:4] == b"\x7fELF"


@pytest.mark.parametrize(
    ("works", "sums", "wanted"),
    [(True, torch.float32, loops.TILED), (False, torch.float32, IN_CHUNKS), (True, torch.float64, IN_CHUNKS)],
)
def test_they_are_taken_for_float32_sums_on_a_gpu_where_they_run(
    works: bool, sums: torch.dtype, wanted: Loops, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "works_on", lambda device: works)
    assert loops_for(torch.device("cuda"), sums) is wanted


def test_other_devices_take_the_formulas_in_chunks() -> None:
    assert loops_for(torch.device("meta"), torch.float32) is IN_CHUNKS


@pytest.fixture
def tried_anew() -> Iterator[None]:
    """Let what was found of devices be forgotten, before and after."""
    loops.works_on.cache_clear()
    yield
    loops.works_on.cache_clear()


@pytest.mark.usefixtures("tried_anew")
@pytest.mark.parametrize("name", ["attend", "key_gradient_"])
@pytest.mark.parametrize(
    "error",
    [RuntimeError("Failed to find C compiler"), subprocess.CalledProcessError(1, "cc"), OSError("no such file")],
)
def test_loops_that_cannot_be_compiled_are_told_once_and_not_used(
    error: Exception, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")

    def fails(*_: object) -> None:
        raise error

    for loop in ("attend", "key_gradient_"):
        monkeypatch.setattr(loops, loop, fails if loop == name else lambda *_: (None, None))
    cpu = torch.device("cpu")
    with pytest.warns(
        UserWarning, match=r"cannot be compiled for cpu \(.+\); plain formulas, many times slower"
    ) as told:
        assert [loops.works_on(cpu) for _ in range(2)] == [False, False]
    assert len(told) == 1


@pytest.mark.usefixtures("tried_anew")
def test_without_triton_loops_are_not_used_and_out_of_memory_is_no_reason_not_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loops, "attend", full)
    with pytest.raises(torch.OutOfMemoryError):
        loops.works_on(torch.device("cpu"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not loops.works_on(torch.device("cpu"))


def test_arrays_that_do_not_lie_as_their_shapes_say_are_refused() -> None:
    pytest.importorskip("triton")
    keys, state, M = torch.ones(3, 2, 5).transpose(0, 1), torch.ones(2, 5), torch.ones(3, 5)
    with pytest.raises(ValueError, match="the attention's loops take contiguous arrays"):
        loops.energies(keys, state, M)
