"""Servers inside runs, on this machine: `forward`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from remoterun.agent.shared.spec import PortSpec, RunSpec
from remoterun.agent.shared.states import RunState
from remoterun.cli import render
from remoterun.cli.app import Json, RunNumber, app, example, run_number
from remoterun.cli.connect import client as connect
from remoterun.cli.forwarding import Forwards
from remoterun.cli.manual import Command
from remoterun.errors import HostError, UsageError
from remoterun.model import parse_port

if TYPE_CHECKING:
    from remoterun.client import Client, PortNews
    from remoterun.model import Run


@app.command(cls=Command, epilog=example("remoterun forward last 6006"))
def forward(
    run: RunNumber,
    ports: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PORT[:LOCAL]…", help="A port of the run, and the one here. Default: those of run --port."
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Reach ports of a run at 127.0.0.1 of this machine, until ^C.

    The server in the run may listen on 127.0.0.1, too. Nothing is published on the host.
    """
    wanted = [parse_port(text) for text in ports or ()]
    with connect() as client:
        known = client.runs.get(run_number(run))
        if known.final:
            raise UsageError(
                f"run {known.number} has ended: {render.state_text(known)}", hint="remoterun ps shows which run"
            )
        return hold(client, known, wanted or _named(client, known), json)


def hold(client: Client, run: Run, ports: list[PortSpec], json: bool = False) -> int:
    """Forward ports until ^C, or until the run ends."""
    from remoterun.cli.follow import STEPS, show_note
    from remoterun.client import Note, StateChange

    steps = render.Steps()

    def told(number: int, news: PortNews) -> None:
        if json and news.kind == "up":
            address = {"address": news.address, "port": news.port, "local": news.local}
            render.out_json({"run": number, **address})
            render.finish()

    try:
        with Forwards(client, ports, steps.say, told) as forwards:
            for item in client.runs.follow(run.number, log=False):
                if isinstance(item, Note):
                    show_note(item, steps, run)
                elif isinstance(item, StateChange):
                    if item.run.final:
                        steps.abandon()
                        render.ending(item.run)
                    elif item.state in STEPS and not item.past:
                        steps.at(STEPS[item.state])
                    elif item.state is RunState.RUNNING:
                        steps.clear()
                    forwards.at(item)
    except KeyboardInterrupt:
        steps.abandon()
        render.line("")
    return 0


def _named(client: Client, run: Run) -> list[PortSpec]:
    """The ports that `run --port` named. Raises `UsageError` without any."""
    known, details = client.runs.info(run.number)
    if details["spec"] is None:
        raise HostError(known.unreached or f"{known.host.name} does not know run {run.number} yet", hint="try again")
    named = list(RunSpec.from_record(details["spec"]).ports)
    if not named:
        raise UsageError(f"run {run.number} was given no --port", hint=f"remoterun forward {run.number} 6006")
    return named
