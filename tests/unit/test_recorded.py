"""Each recorded text is one that a test compares."""

from __future__ import annotations

import ast

from tests.recorder import FOLDER, ROOT


def test_each_recorded_text_belongs_to_a_test() -> None:
    unused = []
    for file in sorted(FOLDER.rglob("*.txt")):
        module = ROOT / file.parent.relative_to(FOLDER).with_suffix(".py")
        tree = ast.parse(module.read_text() if module.exists() else "")
        tests = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        if not any(f"{file.stem}-".startswith(f"{name}-") for name in tests):
            unused.append(file)
    assert not unused, "remove them: " + " ".join(map(str, unused))
