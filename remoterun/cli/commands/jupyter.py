"""`jupyter`: JupyterLab on a machine, in your browser."""

from __future__ import annotations

import math
import secrets
from typing import Annotated, Any

from remoterun.agent.shared.spec import NONE, PYTHON, TENSORFLOW, PortSpec
from remoterun.cli.app import Command, Pay, app, example, option
from remoterun.cli.asking import client as connect
from remoterun.cli.commands.run import send_and_launch
from remoterun.cli.follow import JUPYTER, Showing, some_port
from remoterun.cli.options import parsed, takes, with_values
from remoterun.cli.to_send import Sending
from remoterun.errors import UsageError
from remoterun.model import Asked
from remoterun.parsing import parse_duration

PORT = 8888
TOKEN = "JUPYTER_TOKEN"
"""The variable from which Jupyter takes the token: so it stands in no process list."""


@app.command(cls=Command, epilog=example("remoterun jupyter -m uploads/doom:data --pip pandas"))
@takes("machine", "mounts", "env", "pip", "gpus")
def jupyter(
    framework: Annotated[
        str,
        option(
            "--framework NAME",
            "What the environment has beside Jupyter: python, tensorflow.",
            lambda incomplete: [PYTHON, TENSORFLOW],
        ),
    ] = PYTHON,
    idle: Annotated[str, option("--idle TIME", "It ends after so long without use: 30m, 1h.")] = "1h",
    yes: Annotated[bool, option("-y --yes", "Ask nothing: send tracked files, rent up to $5/h.")] = False,
    no_browser: Annotated[bool, option("--no-browser", "Only print the address.")] = False,
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
