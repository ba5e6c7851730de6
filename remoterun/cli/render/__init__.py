"""All that is printed. stdout is data: lines, tables, JSON, bytes. stderr is talk: lines, warnings, errors, questions.

`out`, `line` and `table` clean what they are given, so that no text from elsewhere reaches a terminal as a command.
Colours, bars and spinners only on a terminal.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import io
import itertools
import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from remoterun.agent.shared.facts import Column
from remoterun.agent.shared.records import options_in
from remoterun.cli.render.terminal import DONE as DONE
from remoterun.cli.render.terminal import FAILED as FAILED
from remoterun.cli.render.terminal import (
    Styled,
    Talking,
    Tamed,
    Text,
    coloured,
    columns,
    cursor,
    is_command,
    is_terminal,
    laid_out,
    plain,
    shortened,
    shown,
    terminal_width,
    waiting_bytes,
)
from remoterun.cli.render.terminal import clean as clean
from remoterun.cli.render.terminal import dollars as dollars
from remoterun.cli.render.terminal import files as files
from remoterun.cli.render.terminal import hourly as hourly
from remoterun.cli.render.terminal import is_interactive as is_interactive
from remoterun.cli.render.terminal import name as name
from remoterun.cli.render.terminal import paint as paint
from remoterun.cli.render.terminal import reader_is_terminal as reader_is_terminal
from remoterun.cli.render.terminal import size as size
from remoterun.cli.render.terminal import word as word
from remoterun.errors import RemoterunError, UsageError
from remoterun.model import Asked

_FLAGS = {"name": "--name", "overwrite": "-y", "pay": "--pay"}
_FLAGS |= {name: option.flag for name, option in options_in(Asked).items()}
_KEYWORD = re.compile(rf"(?:^|(?<=`))({'|'.join(_FLAGS)})=\[?\"?([^\s`\"\]]+)\"?\]?", re.MULTILINE)
"""Where a hint from below the command line names a keyword of the library: here that is an option."""


T = TypeVar("T")


class ReaderGone(Exception):
    """Nobody reads stdout any more: `remoterun logs 16 | head`."""


def out(*parts: Text) -> None:
    """One line of data, its parts with a space between them."""
    _write(" ".join(shown(part, sys.stdout) for part in parts))


def out_text(*parts: Text, hang: int, command: bool = False) -> None:
    """As `out`; on a terminal a longer line is broken between words, and goes on at column `hang`, where a `command`
    begins that is not broken."""
    _write(laid_out(parts, sys.stdout, hang, command))


@contextlib.contextmanager
def paged() -> Iterator[None]:
    """What is printed in the block, where that is longer than the terminal, is shown by the user's pager."""
    shown = io.StringIO()
    shown.isatty = sys.stdout.isatty  # type: ignore[method-assign]
    with contextlib.redirect_stdout(shown) if is_terminal(sys.stdout) else contextlib.nullcontext():
        yield
    text = shown.getvalue()
    if text.count("\n") < shutil.get_terminal_size().lines or typed_ahead():
        sys.stdout.write(text)
    else:
        import pydoc  # takes longer than most commands

        os.environ.pop("MANPAGER", None)
        pydoc.pager(text)


def out_json(value: Any) -> None:
    _write(json.dumps(value, indent=2).replace("\x7f", "\\u007f"))


def new_page(first: bool) -> None:
    """What is shown next takes the place of what a terminal shows; elsewhere, but for the `first`, an empty line comes
    before it."""
    with _writing():
        if is_terminal(sys.stdout):
            # Of a screen that is erased from its first line on, terminals keep a copy above it: only of what was there.
            sys.stdout.write("\x1b[H\x1b[J" if first else "\x1b[H\x1b[K\n\x1b[J\x1b[H")
        elif not first:
            print()


EVERY = 2.0
"""Seconds between two looks."""


def pages() -> Iterator[Callable[[], None]]:
    """A turn every two seconds, with what begins its page: to be called once all that it shows is known."""
    for turn in itertools.count():
        begun = time.monotonic()
        yield functools.partial(new_page, first=turn == 0)
        finish()
        time.sleep(max(EVERY - (time.monotonic() - begun), 0.1))


