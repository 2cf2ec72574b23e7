"""The fault campaigns can fail: controls and mutants are noticed, the model of a disk loses what was not synced."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faults.campaigns import golden, mutants
from faults.harness import calls, children, disk, mutate
from faults.harness.disk import Change, Entry, Loss, Sync
from faults.harness.guards import MUTANTS, Mutant
from faults.harness.trial import SIZES, Campaign, Tally, Verdict, exact_or
from featcache.base.errors import CorruptFile, StorageError
from featcache.base.files import write_durably
from tests.helpers.tiny import ROOT

FOLDER, TEMPORARY, FINAL = Path("/f"), Path("/f/t"), Path("/f/x")
WRITTEN = [Entry(TEMPORARY, 1), Change(1, 0, b"a" * 5000)]
RENAMED = Entry(FINAL, 1, freed=TEMPORARY)
fork = pytest.mark.filterwarnings("ignore:.*fork")


def run(folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run the campaign's command in folder; return exit status, its JSON line, and what it says on stderr."""
    command = [sys.executable, "-m", "faults", "--small", "--keep", str(folder / "kept"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout.count("\n") == 1, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def copy_of_the_code(folder: Path) -> Path:
    for name in mutants.COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "cli.py", folder)
    return folder


@pytest.mark.early
def test_sound_code_passes_and_the_table_says_how_it_was_made(tmp_path: Path) -> None:
    copy_of_the_code(tmp_path)
    shutil.copytree(golden.HOME, tmp_path / "tests" / "golden")
    page = tmp_path / "faults.md"
    only = ["--only", "golden", "--only", "power-cut", "--only", "kills"]
    status, result, said = run(tmp_path, *only, "--markdown", str(page))
    assert (status, result["passed"], result["silent_errors"], result["kept"]) == (0, True, 0, None), said
    assert {name: found["passed"] for name, found in result["campaigns"].items()} == {
        "kills": True, "power-cut": True, "golden": True,
    }  # fmt: skip
    assert result["campaigns"]["kills"]["counts"]["kills"] == SIZES["small"].kills
    assert result["command"] in page.read_text()
    assert not (tmp_path / "kept").exists()


@pytest.mark.early
def test_a_mutant_fails_and_what_failed_is_kept(tmp_path: Path) -> None:
    copy_of_the_code(tmp_path)
    mutant = next(mutant for mutant in MUTANTS if mutant.name == "a chunk's digest is not checked")
    mutants.apply(mutant, tmp_path / "featcache")
    status, result, said = run(tmp_path, "--only", "flips", "--stop-at-first")
    assert (status, result["silent_errors"]) == (1, 1), said
    assert "SILENT" in result["campaigns"]["flips"]["failures"][0]
    assert list(Path(result["kept"]).rglob("damage.txt"))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_takes_out_is_there_once_and_leaves_python(tmp_path: Path, mutant: Mutant) -> None:
    shutil.copytree(ROOT / "featcache", tmp_path / "featcache")
    mutants.apply(mutant, tmp_path / "featcache")
    for name in {edit[0] for edit in mutant.edits}:
        compile((tmp_path / "featcache" / name).read_text(), name, "exec")


def test_a_mutant_whose_text_is_gone_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "files.py").write_text("sync()\nsync()\n")
    for old, count in (("fsync()", 0), ("sync()", 2)):
        with pytest.raises(LookupError, match=rf"files.py holds {count} times"):
            mutants.apply(Mutant("", "", (("files.py", old, "pass"),)), tmp_path)


def left_by_a_power_cut(operations: list[disk.Operation], loss: Loss) -> dict[Path, bytes | None]:
    return disk.after_power_cut(operations, loss, random.Random(0))


def test_what_was_synced_survives_any_power_cut() -> None:
    operations = [*WRITTEN, Sync(inode=1), RENAMED, Sync(folder=FOLDER)]
    for loss in (Loss(0, 0), Loss(1, 0), Loss(0.5, 0.5, rubbish=True)):
        assert left_by_a_power_cut(operations, loss) == {FINAL: b"a" * 5000}


