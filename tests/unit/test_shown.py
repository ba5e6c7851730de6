"""Each command line that the project shows is one that the real parser takes. It is parsed, and not run.

Shown is what stands in documents, in strings and docstrings of the code, in the texts of pages, and what an example
types or calls. Strings are read where they stand in the code, also those that no test makes the program print.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import io
import itertools
import re
import shlex
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

import trainer.generate
import trainer.settings
from remoterun import Client, Job
from remoterun.cli.app import INSTEAD, parser_error
from remoterun.cli.commands.help import LESSON
from remoterun.cli.options import command_of
from remoterun.cli.render.terminal import Talking
from remoterun.errors import UsageError
from remoterun.model import RunRequest
from tests.recorder import Recorded
from tests.reference import commands

ROOT = Path(__file__).parents[2]
PROGRAMS = (
    "remoterun/*.py",
    "trainer/*.py",
    "examples/*.py",
    "tests/cloud_check/*.py",
    "tests/hf_check/*.py",
    "tests/play.py",
    "tests/record_*.py",
)
PAGES = ("remoterun/ui/static/*.js", "remoterun/*.html", "examples/*.js", "examples/*.mjs", "examples/*.html")
COMMANDS = {tuple(name.split()[1:]): command for name, command in commands().items()}
FIRST_WORDS = {name[0] for name in COMMANDS}
OPTIONS = {option for command in COMMANDS.values() for each in command.params for option in each.opts}
OPTIONS |= {"-h", "--help", "--version", "--install-completion"}
TARGETS = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
FIELD = "\ue000"
"""Stands for text that is known once the program runs: a field of an f-string, `%s`, `${…}`."""
SENTENCES = r"remoterun (has a fault|was ended|failed,|for Python|agent:|labels$|aws cat)"
"""They begin as a command line does."""
OF_OTHERS = {"cp -r", "diff -r", "tensorboard --logdir logs"}
OLD_WORDS = ("Each old word\n", "- Gone: ", "- What other tools call ", "right line", "probably meant")
"""What an entry of the changelog has that names what is not typed, or not any more."""


class Shown(NamedTuple):
    where: str
    code: str
    """A line for a shell. Where a sentence has it: also a command without its first word, or an option."""
    is_named: bool = False
    """Whether a sentence has it, between backticks."""


def test_each_command_line_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Talking, "quiet", False)  # `-q` sets it
    shown = everything()
    wrong = {f"{each.where}: `{each.code}`: {fault}" for each in shown for fault in faults(each)}
    assert not wrong, "\n" + "\n".join(sorted(wrong)).replace(FIELD, "…")
    assert sum(len(list(lines(each.code))) for each in shown) > 700
    assert len({each.where.partition(":")[0] for each in shown}) > 100


LESSON_ON_SPELL = """
    whoami
    upload data/input.txt --name doom
    run --mount uploads/doom:data "python -m trainer.train --data_dir=./data"
    run --machine-type K80 --mount uploads/doom:data "python -m trainer.train --data_dir=./data"
    run -t V100 -m uploads/doom:data -d song "python -m trainer.train --data_dir=./data"
    ps
    logs 16
    info 16
    ls runs/15/models
    cp runs/15/models
    stop 16
    kill 16
