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


def asserted_in(function: ast.FunctionDef) -> list[ast.AST]:
    """Return what a test compares with: what it asserts, and what `raises` is to match."""
    nodes = list(ast.walk(function))
    raised = [
        keyword.value
        for node in nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("raises")
        for keyword in node.keywords
        if keyword.arg == "match"
    ]
    return [*(node.test for node in nodes if isinstance(node, ast.Assert)), *raised]


def named_in(file: str, function: ast.FunctionDef, names: set[str]) -> list[ast.AST]:
    """Return what names stand for: assigned in a test or its file, gone through, or parameters with their values."""
    assigned: list[ast.AST] = []
    for node in [*parsed(file).body, *ast.walk(function)]:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.For) else []
        bound = {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
        if isinstance(node, ast.Assign | ast.For) and bound & names:
            assigned.append(node.value if isinstance(node, ast.Assign) else node.iter)
    parameters = [value for call in function.decorator_list for value in parameters_in(call, names)]
    return [*assigned, *parameters]


def parameters_in(decorator: ast.expr, names: set[str]) -> list[ast.AST]:
    """Return the values that `parametrize` gives to names, if that is what decorates."""
    if not (isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith("parametrize")):
        return []
    given, values = (ast.unparse(decorator.args[0]), decorator.args[1])
    columns = re.findall(r"\w+", given)
    rows = values.elts if isinstance(values, ast.List | ast.Tuple) else []
    if len(columns) == 1:
        return rows if columns[0] in names else []
    return [
        cell
        for row in rows
        if isinstance(row, ast.Tuple)
        for column, cell in zip(columns, row.elts, strict=True)
        if column in names
    ]


def strings_of(test: str) -> list[str]:
    """Return the strings that a test asserts, or that stand for names in what it asserts; of an f-string its texts."""
    file = test.partition("::")[0]
    asserted = [(function, node) for function in functions_of(test) for node in asserted_in(function)]
    found = [node for _, node in asserted]
    for function, node in asserted:
        names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
        found += named_in(file, function, names)
    nodes = [node for part in found for node in ast.walk(part)]
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


def test_neither_docstrings_nor_what_is_only_given_counts() -> None:
    """This docstring says what nobody asserts."""
    assert len("given and asserted") == 18
    len("only given")
    found = strings_of("test_cases.py::test_neither_docstrings_nor_what_is_only_given_counts")
    assert "given and asserted" in found
    assert found.count("only " + "given") + found.count("This docstring says what nobody " + "asserts.") == 0


@each_case
def test_what_is_quoted_is_asserted_by_a_test_of_the_same_row(case: Any) -> None:
    asserted = [text for test in case.tests for text in strings_of(test)]
    quoted = re.findall(r'"([^"]+)"', case.now)
    assert [quote for quote in quoted if not any(quote in text for text in asserted)] == []
