"""All that a CUDA device is asked: the tests marked `gpu`, and the measurements of extract, train, read and loops.

Each runs in a process of its own, one after another. One JSON document says what the machine is, what passed and what
was measured; the rows for docs/benchmarks.md are printed. With --quick sizes are tiny, which tries the program itself,
on a CPU too (--device cpu), and measures nothing.

Example: python -m bench.gpu
"""

import importlib.metadata
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[1]
WHOLE = {
    "loops": ["--batch", "256", "--rounds", "9"],
    "read": ["--images", "256", "--rounds", "9"],
    "train": ["--images", "4096", "--rounds", "3"],
    "extract": ["--limit", "512", "--rounds", "3"],
}
QUICK = {
    "loops": ["--batch", "2", "--rounds", "1"],
    "read": ["--images", "8", "--batch", "4", "--rounds", "1"],
    "train": ["--images", "8", "--batch", "4", "--rounds", "1"],
    "extract": ["--limit", "5", "--augs", "3", "--image-size", "32", "--backbone", "resnet18", "--rounds", "1"],
}
NONE_HERE = (
    "no CUDA device is found here (PyTorch {torch}); run this on a machine with one, or try the program itself by "
    "python -m bench.gpu --device cpu --quick"
)


def machine(device: str) -> dict[str, Any]:
    """Return date, device, driver, versions and commit; raise `ResourceError` if there is no such device."""
    import torch

    from bench.extract import processor
    from featcache.base.devices import resolve_device

    place = resolve_device(device)
    on_gpu = place.type == "cuda"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(place) if on_gpu else "none",
        "cpu": processor(),
        "driver": _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]) if on_gpu else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": _version("triton"),
        "commit": _output(["git", "rev-parse", "HEAD"]),
        "changed": bool(_output(["git", "status", "--porcelain"])),
    }


def run_tests(marker: str = "gpu") -> dict[str, Any]:
    """Run the tests of a marker; return how many passed, failed and were skipped, and which failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-m", marker, f"--junit-xml={report}"]
        done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
        if not report.is_file():
            return {"passed": 0, "failed": 1, "skipped": 0, "failures": [f"pytest ended with {done.returncode}"]}
        return counted(ElementTree.parse(report).getroot())


def counted(report: ElementTree.Element) -> dict[str, Any]:
    """Return what a JUnit report says."""
    cases = list(report.iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    return {
        "passed": len(cases) - len(failed) - len(skipped),
        "failed": len(failed),
        "skipped": len(skipped),
        "failures": [f"{case.get('classname')}::{case.get('name')}" for case in failed],
    }


def measure(name: str, arguments: Sequence[str], device: str) -> dict[str, Any]:
    """Return the figures of a measurement of this folder, or an error of one line."""
    command = [sys.executable, "-m", f"bench.{name}", *arguments, "--device", device]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    try:
        figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]}
    return figures


def problems_of(document: dict[str, Any]) -> list[str]:
    """Return what failed, a line each: tests, none that passed on a GPU, and measurements."""
    tests = document["tests"]
    found = [f"test {name} failed" for name in tests["failures"]]
    if document["machine"]["device"] != "none" and not tests["passed"]:
        found.append("no test marked gpu passed")
    return found + [f"bench.{name}: {one['error']}" for name, one in document["figures"].items() if "error" in one]


def rows(document: dict[str, Any]) -> str:
    """Return the table for docs/benchmarks.md, and how to put it there."""
    about, tests, figures = document["machine"], document["tests"], document["figures"]
    commit = f"{(about['commit'] or 'unknown')[:12]}{' with changes' if about['changed'] else ''}"
    versions = f"driver {about['driver']}, PyTorch {about['torch']}, Triton {about['triton']}, commit {commit}"
    ran = ", ".join(f"{tests[what]} {what}" for what in ("passed", "failed", "skipped"))
    lines = [
        f"{about['device']}, {versions}, {about['date'][:10]}; tests marked gpu: {ran} (`make gpu`):",
        "",
        "| | |",
        "|---|---|",
    ]
    for name, one in figures.items():
        lines += [f"| bench.{name}, {key} | {value} |" for key, value in _flat(one)]
    return "\n".join(lines)


def _flat(figures: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Return numbers of a nested document, each with the words that lead to it."""
    found: list[tuple[str, str]] = []
    for key, value in figures.items():
        name = f"{before}{key}".replace("_", " ")
        if isinstance(value, dict):
            found += _flat(value, f"{name}: ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((name, f"{value:,}"))
    return found


def _output(command: Sequence[str]) -> str | None:
    """Return the first line that a program prints, '' for nothing, None if it is not there or fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return (done.stdout.splitlines() or [""])[0]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@click.command()
@click.option("--device", default="cuda", show_default=True, help="cuda, cuda:N, or cpu to try the program itself.")
@click.option("--quick", is_flag=True, help="Tiny sizes, whose figures say nothing.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=Path("build/gpu.json"),
              show_default=True, help="The document.")  # fmt: skip
def main(device: str, quick: bool, out: Path) -> None:
    """Run the tests marked gpu and all measurements on a device; write one JSON document."""
    import torch

    from featcache.base.errors import FeatcacheError

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise click.ClickException(NONE_HERE.format(torch=torch.__version__))
    try:
        document: dict[str, Any] = {"machine": machine(device), "quick": quick}
    except FeatcacheError as error:
        raise click.ClickException(str(error)) from error
    out.parent.mkdir(parents=True, exist_ok=True)
    click.echo("tests marked gpu", err=True)
    document["tests"] = run_tests()
    document["figures"] = {}
    for name, arguments in (QUICK if quick else WHOLE).items():
        click.echo(f"bench.{name} {' '.join(arguments)}", err=True)
        document["figures"][name] = measure(name, arguments, device)
    out.write_text(json.dumps(document, indent=1) + "\n")
    click.echo(f"Written to {out}. For docs/benchmarks.md, under its own heading:\n\n{rows(document)}")
    if problems := problems_of(document):
        raise click.ClickException("; ".join(problems))


if __name__ == "__main__":
    main()
