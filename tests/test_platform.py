"""On Windows, where no command can run, the program says so in one line and nothing else."""

import subprocess
import sys

import pytest

import featcache
import head
from featcache.base.errors import ResourceError
from tests.helpers.command_line import amnet
from tests.helpers.tiny import ROOT

SAYS = "this program needs Linux or macOS; on Windows, run it in WSL (wsl --install)"
WINDOWS = """
import sys
for name in ("fcntl", "resource", "pwd", "grp"):
    sys.modules[name] = None  # what Windows lacks
from cli import main
sys.platform = "win32"  # not before: the standard library would look for Windows' own modules
main()
"""


@pytest.mark.parametrize("arguments", [(), ("--help",), ("cache-info", "--cache", "gone"), ("nonsense",)])
def test_every_command_says_that_windows_needs_wsl(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    done = amnet(*arguments, status=9)
    assert (done.stdout, done.stderr) == ("", f"error: {SAYS}\n")


@pytest.mark.parametrize("door", [featcache, head])
def test_the_packages_say_it_when_a_name_of_theirs_is_asked_for(monkeypatch: pytest.MonkeyPatch, door: object) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    name = {featcache: "open_cache", head: "Predictor"}[door]  # type: ignore[index]
    with pytest.raises(ResourceError, match="Linux or macOS; on Windows, run it in WSL"):
        getattr(door, name)


def test_it_is_said_where_modules_of_unix_are_not_there() -> None:
    done = subprocess.run([sys.executable, "-c", WINDOWS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (9, "", f"error: {SAYS}\n")
