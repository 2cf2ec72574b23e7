"""What each command imports: nothing heavy that it does not use, and its first word comes before any of it.

Budgets are of modules, not of seconds, so that they hold on every machine.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.tiny import ROOT

HEAVY = {
    *("torch", "torch._dynamo", "torchvision", "timm", "sympy", "openvino", "onnx", "onnxruntime", "numba", "sklearn"),
    *("scipy", "scipy.stats", "polars", "pandas", "matplotlib", "joblib", "dask", "distributed", "tensorboard"),
    *("starlette", "uvicorn", "huggingface_hub", "h5py", "numpy", "PIL"),
}
CACHE = {"torch", "numpy", "h5py", "PIL"}  # to read features
SCORES = CACHE | {"scipy", "numba"}  # Numba for attention, which imports scipy for BLAS
NETWORK = {"torchvision", "timm", "torch._dynamo", "sympy"}  # timm imports the three others
RUN = """
import json, sys
from click.testing import CliRunner
from cli import main

class Watch:
    first = None
    def find_spec(self, name, path=None, target=None):
        if Watch.first is None and name in ("numpy", "torch"):
            sys.stderr.flush()
            Watch.first = sys.stderr.buffer.getvalue().decode()
        return None

sys.meta_path.insert(0, Watch())
result = CliRunner().invoke(main, sys.argv[2:])
found = [name for name in json.loads(sys.argv[1]) if name in sys.modules]
print(json.dumps([found, result.exit_code, result.stderr, Watch.first]))
"""


def imported(*arguments: object, folder: Path) -> tuple[set[str], str]:
    """Run a command in a process of its own; return the heavy modules it imported, and what it had printed before."""
    command = [sys.executable, "-c", RUN, json.dumps(sorted(HEAVY)), *map(str, arguments)]
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"]},
    )
    found, status, told, before = json.loads(done.stdout.splitlines()[-1])
    assert status == 0, told
    return set(found), before or ""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["predict", "--help"], ["train-head", "--help"]])
def test_help_and_version_import_nothing_and_say_nothing_on_stderr(arguments: list[str], tmp_path: Path) -> None:
    assert imported(*arguments, folder=tmp_path) == (set(), "")


def test_cache_info_reads_a_cache_alone(tiny_cache: Path, tmp_path: Path) -> None:
    found, before = imported("cache-info", "--cache", tiny_cache, folder=tmp_path)
    assert found <= CACHE
    assert before == f"cache-info: {tiny_cache}\n"


def test_ratings_imports_no_torch(tmp_path: Path) -> None:
    lines = [f"{image},{worker},{(image + worker) % 5}" for image in range(8) for worker in range(6)]
    (tmp_path / "answers.csv").write_text("\n".join(["image,worker,rating", *lines]))
    found, before = imported("ratings", "answers.csv", "--score", "mean", folder=tmp_path)
    assert found <= {"numpy", "scipy", "polars"}
    assert before == "ratings: answers.csv\n"


def test_score_cache_imports_neither_networks_nor_statistics(tiny_cache: Path, tiny_runs: Path, tmp_path: Path) -> None:
    found, before = imported("score-cache", "--cache", tiny_cache, "--runs", tiny_runs, folder=tmp_path)
    assert found <= SCORES
    assert before == f"score-cache: heads in {tiny_runs} on {tiny_cache}\n"


def test_train_head_imports_nothing_of_torch_compile(tiny_cache: Path, tmp_path: Path) -> None:
    options = ["--split", "1", "--epochs", "1", "--hidden-size", "7"]
    found, before = imported("train-head", "--cache", tiny_cache, *options, folder=tmp_path)
    assert found <= SCORES
    assert before == f"train-head: split 1 of {tiny_cache}\n"


def test_predict_imports_what_its_network_needs(tiny_runs: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    run, images = tiny_runs / "tiny" / "paper" / "split-1", tiny_dataset / "images"
    found, before = imported("predict", "--run", run, images, folder=tmp_path)
    assert found <= SCORES | NETWORK
    assert before == f"predict: {images} with {run}\n"


def test_extract_imports_no_heads(tiny_dataset: Path, tmp_path: Path) -> None:
    options = ["--backbone", "resnet18", "--weights", "random", "--image-size", "32", "--layer", "layer1"]
    found, before = imported("extract", "--dataset", tiny_dataset, *options, folder=tmp_path)
    assert found <= CACHE | NETWORK
    assert before == f"extract: {tiny_dataset} with resnet18\n"


def test_report_draws_without_networks(tiny_cache: Path, tiny_runs: Path, tmp_path: Path) -> None:
    found, before = imported("report", "--cache", tiny_cache, "--runs", tiny_runs, folder=tmp_path)
    assert not found & {"timm", "torchvision", "openvino", "onnx", "polars", "sklearn"}
    assert before == f"report: heads in {tiny_runs} on {tiny_cache}\n"


def test_the_first_word_comes_within_the_imports_of_the_command_line() -> None:
    """What says it, and all that it needs, is what --help imports."""
    code = "import sys, commandline.begin; sys.exit(bool({'numpy', 'torch', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_drawing_processes_need_no_torch() -> None:
    code = "import sys, head.show.plates; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
