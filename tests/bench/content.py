"""What is sent, the changes made to it between two laps, and whether it arrived."""

from __future__ import annotations

import os
import random
import string
import subprocess
from pathlib import Path

PIECE = 1 << 22
FOLDER = 100  # files
WORDS = 5000
LINE_WORDS = 24


def random_tree(path: Path, files: int, size: int) -> None:
    """So many files of `size` bytes, a hundred a folder."""
    for number in range(files):
        folder = path / f"{number // FOLDER:04d}"
        if number % FOLDER == 0:
            folder.mkdir(parents=True)
        (folder / f"{number:06d}.bin").write_bytes(os.urandom(size))


def json_lines(path: Path, size: int, seed: int = 1) -> None:
    """Records of an id, a time, a user, some words of 5,000, and a score: no two alike, and like most such files."""
    chance = random.Random(seed)
    words = ["".join(chance.choices(string.ascii_lowercase, k=chance.randint(2, 10))) for _ in range(WORDS)]
    written = number = 0
    with path.open("w") as file:
        while written < size:
            lines = []
            for _ in range(1000):
                number += 1
                text = " ".join(chance.choices(words, k=LINE_WORDS))
                lines.append(
                    f'{{"id": {number}, "time": {1.7e9 + number * 0.37:.3f}, "user": "u{chance.randrange(100_000)}", '
                    f'"text": "{text}", "score": {chance.random():.4f}}}\n'
                )
            written += file.write("".join(lines))


# --- changes


def append(path: Path, size: int) -> None:
    """Add random bytes to the end of a file, or make it of them."""
    with path.open("ab") as file:
        for start in range(0, size, PIECE):
            file.write(os.urandom(min(PIECE, size - start)))


def overwrite(path: Path, start: int, size: int) -> None:
    """Put random bytes in place of others, in the file itself."""
    with path.open("r+b") as file:
        file.seek(start)
        file.write(os.urandom(size))


# --- what arrived


def check_same(one: Path, other: Path) -> None:
    """Compare two files or trees, by all of their content."""
    done = subprocess.run(["diff", "-rq", "--no-dereference", str(one), str(other)], capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr).partition("\n")[0]
