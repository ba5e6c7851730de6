"""The bench of the data plane: what it sends, and that no difference escapes it."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

import pytest

from tests.bench.data import content
from tests.bench.data.compare import Different, check_same


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """The same twice: files, an empty one, a folder without any, a link."""
    for name in ("one", "other"):
        (tmp_path / name / "folder" / "empty").mkdir(parents=True)
        (tmp_path / name / "folder" / "file").write_bytes(bytes(3_000_000))
        (tmp_path / name / "nothing").touch()
        (tmp_path / name / "link").symlink_to("folder/file")
    return tmp_path / "one", tmp_path / "other"


def test_same(trees: tuple[Path, Path]) -> None:
    check_same(*trees)
    check_same(*(tree / "folder" / "file" for tree in trees))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda tree: content.overwrite(tree / "folder/file", 2_500_000, 8), "file differs within"),
        (lambda tree: content.append(tree / "folder/file", 1), "folder/file differs"),
        (lambda tree: (tree / "folder/file").chmod(0o755), "folder/file differs"),
        (lambda tree: (tree / "nothing").unlink(), "nothing is on one side only"),
        (lambda tree: (tree / "folder/empty").rmdir(), "folder/empty is on one side only"),
        (lambda tree: os.replace(tree / "nothing", tree / "link"), "one side only"),
    ],
)
def test_every_difference_is_found(trees: tuple[Path, Path], change: object, named: str) -> None:
    assert callable(change)
    change(trees[1])
    with pytest.raises(Different, match=named):
        check_same(*trees)


def test_nothing_there(trees: tuple[Path, Path]) -> None:
    with pytest.raises(Different, match="absent is missing"):
        check_same(trees[0] / "nothing", trees[1] / "absent")


def test_append(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"begin|end")
    content.append(file, 2)
    data = file.read_bytes()
    assert (len(data), data[:9]) == (11, b"begin|end")


def test_json_lines(tmp_path: Path) -> None:
    content.json_lines(tmp_path / "lines", 1_000_000)
    text = (tmp_path / "lines").read_text()
    records = [json.loads(line) for line in text.splitlines()]
    assert len({record["id"] for record in records}) == len(records)
    assert 2 < len(text) / len(zlib.compress(text.encode(), 1)) < 4
