"""The application that commands register with, and what they share: option types, examples in their help."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from remoterun import __version__
from remoterun.cli import complete, render
from remoterun.errors import UsageError
from remoterun.model import LAST

app = typer.Typer(
    name="remoterun",
    help="Put `remoterun run` in front of your command: it runs on a machine you own.",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class MachinesGroup(TyperGroup):
    """Takes `machines --status NAME…` for `machines status NAME…`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = [word for word in args if word != "--status"]
        return super().parse_args(ctx, args if len(words) == len(args) else ["status", *words])


machines_app = typer.Typer(
    cls=MachinesGroup, help="List, add and remove machines.", rich_markup_mode=None, invoke_without_command=True
)
app.add_typer(machines_app, name="machines")
hosts_app = typer.Typer(help="List and end rented hosts.", rich_markup_mode=None, invoke_without_command=True)
app.add_typer(hosts_app, name="hosts")
secret_app = typer.Typer(help="Keep values that runs get by name.", rich_markup_mode=None, invoke_without_command=True)
app.add_typer(secret_app, name="secret")
notify_app = typer.Typer(help="Try the addresses that get word of runs.", rich_markup_mode=None, no_args_is_help=True)
app.add_typer(notify_app, name="notify")

RunNumber = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run's number, or `last`.", autocompletion=complete.run_numbers),
]
RunNumbers = Annotated[
    list[str], typer.Argument(metavar="RUN...", help="Run numbers, or `last`.", autocompletion=complete.active_runs)
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
Wait = Annotated[
    str,
    typer.Option(
        "--wait",
        metavar="TIME",
        help="How long a machine may take to answer: 10s, 1m. Default: 2s.",
        show_default=False,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "-q",
        "--quiet",
        help="No messages except warnings, errors and questions.",
        callback=lambda on: render.be_quiet(on),
    ),
]
Background = Annotated[bool, typer.Option("-b", "--background", help="Hand the run over and return; no log.")]
RunAsJson = Annotated[bool, typer.Option("--json", help="With -b: the run as JSON on stdout.")]
MACHINE_HELP = "Where: local, a name of `remoterun machines`, an alias of ~/.ssh/config, or user@host."
Machine = Annotated[
    str | None,
    typer.Option("-t", "--machine-type", metavar="NAME", help=MACHINE_HELP, autocompletion=complete.machine_types),
]


@app.callback()
def top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        render.out(f"remoterun {__version__}")
        raise typer.Exit


def example(text: str) -> str:
    """The end of a command's help: command lines, kept as they are."""
    return "\b\nExample:\n  " + text.replace("\n", "\n  ")


def run_number(text: str) -> str:
    """What was typed for a run as the client takes it: a number, or `last`. UsageError if it is neither."""
    number = text.removeprefix("runs/").rstrip("/")
    if number != LAST and not number.isdecimal():
        several = re.fullmatch(r"(\d+)-(\d+)", number)
        hint = f"name each run by its number: {several[1]} … {several[2]}" if several else "remoterun ps"
        raise UsageError(f"`{text}` is not a run number", hint=hint)
    return number