def test_without_fsync_of_the_file_its_name_survives_and_its_bytes_do_not() -> None:
    operations = [*WRITTEN, RENAMED, Sync(folder=FOLDER)]
    assert left_by_a_power_cut(operations, Loss(1, 0)) == {FINAL: b""}
    torn = {disk.after_power_cut(operations, Loss(1, 0.5), random.Random(seed))[FINAL] for seed in range(40)}
    assert b"a" * 4096 + bytes(904) in torn


def test_without_fsync_of_the_folder_the_name_does_not_survive() -> None:
    operations = [*WRITTEN, Sync(inode=1), RENAMED]
    assert left_by_a_power_cut(operations, Loss(0, 0)) == {}
    assert left_by_a_power_cut(operations, Loss(1, 0)) == {FINAL: b"a" * 5000}


def test_a_recording_plays_back_what_was_written(tmp_path: Path) -> None:
    recorder = disk.Recorder()
    with calls.through(recorder, tmp_path):
        for data in (b"first", b"second" * 1000):
            write_durably(tmp_path / "x", data)
    assert left_by_a_power_cut(recorder.operations, Loss(0, 0)) == {tmp_path / "x": b"second" * 1000}
    states = [left_by_a_power_cut(recorder.operations[:i], Loss(0, 0)) for i in range(len(recorder.operations))]
    assert {state.get(tmp_path / "x") for state in states} == {None, b"first"}


def test_only_calls_below_the_folder_go_through_the_hand(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    seen: list[str] = []

    def hand(call: calls.Call, real: Callable[..., Any]) -> Any:
        seen.append(call.name)
        if call.name == "write":
            raise OSError("no")
        return real(*call.arguments)

    with calls.through(hand, tmp_path / "in"):
        write_durably(tmp_path / "out", b"x")
        assert seen == []
        with pytest.raises(StorageError, match="no"):
            write_durably(tmp_path / "in" / "x", b"x")
    assert seen == ["open", "posix_fallocate", "write", "close", "unlink"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in", "out"]


@pytest.mark.parametrize(
    ("error", "same", "problem", "silent"),
    [
        (None, True, "", False),
        (None, False, "wrong data without an error", True),
        (CorruptFile("cut"), None, "", False),
        (StorageError("gone"), None, "StorageError is not an error for this: gone", False),
        (ValueError("oh"), None, "ValueError is not an error for this: oh", False),
    ],
)
def test_a_trial_ends_in_the_exact_result_or_the_right_error(
    error: Exception | None, same: bool | None, problem: str, silent: bool
) -> None:
    verdict = exact_or([CorruptFile], error, same)
    assert (verdict.problem, verdict.silent) == (problem, silent)


def test_a_campaign_without_a_trial_has_not_passed(tmp_path: Path) -> None:
    campaign = Campaign(Tally("x"), SIZES["small"], 0, tmp_path, tmp_path)
    assert not campaign.tally.passed
    campaign.judge("first", Verdict(("exact",)))
    assert campaign.tally.passed
    campaign.judge("second", children.Died("it hung"), keep={"a/b": b"bytes"})
    assert not campaign.tally.passed
    assert (tmp_path / "x" / "000" / "a" / "b").read_bytes() == b"bytes"


@fork
def test_a_child_that_dies_or_hangs_is_a_result_and_the_next_goes_on() -> None:
    def check(item: str) -> str:
        if item == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        while item == "hang":
            signal.pause()
        return item.upper() if item != "raise" else str(1 / 0)

    found = dict(children.map_in_children(check, ["a", "die", "b", "hang", "raise", "c"], seconds=1))
    assert [found[item] for item in "abc"] == ["A", "B", "C"]
    assert str(found["die"]) == "the process ended with -9"
    assert str(found["hang"]) == "no answer after 1 seconds"
    assert "ZeroDivisionError" in str(found["raise"])


def test_mutations_depend_on_the_seed_alone_and_change_something() -> None:
    value = {"rows": 3, "shards": [{"file": "a", "rows": [0, 3]}]}
    made = [mutate.of_json(value, random.Random(seed)) for seed in range(50)]
    assert repr(made) == repr([mutate.of_json(value, random.Random(seed)) for seed in range(50)])
    assert sum(one != value for one in made) > 40
    assert value == {"rows": 3, "shards": [{"file": "a", "rows": [0, 3]}]}
    data = mutate.as_bytes(value)
    assert len({mutate.of_bytes(data, random.Random(seed)) for seed in range(50)}) > 40
