"""`forward`: ports of a run, at 127.0.0.1 of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from remoterun.agent.shared.spec import PortSpec
from remoterun.cli import render
from remoterun.cli.app import Command, Json, RunNumber, app, argument, example, run_number
from remoterun.cli.asking import client as connect
from remoterun.cli.follow import HERE, JUPYTER, Told, forward_until_end
from remoterun.cli.render import run_views
from remoterun.client import Client
from remoterun.errors import UsageError
from remoterun.model import Run
from remoterun.parsing import parse_port

if TYPE_CHECKING:
    from remoterun.client.live.ports import PortNews


@app.command(cls=Command, epilog=example("remoterun forward last 6006"))
def forward(
    run: RunNumber,
    ports: Annotated[
        list[str] | None,
        argument("PORT[:LOCAL]...", "A port of the run, and the one here. Default: those of `run --port`."),
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
            raise UsageError(f"run {known.number} has ended: {run_views.state_text(known)}", hint="remoterun ps")
        token = client.runs.tokens.find(known.key)
        named = _named(client, known) if token is not None or not wanted else []
        notebooks = token is not None and all(each.port in {port.port for port in named} for each in wanted)
        told = _as_json if json else _once("^C ends it; the run goes on")
        return forward_until_end(client, known, wanted or named, told, server=JUPYTER if notebooks else "")


def _as_json(number: int, news: PortNews, address: str) -> None:
    if news.kind == "up":
        address = address.replace(f"run-{number}.localhost", HERE)  # not each program knows that name
        render.out_json({"run": number, "address": address, "port": news.port, "local": news.local})
        render.finish()


def _once(text: str) -> Told:
    """Says so with the first news."""
    unsaid = [text]

    def told(number: int, news: PortNews, address: str) -> None:
        while unsaid:
            render.line(f"  {unsaid.pop()}")

    return told


def _named(client: Client, run: Run) -> list[PortSpec]:
    """The ports that `run --port` named. Raises `UsageError` without any."""
    named = list(client.runs.ports(run.number))
    if not named:
        raise UsageError(f"run {run.number} was given no --port", hint=f"remoterun forward {run.number} 6006")
    return named
