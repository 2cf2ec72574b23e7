"""Commands that messages print can be pasted into a shell, whatever a folder is called; all are made in one place."""

import ast
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from cli import main
from featcache.base.commands import amnet, command, pip_install
from featcache.base.errors import FeatcacheError
from featcache.datasets.fetch.fetch import Fetched
from featcache.maintenance.merge import MergeReport
from featcache.maintenance.verify import verify_cache
from featcache.store.cache import find_cache, open_cache
from featcache.store.manifest import read_manifest
from head.runs.find import find_runs_of
from tests.helpers.tiny import ROOT

NAMES = ["a b;c", "it's", 'say "so"', "$HOME`id`", "-x", "*", "new\nline", "a&b|c>d", "~", "Grüße", "#1", "\\"]
ORDER = "|".join(sorted(main.commands))
# an option with a value to be filled in, or one of our commands with its options
PRINTED = re.compile(
    rf"--(cache|out|root|runs|head|maps|dataset|file|csv|weights)[ =]\{{"
    rf"|\b({ORDER}) --[a-z]|\bamnet ({ORDER}) |pip install"
)


@pytest.mark.parametrize("name", NAMES)
def test_a_shell_takes_each_word_as_it_is(name: str) -> None:
    printed = command("printf", "%s\n", "--out", Path("here") / name, name)
    found = subprocess.run(["bash", "-c", printed], capture_output=True, text=True, check=True)
    assert found.stdout == f"--out\nhere/{name}\n{name}\n"


def test_a_path_that_begins_with_a_dash_is_no_option() -> None:
    assert amnet("predict", Path("-x y")) == "amnet predict './-x y'"
    assert pip_install("web") == "pip install 'amnet-featcache[web]'"


def parsed(message: str) -> click.Context:
    """Return what the command line makes of the command that a message ends with."""
    program, name, *words = shlex.split(message[message.index("amnet ") :])
    assert program == "amnet"
    return main.commands[name].make_context(name, words, **main.context_settings)


@pytest.mark.parametrize("name", NAMES)
def test_commands_of_messages_name_the_folder_they_are_of(tmp_path: Path, name: str, tiny_cache: Path) -> None:
    folder = tmp_path / name
    with pytest.raises(FeatcacheError) as raised:
        read_manifest(folder)
    assert parsed(str(raised.value)).params["out"] == folder
    shutil.copytree(tiny_cache, folder)
    with pytest.raises(FeatcacheError) as raised:
        find_runs_of(open_cache(folder), tmp_path / "runs")
    assert parsed(str(raised.value)).params["cache"] == folder
    assert parsed(Fetched("sun", folder, 1, 1).as_text()).params["root"] == folder
    report = MergeReport(str(folder), 1, 1, 1, complete=False)
    assert parsed(*report.warnings()).params["out"] == folder


def test_damage_is_mended_by_the_command_that_is_printed(
    tmp_path: Path, tiny_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_cache, "cache/a b;c")
    next(Path("cache/a b;c/shards").iterdir()).unlink()
    with pytest.raises(FeatcacheError) as raised:
        open_cache(find_cache(None))
    printed = re.search(r"Run amnet (.*?): it computes", str(raised.value), re.DOTALL)
    assert printed and printed[1] == "verify-cache --repair --cache 'cache/a b;c'"
    main(shlex.split(printed[1]), standalone_mode=False)
    assert verify_cache(Path("cache/a b;c")).ok


def text_of(part: ast.expr) -> str:
    """Return a part of an f-string, a field as {}, or as '' if it is quoted."""
    if isinstance(part, ast.Constant):
        return str(part.value)
    return "''" if isinstance(part, ast.FormattedValue) and part.conversion == ord("r") else "{}"


def strings_of(tree: ast.Module) -> list[tuple[int, str]]:
    """Return the line and text of each string that is no docstring and in no other, fields of f-strings as {}."""
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)]
    inner = {body[0].value for body in bodies if body and isinstance(body[0], ast.Expr)}
    formatted = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    inner |= {part for node in formatted for part in node.values if isinstance(part, ast.Constant)}
    found = [(node.lineno, "".join(map(text_of, node.values))) for node in formatted]
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node not in inner]
    return [*found, *((node.lineno, node.value) for node in constants if isinstance(node.value, str))]


def test_no_message_spells_a_command_by_itself() -> None:
    paths = [path for top in ("featcache", "head", "commandline") for path in sorted((ROOT / top).rglob("*.py"))]
    spelt = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in [*paths, ROOT / "cli.py"]
        for line, text in strings_of(ast.parse(path.read_text()))
        if PRINTED.search(text)
    ]
    assert spelt == []


def test_the_search_sees_commands() -> None:
    source = (
        'def f():\n    "Run amnet extract --out here."\n    return f"run extract --out {1}", f"see --cache {2}", "x"\n'
    )
    assert [line for line, text in strings_of(ast.parse(source)) if PRINTED.search(text)] == [3, 3]
