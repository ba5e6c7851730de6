"""`continue`: another rented host for a run that was interrupted."""

from __future__ import annotations

from typing import Annotated

from remoterun.cli.app import Background, Command, Pay, Quiet, RunAsJson, RunNumber, app, example, option, run_number
from remoterun.cli.asking import agree
from remoterun.cli.asking import client as connect
from remoterun.cli.commands.run import follow_or_report
from remoterun.cli.render import live_views
from remoterun.client.runs.preparing import Talk
from remoterun.errors import UsageError
from remoterun.model import RunRequest


@app.command("continue", cls=Command, epilog=example("remoterun continue 7"))
def continue_(
    run: RunNumber,
    background: Background = False,
    yes: Annotated[bool, option("-y --yes", "Ask nothing: rent what it needs, up to $5/h.")] = False,
    pay: Pay = None,
    quiet: Quiet = False,
    json: RunAsJson = False,
) -> int:
    """Give an interrupted run another rented host.

    It goes on under its number, with what it had saved: its command starts again. Before anything is rented, what that
    costs is shown and asked about, as for a new run; a free host of yours is used if one fits. Values of -e are saved
    nowhere: export them first.
    """
    if json and not background:
        raise UsageError("--json goes with -b", hint="without -b, stdout is the command's own")
    with connect() as client:
        with live_views.waiting() as waiting:
            plan = client.runs.plan_next(run_number(run), waiting)
        plan = agree(client, plan, None, yes, pay)
        with live_views.waiting() as waiting, live_views.progress() as progress:
            taken = client.runs.continue_(run_number(run), plan, Talk(progress, waiting))
        return follow_or_report(client, taken, RunRequest(taken.command), background, json)
