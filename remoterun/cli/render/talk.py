"""Talk, on stderr: lines, warnings, errors with their hints, and questions."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from remoterun.cli.render.output import out_bytes
from remoterun.cli.render.terminal import Talking, Text, clean, cursor, is_command, is_terminal, laid_out, paint
from remoterun.errors import RemoterunError

MOST_KEPT = 20


_kept: list[tuple[Text, ...]] = []
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
        _kept[:] = [*_kept, parts][-MOST_KEPT:]
    else:
        _print(*parts)


def _show_kept() -> None:
    for parts in _kept:
        _print(*parts)
    _kept.clear()


def _print(*parts: Text, hang: int | None = None, command: bool = False) -> None:
    newline = cursor.begin_line()
    if newline and parts == ("",):
        return
    with contextlib.suppress(BrokenPipeError):
        print(laid_out(parts, sys.stderr, hang, command), file=sys.stderr, flush=True)


def _titled(title: str, code: str, text: str) -> None:
    _print(paint(f"{title}:", code), text, hang=len(title) + 2)


def error_bytes(data: bytes) -> None:
    """Errors of a command, at once and as they are."""
    with contextlib.suppress(OSError):
        view = memoryview(data)
        while view:
            view = view[os.write(2, view) :]


def command_bytes(data: bytes, stderr: bool) -> None:
    """Bytes of a command, where it wrote them."""
    if stderr:
        error_bytes(data)
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
        _print("")
        for number, part in enumerate(text.splitlines()):
            _print(paint("hint:", "36") if number == 0 else "     ", part, hang=6, command=is_command(part))


_MEANT = {
    "status": "ps",
    "list": "ps",
    "jobs": "ps",
    "runs": "ps",
    "show": "info",
    "cancel": "stop",
    "tail": "logs",
    "log": "logs",
    "follow": "logs",
    "delete": "rm",
    "remove": "rm",
    "download": "cp",
    "get": "cp",
    "copy": "cp",
    "push": "upload",
    "submit": "run",
    "start": "run",
    "launch": "run",
    "attach": "exec",
    "shell": "exec",
}
"""Words of other tools → our commands."""


def usage(problem: Any, words: Sequence[str]) -> None:
    """An error in what was typed, from the parser, in our form."""
    message, meant = problem.format_message(), ""
    for pattern in (r"\.? Did you mean (.*)\?$", r" \(Possible options: (.*)\)$"):
        found = re.search(pattern, message, re.DOTALL)
        if found:
            message, meant = message[: found.start()], found[1].replace("'", "`")
    message = re.sub(r"'([^']*)'", r"`\1`", message.rstrip("."))
    message = re.sub(r"^(No such option: )(.*)", r"\1`\2`", message)
    message = re.sub(r"(: `[^`]*`) is not a valid int.*", r"\1 is not a whole number", message)
    message = re.sub(r"^(Missing argument `[^`]*)\.\.\.`", r"\1`", message)
    message = re.sub(r"is not in the range x>=(\d+)", r"is less than \1", message)
    message = re.sub(r"^Got unexpected extra argument\(?s?\)? \((.*)\)$", r"too many arguments: `\1`", message)
    _titled("error", "31;1", message[:1].lower() + message[1:])
    context = getattr(problem, "ctx", None)
    command = " ".join(["remoterun", *(word for word in words[:1] if not word.startswith("-"))])
    manual = f"{context.command_path if context is not None else command} --help"
    instead = _instead(message, context, bool(meant))
    if instead:
        hint(instead)
    elif meant:
        meant = meant if "`" in meant else ", ".join(f"`{option}`" for option in meant.split(", "))
        hint(f"did you mean {meant}? `{manual}` lists them all")
    else:
        hint(manual)


def _instead(message: str, context: Any, guessed: bool) -> str:
    """The hint at what was meant by a word of other tools, or by a state of runs as an option; "" where that is not
    known. `guessed`: whether the parser knows a word that is near."""
    from remoterun.agent.shared.states import RunState
    from remoterun.cli.app import OLD
    from remoterun.parsing import did_you_mean

    found = re.match(r"No such option: `-*(?P<option>.*)`|No such command `(?P<command>.*)`", message)
    if found is None or context is None:
        return ""
    state, command = found["option"], found["command"]
    if f"--{state}" in OLD:
        return f"`{OLD[f'--{state}']}` has taken its place"
    if state in list(RunState) and any(option.name == "state" for option in context.command.params):
        return f"--state {state}"
    near = None if command is None or context.parent is not None else did_you_mean(command, _MEANT)
    if near is None or (guessed and near != command):
        return ""
    return f"did you mean `{_MEANT[near]}`? `remoterun --help` lists them all"


def ask(question: str, default: bool) -> bool:
    """Ask a person yes or no; Enter means `default`."""
    return choose(question, "yn", "y" if default else "n") == "y"


def choose(question: str, letters: str, default: str) -> str:
    """Ask a person for one of `letters`, or the word that it begins: y(es), n(o), q(uit). Enter means `default`."""
    choices = "/".join(letter.upper() if letter == default else letter for letter in letters)
    words = {"y": "yes", "n": "no", "q": "quit"}
    while True:
        word = _answer(f"{question} [{choices}] ") or default
        if any(word.lower() in (letter, words[letter]) for letter in letters):
            return word[0].lower()
        line(f"  `{word}` is not an answer: type {', '.join(letters[:-1])} or {letters[-1]}, then Enter")


def ask_text(question: str, default: str) -> str:
    """Ask a person for a word; Enter means `default`."""
    return _answer(f"{question} [{default}] ") or default


def ask_secret(prompt: str) -> str | None:
    """Ask a person for a word that is not shown; None for nothing."""
    _show_kept()
    cursor.begin_line()
    with _at_prompt():
        try:
            return getpass.getpass(clean(prompt)) or None
        except EOFError:
            return None


_waited = 0.0


def time_at_prompts() -> float:
    """Seconds for which this process has waited for a person so far."""
    return _waited


@contextlib.contextmanager
def _at_prompt() -> Iterator[None]:
    global _waited
    begun = time.monotonic()
    try:
        yield
    finally:
        _waited += time.monotonic() - begun


def _answer(prompt: str) -> str:
    """What a person types; the end of stdin is as good as ^C."""
    _show_kept()
    cursor.begin_line()
    sys.stderr.write(laid_out([prompt.rstrip(" ")], sys.stderr) + " ")
    sys.stderr.flush()
    with _at_prompt():
        answer = sys.stdin.readline()
    if not answer:
        raise KeyboardInterrupt
    return answer.strip()