"""


def test_no_word_of_the_lesson_is_refused() -> None:
    """It was written for Spell, of which this is the heir."""
    for line in LESSON_ON_SPELL.strip().splitlines():
        words = tuple(shlex.split(line))
        assert words[0] in FIRST_WORDS and of_remoterun(words) is None, line


@functools.cache
def everything() -> tuple[Shown, ...]:
    return tuple(_everything())


def _everything() -> Iterator[Shown]:
    for path in tracked("*.md"):
        yield from of_document(name_of(path), path.read_text())
    for path in tracked(*PROGRAMS):
        yield from of_program(name_of(path), path.read_text())
    for path in tracked(*PAGES):
        yield from of_page(name_of(path), path.read_text())
    for meant in (*INSTEAD.values(), *(words for words, _ in LESSON)):
        text = meant if meant.startswith("-") or meant.endswith(".") else f"remoterun {meant}"
        yield from of_string("remoterun/cli: a table", text, is_hint=True)


def tracked(*patterns: str) -> list[Path]:
    done = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in done.stdout.split()]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_a_wrong_line_in_a_string_is_found(recorded: Recorded) -> None:
    """The last one is right."""

    def found(text: str) -> str:
        said = [fault for each in of_program("remoterun/x.py", text) for fault in faults(each)]
        return "\n".join(fault.partition(" (")[0] for fault in said)

    recorded.cases(found)


def test_a_wrong_line_in_a_document_and_in_a_page_is_found() -> None:
    document = "Type `remoterun\nps --faild`, or:\n\n    make unti\n    n=$(remoterun run -b\\\n      --quit x)  # or\n"
    found = [fault for each in of_document("README.md", document) for fault in faults(each)]
    assert [fault.partition(" (")[0] for fault in found] == [
        "No such option: --faild", "there is no target unti", "No such option: --quit",
    ]  # fmt: skip
    page = 'throw new Failure("no", `try: remoterun pss ${folder}`); e("code", {}, "remoterun open"); // remoterun is\n'
    assert [fault for each in of_page("x.js", page) for fault in faults(each)] == ["no such command"]


def test_each_call_of_the_library_has_names_that_there_are() -> None:
    blocks = [
        each.code for each in everything() if each.is_named and re.match(r"(client|job|Client\(\))\.\w+\(", each.code)
    ]
    assert blocks, "the changelog has one"
    for path in tracked("*.md", "examples/*.py", "remoterun/*.py"):
        text = path.read_text()
        blocks += re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        blocks += re.findall(r"^ {4}from remoterun import Client\n(?:(?: {4}.*)?\n)+", text, re.MULTILINE)
        blocks += [text] if path.is_relative_to(ROOT / "examples") and path.suffix == ".py" else []
    wrong = [f"{block}: {fault}" for block in blocks for fault in faults_of_calls(block)]
    assert not wrong, "\n".join(wrong)
    assert any("job.copy(" in block for block in blocks)


def test_a_wrong_call_is_found(recorded: Recorded) -> None:
    """The second one is right."""
    recorded.cases(lambda code: "\n".join(fault.partition(" fields ")[0] for fault in faults_of_calls(code)))


# Where lines stand


def of_document(where: str, text: str) -> Iterator[Shown]:
    if where == "CHANGELOG.md":
        text = text.partition("\n## Unreleased\n")[2].partition("\n## ")[0]
        entries = re.split(r"\n(?=- |#)", text)
        text = "\n".join(each for each in entries if not any(words in each for words in OLD_WORDS))
    for number, part in enumerate(re.split(r"^```.*\n", in_one_line(text), flags=re.MULTILINE)):
        is_code = number % 2 == 1
        for span in [] if is_code else re.findall("`([^`]+)`", part):
            yield Shown(where, " ".join(span.split()), is_named=True)
        for line in part.splitlines():
            if is_code or line.startswith("    "):
                yield Shown(where, line.strip().removeprefix("$ "))


def of_program(where: str, text: str) -> Iterator[Shown]:
    for number, string, kind in strings(ast.parse(text)):
        for each in of_string(f"{where}:{number}", string, kind == "hint"):
            if kind != "docstring" or not each.code.startswith("-"):  # the options there may be anybody's
                yield each


def strings(node: ast.AST, kind: str = "") -> Iterator[tuple[int, str, str]]:
    """(line, text, "docstring", "hint" or "") of each string below."""
    has_text = text_of(node) is not None
    for child in ast.iter_child_nodes(node):
        text = text_of(child)
        if text is not None and not (has_text and isinstance(child, (ast.Constant, ast.BinOp))):
            is_docstring = isinstance(node, ast.Expr)
            yield child.lineno, re.sub("%[sd]", FIELD, text), "docstring" if is_docstring else kind  # type: ignore[attr-defined]
        if not isinstance(child, ast.keyword):
            yield from strings(child, kind)
        elif child.arg != "name":  # of a thread
            yield from strings(child, "hint" if child.arg == "hint" else kind)


def text_of(node: ast.AST) -> str | None:
    """The string that the program makes there, with `FIELD` for what it does not know yet; None where it makes none.
    Of words one by one, it is the line."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(each) or FIELD for each in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = text_of(node.left), text_of(node.right)
        return None if left is None and right is None else (left or FIELD) + (right or FIELD)
    words = node.elts if isinstance(node, (ast.List, ast.Tuple)) else []
    if isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "type":  # `demo.type("remoterun", "ps")`
        words = node.args
    if len(words) > 1 and text_of(words[0]) == "remoterun":
        return shlex.join(text_of(each) or FIELD for each in words)
    return None


def of_string(where: str, text: str, is_hint: bool) -> Iterator[Shown]:
    for span in re.findall("`([^`\n]+)`", text):
        yield Shown(where, span, is_named=True)
    for line in re.sub("`[^`\n]*`", "", in_one_line(text)).splitlines():
        found = re.search(r"(?:^|[:;&|>(]) *(?:\$ )?((?:remoterun|python -m trainer\.\w+) [^-].*)", line)
        if found and not re.match(SENTENCES, found[1]):
            yield Shown(where, re.split("   |  #", found[1])[0])
        if re.match(r"--?[a-z]", line) and is_hint:
            yield Shown(where, line.split()[0], is_named=True)


def of_page(where: str, text: str) -> Iterator[Shown]:
    for line in re.sub(r"\$\{[^}]*\}", FIELD, text).replace("\\`", "`").splitlines():
        for code in re.findall(r"""(?:["'`>]|[:;] )(remoterun [^"'`<]*)""", line):
            yield Shown(where, code)


def in_one_line(text: str) -> str:
    return re.sub(r" *\\\n *", " ", text)


# What is wrong with one


