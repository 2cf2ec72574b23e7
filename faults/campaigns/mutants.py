"""Our own code with one guard taken out at a time: each of these mutants must be noticed by a small campaign.

A mutant is a copy of the package with pieces of text replaced. Each piece must be there exactly once, so no mutant
can go stale unseen. The copy is imported in a forked child, in place of the package itself.
"""

import importlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from faults.harness import children
from faults.harness.guards import MUTANTS, Mutant
from faults.harness.trial import Campaign

ROOT = Path(__file__).parents[2]
COPIED = ("commandline", "featcache", "head", "faults")
ENDS_WITHIN = 120.0  # seconds


def run(campaign: Campaign) -> None:
    """Run the campaigns on an unchanged copy, which must pass, then each mutant's own, which must not."""
    for name in sorted({mutant.campaign for mutant in MUTANTS}):
        result = noticed(campaign, Mutant(f"unchanged, {name}", name, ()))
        if result != "passed":
            campaign.bad(f"unchanged copy: {name} {result}, so it cannot tell mutants")
    for mutant in MUTANTS:
        result = noticed(campaign, mutant)
        if result == "noticed":
            campaign.good("noticed", f"noticed by {mutant.campaign}")
        else:
            campaign.bad(f"mutant {mutant.name!r}: {mutant.campaign} {result}")


def noticed(campaign: Campaign, mutant: Mutant) -> str:
    """Return 'noticed' or 'passed', or what kept the campaign from telling."""
    copy = campaign.folder("mutant")
    for name in COPIED:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "cli.py", copy)
    try:
        apply(mutant, copy / "featcache")
    except LookupError as error:
        return f"was not run: {error}"
    answer, said = campaign.scratch / "stdout", campaign.scratch / "stderr"
    status = children.wait(
        children.fork(lambda: _run_copy(copy, mutant.campaign, campaign.seed), stdout=answer, stderr=said), ENDS_WITHIN
    )
    try:
        result: dict[str, Any] = json.loads(answer.read_text().splitlines()[-1])["campaigns"][mutant.campaign]
    except (ValueError, LookupError):
        return f"ended with {status} and no result: {said.read_text()[-600:]}"
    if "broken" in result["counts"]:
        return f"broke: {result['failures']}"
    return "noticed" if result["failed"] else "passed"


def apply(mutant: Mutant, package: Path) -> None:
    """Make a mutant's edits in a copy of the package; raise `LookupError` where a text is not there just once."""
    for name, old, new in mutant.edits:
        text = (package / name).read_text()
        if text.count(old) != 1:
            raise LookupError(f"{name} holds {text.count(old)} times: {old}")
        (package / name).write_text(text.replace(old, new))


def _run_copy(copy: Path, campaign: str, seed: int) -> int:
    """Run a campaign on the copy in this process, which has the original imported."""
    for name in [name for name in sys.modules if name.split(".")[0] in (*COPIED, "cli")]:
        del sys.modules[name]
    sys.path.insert(0, str(copy))
    os.chdir(copy)
    importlib.invalidate_caches()
    main = importlib.import_module("faults.__main__").main
    import featcache

    if not Path(str(featcache.__file__)).is_relative_to(copy):
        raise RuntimeError(f"not the copy: {featcache.__file__}")
    try:
        main(["--small", "--only", campaign, "--seed", str(seed), "--keep", str(copy / "kept"), "--stop-at-first"])
    except SystemExit as end:
        return int(end.code or 0)
    return 0
