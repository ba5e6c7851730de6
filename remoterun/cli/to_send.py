"""What is sent with a run: the questions about it, its packages, and standard input."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from remoterun.agent.shared.files import size_of
from remoterun.agent.shared.spec import NONE, PYTHON
from remoterun.cli import render
from remoterun.cli.asking import agree_to_link
from remoterun.errors import UsageError
from remoterun.model import RunRequest, listed
from remoterun.sizes import counted
from remoterun.source.tree import in_order
from remoterun.stamps import own_files

if TYPE_CHECKING:
    from remoterun.client.runs.packages import Choice
    from remoterun.client.runs.preparing import Prepared
    from remoterun.source import Source


_SHOWN = 5
"""Files that are listed before a question."""
_LARGE_FOLDER = 100_000_000
"""Bytes from which on Enter sends no folder."""


@dataclass(frozen=True)
class Sending:
    """What was typed about it. `yes`: nothing is asked, what the command names is sent."""

    commit_ref: str | None
    untracked: bool
    no_git: bool
    yes: bool

    @functools.cached_property
    def asks(self) -> bool:
        """Whether a person is asked."""
        return not self.yes and render.can_ask()

    def choose(self, question: str, default: bool, letters: str = "ynq") -> str:
        """What a person answers, or, where nobody is asked, `default`. Raises `KeyboardInterrupt` for q."""
        usual = "y" if default else "n"
        return render.choose(question, letters, usual) if self.asks else usual


def source_to_send(request: RunRequest, how: Sending) -> Source | None:
    """What is sent from the current folder. None: no files."""
    from remoterun.source import NoRepository, snapshot

    try:
        source = snapshot(Path.cwd(), commit_ref=how.commit_ref, include_untracked=how.untracked, no_git=how.no_git)
    except NoRepository as error:
        if how.commit_ref:
            raise
        source = snapshot(Path.cwd(), no_git=True)
        if not _folder_is_meant(request, how, error.message, source):
            return None
    for text in source.warnings:
        render.warning(text)
    if source.dirty and not how.commit_ref:
        render.line("Uncommitted changes are included.")
    return source


def _folder_is_meant(request: RunRequest, how: Sending, problem: str, folder: Source) -> bool:
    """Whether the folder is sent, where there is no git repository. Enter and `-y` send one whose files the command
    names, but for a large one, or all of the user's home."""
    if not folder.files:
        render.line("This folder is empty: no files of yours will be available in this run.")
        return False
    places = [mount.place("") for mount in request.mounts]
    named = [path for path in _words(request.command, "", places) if os.path.isfile(path)]
    because = f"; the command names `{render.name(named[0])}`" if named else ""
    if not how.yes and not how.asks:
        means = "sends it, too" if named else "goes on without files"
        raise UsageError(f"{problem}{because}", hint=f"--no-git sends this folder; -y {means}")
    render.line(f"There is no git repository here{because}.")
    what = f"{render.files(len(folder.files))}, {render.size(folder.total_size())}"
    usual = bool(named) and folder.total_size() < _LARGE_FOLDER and Path.cwd() != Path.home()
    sent = how.choose(f"Send this folder ({what})? (n: run without files, q: quit)", usual) == "y"
    render.line("This folder is sent as it is." if sent else "No files of yours will be available in this run.")
    return sent


def with_untracked(source: Source, command: str, places: list[str], how: Sending, home: Path) -> Source:
    """`source`, or the same with untracked files: those that the command names, or all. It is asked once, of one list.

    `places`: of mounts, which hide what is there. Files that remoterun wrote are left out, unless they are named.
    """
    from remoterun.source import snapshot

    words = _words(command, source.workdir, places)
    known = {file.path for file in source.files}.union(source.untracked)
    for path in words:
        if path not in known and source.root is not None and os.path.isfile(os.path.join(source.root, path)):
            typed = os.path.relpath(path, source.workdir or ".")
            mount = render.word("./{0}:{0}".format(os.path.dirname(typed) or typed))
            render.warning(f"`{render.name(path)}`, which the command names, is ignored: `-m {mount}` sends it")
    own = set() if how.untracked else own_files(home, source.root or ".", _outside(source.untracked, words))
    absent = [path for path in _outside(source.untracked, places) if path not in own]
    if not absent:
        return source
    named = [path for path in absent if path in words]
    answer = _answer(source, absent, named, how, home)
    if answer == "n" or how.untracked:
        return source
    full = snapshot(Path.cwd(), include_untracked=True)
    if answer == "a" or not named:
        return replace(full, files=tuple(file for file in full.files if file.path not in own))
    return replace(source, files=in_order([*source.files, *(file for file in full.files if file.path in named)]))


