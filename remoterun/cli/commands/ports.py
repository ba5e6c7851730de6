"""Servers inside runs, on this machine: `forward`."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from remoterun.agent.shared.spec import PortSpec, RunSpec
from remoterun.agent.shared.states import RunState
from remoterun.cli import browser, render
from remoterun.cli.app import Json, RunNumber, app, example, run_number
from remoterun.cli.connect import client as connect
from remoterun.cli.forwarding import Forwards, address
from remoterun.cli.manual import Command
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
        return forward_until_end(
            client, known, wanted or _named(client, known), _as_json(client) if json else _until_interrupted()
        )


class Showing:
    """Shows the first address in the browser."""

    def __init__(self, client: Client, no_browser: bool) -> None:
        self._client = client
        self._wanted = not no_browser
        self.ending = "^C ends it"
        self.more = ""
        """Another line, about the page."""

    def __call__(self, number: int, news: PortNews) -> None:
        if news.kind != "up":
            return
        shown = self._wanted and browser.show(address(self._client, number, news))
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
    told: Callable[[int, PortNews], None] = lambda number, news: None,
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


def _as_json(client: Client) -> Callable[[int, PortNews], None]:
    def told(number: int, news: PortNews) -> None:
        if news.kind == "up":
            where = {"address": address(client, number, news), "port": news.port, "local": news.local}
            render.out_json({"run": number, **where})
            render.finish()

    return told


def _until_interrupted() -> Callable[[int, PortNews], None]:
    hinted = threading.Event()

    def told(number: int, news: PortNews) -> None:
        if news.kind == "up" and not hinted.is_set():
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
