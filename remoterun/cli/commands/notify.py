"""Word of runs: `notify test`. Who gets it is said by `run --notify` and by `notify` in config.toml."""

from __future__ import annotations

from typing import Annotated

import typer

from remoterun.cli import complete, render
from remoterun.cli.app import Machine, example, notify_app
from remoterun.cli.connect import client as connect
from remoterun.cli.help import Command
from remoterun.errors import HostError, UsageError


@notify_app.callback()
def notify() -> None:
    """Try the addresses that get word of runs."""


@notify_app.command("test", cls=Command, epilog=example("remoterun notify test ntfy://ntfy.sh/my-runs -t box"))
def notify_test(
    addresses: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="URL|NAME...",
            help="A webhook, or a secret that is one. Default: `notify` in config.toml.",
            autocompletion=complete.secrets,
        ),
    ] = None,
    machine: Machine = None,
) -> int:
    """Send a test message, from here or from a machine.

    Shows what the server answered.
    """
    failed = False
    with connect() as client:
        asked = addresses or list(client.config.notify)
        if not asked:
            raise UsageError(
                f"`notify` is not set in {client.config.file}", hint="remoterun notify test ntfy://ntfy.sh/TOPIC"
            )
        named = [(word, name) for word in asked for name in client.notifications.names([word])]
        for address, name in named:
            try:
                render.line(render.DONE, f"{name} answered {client.notifications.test(address, machine)}")
            except HostError as error:
                render.line(render.FAILED, f"{name} did not get it: {error.message.removeprefix('local: ')}")
                failed = True
    return 125 if failed else 0
