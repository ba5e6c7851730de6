"""`rm`: removing runs and uploads."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated

from remoterun.agent.shared.states import RunState
from remoterun.cli import complete, render
from remoterun.cli.app import Command, app, argument, example, for_each, option
from remoterun.cli.asking import client as connect
from remoterun.cli.render import file_views, run_views
from remoterun.client import Client
from remoterun.clouds import ARCHIVE
from remoterun.errors import HomeMissing, HostUnreachable, RemoterunError, UsageError
from remoterun.model import LAST, Resource, Run, Upload
from remoterun.parsing import parse_duration, parse_range
from remoterun.sizes import size as readable

WAIT = 2.0
"""Seconds that a machine has to say whether a run has ended."""


@app.command(
    cls=Command, epilog=example("remoterun rm uploads/old\nremoterun rm runs/3-9\nremoterun rm runs --older 30d")
)
def rm(
    resources: Annotated[
        list[str],
        argument(
            "RESOURCE...",
            "uploads/NAME, or a version of it (uploads/NAME@2); runs/N or N, runs/N-M, or `runs`.",
            complete.resources,
        ),
    ] = [],  # noqa: B006
    older: Annotated[str | None, option("--older TIME", "Only runs that ended longer ago than 12h, 7d.")] = None,
    failed: Annotated[bool, option("--failed", "Only runs that failed.")] = False,
    forget: Annotated[bool, option("--forget", "Forget runs whose machine never comes back.")] = False,
    yes: Annotated[bool, option("-y --yes", "Remove several without a question.")] = False,
) -> int:
    """Delete uploads, and runs that have ended, with all they hold.

    Several, also versions of one upload, and what was uploaded from elsewhere, are listed first, and asked about.
    """
    if not resources and older is None and not failed:
        raise UsageError(
            "what is to be removed has to be named", hint="`remoterun rm runs/12`, or `remoterun rm runs --older 30d`"
        )
    ended_before = time.time() - parse_duration(older) if older is not None else None
    with connect() as client:
        chosen = _chosen(client, resources or ["runs"], ended_before, failed)
        if not chosen:
            render.line("There is nothing to remove: no run that has ended matches")
        if chosen and not yes and not _agreed(client, chosen, forget):
            render.line("Nothing was removed")
            return 0
        machines: dict[str, None] = {}
        runs = {int(each.name): each for each in chosen if each.kind == "runs" and not forget}
        removed = client.runs.of_each(runs, lambda number: _remove(client, runs[number]))

        def remove(resource: Resource) -> None:
            if forget and resource.kind == "runs":
                run = client.runs.known(resource.name)
                if run.renting is not None and not run.final:
                    raise UsageError(
                        f"{resource} has a rented host, which costs", hint=f"remoterun machines gc {ARCHIVE}"
                    )
                client.runs.forget(run)
                render.line(f"{resource} is forgotten; what {run.host.name} has of it stays there")
                return
            answer = removed[int(resource.name)] if resource.kind == "runs" else _remove(client, resource)
            if isinstance(answer, RemoterunError):
                raise answer
            names, remaining = answer
            machines.update(dict.fromkeys(names))
            if names or not remaining:
                render.line(f"removed {resource}" + (f" from {', '.join(names)}" if remaining else ""))
            for machine, error in remaining.items():
                render.warning(f"{resource} remains on {machine} until the next contact with it: {error.message}")

        status = for_each(list(chosen), remove)
        for machine in machines:
            try:
                if freed := client.machines.gc(machine).freed:
                    render.line(f"  {readable(freed)} are free again on {machine}")
            except RemoterunError as error:  # such as a `gc` that is at work
                render.warning(f"the space is not free yet: {error.message}")
                render.hint(error.hint or f"remoterun machines gc {render.word(machine)}")
    return status


def _chosen(client: Client, words: list[str], ended_before: float | None, failed: bool) -> dict[Resource, Run | None]:
    """What was named; with its run where that was found by its number, its age or its end: only such as have ended."""
    filtered = ended_before is not None or failed
    known: list[Run] | None = None
    found: dict[Resource, Run | None] = {}
    for text in words:
        every = text.rstrip("/") == "runs"
        if every and not filtered:
            raise UsageError(
                "`runs` names all of them: say which",
                hint="`remoterun rm runs --older 30d`, `runs --failed`, or `runs/3-9`",
            )
        among = parse_range(text)
        if among is not None:
            client.runs.numbers([text])  # raises for one that names no run
        elif not every:
            resource = Resource.parse(text)
            if resource.sub:
                whole = Resource(resource.kind, resource.name, version=resource.version)
                raise UsageError(
                    f"{render.name(str(resource))} is inside one: only a whole upload or run can be removed",
                    hint=f"remoterun rm {whole}",
                )
            if resource.name == LAST or (filtered and resource.kind == "runs"):
                resource = client.runs.numbered(resource)
            if not filtered:
                found.setdefault(resource, None)
                continue
            if resource.kind != "runs":
                raise UsageError(
                    f"--older and --failed choose among runs, and {resource} is an upload",
                    hint=f"remoterun rm {resource}",
                )
            among = range(int(resource.name), int(resource.name) + 1)
        if known is None:
            known = list(client.runs.list(None, wait=WAIT))
        for run in known:
            if (among is None or run.number in among) and (not filtered or _fits(run, ended_before, failed)):
                if run.final or isinstance(run.fault, HomeMissing):
                    found[Resource("runs", str(run.number))] = run
                else:
                    render.line(f"run {run.number} has not ended and stays: {run_views.state_text(run)}")
    return found


def _fits(run: Run, ended_before: float | None, failed: bool) -> bool:
    if failed and run.state is not RunState.FAILED:
        return False
    return ended_before is None or (run.final and (run.ended or run.created) < ended_before)


def _agreed(client: Client, chosen: dict[Resource, Run | None], forget: bool) -> bool:
    """Whether they may be removed: a run, or a version that was uploaded from here, may without a question. Raises
    `NotFound`, and `UsageError` where nobody can be asked."""
    asks = forget or len(chosen) > 1
    shown: list[tuple[str, Run | list[Upload]]] = []
    for resource, run in chosen.items():
        if resource.kind == "uploads":
            every = client.uploads.versions(resource.name, WAIT)
            known = [each for each in every if resource.version in (None, each.version)]
            asks = asks or len(known) > 1 or not all(each.ours for each in known)
            shown.append((str(resource), known))
        else:
            shown.append((str(resource), run or client.runs.known(resource.name)))
    if not asks:
        return True
    file_views.to_remove(shown)
    kinds = {resource.kind for resource in chosen}
    what = f" {kinds.pop()}" if len(kinds) == 1 else ""
    which = f"these {len(chosen)}{what}" if len(chosen) > 1 else "it"
    if not render.can_ask():
        raise UsageError(f"{which} would be removed, and nobody is here to agree", hint="-y removes without a question")
    return render.ask(f"Remove {which}?", default=False)


def _remove(client: Client, resource: Resource) -> tuple[Sequence[str], Mapping[str, RemoterunError]]:
    """(the machines that have it no more, why it remains on others). Raises `NotFound`."""
    if resource.kind == "runs":
        try:
            machine = client.runs.remove(resource.name)
        except HostUnreachable as error:
            error.hint = f"{error.hint or 'try again'}\nremoterun rm --forget {resource.name}   if it never comes back"
            raise
        return () if machine is None else (machine,), {}
    return client.uploads.remove(resource.name, resource.version)
