"""The options that say what is asked of a run. One row of `OPTIONS` serves `run`, `rerun`, `rerun --edit`, `jupyter`,
`remoterun.toml`, and what a run is told of its own options.
"""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import typer

from remoterun.cli import complete
from remoterun.cli.app import MACHINE_HELP
from remoterun.cli.to_send import requirements_of
from remoterun.errors import UsageError
from remoterun.model import ALL_GPUS, Mount, RunRequest
from remoterun.parsing import (
    VARIABLE,
    command_text,
    duration_text,
    parse_duration,
    parse_gpus,
    parse_package,
    parse_port,
    parse_secret,
    parse_variable,
)

Function = TypeVar("Function", bound=Callable[..., Any])


def _is_given(value: Any) -> bool:
    """Whether something is asked for: 0 is."""
    return value is not None and value is not False and value not in ([], ())


def _same(value: Any) -> Any:
    return value


def _plain(value: Any) -> Iterable[str]:
    return value if isinstance(value, tuple) else [f"{value:g}" if isinstance(value, float) else str(value)]


class Edited(NamedTuple):
    """How an option stands in the text of `rerun --edit`: below a comment. `show` and `parse` stand in for those of
    the option."""

    comment: str = ""
    show: Callable[[Any], Any] | None = None
    parse: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Option:
    """An option, and the field of `RunRequest` or of `Asked` that has its name.

    `kind` is what typer makes of the words; `usage` has the flags and the name of the value. `again` is its help in
    `rerun`: "" for the same, None where `rerun` does not have it. `parse` makes the field's value of what is typed, and
    raises `UsageError`; `show` makes of that value the words that are typed for it, None where a run is not told. What
    is typed for a list is added to what was asked before, in the place of what has the same `key`; without a `key` it
    takes the place of all. `edited` is None for what can't be edited.
    """

    name: str
    kind: Any
    usage: str
    help: str
    again: str | None = None
    parse: Callable[[Any], Any] = _same
    show: Callable[[Any], Iterable[str]] | None = _plain
    key: Callable[[Any], Any] | None = _same
    edited: Edited | None = Edited()
    complete: Callable[[str], Any] | None = None

    @property
    def flag(self) -> str:
        return self.usage.split()[0]

    def parameter(self, *, rerun: bool) -> inspect.Parameter:
        """The parameter of a command that typer reads."""
        *flags, metavar = self.usage.split() if self.kind is not bool else [self.usage, None]
        text = self.again if rerun and self.again else self.help
        declared = typer.Option(*flags, metavar=metavar, help=text, autocompletion=self.complete)
        default: Any = [] if self.repeated else False if self.kind is bool else None
        return inspect.Parameter(
            self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[self.kind, declared]
        )

    @property
    def repeated(self) -> bool:
        return bool(self.kind == list[str])

    def words(self, asked: Asked) -> list[list[str]]:
        """What is typed for it: the words of each time."""
        value = asked.value(self.name)
        if self.show is None or not _is_given(value):
            return []
        return [[self.flag]] if value is True else [[self.flag, word] for word in self.show(value)]

    def edited_value(self, asked: Asked) -> Any:
        """Its value in the text of `rerun --edit`."""
        assert self.edited is not None
        value = asked.value(self.name)
        if self.edited.show is not None:
            return self.edited.show(value)
        if self.kind is bool:
            return value
        words = [word for _, word in self.words(asked)]
        return words if self.repeated else "".join(words)

    def with_edited(self, asked: Asked, value: Any) -> Asked:
        """What is asked with another value of that text. Raises `UsageError`."""
        assert self.edited is not None
        if value == "" or not _is_given(value):
            return asked.put(self.name, Asked(RunRequest("")).value(self.name))
        return asked.put(self.name, (self.edited.parse or self.parse)(value))


@dataclass(frozen=True)
class Asked:
    """What is asked of a run that is to be. `variables`: names of those whose values are found when it is launched."""

    request: RunRequest
    machine: str | None = None
    variables: tuple[str, ...] = ()

    def value(self, name: str) -> Any:
        """The value of an option. In that of `env`, a variable whose value is found later has None."""
        if name == "machine":
            return self.machine
        if name == "env":
            return (*((variable, None) for variable in self.variables), *self.request.env)
        return getattr(self.request, name)

    def put(self, name: str, value: Any) -> Asked:
        """A copy with another value of an option, or another `command`."""
        if name == "machine":
            return replace(self, machine=value)
        if name == "env":
            variables = tuple(variable for variable, text in value if text is None)
            env = tuple(pair for pair in value if pair[1] is not None)
            return Asked(replace(self.request, env=env), self.machine, variables)
        return replace(self, request=replace(self.request, **{name: value}))

    def with_values(self, values: Mapping[str, Any]) -> Asked:
        """A copy with the values that `parsed` returned."""
        asked = self
        for option in OPTIONS:
            if option.name in values:
                value = values[option.name]
                if option.repeated and option.key is not None:
                    value = _joined(asked.value(option.name), value, option.key)
                asked = asked.put(option.name, value)
        return asked

    def options(self, others: Iterable[str] = ()) -> str:
        """The options of `remoterun run` that ask for the same, and `others`; no value of a variable, which may be
        secret."""
        return shlex.join([*(word for option in OPTIONS for words in option.words(self) for word in words), *others])


