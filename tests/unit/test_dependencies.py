"""What the code imports is what pyproject.toml declares; what it says, the oldest Python understands."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import pkgutil
import re
import sys
import tomllib
from pathlib import Path
from types import MappingProxyType

import pytest

import remoterun

TOP = Path(__file__).parents[2]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
DISTRIBUTION = {"git": "gitpython", "botocore": "boto3"}
"""Of imports whose distribution has another name, or that another one brings in a version that fits."""
LATER_STANDARD_LIBRARY = {"compression"}
"""Modules of a Python newer than the oldest supported one, imported where they are."""


def imported(package: str) -> set[str]:
    """Names of the distributions that any module of a package imports, at its top or on use."""
    found: set[str] = set()
    for file in (TOP / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.partition(".")[0])
    foreign = found - set(sys.stdlib_module_names) - LATER_STANDARD_LIBRARY - {"remoterun", "trainer"}
    return {DISTRIBUTION.get(name, name) for name in foreign}


def declared(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower() for requirement in requirements}


@pytest.mark.parametrize(
    ("package", "requirements"),
    [
        ("remoterun", PROJECT["dependencies"]),
        ("trainer", PROJECT["optional-dependencies"]["trainer"]),
    ],
)
def test_what_is_imported_is_declared(package: str, requirements: list[str]) -> None:
    assert imported(package) == declared(requirements)


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
