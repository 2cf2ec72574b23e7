"""`make gpu` says what passed and what was measured where, or in a line that there is no device."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from click.testing import CliRunner

import bench.gpu
from tests.helpers.tiny import ROOT

REPORT = """<testsuites><testsuite>
<testcase classname="tests.a" name="one[cuda]"/>
<testcase classname="tests.a" name="two[cuda]"><failure message="x">x</failure></testcase>
<testcase classname="tests.b" name="three"><error message="x">x</error></testcase>
<testcase classname="tests.b" name="four"><skipped message="x">x</skipped></testcase>
</testsuite></testsuites>"""
PASSED = {"passed": 3, "failed": 0, "skipped": 1, "failures": list[str]()}


def run(out: Path, *arguments: str) -> Any:
    return CliRunner().invoke(bench.gpu.main, ["--device", "cpu", "--quick", "--out", str(out), *arguments])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Measure nothing: each measurement gives two figures; return what was asked for."""
    found: list[tuple[str, str]] = []

    def measure(name: str, arguments: Sequence[str], device: str) -> dict[str, Any]:
        found.append((name, device))
        return {"views_per_second": {"ours": 1234.5}, "rounds": 2, "drawn": True}

    monkeypatch.setattr(bench.gpu, "measure", measure)
    monkeypatch.setattr(bench.gpu, "run_tests", lambda: PASSED)
    return found


def test_one_document_says_where_and_what(tmp_path: Path, asked: list[tuple[str, str]]) -> None:
    out = tmp_path / "new" / "gpu.json"
    done = run(out)
    assert done.exit_code == 0, done.output
    document = json.loads(out.read_text())
    assert asked == [(name, "cpu") for name in ("loops", "read", "train", "extract")]
    about = document["machine"]
    assert (about["device"], about["driver"], about["torch"]) == ("none", None, torch.__version__)
    assert about["date"][:2] == "20" and about["cpu"]
    assert document["tests"] == PASSED and document["quick"]
    assert set(document["figures"]) == {"loops", "read", "train", "extract"}
    assert f"Written to {out}. For docs/benchmarks.md" in done.stdout
    assert "tests marked gpu: 3 passed, 0 failed, 1 skipped (`make gpu`):" in done.stdout
    assert "| bench.read, views per second: ours | 1,234.5 |\n| bench.read, rounds | 2 |" in done.stdout
    assert "drawn" not in done.stdout


def test_what_failed_is_told_and_the_rest_is_kept(
    tmp_path: Path, asked: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = bench.gpu.counted(ElementTree.fromstring(REPORT))
    assert tests == {"passed": 1, "failed": 2, "skipped": 1, "failures": ["tests.a::two[cuda]", "tests.b::three"]}
    monkeypatch.setattr(bench.gpu, "run_tests", lambda: tests)
    monkeypatch.setattr(bench.gpu, "measure", lambda name, *_: {"error": "out of memory"} if name == "read" else {})
    done = run(tmp_path / "gpu.json")
    assert done.exit_code == 1
    wanted = ["test tests.a::two[cuda] failed", "test tests.b::three failed", "bench.read: out of memory"]
    assert f"Error: {'; '.join(wanted)}" in done.output
    assert json.loads((tmp_path / "gpu.json").read_text())["figures"]["read"] == {"error": "out of memory"}


def test_on_a_gpu_tests_that_are_all_skipped_are_a_failure() -> None:
    document = {"machine": {"device": "a GPU"}, "tests": {**PASSED, "passed": 0}, "figures": {}}
    assert bench.gpu.problems_of(document) == ["no test marked gpu passed"]
    assert bench.gpu.problems_of({**document, "tests": PASSED}) == []


def test_without_a_cuda_device_a_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(bench.gpu.main, ["--out", str(tmp_path / "gpu.json")])
    assert done.exit_code == 1
    assert done.output.startswith("Error: no CUDA device is found here (PyTorch ")
    assert done.output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_measurement_that_fails_is_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(stdout: str, stderr: str) -> None:
        done = subprocess.CompletedProcess([], 1, stdout, stderr)
        monkeypatch.setattr(bench.gpu.subprocess, "run", lambda *_, **__: done)

    ended("", "Traceback\nRuntimeError: no kernel image\n")
    assert bench.gpu.measure("read", [], "cuda") == {"error": "RuntimeError: no kernel image"}
    ended("", "")
    assert bench.gpu.measure("read", [], "cuda") == {"error": "it printed nothing"}
    ended('a warning\n{"a": 1}\n', "")
    assert bench.gpu.measure("read", [], "cuda") == {"a": 1}


def test_tests_that_cannot_be_collected_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.CompletedProcess([], 4)
    monkeypatch.setattr(bench.gpu.subprocess, "run", lambda *_, **__: done)
    assert bench.gpu.run_tests()["failures"] == ["pytest ended with 4"]


@pytest.mark.slow
def test_the_whole_program_runs_on_a_cpu_in_tiny_sizes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.gpu", "--device", "cpu", "--quick", "--out", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "gpu.json").read_text())
    assert document["tests"]["passed"] == 0 < document["tests"]["skipped"]
    assert document["figures"]["train"]["images_per_second"]["own_resident"] > 0
    assert document["figures"]["extract"]["views_per_second"]["ours_whole"] > 0
    assert document["figures"]["loops"]["energies"]["milliseconds"]["numba"] > 0
    assert document["figures"]["read"]["uint8"]["views_per_second"]["reader_1_thread"] > 0
