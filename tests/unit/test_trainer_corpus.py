"""The sample corpus: from the plays' Markdown to plain text."""

import importlib.util
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
