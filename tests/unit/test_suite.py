"""The suite itself: tests import helpers and no tests, each asserts something, and each recorded text is compared."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.recorder import FOLDER

TESTS = Path(__file__).parents[1]
REPOSITORY = TESTS.parent
FILES = sorted(TESTS.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}
FAILS = {"fail", "raises", "expect", "expect_exact", "until", "wait_for", "wait_for_function", "check_schema", "run"}
FAILS |= {"refused"}
"""Functions that assert by being called: of pytest, pexpect, playwright and jsonschema; a wait with a deadline; `run`,
which looks at the exit status of a command; and the fixture `refused`, which records an error."""


def imported(nodes: list[ast.stmt]) -> Iterator[str]:
    """The modules that are imported when these statements are run."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def test_tests_import_no_tests() -> None:
    everything = {path: list(imported([n for n in ast.walk(TREES[path]) if isinstance(n, ast.stmt)])) for path in FILES}
    found = {path.name: name for path in FILES for name in everything[path] if re.match(r"tests\.(\w+\.)*test_", name)}
    assert not found, "what several tests share belongs to a helper"


@pytest.mark.parametrize("path", [path for path in FILES if path.name.startswith("test_")], ids=lambda path: path.name)
def test_each_test_asserts_something(path: Path) -> None:
    """Itself, or through a function of the suite that does."""
    tests = [node for node in functions(path) if node.name.startswith("test_")]
    assert not [test.name for test in tests if not asserts(test, path, set())]


def test_each_recorded_text_belongs_to_a_test() -> None:
    unused = []
    for file in sorted(FOLDER.rglob("*.txt")):
        tests = functions(TESTS / file.parent.relative_to(FOLDER).with_suffix(".py"))
        if not any(f"{file.stem}-".startswith(f"{test.name}-") for test in tests):
            unused.append(str(file))
    assert not unused, "remove them: " + " ".join(unused)


def asserts(function: ast.AST, path: Path, seen: set[str]) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        receiver = getattr(called.value, "id", "") if isinstance(called, ast.Attribute) else ""
        if name in FAILS or name.startswith("assert_") or receiver == "recorded":  # a text that is held to its file
            return True
        if isinstance(called, ast.Attribute) and getattr(called.value, "id", "") != "self" or name in seen:
            continue
        seen.add(name)
        modules = [each.rpartition(".")[0] for each in imported(TREES[path].body) if each.endswith(f".{name}")]
        place = file_of(modules[0]) if modules else path
        if any(each.name == name and asserts(each, place, seen) for each in functions(place)):
            return True
    return False


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(TREES.get(path, ast.Module([], []))) if isinstance(node, ast.FunctionDef)]


def file_of(module: str) -> Path:
    return REPOSITORY / f"{module.replace('.', '/')}.py"
