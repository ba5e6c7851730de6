"""The page's own files; and ml5.js, p5 and its typeface, which npm installs once, checked by a lock file's hashes."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from remoterun.agent.shared.files import locked, remove_tree, write_whole
from remoterun.errors import REINSTALL, RemoterunError

PAGE = ("index.html", "style.css", "model.js", "sketch.js", "page.js")


def page_file(name: str) -> Path:
    """Raises `RemoterunError` when the installation is damaged."""
    package = Path(__file__).parents[1]
    bundled = package / "_bundle"
    path = (bundled if bundled.is_dir() else package.parent) / "examples" / "lstm-browser" / name
    if not path.is_file():
        raise RemoterunError(f"this installation is damaged: {path} is missing", hint=REINSTALL)
    return path


FILES = (
    "ml5/dist/ml5.min.js",
    "ml5/LICENSE.md",
    "p5/lib/p5.min.js",
    "p5/license.txt",
    "@fontsource/im-fell-english/files/im-fell-english-latin-400-normal.woff2",
    "@fontsource/im-fell-english/files/im-fell-english-latin-400-italic.woff2",
    "@fontsource/im-fell-english/LICENSE",
)
"""What is kept of the packages: 4.6 MB of 34."""

_LISTS = ("package.json", "package-lock.json")
_WORDS = (
    *("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"),
    *("--prefer-offline", "--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=60000"),
)
_DEADLINE = 600


def libraries(home: Path, note: Callable[[str], None] = lambda _: None) -> Path:
    """The folder below `home` that holds `FILES`; made if it is not there, which needs npm and the network.

    `note` is called before anything is fetched. May be repeated, and called by two processes at once.
    Raises `RemoterunError`.
    """
    digest = hashlib.sha256(b"".join(page_file(name).read_bytes() for name in _LISTS)).hexdigest()[:16]
    room = home / "page"
    folder = room / f"libraries-{digest}"
    if _whole(folder):
        return folder
    try:
        room.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(str(room / "lock")):
            if not _whole(folder):  # another one may have fetched them meanwhile
                remove_tree(str(folder))
                note("Getting ml5.js and p5 from npm: once, about 8 MB")
                _fetch(room, folder)
    except OSError as error:
        raise RemoterunError(
            f"`{room}` can't be written: {error.strerror}", hint="free some space, or set REMOTERUN_HOME"
        )
    return folder


def _whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def _fetch(room: Path, folder: Path) -> None:
    """npm verifies every package by the SHA-512 that our lock file pins, whatever registry it is set up with."""
    if shutil.which("npm") is None:
        raise RemoterunError(
            "npm is not installed: it brings ml5.js and p5 for the page, once",
            hint="`sudo apt install npm` (macOS: `brew install node`), and repeat the command",
        )
    with tempfile.TemporaryDirectory(prefix="npm-", dir=room) as work:
        for name in _LISTS:
            shutil.copy(page_file(name), work)
        _npm(work)
        kept = Path(work, "kept")
        for name in FILES:
            place = kept / name
            place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(str(place), Path(work, "node_modules", name).read_bytes())
        kept.rename(folder)


def _npm(work: str) -> None:
    try:
        done = subprocess.run(
            _WORDS, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, timeout=_DEADLINE, errors="replace"
        )
    except subprocess.TimeoutExpired:
        raise RemoterunError(f"npm did not bring ml5.js and p5 within {_DEADLINE} s", hint="npm ping")
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip() and "complete log of this run" not in line]
        raise RemoterunError(
            "npm could not bring ml5.js and p5",
            evidence="\n".join(said[:6]),
            hint="npm ping   shows what is wrong with it",
        )
