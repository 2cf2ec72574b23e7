"""The fault campaign: python -m faults --quick, in under four minutes on two cores; --full in about forty.

One JSON line on stdout, progress on stderr. The exit status is 0 only if every trial came to the exact result or
to the right error, and every mutant of the project's own code was noticed.
"""

import importlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

CAMPAIGNS = {
    "mutants": "our own code with one guard taken out: each must be noticed",
    "kills": "SIGKILL of extract, restarted until done",
    "repairs": "damage mended by verify-cache --repair, which is killed on the way",
    "together": "a writer, readers and a second writer at once",
    "flips": "bits flipped, files cut, chunks swapped",
    "io-errors": "the N-th system call fails, is cut short, or lies",
    "power-cut": "legal disk states after a power cut",
    "fuzz": "manifests, split files and recipes with seeded mutations",
    "full-disk": "a disk or a file-size limit that is really full",
    "resources": "few descriptors, little memory, signals, closed output",
    "golden": "a cache of every released format version",
}


@click.command()
@click.option("--small", "size", flag_value="small", help="A few trials of each: what the tests and mutants use.")
@click.option("--quick", "size", flag_value="quick", default="quick", help="Under four minutes on two cores (default).")
@click.option("--full", "size", flag_value="full", help="Before a release: about forty minutes.")
@click.option("--only", multiple=True, type=click.Choice(list(CAMPAIGNS)), help="A campaign; may be repeated.")
@click.option("--seed", default=0, show_default=True, help="Decides every random choice.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Folder for what fails.  [default: new]")
@click.option("--stop-at-first", is_flag=True, help="End a campaign at its first failure.")
@click.option("--markdown", type=click.Path(dir_okay=False, path_type=Path), help="Write the table of results there.")
def main(
    size: str, only: tuple[str, ...], seed: int, keep: Path | None, stop_at_first: bool, markdown: Path | None
) -> None:
    """Do harm to caches and say what came of it.

    Example: python -m faults --quick --only flips --only kills
    """
    os.environ.update(OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # read on import
    from faults.harness import lanes, table, trial

    watch = trial.Stopwatch()
    chosen = [name for name in only or CAMPAIGNS if name != "mutants" or trial.SIZES[size].mutants]
    runs = [(name, _load(name)) for name in chosen]
    kept = keep or Path(tempfile.mkdtemp(prefix="faults-kept-"))
    kept.mkdir(parents=True, exist_ok=True)
    scratch = lanes.scratch_folder()

    def campaign(name: str) -> trial.Campaign:
        return trial.Campaign(trial.Tally(name), trial.SIZES[size], seed, scratch / name, kept, stop_at_first)

    try:
        tallies = {}
        for tally in lanes.run_all(runs, campaign):
            tallies[tally.campaign] = tally
            click.echo(table.describe(tally), err=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    result = table.as_json([tallies[name] for name in chosen], size=size, seed=seed, only=only, kept=kept)
    result["seconds"] = round(watch(), 1)
    if not any(kept.iterdir()):
        kept.rmdir()
    if markdown is not None:
        markdown.write_text(table.markdown(result, CAMPAIGNS), encoding="utf-8")
    click.echo(json.dumps(result, allow_nan=False))
    raise SystemExit(0 if result["passed"] else 1)


def _load(name: str) -> Any:
    import torch

    torch.set_num_threads(1)
    importlib.import_module("timm")  # so that no child has to
    importlib.import_module("cli")
    module = importlib.import_module(f"faults.campaigns.{name.replace('-', '_')}")
    return module.run


if __name__ == "__main__":
    sys.exit(main())
