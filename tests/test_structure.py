"""Imports point one way, and nothing heavy is loaded to print help."""

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def imported_modules(path: Path) -> set[str]:
    """Return the top-level name of every absolute import in a file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [("featcache", {"head", "commandline", "cli", "click"}), ("head", {"commandline", "cli", "click"})],
)
def test_imports_point_from_cli_to_head_to_featcache(package: str, forbidden: set[str]) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {path.name: imported_modules(path) & forbidden for path in files}
    assert not any(wrong.values()), wrong


def test_help_imports_neither_torch_nor_h5py() -> None:
    code = "import sys, cli; sys.exit(any(m in sys.modules for m in ('torch', 'h5py', 'numpy', 'PIL')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_help_answers_at_once() -> None:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "cli.py", "--help"], cwd=ROOT, capture_output=True, check=True)
    assert b"train-head" in done.stdout
    assert time.perf_counter() - started < 3  # 0.1 s on an idle machine; torch alone takes 1.7 s


def test_every_link_of_the_documents_leads_somewhere() -> None:
    root = Path(__file__).parents[1]
    for document in (root / "README.md", *(root / "docs").glob("*.md")):
        targets = re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8"))
        assert [target for target in targets if not (document.parent / target).exists()] == [], document.name