def faults(shown: Shown) -> Iterator[str]:
    if shown.is_named and shown.code.startswith("-"):
        for option in re.findall(r"(?<!\S)--?[a-z][\w-]*", shown.code):
            if shown.where.startswith(("README", "CHANGELOG", "remoterun/")) and option not in OPTIONS:
                yield f"no command has {option}"
        return
    for program, words in lines(shown.code):
        fault = taken(PARSERS[program], words)
        if fault:
            yield fault
    if shown.is_named and shown.code not in OF_OTHERS and shown.code.split(" ")[0] in FIRST_WORDS:
        words = shlex.split(shown.code)
        found = [taken(of_remoterun, [*words, *["1"] * more]) for more in range(4)]  # a sentence may leave out the rest
        if None not in found:
            yield str(found[0])


def lines(code: str) -> Iterator[tuple[str, list[str]]]:
    """(program, its words) of each line for one of our programs in a line for a shell, and in a word of it."""
    shell = shlex.shlex(code, posix=True, punctuation_chars="();<>|&")
    shell.whitespace_split = True
    try:
        words = list(shell)
    except ValueError:  # a sentence with an apostrophe
        assert not code.startswith("remoterun "), code
        return
    for is_operator, part in itertools.groupby(words, lambda word: re.fullmatch("[();<>|&]+", word) is not None):
        rest = list(itertools.dropwhile(lambda word: re.match(r"\w+=", word), [] if is_operator else part))
        for program in PARSERS:
            start = program.split()
            if rest[: len(start)] == start:
                yield program, rest[len(start) :]
        for word in rest:
            if word.startswith("python -m "):
                yield from lines(word)


def taken(parse: Callable[[tuple[str, ...]], str | None], words: list[str]) -> str | None:
    """What `parse` says against the words; None if it takes them. A field may stand for nothing, and a word in capitals
    for a number."""
    fields = [place for place, word in enumerate(words) if word == FIELD]
    said = []
    for left_out in itertools.product((False, True), repeat=len(fields)):
        gone = {place for place, is_gone in zip(fields, left_out, strict=True) if is_gone}
        kept = tuple(word.strip("[]").replace(FIELD, "1") for place, word in enumerate(words) if place not in gone)
        for each in dict.fromkeys((kept, tuple(re.sub("^[A-Z]+$", "1", word) for word in kept))):
            fault = parse(each)
            if fault is None:
                return None
            said.append(fault)
    return said[0]


@functools.cache
def of_remoterun(words: tuple[str, ...]) -> str | None:
    if words[:1] == ("help",) and not any(word.startswith("-") for word in words):
        words = (*words[1:], "--help")
    if words[:1] in (("1",), ("COMMAND",)):  # any command
        found = [of_remoterun((*name, *words[1:])) for name in COMMANDS]
        return None if None in found else found[0]
    name = next((words[:count] for count in (2, 1) if words[:count] in COMMANDS), None)
    try:
        if name is None:
            return None if words in ((), ("--help",), ("--version",), ("--install-completion",)) else "no such command"
        if words == name:  # its arguments are not meant
            return None
        if hasattr(COMMANDS[name], "commands") and not words[len(name)].startswith("-"):
            return f"no such command below {name[0]}"
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()) as warned,
            COMMANDS[name].make_context("remoterun", list(words[len(name) :])) as context,
        ):
            command = context.params["command"] if name == ("run",) else []
            if any(word.startswith("-") for word in command[1:]):
                command_of(command)
        return warned.getvalue() or None
    except typer.Exit:  # of --help
        return None
    except parser_error() as error:
        return str(error.format_message())
    except UsageError as error:
        return error.message


def of_module(words: tuple[str, ...]) -> str | None:
    """Of `python -m`."""
    parsers: dict[str, Callable[[list[str]], Any]] = {
        "trainer.train": trainer.settings.parse,
        "trainer.generate": trainer.generate._parse,
    }
    name, *rest = words
    if name.split(".")[0] in ("remoterun", "tests", "trainer"):
        file = ROOT / name.replace(".", "/")
        if not file.with_suffix(".py").exists() and not (file / "__main__.py").exists():
            return f"there is no module {name}"
    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.suppress(SystemExit):
        if name in parsers and rest:
            parsers[name](rest)
    return errors.getvalue() or None


def of_make(words: tuple[str, ...]) -> str | None:
    unknown = [word for word in words if "=" not in word and word not in TARGETS]
    return f"there is no target {unknown[0]}" if unknown else None


PARSERS = {"remoterun": of_remoterun, "python -m": of_module, "make": of_make}


def faults_of_calls(code: str) -> Iterator[str]:
    """What code that uses the library names, and there is not."""
    tree = ast.parse(textwrap.dedent(code))
    of_calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        kind: Any = {"client": Client, "job": Job, "Client()": Client}.get(ast.unparse(node.value))
        member = getattr(kind, node.attr, None)
        if kind is not None and member is None:
            if f"self.{node.attr} = " not in inspect.getsource(kind.__init__):
                yield f"{kind.__name__} has no {node.attr}"
        elif kind is not None and id(node) in of_calls:
            call = of_calls[id(node)]
            names = {each.arg: each.arg for each in call.keywords if each.arg}
            try:
                bound = inspect.signature(member).bind(None, *call.args, **names)
                RunRequest("x", **bound.arguments.get("more", {}))
            except TypeError as error:
                yield f"{kind.__name__}.{node.attr}({', '.join(names)}): {error}"
