"""The structs of remoterun: of two kinds, with a name each."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import remoterun

TWINS = {"AWS", "Client", "Progress"}
"""Class names that stand in two files, as each is the right word in its room."""


def test_a_class_name_stands_in_one_file() -> None:
    names = Counter(name for _, name in {(file, node.name) for file, node in _classes()})
    assert {name for name, count in names.items() if count > 1} <= TWINS


def test_a_struct_is_a_record_or_a_dataclass() -> None:
    others = {"NamedTuple", "namedtuple", "TypedDict"}
    assert not [node.name for _, node in _classes() if others & {ast.unparse(base) for base in node.bases}]


def _classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    for file in Path(remoterun.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                yield file, node
