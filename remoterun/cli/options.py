"""The options that say what is asked of a run: how the words of each field of `Asked` are read and shown, and the
parameters of `run`, `rerun` and `jupyter` that follow from them.
"""

from __future__ import annotations

import inspect
import itertools
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.main import get_command

from remoterun.agent.shared.asked import memory_text
from remoterun.agent.shared.records import Option, Record, options_in
from remoterun.agent.shared.spec import FRAMEWORKS
from remoterun.cli import complete, render
from remoterun.cli.app import MORE, Function, app, run_number, typed_options
from remoterun.cli.to_send import requirements_of
from remoterun.errors import UsageError
from remoterun.model import ALL_GPUS, Asked, RunRequest
from remoterun.parsing import (
    VARIABLE,
    command_text,
    duration_text,
    parse_duration,
    parse_gpus,
    parse_mount,
    parse_package,
    parse_port,
    parse_secret,
    parse_size,
    parse_variable,
)


def _same(value: Any) -> Any:
    return value


class Form(Record):
    """How the words of an option are read and shown; of one that can be repeated, each word."""

    parse: Callable[[Any], Any] = _same
    """The value for a word; None for one that stands for nothing. Raises `UsageError`."""
    show: Callable[[Any], str | None] | None = str
    """The word for a value, where there is one; None where a run is not told of it."""
    key: Callable[[Any], Any] | None = _same
    """A value that is typed stands in the place of an earlier one with the same key; None: of all."""
    complete: Callable[[str], Any] | None = None
    kind: type = str
    """What typer makes of a word."""


FORMS = {
    "machine": Form(complete=complete.machine_types),
    "mounts": Form(parse_mount, "{0.resource}:{0.path}".format, lambda mount: mount.path, complete.resources),
    "env": Form(parse_variable, show=itemgetter(0), key=itemgetter(0)),
    "secrets": Form(
        parse_secret,
        show=lambda pair: pair[1] if pair[0] == pair[1] else f"{pair[1]}={pair[0]}",
        key=itemgetter(0),
        complete=complete.secrets,
    ),
    "pip": Form(parse_package),
    "requirements": Form(requirements_of, show=None, kind=Path),
    "framework": Form(complete=lambda incomplete: list(FRAMEWORKS)),
    "description": Form(show=None),
    "labels": Form(lambda word: word.strip() or None, complete=complete.labels),
    "gpus": Form(parse_gpus, show=lambda count: "all" if count == ALL_GPUS else str(count)),
    "duration": Form(parse_duration, duration_text),
    "size": Form(parse_size, memory_text),
    "notify": Form(
        lambda word: None if word == "none" else word,
        show=lambda word: word if VARIABLE.fullmatch(word) else None,
        key=None,
        complete=complete.secrets,
    ),
    "ports": Form(parse_port, lambda port: f"{port.port}:{port.local}" if port.local else str(port.port)),
    "run": Form(run_number, show=None, complete=complete.active_runs),
    "int": Form(kind=int),
    "float": Form(float, lambda number: f"{number:g}", kind=float),
}
"""By the name of the field, by the `form` of its option, or by its type."""


class OptionForm(Record):
    """One option: the field of `Asked` that has its name, and its form."""

    name: str
    option: Option
    form: Form
    type: Any
    """That of the field; of a list, of one of its values."""
    repeated: bool

    def value(self, asked: RunRequest) -> Any:
        """That of `env` has None for a variable whose value is found later."""
        if self.name == "env" and isinstance(asked, Asked):
            return tuple({**dict.fromkeys(asked.variables), **dict(asked.env)}.items())
        return getattr(asked, self.name)

    def read(self, typed: Any) -> Any:
        """The value for what is typed. Raises `UsageError`."""
        parse = self.form.parse
        value = tuple(each for each in map(parse, typed) if each is not None) if self.repeated else parse(typed)
        wrong = self.option.wrong(value)
        if wrong:
            raise UsageError(wrong, hint=f"{self.option.flag} {self.option.example}" if self.option.example else None)
        return value

    def add(self, asked: Asked, value: Any) -> Asked:
        """A copy with what is typed: to a list it is added."""
        if self.repeated and self.form.key is not None:
            value = _joined(getattr(asked, self.name), value, self.form.key)
        return asked._replace(**{self.name: value})

    def words(self, asked: RunRequest) -> list[list[str]]:
        """What is typed for its value: the words of each time."""
        value = self.value(asked)
        if self.form.show is None or not _is_given(value):
            return []
        if value is True:
            return [[self.option.flag]]
        shown = map(self.form.show, value if self.repeated else [value])
        return [[self.option.flag, word] for word in shown if word is not None]

    def parameter(self, *, rerun: bool, few: bool) -> inspect.Parameter:
        """The parameter of a command that typer reads."""
        option, flag = self.option, self.type is bool
        *flags, metavar = [option.usage, None] if flag else option.usage.split()
        declared = typer.Option(
            *flags,
            metavar=metavar,
            help=option.again if rerun and option.again else option.help,
            autocompletion=self.form.complete,
            rich_help_panel=None if option.first or few else MORE,
        )
        kind = list[str] if self.repeated else bool if flag else self.form.kind | None
        default: Any = [] if self.repeated else False if flag else None
        return inspect.Parameter(
            self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, declared]
        )