def parsed(typed: Mapping[str, Any]) -> dict[str, Any]:
    """The values of what is typed after options, by their names, without those that are not typed. Raises
    `UsageError`."""
    return {each.name: each.parse(typed[each.name]) for each in OPTIONS if _is_given(typed.get(each.name))}


def other_options(options: str) -> list[str]:
    """The words of `Asked.options` that no row of the table makes: they say which files were sent."""
    words, others = shlex.split(options), []
    flags = [option.flag for option in OPTIONS if option.show is not None]
    while words:
        count = 2 if len(words) > 1 and not words[1].startswith("-") else 1
        if words[0] not in flags:
            others += words[:count]
        del words[:count]
    return others


def takes(*names: str, rerun: bool = False) -> Callable[[Function], Function]:
    """Give a command the options of these names, in the place of its parameter `**typed`; without names all of `run`,
    or all of `rerun`."""
    rows = [option for option in OPTIONS if (option.name in names if names else not rerun or option.again is not None)]

    def decorate(function: Function) -> Function:
        own = [each for each in inspect.signature(function, eval_str=True).parameters.values() if each.name != "typed"]
        parameters = [option.parameter(rerun=rerun) for option in rows]
        parameters += [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
        function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return function

    return decorate


def command_of(words: Sequence[str]) -> str:
    """The command as one text. Raises `UsageError`."""
    text = command_text(words)
    if not text.strip():
        raise UsageError("the command is empty", hint='remoterun run "echo hello"')
    if "\0" in text:
        raise UsageError("the command holds a zero byte", hint='remoterun run "echo hello"')
    return text


def _joined(before: Sequence[Any], more: Sequence[Any], key: Callable[[Any], Any]) -> tuple[Any, ...]:
    taken = {key(each) for each in more}
    kept = [each for each in before if each in more or key(each) not in taken]
    return (*kept, *(each for each in more if each not in before))


def _each(parse: Callable[[str], Any]) -> Callable[[Sequence[str]], tuple[Any, ...]]:
    return lambda words: tuple(map(parse, words))


def _apt(name: str) -> str:
    from remoterun.agent.shared.spec import APT_NAME

    if not APT_NAME.match(name):
        raise UsageError(f"`{name}` is not a valid name of a Debian package", hint="--apt ffmpeg --apt libsndfile1")
    return name


def _edited_variable(word: str) -> tuple[str, str | None]:
    if "=" in word:
        return parse_variable(word)
    if not VARIABLE.fullmatch(word):
        raise UsageError(f"`{word}` is not the name of an environment variable")
    return word, None


def _above_zero(flag: str) -> Callable[[float], float]:
    def parse(number: float) -> float:
        if not 0 < number < 1e6:
            raise UsageError(f"`{number:g}` is not possible for {flag}", hint=f"{flag} 2")
        return number

    return parse


OPTIONS = (
    Option("machine", str | None, "-t --machine-type NAME", MACHINE_HELP, again="", complete=complete.machine_types),
    Option(
        "mounts",
        list[str],
        "-m --mount RESOURCE[:PATH]",
        "Make an upload, or a run's outputs, readable at PATH. Repeat for more.",
        again="Mount the newest version of this there, as well or instead. Repeat for more.",
        parse=_each(Mount.parse),
        show=lambda mounts: [f"{mount.resource}:{mount.path}" for mount in mounts],
        key=lambda mount: mount.path,
        edited=Edited(
            "Mounted read-only: RESOURCE:PATH. What stays as it is holds what the run read;\n"
            "what you change or add holds the newest version."
        ),
        complete=complete.resources,
    ),
    Option(
        "env",
        list[str],
        "-e --env K[=V]",
        "An environment variable; K alone takes its value here. Repeat for more.",
        again="",
        parse=_each(parse_variable),
        show=lambda pairs: [name for name, _ in pairs],
        key=itemgetter(0),
        edited=Edited(
            "Variables: NAME takes the value that it has here, NAME=VALUE gives it one.",
            show=lambda pairs: [name if value is None else f"{name}={value}" for name, value in pairs],
            parse=_each(_edited_variable),
        ),
    ),
    Option(
        "secrets",
        list[str],
        "--secret NAME[=VARIABLE]",
        "A secret that `remoterun secret set` keeps, as a variable. Repeat for more.",
        again="A secret as a variable, as well or instead. Repeat for more.",
        parse=_each(parse_secret),
        show=lambda pairs: [name if name == variable else f"{name}={variable}" for variable, name in pairs],
        key=itemgetter(0),
        edited=Edited("Secrets: NAME, or NAME=VARIABLE."),
        complete=complete.secrets,
    ),
    Option(
        "pip",
        list[str],
        "--pip PACKAGE",
        "A Python package to install. Repeat for more.",
        again="One more Python package. Repeat for more.",
        parse=_each(parse_package),
    ),
    Option(
        "requirements",
        Path | None,
        "--pip-req FILE",
        "A requirements file to install.",
        again="Another requirements file.",
        parse=lambda file: requirements_of(Path(file)),
        show=None,
        edited=Edited("The text of a requirements file.", show=_same, parse=_same),
    ),
    Option(
        "apt",
        list[str],
        "--apt PACKAGE",
        "A Debian package to install. Repeat for more.",
        again="One more Debian package. Repeat for more.",
        parse=_each(_apt),
    ),
    Option(
        "image",
        str | None,
        "--image --from IMAGE",
        "A Docker image instead of the bundled one.",
        again="Another Docker image.",
        edited=Edited('"": the bundled one.'),
    ),
    Option(
        "framework",
        str | None,
        "--framework NAME",
        "What the environment has: none, python, tensorflow. Default: TensorFlow if the code imports it.",
        again="Another framework: none, python, tensorflow.",
        edited=Edited("none, python or tensorflow."),
        complete=complete.frameworks,
    ),
    Option(
        "description",
        str | None,
        "-d --description TEXT",
        "For `ps`. Default: the commit's subject.",
        again="For `ps`.",
        show=None,
        edited=Edited(show=lambda text: text or ""),
    ),
    Option(
        "labels",
        list[str],
        "--label LABEL",
        "A label, for `ps --label`. Repeat for more.",
        again="Instead of those it had. Repeat for more.",
        parse=tuple,
        complete=complete.labels,
    ),
    Option(
        "gpus",
        str | None,
        "--gpus N",
        "GPUs that it gets, or `all`. Default: the machine's setting.",
        again="GPUs that it gets, or `all`; 0 for none.",
        parse=parse_gpus,
        show=lambda count: ["all" if count == ALL_GPUS else str(count)],
        edited=Edited('A number, or all; "": what the machine\'s setting says.'),
    ),
    Option(
        "timeout",
        str | None,
        "--timeout TIME",
        "Stop the run so long after its first start, over all attempts: 90s, 10m, 2h; a plain number is minutes.",
        again="",
        parse=parse_duration,
        show=lambda seconds: [duration_text(seconds)],
        edited=Edited('90s, 10m, 2h; "": none.'),
    ),
    Option(
        "notify",
        list[str],
        "--notify URL|NAME",
        "Who gets word when it ends: a webhook, or a secret that is one; `none` for nobody. Repeat for more.",
        again="",
        parse=lambda words: tuple(word for word in words if word != "none"),
        show=lambda words: [word for word in words if VARIABLE.fullmatch(word)],
        key=None,
        complete=complete.secrets,
        edited=None,
    ),
    Option(
        "spot",
        bool,
        "--spot",
        "Rent a cheaper host, which may be taken away; see --attempts.",
        again="Rent a cheaper host, which may be taken away.",
        edited=None,
    ),
    Option(
        "attempts",
        int | None,
        "--attempts N",
        "How often it may start if its machine goes down; values of -e stay on it till the last attempt ends.",
        again="",
        parse=_above_zero("--attempts"),
        edited=Edited(show=lambda count: count or 1),
    ),
    Option(
        "max_hours",
        float | None,
        "--max-hours H",
        "End it after so long on rented hosts, all attempts together. Default: 24.",
        again="End it after so long on rented hosts.",
        parse=_above_zero("--max-hours"),
        edited=None,
    ),
    Option(
        "max_cost",
        float | None,
        "--max-cost $",
        "The same limit, in US dollars.",
        again="",
        parse=_above_zero("--max-cost"),
        edited=None,
    ),
    Option(
        "ports",
        list[str],
        "--port PORT[:LOCAL]",
        "Reach this port of the run at 127.0.0.1 here. Repeat for more.",
        parse=_each(parse_port),
        show=lambda ports: [f"{each.port}:{each.local}" if each.local else str(each.port) for each in ports],
        edited=None,
    ),
    Option(
        "split",
        bool,
        "--split",
        "What the command writes to stderr comes on stderr here, not on stdout.",
        edited=Edited("Whether its stderr is apart."),
    ),
)