def out_bytes(data: bytes) -> None:
    """Bytes of a command, at once and as they are."""
    with _writing():
        sys.stdout.flush()
        _write_all(1, data)
    cursor.wrote(data)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _write(line: str) -> None:
    with _writing():
        print(line)


def finish() -> None:
    """Write what is still buffered."""
    with _writing():
        sys.stdout.flush()


def drop_stdout() -> None:
    """Discard what is written to stdout from now on: buffered data must not raise again when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        drop_stdout()
        raise ReaderGone
    except OSError as error:
        drop_stdout()
        raise RemoterunError(f"stdout can't be written: {error.strerror}")


GAP = 2
"""Columns of the terminal between two of a table."""


def table(heads: Sequence[Column], rows: Sequence[Sequence[Text]], notes: Sequence[str] = ()) -> None:
    """A line for the heads and one for each row; nothing without a row. Nothing is cut unless stdout is a terminal.

    Below each row comes its note, if it has one, from the second column on.
    """
    if not rows:
        return
    width = terminal_width(sys.stdout)
    for number, line in enumerate(table_lines(heads, rows, width)):
        _write(line)
        if number and notes and notes[number - 1]:
            indent = " " * (max(len(heads[0].head), *(columns(plain(row[0])) for row in rows)) + GAP)
            out(indent + shortened(clean(notes[number - 1]), (width or 80) - len(indent)))


def table_of(things: Iterable[T], shown: Sequence[tuple[Column, Callable[[T], Text]]]) -> None:
    """A table with a row for each thing: what makes the cells of a column stands beside its head."""
    table([head for head, _ in shown], [[cell(thing) for _, cell in shown] for thing in things])


def table_lines(heads: Sequence[Column], rows: Sequence[Sequence[Text]], width: int | None) -> list[str]:
    """The lines of a table as they are written, for a terminal of that width (None: none)."""
    whole = [[paint(head.head, "1") for head in heads], *rows]
    wide = _natural(heads, rows)
    kept = _that_fit(heads, wide, rows, width)
    while width is not None and sum(wide[index] + GAP for index in kept) - GAP > width:
        widest = max((index for index in kept if heads[index].least is not None), key=wide.__getitem__, default=None)
        if widest is None or wide[widest] == 1:
            break
        wide[widest] -= 1
    lines = []
    for row in whole:
        cells = [_padded(row[index], wide[index], heads[index].right) for index in kept]
        lines.append((" " * GAP).join(cells).rstrip(" "))
    return lines


def _padded(cell: Text, width: int, right: bool) -> str:
    text = shortened(plain(cell), width)
    room = " " * (width - columns(text))
    written = text if isinstance(cell, str) else shown(paint(text, cell.code), sys.stdout)
    return room + written if right else written + room


def table_width(heads: Sequence[Column], rows: Sequence[Sequence[Text]]) -> int:
    """Columns of a terminal in which nothing of a table is cut."""
    return sum(_natural(heads, rows)) + GAP * (len(heads) - 1)


def _natural(heads: Sequence[Column], rows: Sequence[Sequence[Text]]) -> list[int]:
    """The width of each column in which nothing is cut."""
    return [max(len(head.head), *(columns(plain(row[index])) for row in rows)) for index, head in enumerate(heads)]


def _that_fit(
    heads: Sequence[Column], natural: Sequence[int], rows: Sequence[Sequence[Text]], width: int | None
) -> list[int]:
    """The columns that are shown: those that hold something, and can be cut to the width of the terminal."""
    kept = [index for index, head in enumerate(heads) if not head.drop or any(plain(row[index]) for row in rows)]
    least = [min(head.least or wide, wide) for head, wide in zip(heads, natural, strict=True)]
    while width is not None and sum(least[index] + GAP for index in kept) - GAP > width:
        droppable = [index for index in kept if heads[index].drop]
        if not droppable:
            break
        kept.remove(min(droppable, key=lambda index: heads[index].drop))
    return kept


MOST_UNSHOWN = 20
_unshown: list[tuple[Text, ...]] = []
"""The last lines that `-q` did not show: a question that follows is about them."""


def be_quiet(on: bool) -> bool:
    """If `on`, print only warnings, errors and questions from now on. Returns `on`."""
    if on:
        Talking.quiet = True
    return on


@contextlib.contextmanager
def loudly(wanted: bool) -> Iterator[None]:
    """In the block there is talk even with `-q`, if `wanted`: it is about an error."""
    before = Talking.quiet
    Talking.quiet = before and not wanted
    try:
        yield
    finally:
        Talking.quiet = before


def line(*parts: Text) -> None:
    """One line of talk, its parts with a space between them. `line("")` ends the line that `^C` stands in."""
    if Talking.quiet:
        _unshown[:] = [*_unshown, parts][-MOST_UNSHOWN:]
    else:
        _print(*parts)


def _print(*parts: Text, hang: int | None = None, command: bool = False) -> None:
    newline = cursor.begin_line()
    if newline and parts == ("",):
        return
    with contextlib.suppress(BrokenPipeError):
        print(laid_out(parts, sys.stderr, hang, command), file=sys.stderr, flush=True)


def _titled(title: str, code: str, text: str) -> None:
    _print(paint(f"{title}:", code), text, hang=len(title) + 2)


_tamed = {False: Tamed(), True: Tamed()}


def command_bytes(data: bytes, stderr: bool) -> None:
    """Bytes of a command, where it wrote them: as they are, but a terminal gets nothing of them that is not `Tamed`."""
    if is_terminal(sys.stderr if stderr else sys.stdout):
        data = _tamed[stderr](data)
    if stderr:
        with contextlib.suppress(OSError):
            _write_all(2, data)
        cursor.wrote(data)
    else:
        out_bytes(data)


def bell() -> None:
    """Ring the terminal's bell, if stderr is a terminal."""
    if is_terminal(sys.stderr):
        with contextlib.suppress(OSError):
            print("\a", end="", file=sys.stderr, flush=True)


