"""Rented hosts: `hosts`, and `hosts end`."""

from __future__ import annotations

from typing import Annotated

import typer

from remoterun.cli import render
from remoterun.cli.app import Json, example, hosts_app
from remoterun.cli.connect import client as connect
from remoterun.cli.help import Command
from remoterun.cli.several import for_each


@hosts_app.callback()
def hosts(context: typer.Context, json: Json = False) -> None:
    """List the hosts that are rented now, and what they have cost so far.

    What is listed is what their provider says, from any machine with the same account. COST is from a host's start on,
    with the minutes in which it has no run; IDLE is what those cost so far, of hosts whose runs this machine knows.
    """
    if context.invoked_subcommand is None:
        with connect() as client:
            found = client.hosts.list()
            idle = client.hosts.idle_since(found)
        render.hosts_table(found, idle, json)


@hosts_app.command("end", cls=Command, epilog=example("remoterun hosts end i-0123456789abcdef0"))
def hosts_end(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Hosts as `remoterun hosts` lists them.")],
) -> int:
    """End rented hosts now. What of their runs is not saved is lost."""
    with connect() as client:

        def end(id: str) -> None:
            client.hosts.end(id)
            render.line(f"host {id} is ending")

        return for_each(ids, end)
