"""What the code imports is what pyproject.toml declares; what it says, the oldest Python understands."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import pkgutil
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType

import pytest

import remoterun

TOP = Path(__file__).parents[2]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
DISTRIBUTION = {
    "git": "gitpython",
    "botocore": "boto3",
    "httpx2": "huggingface_hub",
    "bs4": "beautifulsoup4",
    "soupsieve": "beautifulsoup4",
    "xdist": "pytest-xdist",
}
"""Of imports whose distribution has another name, or that another one brings in a version that fits."""
LATER_STANDARD_LIBRARY = {"compression"}
"""Modules of a Python newer than the oldest supported one, imported where they are."""


OURS = {"remoterun", "trainer", "tests", "corpus"}


def imported(files: Iterable[Path]) -> set[str]:
    """Names of the distributions that any of these files imports, at its top or on use."""
    found = {name for file in files for name in modules(ast.walk(ast.parse(file.read_bytes())))}
    return distributions(found)


def distributions(modules: Iterable[str]) -> set[str]:
    """Of those that are neither ours nor Python's own."""
    foreign = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - LATER_STANDARD_LIBRARY - OURS
    return {DISTRIBUTION.get(name, name) for name in foreign}


def modules(nodes: Iterable[ast.AST]) -> set[str]:
    """Names of the modules that nodes import, and of what they import from those."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def declared(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower() for requirement in requirements}


@pytest.mark.parametrize(
    ("package", "requirements"),
    [
        ("remoterun", PROJECT["dependencies"] + PROJECT["optional-dependencies"]["hf"]),
        ("trainer", PROJECT["optional-dependencies"]["trainer"]),
    ],
)
def test_what_is_imported_is_declared(package: str, requirements: list[str]) -> None:
    assert imported((TOP / package).rglob("*.py")) == declared(requirements)


def test_make_unit_installs_what_the_unit_tests_import_and_no_more() -> None:
    """Of what they and conftest.py import of the other folders, the imports at its top count."""
    unit = [*(TOP / "tests" / "unit").glob("*.py"), TOP / "tests" / "conftest.py"]
    needed = imported([*unit, *(TOP / "examples" / "corpus").rglob("*.py")])
    waiting = {name for file in unit for name in modules(ast.parse(file.read_bytes()).body)}
    read: set[str] = set()
    while waiting:
        name = waiting.pop()
        read.add(name)
        for file in (TOP / f"{name.replace('.', '/')}.py", TOP / name.replace(".", "/") / "__init__.py"):
            if name.startswith("tests.") and file.exists():
                more = modules(ast.parse(file.read_bytes()).body)
                needed |= distributions(more)
                waiting |= more - read
    installed = declared(PROJECT["optional-dependencies"]["unit"])
    assert needed - declared(PROJECT["dependencies"]) == installed - {"pytest-timeout"}


def test_defaults_of_fields_are_those_that_python_3_11_takes() -> None:
    """Later ones take a read-only mapping, too, as it has a hash there."""
    names = [module.name for module in pkgutil.walk_packages(remoterun.__path__, "remoterun.")]
    modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    found = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    fields = [
        f"{kind.__module__}.{kind.__name__}.{field.name}"
        for kind in found
        if dataclasses.is_dataclass(kind)
        for field in dataclasses.fields(kind)
        if isinstance(field.default, MappingProxyType)
    ]
    assert not fields
