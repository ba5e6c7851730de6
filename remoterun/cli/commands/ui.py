"""The page of runs, in the browser: `ui`."""

from __future__ import annotations

import json
import os
from typing import Annotated

from remoterun.agent.shared.files import unless_held, write_whole
from remoterun.cli import render
from remoterun.cli.app import Command, Json, app, example, option
from remoterun.cli.render import file_views
from remoterun.client import Client
from remoterun.errors import RemoterunError, UsageError


@app.command(cls=Command, epilog=example("remoterun ui --no-browser"))
def ui(
    port: Annotated[int, option("--port N", "Default: a free one.", show_default=False)] = 0,
    no_browser: Annotated[bool, option("--no-browser", "Only print the address.")] = False,
    json: Json = False,
) -> None:
    """Show your runs in a page of your browser, live, until ^C.

    The page is served on this machine, to everybody who has its whole address. Where it is open already, that one is
    shown.
    """
    from remoterun.cli import browser

    with Client(warn=render.warning) as client:
        home = client.config.home
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        record = str(home / "ui.json")
        with unless_held(f"{record}.lock", 1.0) as lock:
            if lock is None:
                found, address = _found(record)
                if port not in (0, found):
                    raise UsageError(f"the page is open already, at port {found}", hint="^C in its terminal ends it")
                file_views.runs_page(found, address, json)
                shown = not no_browser and browser.show(address, wait=True)
                file_views.page_shown(found, shown, browser.far_away(), "^C in its terminal ends it")
                return
            from remoterun.ui.page import RunsPage

            with RunsPage(client, port) as page:
                write_whole(record, _encoded(page.port, page.address))
                try:
                    file_views.runs_page(page.port, page.address, json)
                    shown = not no_browser and browser.show(page.address)
                    file_views.page_shown(page.port, shown, browser.far_away())
                    page.serve()
                except KeyboardInterrupt:  # the way to end it
                    render.line("")
                finally:
                    os.unlink(record)


def _encoded(port: int, address: str) -> bytes:
    return json.dumps({"pid": os.getpid(), "port": port, "address": address}).encode()


def _found(record: str) -> tuple[int, str]:
    """Where the page of another `remoterun ui` is. Raises `RemoterunError`."""
    try:
        with open(record, "rb") as file:
            known = json.load(file)
        return int(known["port"]), str(known["address"])
    except (OSError, ValueError, KeyError, TypeError):
        raise RemoterunError("another `remoterun ui` is starting or ending", hint="try again")