def warning(text: str) -> None:
    _titled("warning", "33", text)


def error(problem: RemoterunError) -> None:
    """An error of ours: one line, its evidence, its hint."""
    _titled("error", "31;1", problem.message)
    if problem.evidence:
        for text in problem.evidence.splitlines():
            _print(" ", paint(text, "2"))
    hint(problem.hint)


def fault(problem: BaseException) -> None:
    """An error that nobody raised on purpose."""
    _titled("error", "31;1", f"remoterun has a fault: {type(problem).__name__}: {problem}")
    hint("REMOTERUN_DEBUG=1 before the command shows where")


def hint(text: str | None) -> None:
    """Each line is a sentence, its commands in backticks, or a command, with three spaces before what it does."""
    if text:
        text = text.replace('source=remoterun.snapshot(".", no_git=True)', "--no-git")
        text = _KEYWORD.sub(lambda found: f"{_FLAGS[found[1]]} {found[2]}".removesuffix(" True"), text)
        _print("")
        for number, part in enumerate(text.splitlines()):
            _print(paint("hint:", "36") if number == 0 else "     ", part, hang=6, command=is_command(part))


def usage(problem: Any, words: Sequence[str]) -> None:
    """An error in what was typed, from the parser, in our form."""
    message, meant = said_by_parser(problem, words)
    _titled("error", "31;1", message)
    context = getattr(problem, "ctx", None)
    command = " ".join(["remoterun", *(word for word in words[:1] if not word.startswith("-"))])
    manual = f"{context.command_path if context is not None else command} --help"
    hint(f"{meant} `{manual}` lists them all" if meant.endswith("?") else meant or manual)


def said_by_parser(problem: Any, words: Sequence[str] = ()) -> tuple[str, str]:
    """(what is wrong, what was probably meant, or "") of an error of the parser, in our words."""
    message = re.sub(r"\.? (Did you mean|\(Possible options).*", "", problem.format_message(), flags=re.DOTALL)
    message = re.sub(r"'([^']*)'", r"`\1`", message.rstrip("."))
    message = re.sub(r"^(No such option: )(.*)", r"\1`\2`", message)
    message = re.sub(r"a valid (int|float)( range)?", lambda kind: f"a {'whole ' * (kind[1] == 'int')}number", message)
    kind, word = (re.findall(r"^No such (option|command)\W*`(.*)`", message) or [("", "")])[0]
    near = _meant(problem.ctx, kind == "option", word, words) if kind else ""
    if message.startswith("Missing argument `COMMAND") and "-d" in words:
        near = "`-d` describes the run: `-b` leaves it in the background."
    return message[:1].lower() + message[1:], f"did you mean `{near}`?" if near and near[-1] != "." else near