def _answer(source: Source, absent: list[str], named: list[str], how: Sending, home: Path) -> str:
    """What of the untracked files is sent, which is said: "n", none; "y", the `named`, or all if none is; "a", all."""
    count, some = len(absent), 0 < len(named) < len(absent)
    which = f"`{render.name(named[0])}`" if len(named) == 1 else f"the {len(named)} that the command names"
    will, them, every = f"{render.files(count)} are not tracked by git", "them", f"all {count}"
    if count == 1:
        will, them, every = "1 file is not tracked by git", "it", "it"
    asked = json.dumps(["untracked", str(source.root), absent, named]).encode()
    file = home / "agreed" / hashlib.sha256(asked).hexdigest()
    known = not how.yes and not how.untracked and render.is_interactive() and file.exists()
    if named and not (how.yes or how.untracked or known or how.asks):
        typed = render.word(os.path.relpath(named[0], source.workdir or "."))
        raise UsageError(
            f"`{render.name(named[0])}`, which the command names, is not tracked by git, so it would not be sent",
            hint="-y sends what the command names, --include-untracked all that git does not track\n"
            f"git add {typed}   tracks it",
        )
    if how.untracked or known:
        answer = "a" if how.untracked else file.read_text()
        will += ". "
    else:
        sizes = {path: size_of(os.path.join(source.root or "", path)) for path in absent if path[-1] != "/"}
        render.line(f"{will}{f', {render.size(sum(sizes.values()))}' if count > 1 else ''}:")
        shown = max(_SHOWN, len(named))
        for path in sorted(absent, key=lambda path: path not in named)[:shown]:
            about = f"   {render.size(sizes[path])}" if path in sizes else ""
            render.line(f"  {render.name(path)}{about}{'   (the command names it)' if path in named else ''}")
        if count > shown:
            render.line(f"  … and {count - shown} more, which `git status -uall` lists")
        question = f"Send {which}? (a: all {count} files, n" if some else f"Send {every}, too? (n"
        answer = how.choose(f"{question}: run without {them}, q: quit)", bool(named), "yanq" if some else "ynq")
        if answer == "n" and (notebook := next((path for path in named if path.endswith(".ipynb")), None)):
            raise UsageError(f"the command needs `{render.name(notebook)}`", hint="answer y: it is executed there")
        if how.asks and not (named and answer == "n"):  # that run lacks what its command names
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.write_text(answer)
        will = ""
    but = f", but for {which} (--include-untracked sends all)" if some and answer == "y" else ""
    sent = f"Not sent{but}" if but or answer == "n" else "Sent, too"
    render.line(f"{will}{sent}{', as you answered before' if known else ''}.")
    return answer


def _words(command: str, workdir: str, places: list[str]) -> list[str]:
    """Paths that the command names, but for those that a mount will provide."""
    from remoterun.source import mentioned

    return _outside(mentioned(command, workdir), places)


def _outside(paths: Iterable[str], places: list[str]) -> list[str]:
    hidden = tuple(f"{place}/" for place in places)
    return [path for path in paths if path not in places and not path.startswith(hidden)]


def requirements_of(name: str) -> str:
    """The text of the file that `--pip-req` names; of a pyproject.toml or a uv.lock, the packages of its project."""
    from remoterun.source.projects import MOST_BYTES, as_requirements

    agree_to_link(str(name))
    file = Path(name)
    try:
        with file.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"`{render.name(str(file))}` can't be read: {error.strerror}", hint="--pip-req requirements.txt"
        )
    return as_requirements(file.name, data)


def framework_text(choice: Choice) -> str:
    """A framework with the reason for it."""
    assert choice.framework is not None
    text = {NONE: "none: what the machine has", PYTHON: "plain Python"}.get(choice.framework, "TensorFlow")
    return f"{text}: {choice.why}" if choice.why else text


def with_packages(prepared: Prepared, how: Sending) -> Prepared:
    """`prepared`, or the same with the packages that the code needs, where the user wants them."""
    choice = prepared.choice
    if choice.unsure:
        render.line("Plain Python: nothing read imports TensorFlow; --framework tensorflow has it.")
    if not choice.lacking:
        return prepared
    named = listed([f"`{module}`" for module in choice.lacking])
    text = f"the code imports {named}, which {'plain Python' if choice.framework == PYTHON else 'it'} lacks"
    offer, packages, doubtful = choice.offer, choice.packages, choice.unknown
    if offer is not None:
        path = os.path.relpath(offer.path, (prepared.source.workdir if prepared.source is not None else "") or ".")
        what = f"the {counted(offer.count, 'package')} that {render.name(path)} lists"
        packages, doubtful, words = [], [], ["--pip-req", path]
    else:
        what = listed([render.name(each) for each in packages])
        words = [word for each in packages for word in ("--pip", each)]
    if how.yes and doubtful or not how.yes and not how.asks:
        render.warning(text)
        also = "" if doubtful else ", and so does -y"
        render.line(f"  {' '.join(map(render.word, words))}   installs {what}{also}")
        return prepared
    render.line(f"T{text[1:]}.")
    for each in doubtful:
        render.line(f"  `{render.name(each)}` is not a package that many use: is it a file that is not sent?")
    if how.choose(f"Install {what}? (q: quit)", not doubtful) == "n":
        return prepared
    if how.yes:
        render.line(f"With {what}.")
    asked = prepared.request
    asked = asked._replace(pip=(*asked.pip, *packages), options=f"{asked.options} {shlex.join(words)}".strip())
    return replace(prepared, request=asked if offer is None else asked._replace(requirements=offer.text))


@contextlib.contextmanager
def standard_input(wanted: bool) -> Iterator[Path | None]:
    """A file with all of it, while the block runs; None where it is not `wanted`, with a warning if there is some.

    Blocks until its end. Raises `UsageError` where it can't be read, or can't be kept.
    """
    if not wanted:
        if render.waiting_bytes() and not sys.stdin.isatty():
            render.warning("what comes on standard input is not sent: --stdin sends it to the command")
        yield None
        return
    if sys.stdin.isatty():
        render.line("Type what the command shall read; ^D in a line of its own ends it.")
    with tempfile.TemporaryDirectory(prefix="remoterun-") as folder:
        path = Path(folder) / "stdin"
        try:
            # without a buffer, which would ask a terminal for ^D a second time
            with open(path, "wb") as file, open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as typed:
                shutil.copyfileobj(typed, file)
        except OSError as error:
            raise UsageError(
                f"standard input can't be read: {error.strerror}", hint="cat FILE | remoterun run --stdin …"
            )
        yield path
