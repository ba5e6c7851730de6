"""The page of runs, in the browser: `ui`."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Annotated, Any

from remoterun.agent.shared.files import unless_held, write_whole
from remoterun.cli import complete, render
from remoterun.cli.app import Command, Json, app, argument, example, option, run_number
from remoterun.cli.render import file_views
from remoterun.client import Client
from remoterun.errors import RemoterunError, UsageError


@app.command(cls=Command, epilog=example("remoterun ui last"))
def ui(
    run: Annotated[
        str, argument("[RUN]", "Opens this run: its number, or `last`.", complete.run_numbers, show_default=False)
    ] = "",
    port: Annotated[int, option("--port N", "Default: as before, or a free one.", show_default=False)] = 0,
    no_browser: Annotated[bool, option("--no-browser", "Only print the address.")] = False,
    json: Json = False,
) -> None:
    """Show your runs in a page of your browser, live, until ^C.

    The page is served on this machine, to everybody who has its whole address. Where it is open already, that one is
    shown.
    """
    from remoterun.cli import browser

    with Client(warn=render.warning) as client:
        path = f"runs/{client.runs.known(run_number(run)).number}" if run else ""
        home = client.config.home
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        record = str(home / "ui.json")
        with unless_held(f"{record}.lock", 1.0) as lock:
            if lock is None:
                found, address = _found(record, path)
                if port not in (0, found):
                    raise UsageError(f"the page is open already, at port {found}", hint="^C in its terminal ends it")
                file_views.runs_page(found, address, json)
                shown = not no_browser and browser.show(address, wait=True)
                file_views.page_shown(found, shown, browser.far_away(), "^C in its terminal ends it")
                return
            from remoterun.ui.page import RunsPage

            with RunsPage(client, port, _known(record).get("port", 0)) as page:
                write_whole(record, _encoded(port=page.port, pid=os.getpid(), address=page.address))
                try:
                    file_views.runs_page(page.port, page.address + path, json)
                    shown = not no_browser and browser.show(page.address + path)
                    file_views.page_shown(page.port, shown, browser.far_away())
                    page.serve()
                except KeyboardInterrupt:  # the way to end it
                    render.line("")
                finally:
                    write_whole(record, _encoded(port=page.port))  # the next one takes it


def _encoded(**known: Any) -> bytes:
    return json.dumps(known).encode()


def _known(record: str) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError), open(record, "rb") as file:
        known = json.load(file)
        return known if isinstance(known, dict) and isinstance(known.get("port"), int) else {}
    return {}


def _found(record: str, path: str) -> tuple[int, str]:
    """Where `path` is on the page of another `remoterun ui`. Raises `RemoterunError`."""
    try:
        known = _known(record)
        return known["port"], str(known["address"]) + path
    except KeyError:
        raise RemoterunError("another `remoterun ui` is starting or ending", hint="try again")
