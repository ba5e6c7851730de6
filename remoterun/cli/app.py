"""What commands share: the application, option types, words for runs, and what their help shows."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from remoterun import __version__
from remoterun.agent.shared.records import options_in
from remoterun.agent.shared.states import RunState
from remoterun.cli import complete, render
from remoterun.errors import RemoterunError, UsageError
from remoterun.model import LAST, Asked
from remoterun.parsing import parse_price, parse_range

if TYPE_CHECKING:
    from remoterun.client import Client

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])
Complete = Callable[[str], Any] | None
"""The words that the Tab key offers for the beginning of one."""

COMMANDS = {
    "Runs": [
        "run", "rerun", "continue", "ps", "logs", "info", "wait", "stop", "kill", "metrics", "diff", "exec", "top",
        "forward",
    ],
    "Files and pages": ["upload", "ls", "cp", "rm", "ui", "open", "tensorboard", "jupyter", "report"],
    "Machines and secrets": ["machines", "bill", "doctor", "login", "secret"],
    "": ["help", "logout", "publish", "whoami"],
}  # fmt: skip
"""Headings of `--help`, with their commands in its order, and below "" those that are not listed there."""
FILES = {"continue": "continue_", "kill": "stop", "logout": "login"}
"""The modules of `cli.commands` that register commands of another name than theirs."""

INSTEAD = {
    **dict.fromkeys(("status", "list", "jobs", "runs", "job", "queue", "squeue", "sacct", "history", "pods"), "ps"),
    **dict.fromkeys(("log", "tail", "follow", "attach", "sattach"), "logs RUN"),
    **dict.fromkeys(("cancel", "scancel", "terminate"), "stop RUN"),
    **dict.fromkeys(("inspect", "show", "describe", "view"), "info RUN"),
    **dict.fromkeys(("submit", "start", "launch", "sbatch", "srun", "salloc", "up"), "run COMMAND"),
    **dict.fromkeys(("restart", "retry", "repeat"), "rerun RUN"),
    "resume": "continue RUN",
    **dict.fromkeys(("download", "get", "copy", "pull", "fetch", "scp"), "cp"),
    **dict.fromkeys(("delete", "remove"), "rm"),
    **dict.fromkeys(("push", "put", "sync"), "upload"),
    **dict.fromkeys(("uploads", "data", "datasets", "volume", "volumes", "files", "file", "storage"), "ls"),
    **dict.fromkeys(("dashboard", "browse", "browser", "web"), "ui"),
    **dict.fromkeys(("cost", "costs", "price", "cost-report", "billing", "spend"), "bill"),
    **dict.fromkeys(("setup", "init", "config", "machines doctor", "machines test"), "doctor"),
    **dict.fromkeys(("stat", "stats"), "top"),
    "shell": "exec RUN",
    "cat": "cp FILE -",
    **dict.fromkeys(("df", "images"), "machines df"),
    **dict.fromkeys(("gc", "prune", "rmi"), "machines gc"),
    **dict.fromkeys(("hosts", "down", "teardown"), "machines rented"),
    "label": "info RUN +LABEL",
    **dict.fromkeys(("sinfo", "nodes"), "machines status"),
    **dict.fromkeys(("machines list", "machines ls", "machines show", "host", "remote"), "machines"),
    **dict.fromkeys(("gpus", "show-gpus", "machine-types", "prices", "pricing"), "machines --all"),
    "notify": "secret test",
    **dict.fromkeys(("secret list", "secret ls", "secret show", "env"), "secret"),
    **dict.fromkeys(("secret add", "secret create"), "secret set"),
    "schema": "help --schema",
    "skill": "help --agents",
    "film": "report RUN",
    "machines whoami": "whoami",
    **dict.fromkeys(
        ("move", "machines move"), "`remoterun stop RUN` and then `remoterun rerun RUN -t NAME` move a run."
    ),
    # options
    **{f"--{state.value}": f"--state {state.value}" for state in RunState},
    **dict.fromkeys(("--detach", "--async", "--no-wait"), "-b"),
    **dict.fromkeys(("rm -f", "rm --force", "cp -f", "cp --force"), "-y"),
    **dict.fromkeys(("-o", "--output", "--format", "ps -q", "ps --quiet"), "--json"),
    **dict.fromkeys(("-v", "--volume"), "-m"),
    **dict.fromkeys(("--name", "run -n", "--job-name"), "--label"),
    **dict.fromkeys(("-p", "--publish"), "--port"),
    **dict.fromkeys(("ps -f", "--filter"), "--state"),
    **dict.fromkeys(("stop -t", "stop --time", "stop --timeout"), "--grace"),
    "logs -t": "--timestamps",
    "run --rm": "A run and its files stay until `remoterun rm` removes them.",
    **dict.fromkeys(("top -t", "machines --status"), "`remoterun machines status` shows what machines do."),
    "exec -i": "`remoterun exec RUN bash` is a terminal without it.",
    **dict.fromkeys(("-i", "--interactive"), "`--stdin` sends input; `remoterun exec RUN` opens a shell in a run."),
    **dict.fromkeys(("-r", "cp -R", "cp -a"), "A folder, or a run, is taken with all that it holds."),
    **dict.fromkeys(("ls -l", "ls -a"), "Sizes and hidden files are shown; `-r` shows what is in folders, too."),
}
"""Words of other tools, and of an older remoterun, some behind the command that they belong to → what is typed for them
here: a command, an option where the command has it, or a sentence about that."""


class Commands(TyperGroup):
    """All commands, under their headings."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write_usage("remoterun", "COMMAND ...   `remoterun help COMMAND` explains one")
        formatter.write_text(self.help or "")
        formatter.write_text("Also: `--version`, and `--install-completion` for the Tab key.")
        for heading, words in COMMANDS.items():
            if not heading:
                continue
            rows = [(word, self.commands[word].get_short_help_str(64)) for word in words]
            with formatter.section(heading):
                formatter.write_dl(rows)


