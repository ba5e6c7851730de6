"""`whoami`: user, home, default machine, and the login at a provider."""

from __future__ import annotations

from remoterun.cli import render
from remoterun.cli.app import Command, Json, app, example
from remoterun.cli.asking import client as connect
from remoterun.cli.render import machine_views
from remoterun.clouds import ARCHIVE, front
from remoterun.errors import RemoterunError


@app.command(cls=Command, epilog=example("remoterun whoami --json"))
def whoami(json: Json = False) -> None:
    """Show user, home, default machine, and the login at a provider.

    No machine is asked; the provider is, where there is a login.
    """
    with connect() as client:
        identity = None
        if front(ARCHIVE).can_log_in(client.config):
            try:
                identity = client.hosts.identity(ARCHIVE)
            except RemoterunError as error:  # the rest is true all the same
                render.warning(error.message)
        machine_views.whoami(client.config, identity, json)
