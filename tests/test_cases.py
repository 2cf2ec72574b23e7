"""The page of kinds of fault is what its script prints, of tests that are there and that assert what it quotes."""

import ast
import functools
import re
import sys
from typing import Any

import pytest

from tests.helpers.tiny import ROOT

sys.path.insert(0, str(ROOT / "docs"))
try:
    from cases import CASES, cases_markdown
finally:
    sys.path.pop(0)

NUMBERS = [*range(1, 25)]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.number} {case.kind}")


@functools.cache
def parsed(file: str) -> ast.Module:
    return ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))


def functions_of(test: str) -> list[ast.FunctionDef]:
    """Return the function that FILE::TEST names, if there is one."""
    file, _, name = test.partition("::")
    return [node for node in parsed(file).body if isinstance(node, ast.FunctionDef) and node.name == name]


def strings_of(test: str) -> list[str]:
    """Return the strings of a test, parameters included, and of the constants of its file that it names.

    Of an f-string they are what is between its fields.
    """
    file, functions = test.partition("::")[0], functions_of(test)
    names = {node.id for function in functions for node in ast.walk(function) if isinstance(node, ast.Name)}
    constants = [
        node
        for node in parsed(file).body
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id in names for to in node.targets)
    ]
    nodes = [node for part in (*functions, *constants) for node in ast.walk(part)]
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_the_page_is_what_its_script_prints() -> None:
    written = (ROOT / "docs" / "cases.md").read_text(encoding="utf-8")
    assert written == cases_markdown(), "run: python docs/cases.py > docs/cases.md"


def test_every_kind_is_there_once_and_in_order() -> None:
    assert [case.number for case in CASES] == NUMBERS


@each_case
def test_every_kind_is_held_by_tests_that_are_there(case: Any) -> None:
    assert case.tests
    assert [test for test in case.tests if not functions_of(test)] == []


@each_case
def test_what_is_quoted_is_asserted_by_a_test_of_the_same_row(case: Any) -> None:
    asserted = [text for test in case.tests for text in strings_of(test)]
    quoted = re.findall(r'"([^"]+)"', case.now)
    assert [quote for quote in quoted if not any(quote in text for text in asserted)] == []
