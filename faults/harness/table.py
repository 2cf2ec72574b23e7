"""The results of a run: one JSON object, one line a campaign for the terminal, and a table for the documentation."""

import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from faults.harness.trial import Tally

PACKAGES = ("torch", "h5py", "hdf5plugin", "zstandard", "xxhash", "numpy", "pillow")


def as_json(tallies: Sequence[Tally], *, size: str, seed: int, only: Sequence[str], kept: Path) -> dict[str, Any]:
    """Return all results of a run as a JSON object."""
    failed = any(tally.failures for tally in tallies)
    return {
        "command": " ".join(["python -m faults", f"--{size}", *(f"--only {name}" for name in only), f"--seed {seed}"]),
        "passed": all(tally.passed for tally in tallies),
        "silent_errors": sum(tally.silent for tally in tallies),
        "trials": sum(tally.trials for tally in tallies),
        "campaigns": {tally.campaign: tally.as_json() for tally in tallies},
        "kept": str(kept) if failed else None,
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
    }


def describe(tally: Tally) -> str:
    """Return a campaign's result as one line."""
    state = "passed" if tally.passed else f"FAILED {len(tally.failures)} of"
    counts = ", ".join(f"{name} {count:,}" for name, count in sorted(tally.counts.items()))
    skipped = "".join(f"; {what} skipped: {why}" for what, why in tally.skipped.items())
    return f"{tally.campaign}: {state} {tally.trials:,} trials in {tally.seconds:.0f} s ({counts}){skipped}"


def markdown(result: dict[str, Any], titles: dict[str, str]) -> str:
    """Return the results as a page of the documentation: nothing in it depends on the day."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        "# Faults",
        "",
        f"Written by `{result['command']} --markdown docs/faults.md`; do not edit. Silent errors: "
        f"{result['silent_errors']}. Every trial must end in the exact result or in the right error.",
        "",
        "| campaign | trials | failed | silent | what was done and what came out |",
        "|---|---|---|---|---|",
    ]
    for name, campaign in result["campaigns"].items():
        counts = ", ".join(f"{what} {count:,}" for what, count in campaign["counts"].items())
        numbers = f"{campaign['trials']:,} | {campaign['failed']} | {campaign['silent']}"
        lines.append(f"| {name}: {titles[name]} | {numbers} | {counts} |")
    lines += ["", *(f"- {name}, skipped: {what}: {why}" for name, what, why in _skipped(result)), f"- {versions}", ""]
    return "\n".join(lines)


def _skipped(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (name, what, why) for name, campaign in result["campaigns"].items() for what, why in campaign["skipped"].items()
    ]
