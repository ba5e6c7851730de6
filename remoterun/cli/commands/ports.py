"""Servers inside runs, on this machine: `forward`."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from remoterun.agent.shared.spec import PortSpec, RunSpec
from remoterun.agent.shared.states import RunState
from remoterun.cli import browser, render
from remoterun.cli.app import Json, RunNumber, app, example, run_number
from remoterun.cli.connect import client as connect
from remoterun.cli.forwarding import JUPYTER, Forwards, Told
from remoterun.cli.help import Command
from remoterun.errors import HostError, UsageError
from remoterun.parsing import parse_port

if TYPE_CHECKING:
    from remoterun.client import Client, PortNews, StateChange
    from remoterun.model import Run

PORTS = 20000, 30000


@app.command(cls=Command, epilog=example("remoterun forward last 6006"))
def forward(
    run: RunNumber,
    ports: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PORT[:LOCAL]...", help="A port of the run, and the one here. Default: those of `run --port`."
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
            raise UsageError(f"run {known.number} has ended: {render.state_text(known)}", hint="remoterun ps")
        token = client.runs.tokens.find(known.key)
        named = _named(client, known) if token is not None or not wanted else []
        notebooks = token is not None and all(each.port in {port.port for port in named} for each in wanted)
        told = _as_json if json else _until_interrupted()
        return forward_until_end(client, known, wanted or named, told, server=JUPYTER if notebooks else "")


class Showing:
    """Shows the first address in the browser."""

    def __init__(self, no_browser: bool) -> None:
        self._wanted = not no_browser
        self.ending = "^C ends it"
        self.more = ""
        """Another line, about the page."""

    def __call__(self, number: int, news: PortNews, address: str) -> None:
        if news.kind != "up":
            return
        shown = self._wanted and browser.show(address)
        self._wanted = False
        render.page_shown(news.local, shown, browser.far_away(), self.ending)
        if self.more:
            render.line(f"  {self.more}")


def some_port() -> int:
    """A port that nobody else is likely to use, where runs have the network of their machine."""
    return random.randrange(*PORTS)


class Beside(Protocol):
    """What is done beside the forwarding of ports."""

    def at(self, change: StateChange) -> None:
        """The run has come to this state."""


def forward_until_end(
    client: Client,
    run: Run,
    ports: list[PortSpec],
    told: Told = lambda number, news, address: None,
    beside: Beside | None = None,
    server: str = "",
) -> int:
    """Forward ports until ^C, or until the run ends; the exit status. `server` is what answers there."""
    from remoterun.cli.follow import STEPS, show_note
    from remoterun.client import Note, StateChange

    steps = render.Steps()
    try:
        with Forwards(client, ports, steps.say, told, server) as forwards:
            for item in client.runs.follow(run.number, log=False):
                if isinstance(item, Note):
                    show_note(item, steps, run)
                elif isinstance(item, StateChange):
                    run = item.run
                    if run.final:
                        steps.abandon()
                        render.ending(run)
                    elif item.state in STEPS and not item.past:
                        steps.at(STEPS[item.state])
                    elif item.state is RunState.RUNNING:
                        steps.clear()
                    forwards.at(item)
                    if beside is not None:
                        beside.at(item)
    except KeyboardInterrupt:
        steps.abandon()
        render.line("")
    return 0


def _as_json(number: int, news: PortNews, address: str) -> None:
    if news.kind == "up":
        render.out_json({"run": number, "address": address, "port": news.port, "local": news.local})
        render.finish()


def _until_interrupted() -> Told:
    hinted = threading.Event()

    def told(number: int, news: PortNews, address: str) -> None:
        if news.kind in ("waiting", "up") and not hinted.is_set():
            hinted.set()
            render.line("  ^C ends it; the run goes on")

    return told


def _named(client: Client, run: Run) -> list[PortSpec]:
    """The ports that `run --port` named. Raises `UsageError` without any."""
    known, details = client.runs.info(run.number)
    if details["spec"] is None:
        raise HostError(known.unreached or f"{known.host.name} does not know run {run.number} yet", hint="try again")
    named = list(RunSpec.from_record(details["spec"]).ports)
    if not named:
        raise UsageError(f"run {run.number} was given no --port", hint=f"remoterun forward {run.number} 6006")
    return named
