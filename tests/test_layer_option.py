"""Layers are named with commas between, by the option repeated, or both, in every command that takes them."""

import click
import pytest

from bench.near_duplicates import main as near_duplicates
from cli import main

COMMANDS = {name: command for name, command in main.commands.items() if any(p.name == "layers" for p in command.params)}
COMMANDS |= {"near_duplicates": near_duplicates}


def parsed(command: click.Command, *words: str) -> object:
    option = next(one for one in command.params if one.name == "layers")
    alone = click.Command("alone", params=[option], callback=lambda layers: layers)
    return alone.main([*words], standalone_mode=False)


def test_extract_and_train_head_take_layers() -> None:
    assert {"extract", "train-head"} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_comma_joins_as_the_repeated_option_does(name: str) -> None:
    wanted = ("cls", "blocks.11", "blocks.5")
    for words in (
        ("--layer", "cls,blocks.11,blocks.5"),
        ("--layer", "cls", "--layer", "blocks.11", "--layer", "blocks.5"),
        ("--layer", " cls, blocks.11", "--layer", "blocks.5"),
    ):
        assert parsed(COMMANDS[name], *words) == wanted
    assert parsed(COMMANDS[name]) == ()


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(("given", "problem"), [
    ("cls,,b", "'cls,,b' has a comma with nothing before or after it"), (",", "has a comma"), ("", "nothing is named"),
])  # fmt: skip
def test_empty_names_are_refused(name: str, given: str, problem: str) -> None:
    with pytest.raises(click.BadParameter, match=problem):
        parsed(COMMANDS[name], "--layer", given)
