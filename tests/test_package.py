"""The built package holds all that a run needs, and works where there is no checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.helpers.tiny import ROOT

PARTS = ("commandline", "featcache", "head", "cli.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
PACKAGED = {path.relative_to(ROOT).as_posix() for part in PARTS[:3] for path in (ROOT / part).rglob("*") if path.suffix
            in (".py", ".typed", ".html", ".css", ".js", ".txt") and "__pycache__" not in path.parts}  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist, and the wheel that was built from it; setuptools is the one that is installed."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, source)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_wheel_and_sdist_hold_every_module_and_every_part_of_the_page(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist, zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        in_sdist = {name.partition("/")[2] for name in sdist.getnames()}
        in_wheel = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert in_wheel == PACKAGED | {"cli.py"}
    assert in_sdist >= PACKAGED | set(PARTS[3:])
    assert {f"head/show/page/assets/{name}" for name in ("page.html", "page.css", "maps.js")} <= in_wheel


def test_the_wheel_declares_command_versions_and_extras(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        home = next(name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name)
        about = Parser().parsestr(wheel.read(f"{home}/METADATA").decode())
        commands = wheel.read(f"{home}/entry_points.txt").decode()
    assert "amnet = cli:main" in commands
    assert about["Requires-Python"] == ">=3.11"
    assert {"figures", "web", "onnx", "hub", "cluster", "openvino", "tensorboard"} <= set(
        about.get_all("Provides-Extra")
    )


def test_an_installed_wheel_reports_without_the_checkout(
    built: Path, tiny_cache: Path, tiny_runs: Path, tmp_path: Path
) -> None:
    home, runs = tmp_path / "installed", tmp_path / "runs"
    shutil.copytree(tiny_runs, runs)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", home]
    subprocess.run([*install, next(built.glob("*.whl"))], capture_output=True, check=True)
    where = {**os.environ, "PYTHONPATH": str(home), "PATH": f"{home / 'bin'}:{os.environ['PATH']}"}
    code = "import cli, commandline, featcache, head; print(*(m.__file__ for m in (cli, commandline, featcache, head)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=where, capture_output=True, text=True)
    assert all(Path(file).is_relative_to(home) for file in found.stdout.split()) and len(found.stdout.split()) == 4
    report = [home / "bin" / "amnet", "report", "--cache", tiny_cache, "--runs", runs, "--out", tmp_path / "page.html"]
    done = subprocess.run(report, cwd=tmp_path, env=where, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "function surfacesOf" in (tmp_path / "page.html").read_text(encoding="utf-8")
