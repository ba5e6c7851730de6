"""Talk, on stderr: lines, warnings, errors with their hints, and questions."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Sequence
from typing import Any

from remoterun.cli.render.terminal import clean, paint
from remoterun.errors import RemoterunError


def line(text: str) -> None:
    """One line of talk."""
    with contextlib.suppress(BrokenPipeError):
        print(text, file=sys.stderr, flush=True)


def warning(text: str) -> None:
    line(f"{paint('warning:', '33')} {clean(text)}")


def error(problem: RemoterunError) -> None:
    """An error of ours: one line, its evidence, its hint."""
    line(f"{paint('error:', '31;1')} {clean(problem.message)}")
    if problem.evidence:
        for text in problem.evidence.splitlines():
            line(f"  {paint(clean(text), '2')}")
    hint(problem.hint)


def fault(problem: BaseException) -> None:
    """An error that nobody raised on purpose."""
    line(f"{paint('error:', '31;1')} remoterun has a fault: {type(problem).__name__}: {clean(str(problem))}")
    hint("REMOTERUN_DEBUG=1 before the command shows where")


def hint(text: str | None) -> None:
    if text:
        line("")
        for number, part in enumerate(text.splitlines()):
            line(f"{paint('hint:', '36') if number == 0 else '     '} {clean(part)}")


def usage(problem: Any, words: Sequence[str]) -> None:
    """An error in what was typed, from the parser, in our form."""
    message, meant = problem.format_message(), ""
    for pattern in (r"\.? Did you mean (.*)\?$", r" \(Possible options: (.*)\)$"):
        found = re.search(pattern, message, re.DOTALL)
        if found:
            message, meant = message[: found.start()], found[1].replace("'", "`")
    message = re.sub(r"'([^']*)'", r"`\1`", message.rstrip("."))
    message = re.sub(r"^(No such option: )(.*)", r"\1`\2`", message)
    message = re.sub(r": Input should be a valid (\w+).*", r": it is no \1", message)
    message = re.sub(r": Input should be", r": it should be", message)
    message = re.sub(r"^Got unexpected extra argument\(?s?\)? \((.*)\)$", r"too many arguments: `\1`", message)
    line(f"{paint('error:', '31;1')} {clean(message[:1].lower() + message[1:])}")
    context = getattr(problem, "ctx", None)
    command = " ".join(["remoterun", *(word for word in words[:1] if not word.startswith("-"))])
    manual = f"{context.command_path if context is not None else command} --help"
    if meant:
        meant = meant if "`" in meant else ", ".join(f"`{option}`" for option in meant.split(", "))
        hint(f"did you mean {meant}? {manual} lists them all")
    else:
        hint(manual)


def ask(question: str, default: bool) -> bool:
    """Ask a person; Enter means `default`."""
    choices = "[Y/n]" if default else "[y/N]"
    while True:
        word = _answer(f"{question} {choices} ").lower()
        if word in ("", "y", "yes", "n", "no"):
            return default if not word else word[0] == "y"


def ask_text(question: str, default: str) -> str:
    """Ask a person for a word; Enter means `default`."""
    return _answer(f"{question} [{default}] ") or default


def _answer(prompt: str) -> str:
    """What a person types; the end of stdin is as good as ^C."""
    sys.stderr.write(prompt)
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer:
        raise KeyboardInterrupt
    return answer.strip()