def _meant(context: Any, is_option: bool, word: str, words: Sequence[str]) -> str:
    """The command or the option that a misspelt one, or one of another tool, stands for; the line in which an option
    follows its command; a sentence; or ""."""
    from remoterun.cli.app import INSTEAD
    from remoterun.parsing import did_you_mean

    def options_of(command: Any) -> list[str]:
        return [option for each in command.params for option in (*each.opts, *each.secondary_opts) if option[0] == "-"]

    commands, is_first = getattr(context.command, "commands", {}), context.parent is None
    instead = INSTEAD.get(f"{context.info_name} {word}") or INSTEAD.get(word, "")
    if is_option:
        for index, command in enumerate(words if is_first else ()):
            if command in commands and word in options_of(commands[command]):
                return shlex.join(["remoterun", command, *words[:index], *words[index + 1 :]])
        known = options_of(context.command)
        is_there = instead.endswith(".") or instead.split(" ")[0] in known
        return instead if is_there else did_you_mean(word, known) or ""
    others = {below: f"{name} {below}" for name, group in commands.items() for below in getattr(group, "commands", ())}
    others |= {old: new for old, new in INSTEAD.items() if is_first and old[0] != "-"}
    near = did_you_mean(word, [*commands, *others]) or ""
    meant = instead or (near if near in commands else others.get(near, ""))
    if not meant or meant.endswith("."):
        return meant
    return f"{context.command_path if meant.split(' ')[0] in commands else 'remoterun'} {meant}"


def can_ask() -> bool:
    """Whether a person can be asked now. One who has `typed_ahead` is told that nothing is asked."""
    if is_interactive() and typed_ahead():
        line("A next line was typed already: it is left to the shell, and nothing is asked.")
    return is_interactive() and not typed_ahead()


def typed_ahead() -> bool:
    """Whether a terminal holds lines already: they were typed, or pasted, for the shell, and are left to it."""
    return is_terminal(sys.stdin) and waiting_bytes() > 0


def ask(question: str, default: bool) -> bool:
    """Ask a person yes or no; Enter means `default`."""
    return choose(question, "yn", "y" if default else "n") == "y"


def choose(question: str, letters: str, default: str) -> str:
    """Ask a person for one of `letters`, or the word it begins: y(es), a(ll), n(o). Enter means `default`. Raises
    `KeyboardInterrupt` for q(uit), also where that is not among them."""
    choices = "/".join(letter.upper() if letter == default else letter for letter in letters)
    words = {"y": "yes", "a": "all", "n": "no", "q": "quit"}
    while True:
        word = _answer(f"{question} [{choices}] ") or default
        if word.lower() in ("q", "quit"):
            raise KeyboardInterrupt
        if any(word.lower() in (letter, words[letter]) for letter in letters):
            return word[0].lower()
        line(f"  `{word}` is not an answer: type {', '.join(letters[:-1])} or {letters[-1]}, then Enter")


def ask_text(question: str) -> str:
    """What a person types, without spaces around it; empty for Enter."""
    return _answer(f"{question} ")


def ask_secret(question: str) -> str | None:
    """Ask a person for a word that is not shown; None for nothing."""
    begin_question()
    try:
        return getpass.getpass(clean(question)) or None
    except EOFError:
        return None


def begin_question() -> None:
    """A person is asked next, on a line of its own. Raises `UsageError` where that has `typed_ahead`."""
    if typed_ahead():
        raise UsageError("nothing is asked, since a next line was typed already", hint="type the command by itself")
    for parts in _unshown:
        _print(*parts)
    _unshown.clear()
    cursor.begin_line()


def _answer(question: str) -> str:
    """What a person types; the end of stdin is as good as ^C."""
    begin_question()
    sys.stderr.write(laid_out([question.rstrip(" ")], sys.stderr) + " ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer:
        raise KeyboardInterrupt
    return answer.strip()