def _rows() -> Iterator[OptionForm]:
    types = get_type_hints(Asked)
    for name, option in options_in(Asked).items():
        type_ = types[name]
        if type(None) in get_args(type_):
            type_ = get_args(type_)[0]
        repeated = get_origin(type_) is tuple
        type_ = get_args(type_)[0] if repeated else type_
        form = FORMS.get(name) or FORMS.get(option.form) or FORMS.get(getattr(type_, "__name__", "")) or Form()
        yield OptionForm(name, option, form, type_, repeated)


OPTIONS = {row.name: row for row in _rows()}


def parsed(typed: Mapping[str, Any]) -> dict[str, Any]:
    """The values of what is typed after options, by their names, without those that are not typed: an empty word is.
    Raises `UsageError`."""
    given = {name: typed[name] for name in OPTIONS if _is_given(typed.get(name)) or typed.get(name) == ""}
    return {name: OPTIONS[name].read(value) for name, value in given.items()}


def with_values(asked: Asked, values: Mapping[str, Any]) -> Asked:
    """A copy with the values that `parsed` returned. An image takes the place of a framework, and the reverse."""
    if ("image" in values) != ("framework" in values):
        asked = asked._replace(image=None, framework=None)
    for name, value in values.items():
        asked = OPTIONS[name].add(asked, value)
    return asked


def options_of(asked: Asked, others: Iterable[str] = ()) -> str:
    """The options of `remoterun run` that ask for the same, and `others`; no value of a variable, which may be
    secret."""
    return shlex.join([*(word for row in OPTIONS.values() for words in row.words(asked) for word in words), *others])


def takes(*names: str, rerun: bool = False) -> Callable[[Function], Function]:
    """Give a command the options of these names, in the place of its parameter `**typed`; without names all of `run`,
    or all of `rerun`."""
    rows = [row for row in OPTIONS.values() if not names or row.name in names]
    return typed_options(
        row.parameter(rerun=rerun, few=bool(names)) for row in rows if not rerun or row.option.again is not None
    )


def _is_given(value: Any) -> bool:
    """Whether something is asked for: 0 is."""
    return value is not None and value is not False and value not in ("", [], ())


def _joined(before: Sequence[Any], more: Sequence[Any], key: Callable[[Any], Any]) -> tuple[Any, ...]:
    taken = {key(each) for each in more}
    kept = [each for each in before if each in more or key(each) not in taken]
    return (*kept, *(each for each in more if each not in before))


def command_of(words: Sequence[str]) -> str:
    """The command as one text. Raises `UsageError`."""
    text = command_text(words)
    if not text.strip():
        raise UsageError("the command is empty", hint='remoterun run "echo hello"')
    if "\0" in text:
        raise UsageError("the command holds a zero byte", hint='remoterun run "echo hello"')
    own = _options_in_front(words[1:])
    whole = len(words) > 1 and re.search(r"\s", words[0].strip()) is not None
    if whole or (_OURS.match(" ".join(own)) and not os.path.exists(own[-1])):
        before = sys.argv[1 : -len(words)] if sys.argv[-len(words) :] == [*words] else ["run"]
        meant = shlex.join(["remoterun", *before, *own, " ".join([words[0], *map(shlex.quote, words[len(own) + 1 :])])])
        if whole:
            raise UsageError(f"`{shlex.quote(words[1])}` follows a command that stands in quotes", hint=meant)
        named = [name for flag, name in itertools.pairwise(own) if flag in ("-t", "--machine-type")]
        if any(name in dict(complete.machine_types(name)) for name in named):
            mine = f"{shlex.join(['remoterun', *before, shlex.join(words)])}   passes them to `{words[0]}`"
            raise UsageError(f"`{shlex.join(own)}` follows `{words[0]}`, and names a machine", hint=f"{meant}\n{mine}")
        render.warning(f"`{shlex.join(own)}` goes to `{words[0]}`, which it follows; it is remoterun's in `{meant}`")
    for flag, name in itertools.pairwise(words[len(own) + 1 :]):
        if flag in ("-t", "--machine-type") and name in dict(complete.machine_types(name)):
            render.warning(f"`{flag} {name}` goes to `{words[0]}`, which it follows: options stand before the command")
    return _NOTEBOOK.sub(r"papermill --log-output --no-progress-bar -k python3 \1 \1", text)


_NOTEBOOK = re.compile(r"\A('[^']+\.ipynb'|[^\s'\"]+\.ipynb)(?=\s|\Z)")
"""A notebook in the place of a program: it is executed, its cells are the log, and it is an output."""
_OURS = re.compile(r"(-[bqy] )*(--|-m (uploads|runs)/|-t [A-Za-z])")  # rather than those of a program before them


def _options_in_front(words: Sequence[str]) -> list[str]:
    """The options of `run` that `words` begin with, and their values."""
    params = get_command(app).commands["run"].params if words else ()  # type: ignore[attr-defined]
    takes_value = {flag: not getattr(param, "is_flag", False) for param in params for flag in param.opts}
    count = 0
    while count < len(words) and (flag := words[count].partition("=")[0]) in takes_value:
        count += 2 if takes_value[flag] and flag == words[count] else 1
    return [*words[:count]]
