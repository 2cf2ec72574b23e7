"""Imports point one way, folder by folder, and nothing heavy is loaded to print help."""

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.helpers.tiny import ROOT

BELOW_STORE = {"featcache/base", "featcache/settings", "featcache/recipe", "featcache/datasets", "featcache/images"}
FEATCACHE = BELOW_STORE | {
    *("featcache/datasets/fetch", "featcache/store", "featcache/store/shards"),
    *("featcache/backbones", "featcache/backbones/families", "featcache/backbones/descriptors"),
    *("featcache/extraction", "featcache/maintenance"),
}
TO_RUNS = FEATCACHE | {
    *("head/settings", "head/data", "head/calibration", "head/runs"),
    *("head/models", "head/models/fused", "head/models/fused/cpu", "head/models/fused/gpu", "head/models/tails"),
}
HEAD = TO_RUNS | {
    "head/grid",
    *(
        "head/evaluation",
        "head/explain",
        "head/training",
        "head/training/gradients",
        "head/training/forecasts",
        "head/prediction",
        "head/share",
    ),
    *("head/show", "head/show/figures", "head/show/page", "head/show/page/live", "head/demo"),
}
MAY_IMPORT = {  # a folder, or a module that stands alone, and what it may import of ours; docs/architecture.md draws it
    "featcache": FEATCACHE,
    "featcache/base": set(),
    "featcache/base/loops": {"featcache/base"},
    "featcache/settings": {"featcache/base"},
    "featcache/recipe": {"featcache/base", "featcache/settings"},
    "featcache/datasets": {"featcache/base"},
    "featcache/datasets/fetch": {"featcache/base", "featcache/datasets"},
    "featcache/ratings": {"featcache/base"},
    "featcache/images": {"featcache/base", "featcache/settings", "featcache/recipe"},
    "featcache/backbones/descriptors": {"featcache/base", "featcache/base/loops"},
    "featcache/backbones/families": {"featcache/base", "featcache/settings", "featcache/backbones/descriptors"},
    "featcache/backbones": {
        *("featcache/base", "featcache/settings", "featcache/recipe"),
        "featcache/backbones/families",
    },
    "featcache/store/shards": {"featcache/base", "featcache/settings", "featcache/recipe", "featcache/images"},
    "featcache/store": BELOW_STORE | {"featcache/store/shards"},
    "featcache/extraction": FEATCACHE - {"featcache/datasets/fetch", "featcache/extraction", "featcache/maintenance"},
    "featcache/maintenance": FEATCACHE - {"featcache/datasets/fetch", "featcache/maintenance"},
    "head": HEAD,
    "head/settings": {"featcache/base"},
    "head/grid": {"featcache/base", "head/settings"},
    "head/data": FEATCACHE | {"head/settings"},
    "head/models/fused": {
        *("featcache/base", "featcache/backbones", "head/models/fused/cpu", "head/models/fused/gpu"),
    },
    "head/models/fused/cpu": {"featcache/base/loops", "head/models/fused"},
    "head/models/fused/gpu": {"featcache/base", "head/models/fused"},
    "head/calibration": {"featcache/base", "head/settings"},
    "head/models/tails": FEATCACHE | {"head/settings", "head/data", "head/models/fused", "head/models"},
    "head/models": FEATCACHE | {"head/settings", "head/data", "head/models/fused", "head/models/tails"},
    "head/runs": TO_RUNS - {"head/runs"},
    "head/evaluation": TO_RUNS,
    "head/explain": TO_RUNS | {"head/evaluation"},
    "head/training": TO_RUNS | {"head/grid", "head/evaluation", "head/training/gradients"},
    "head/training/gradients": TO_RUNS | {"head/evaluation", "head/training"},
    "head/training/forecasts": TO_RUNS | {"head/evaluation", "head/training", "head/training/gradients"},
    "head/prediction": TO_RUNS | {"head/evaluation", "head/explain"},
    "head/share": TO_RUNS | {"head/evaluation", "head/explain", "head/prediction"},
    "head/show": TO_RUNS | {"head/evaluation", "head/explain", "head/prediction"},
    "head/show/figures": TO_RUNS | {"head/evaluation", "head/explain", "head/prediction", "head/show"},
    "head/show/page": HEAD
    - {"head/demo", "head/training", "head/training/gradients", "head/show/page", "head/show/page/live"},
    "head/show/page/live": HEAD - {"head/demo", "head/training", "head/training/gradients", "head/show/page/live"},
    "head/paper": HEAD - {"head/demo"},
    "head/demo": HEAD - {"head/demo"},
}
MOST_ROOMS = 11
MODULES = {
    ".".join(path.with_suffix("").relative_to(ROOT).parts).removesuffix(".__init__"): path
    for package in ("featcache", "head", "commandline")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imported_modules(path: Path) -> set[str]:
    """Return the name of every module that a file imports, anywhere in it; a relative import is none of ours."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: imports are written in full"
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (below & set(MODULES)) or {node.module}
    return names


def place_of(module: str) -> str:
    """Return the row of MAY_IMPORT that a module of ours belongs to."""
    path = MODULES[module].relative_to(ROOT)
    alone = str(path.with_suffix(""))
    return alone if alone in MAY_IMPORT else str(path.parent)


def test_every_folder_imports_only_what_its_row_allows() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, path in MODULES.items()
        if not module.startswith("commandline")
        for other in imported_modules(path) & set(MODULES)
        if place_of(other) not in MAY_IMPORT[place_of(module)] | {place_of(module)}
    ]
    assert wrong == []


def test_neither_package_imports_what_is_above_it() -> None:
    for module, path in MODULES.items():
        tops = {name.partition(".")[0] for name in imported_modules(path)}
        assert not tops & {"cli", "bench", "faults", "tests"}, module
        if not module.startswith("commandline"):
            assert not tops & {"commandline", "click"}, module
        if module.startswith("featcache"):
            assert "head" not in tops, module


def test_no_import_leads_back_to_where_it_began() -> None:
    seen: set[str] = set()

    def follow(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " > ".join((*way, module))
        if module not in seen:
            for other in sorted(imported_modules(MODULES[module]) & set(MODULES)):
                follow(other, (*way, module))
        seen.add(module)

    for module in MODULES:
        follow(module, ())


def test_no_folder_of_the_product_has_more_rooms_than_a_reader_keeps_in_mind() -> None:
    for folder in {path.parent for path in MODULES.values()}:
        assert len(list(folder.glob("*.py"))) <= MOST_ROOMS, folder


def test_every_folder_of_modules_is_a_package_so_that_a_wheel_holds_it() -> None:
    assert [path for path in MODULES.values() if not (path.parent / "__init__.py").exists()] == []


def test_help_imports_neither_torch_nor_h5py() -> None:
    code = "import sys, cli; sys.exit(any(m in sys.modules for m in ('torch', 'h5py', 'numpy', 'PIL')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_help_answers_at_once() -> None:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "cli.py", "--help"], cwd=ROOT, capture_output=True, check=True)
    assert b"train-head" in done.stdout
    assert time.perf_counter() - started < 3  # 0.1 s on an idle machine; torch alone takes 1.7 s


def test_every_link_of_the_documents_leads_somewhere() -> None:
    root = ROOT
    for document in (root / "README.md", *(root / "docs").glob("*.md")):
        targets = re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8"))
        assert [target for target in targets if not (document.parent / target).exists()] == [], document.name
