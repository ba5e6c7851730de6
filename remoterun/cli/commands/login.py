"""`login` and `logout`: one login for all commands that follow."""

from __future__ import annotations

from typing import Annotated

from remoterun.cli import complete, render
from remoterun.cli.app import Command, app, argument, example, option
from remoterun.cli.asking import client as connect
from remoterun.parsing import parse_duration

MachineName = Annotated[str, argument("MACHINE", "A machine, as after -t.", complete.machine_types)]


@app.command(cls=Command, epilog=example("remoterun login box --for 12h"))
def login(
    machine: MachineName,
    idle: Annotated[str, option("--for TIME", "It ends when nothing has used it for so long.")] = "8h",
) -> None:
    """Log in to a machine once, for all commands that follow.

    For a machine that wants a code or a password each time: the system's ssh asks in your terminal, and no command asks
    after that.
    """
    seconds = parse_duration(idle)
    with connect() as client:
        opened = client.machines.login(machine, seconds, batch=not render.can_ask())
    render.line(f"{machine}: {'logged in' if opened else 'a login is open'}; `remoterun logout {machine}` ends it")


@app.command(cls=Command, epilog=example("remoterun logout box"))
def logout(machine: MachineName) -> None:
    """End what `login` opened. Runs go on."""
    with connect() as client:
        ended = client.machines.logout(machine)
    render.line(f"{machine}: {'logged out; runs go on' if ended else 'no login is open'}")
