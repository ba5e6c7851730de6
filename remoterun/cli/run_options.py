"""Options that mean the same to every command that starts a run."""

from __future__ import annotations

from typing import Annotated

import typer

from remoterun.cli import complete

Mounts = Annotated[
    list[str],
    typer.Option(
        "-m",
        "--mount",
        metavar="RESOURCE[:PATH]",
        help="Make an upload, or a run's outputs, readable at PATH. Repeat for more.",
        autocompletion=complete.resources,
    ),
]
Variables = Annotated[
    list[str],
    typer.Option(
        "-e", "--env", metavar="K[=V]", help="An environment variable; K alone takes its value here. Repeat for more."
    ),
]
Pip = Annotated[
    list[str], typer.Option("--pip", metavar="PACKAGE", help="A Python package to install. Repeat for more.")
]
Timeout = Annotated[
    str | None,
    typer.Option(
        "--timeout",
        metavar="TIME",
        help="Stop the run so long after its first start, over all attempts: 90s, 10m, 2h; a plain number is minutes.",
    ),
]
Notify = Annotated[
    list[str],
    typer.Option(
        "--notify",
        metavar="URL|NAME",
        help="Who gets word when it ends: a webhook, or a secret that is one; `none` for nobody. Repeat for more.",
        autocompletion=complete.secrets,
    ),
]
Attempts = Annotated[
    int | None,
    typer.Option(
        "--attempts",
        metavar="N",
        help="How often it may start if its machine goes down; values of -e stay on it till the last attempt ends.",
        min=1,
    ),
]
MaxCost = Annotated[float | None, typer.Option("--max-cost", metavar="$", help="The same limit, in US dollars.")]
Background = Annotated[bool, typer.Option("-b", "--background", help="Hand the run over and return; no log.")]
RunAsJson = Annotated[bool, typer.Option("--json", help="With -b: the run as JSON on stdout.")]