def parser_error() -> Any:
    """The root of what the parser raises; typer does not export it, and brings a parser of its own since 0.29."""
    return next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _group(name: str, text: str) -> typer.Typer:
    """A command that lists, with commands of its own below it."""
    group = typer.Typer(help=text, rich_markup_mode=None, invoke_without_command=True)
    app.add_typer(group, name=name)
    return group


app = typer.Typer(
    cls=Commands,
    name="remoterun",
    help="Put `remoterun run` in front of your command: it runs on a machine you own.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
machines_app = _group("machines", "List machines; add, inspect and remove them.")
secret_app = _group("secret", "Keep secrets, such as tokens, for runs.")


def argument(metavar: str, help: str, complete: Complete = None, **more: Any) -> Any:
    """What is typed at its place."""
    return typer.Argument(metavar=metavar, help=help, autocompletion=complete, **more)


def option(form: str, help: str, complete: Complete = None, **more: Any) -> Any:
    """An option, whose `form` is as in the help: "-n --name NAME", or "--once"."""
    words = form.split()
    names = [word for word in words if word.startswith("-")]
    metavar = next((word for word in words if not word.startswith("-")), None)
    return typer.Option(*names, metavar=metavar, help=help, autocompletion=complete, **more)


RunNumber = Annotated[str, argument("RUN", "A run's number, or `last`.", complete.run_numbers)]
RunNumbers = Annotated[list[str], argument("RUN...", "Run numbers, a range (12-17), or `last`.", complete.active_runs)]


def _of_run(text: str) -> str:
    """The resource of a run whose number was typed, or `last`, unless a folder here has that name."""
    first = text.split("/")[0]
    return f"runs/{text}" if (first == LAST or first.isdecimal()) and not os.path.exists(text) else text


WithModel = Annotated[
    str,
    argument(
        "RESOURCE",
        "A run, an upload, or a folder of this machine, with a model in it.",
        complete.resources,
        callback=_of_run,
    ),
]
Json = Annotated[bool, option("--json", "JSON on stdout.")]
Wait = Annotated[
    str, option("--wait TIME", "How long a machine may take to answer: 10s, 1m. Default: 2s.", show_default=False)
]
Quiet = Annotated[
    bool,
    option("-q --quiet", "No messages except warnings, errors and questions.", callback=lambda on: render.be_quiet(on)),
]
Background = Annotated[bool, option("-b --background", "Hand the run over and return; no log.")]
Pay = Annotated[
    float | None,
    option(
        "--pay DOLLARS",
        "Agree to rent a host that costs so much an hour, or `unknown`; -y does not above $5.",
        parser=parse_price,
        rich_help_panel="More",
    ),
]
RunAsJson = Annotated[bool, option("--json", "With -b: the run as JSON on stdout.")]
Machine = Annotated[
    str | None, option("-t --machine-type NAME", options_in(Asked)["machine"].help, complete.machine_types)
]


@app.callback()
def top(
    version: Annotated[bool, option("-V --version", "Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        render.out(f"remoterun {__version__}")
        raise typer.Exit


def typed_options(options: Iterable[inspect.Parameter]) -> Callable[[Function], Function]:
    """Give a command these options in the place of its parameter `**typed`."""

    def decorate(function: Function) -> Function:
        own = [each for each in inspect.signature(function, eval_str=True).parameters.values() if each.name != "typed"]
        parameters = [*options, *(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own)]
        function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return function

    return decorate


def example(text: str) -> str:
    """The end of a command's help: command lines."""
    return "Example:\n  " + text.replace("\n", "\n  ")


def run_number(text: str) -> str:
    """What was typed for a run as the client takes it: a number, or `last`. UsageError if it is neither."""
    number = text.removeprefix("runs/").rstrip("/")
    several = parse_range(text)
    if several and len(several) == 1:
        return str(several[0])
    if several:
        raise UsageError(
            f"`{text}` names several runs, and one is meant", hint=f"its number, from {several[0]} to {several[-1]}"
        )
    if number != LAST and not number.isdecimal():
        raise UsageError(f"`{text}` is not a run number", hint="remoterun ps")
    return number


def run_numbers(client: Client, texts: Iterable[str]) -> list[int]:
    """The numbers that were typed, also as `last` and as ranges, each once. Raises `UsageError`, `NotFound`."""
    return client.runs.numbers(text if parse_range(text) else run_number(text) for text in texts)


def for_each(things: Sequence[T], do: Callable[[T], None]) -> int:
    """The exit status. An error is shown, once for all that have the same, and raised where there is one thing only."""
    status, shown = 0, set()
    for thing in things:
        try:
            do(thing)
        except RemoterunError as error:
            if len(things) == 1:
                raise
            if error.message not in shown:
                render.error(error)
            shown.add(error.message)
            status = max(status, error.exit_status)
    return status


MORE = "More"
"""The options of a command that not everybody needs stand below this word."""


class Command(TyperCommand):
    """A command whose help names arguments as the README does."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        pieces = [re.sub(r"[{}]", "", piece) for piece in super().collect_usage_pieces(ctx)]
        return [piece.removesuffix("...") if "…" in piece else piece for piece in pieces]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": [], MORE: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                name, text = record
                text = re.sub(r"; x>=\d+\]$", "]", re.sub(r"  \[(required|x>=\d+)\]$", "", text))
                section = getattr(parameter, "rich_help_panel", None) or f"{parameter.param_type_name.capitalize()}s"
                sections[section].append((re.sub(r" <\S+>$", "", name), text))
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The example. A command line that is too long goes on in the next line, as a shell takes it."""
        title, *lines = (self.epilog or "").splitlines()
        formatter.write_paragraph()
        formatter.write(f"{title}\n")
        for line in lines:
            shown = ""
            for word in re.findall(r"""(?:'[^']*'|"[^"]*"|\S)+""", line):
                if shown and len(shown) + len(word) > formatter.width - 4:
                    formatter.write(f"  {shown} \\\n")
                    shown = " "
                shown += f" {word}" if shown else word
            formatter.write(f"  {shown}\n")


class RunThenCommand(Command):
    """A command that takes a run, options, and the words of a command of the user's: `rerun 12 -t box python x.py -v`.

    Options stand before and after the run; from the first word after it on, or after `--`, all is the user's.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        before, rest = self._split(ctx, args)
        after, command = self._split(ctx, rest[1:])
        parsed: list[str] = super().parse_args(ctx, [*before, *after, "--", *rest[:1], *command])
        return parsed

    def _split(self, ctx: Any, words: list[str]) -> tuple[list[str], list[str]]:
        """The options that `words` begin with, and what follows; a `--` between them is in neither."""
        parser = type(self.make_parser(ctx))(ctx)
        for each in self.get_params(ctx):
            if each.param_type_name == "option":
                each.add_to_parser(parser, ctx)
        _, rest, _ = parser.parse_args(list(words))
        options = words[: len(words) - len(rest)]
        return options[:-1] if options[-1:] == ["--"] else options, rest
