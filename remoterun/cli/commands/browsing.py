"""What is reached with a browser: `forward`, `open`, `jupyter`."""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remoterun.agent.shared.spec import NONE, PYTHON, TENSORFLOW, PortSpec
from remoterun.cli import render
from remoterun.cli.app import Command, Json, Pay, RunNumber, WithModel, app, example, run_number
from remoterun.cli.asking import client as connect
from remoterun.cli.commands.run import send_and_launch
from remoterun.cli.follow import HERE, JUPYTER, Showing, Told, forward_until_end, some_port
from remoterun.cli.options import parsed, takes, with_values
from remoterun.cli.render import file_views, live_views, run_views
from remoterun.cli.to_send import Sending
from remoterun.errors import UsageError
from remoterun.model import Asked
from remoterun.parsing import parse_duration, parse_port

if TYPE_CHECKING:
    from remoterun.client import Client
    from remoterun.client.live.ports import PortNews
    from remoterun.model import Run


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


@app.command("open", cls=Command, epilog=example("remoterun open runs/15"))
def open_page(
    source: WithModel,
    port: Annotated[int, typer.Option("--port", metavar="N", help="Default: a free one.", show_default=False)] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
    json: Json = False,
) -> None:
    """Let a model write in a page of your browser, until ^C.

    The page is served on this machine, to everybody who has its whole address. Of a run that still trains it shows the
    newest model.
    """
    from remoterun.cli import browser
    from remoterun.model_page import libraries
    from remoterun.ui.models import Page

    with connect() as client, live_views.progress() as progress:
        model = client.files.model(source, progress)
        page = Page(model, libraries(client.config.home, render.line), port)
    with page:
        try:
            file_views.page(page, json)
            shown = not no_browser and browser.show(page.address)
            file_views.page_shown(page.port, shown, browser.far_away())
            page.serve()
        except KeyboardInterrupt:  # the way to end it
            render.line("")


PORT = 8888
TOKEN = "JUPYTER_TOKEN"
"""The variable from which Jupyter takes the token: so it stands in no process list."""


@app.command(cls=Command, epilog=example("remoterun jupyter -m uploads/doom:data --pip pandas"))
@takes("machine", "mounts", "env", "pip", "gpus")
def jupyter(
    framework: Annotated[
        str,
        typer.Option(
            "--framework",
            metavar="NAME",
            help="What the environment has beside Jupyter: python, tensorflow.",
            autocompletion=lambda incomplete: [PYTHON, TENSORFLOW],
        ),
    ] = PYTHON,
    idle: Annotated[
        str, typer.Option("--idle", metavar="TIME", help="It ends after so long without use: 30m, 1h.")
    ] = "1h",
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Ask nothing: send tracked files, rent up to $5/h.")] = False,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
    pay: Pay = None,
    **typed: Any,
) -> int:
    """Open JupyterLab on a machine, in your browser.

    It starts with the current folder's work tree; notebooks are outputs of the run. ^C leaves it running.
    """
    from remoterun.cli.follow import follow

    if framework not in (PYTHON, TENSORFLOW):
        raise UsageError(
            "JupyterLab needs Python" if framework == NONE else f"`{framework}` is not a framework",
            hint=f"--framework {PYTHON}|{TENSORFLOW}",
        )
    token = secrets.token_urlsafe(16)
    port = some_port()
    fixed = Asked(
        command=_command(port, math.ceil(parse_duration(idle))),
        pip=("jupyterlab",),
        framework=framework,
        description="JupyterLab",
        labels=("jupyter",),
        ports=(PortSpec(port, PORT),),
    )
    request = with_values(with_values(fixed, parsed(typed)), {"env": ((TOKEN, token),)})
    machine = request.machine
    with connect() as client:
        client.machines.get(machine)  # refuse a wrong name before anything is asked
        run = send_and_launch(client, request, machine, Sending(None, False, False, yes), yes, pay=pay)
        assert run is not None
        client.runs.tokens.keep(run.key, token)
        show = Showing(no_browser)
        show.ending = f"^C leaves it running; `remoterun forward {run.number}` comes back"
        return follow(
            client,
            run,
            client.runs.follow(run.number, values=dict(request.env)),
            from_start=True,
            ports=request.ports,
            told=show,
            server=JUPYTER,
        )


def _command(port: int, idle: int) -> str:
    """JupyterLab, which ends once nobody has used it for `idle` seconds; a cell that still computes is a use."""
    words = [
        "jupyter lab --no-browser --ip=127.0.0.1 --ServerApp.local_hostnames=localhost",
        "--ServerApp.local_hostnames=run-$REMOTERUN_RUN.localhost",
        f"--port={port} --ServerApp.port_retries=0 --ServerApp.allow_root=True",
        "--log-level=WARN --LabApp.log_level=WARN",
        f"--ServerApp.shutdown_no_activity_timeout={idle}",
        f"--MappingKernelManager.cull_idle_timeout={idle} --MappingKernelManager.cull_connected=True",
        f"--MappingKernelManager.cull_interval={min(60, idle)} --TerminalManager.cull_inactive_timeout={idle}",
        f"--TerminalManager.cull_interval={min(60, idle)}",
    ]
    return " ".join(words)
