"""The upkeep of a machine's home: `check`, `gc`, `df`."""

from __future__ import annotations

from typing import Annotated

import typer

from remoterun.cli import complete, render
from remoterun.cli.app import Json, app, example
from remoterun.cli.connect import client as connect
from remoterun.cli.help import Command
from remoterun.cli.pools import of_each
from remoterun.client.upkeep import Checked, Collected, Usage
from remoterun.errors import RemoterunError, UsageError
from remoterun.parsing import parse_duration
from remoterun.session import understood

Machine = Annotated[
    str | None,
    typer.Argument(
        metavar="MACHINE",
        help="As after -t; of a pool each one. Default: the default machine.",
        autocompletion=complete.machine_types,
    ),
]


@app.command(cls=Command, epilog=example("remoterun check k80"))
def check(
    machine: Machine = None,
    no_repair: Annotated[bool, typer.Option("--no-repair", help="Only say what is damaged.")] = False,
    json: Json = False,
) -> int:
    """Verify all that a machine keeps, by its SHA-256, and mend it.

    What is damaged is mended from copies on the machine, from the files that were uploaded, if they are still here and
    the same, and from other machines. The exit status is 1 if damage remains.
    """

    def show(done: Checked, as_json: bool) -> None:
        with understood(done.machine):
            render.checked(done, not no_repair, as_json)

    with connect() as client:

        def verify(name: str | None) -> Checked:
            with render.progress() as progress:
                return client.machines.check(name, repair=not no_repair, progress=progress, note=render.warning)

        found, status = of_each(client, machine, verify, show, Checked.record, json)
    return status or (0 if all(done.sound for done in found) else 1)


@app.command(cls=Command, epilog=example("remoterun gc k80 --keep 2 --dry-run"))
def gc(
    machine: Machine = None,
    keep: Annotated[
        int | None,
        typer.Option(
            "--keep", metavar="N", help="Keep only the newest N versions of each upload. Default: all.", min=1
        ),
    ] = None,
    envs: Annotated[
        bool, typer.Option("--envs", help="Also environments and images that nothing has used for a week.")
    ] = False,
    unused: Annotated[
        str | None, typer.Option("--unused", metavar="TIME", help="With --envs: for how long. Default: 7d.")
    ] = None,
    cloud: Annotated[
        bool,
        typer.Option(
            "--cloud", help="Instead: end rented hosts that no run needs, and clear what nothing needs at AWS."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="With --cloud: ask nothing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be freed.")] = False,
    json: Json = False,
) -> int:
    """Free what nothing needs on a machine. Safe while runs go on.

    That is content of no upload and no run, outputs of other machines that were brought for a mount, and what crashes
    and cut transfers left. What a run uses stays until it has ended.
    """
    if cloud:
        if machine or keep is not None or envs:
            raise UsageError("--cloud goes with --dry-run, -y and --json only", hint="remoterun gc --cloud --dry-run")
        _clear_cloud(yes, dry_run, json)
        return 0
    if yes:
        raise UsageError("-y goes with --cloud: without it nothing is asked", hint="remoterun gc --cloud -y")
    if unused is not None and not envs:
        raise UsageError("--unused is about environments", hint=f"remoterun gc --envs --unused {unused}")
    seconds = None if unused is None else parse_duration(unused, or_none=True)

    def show(done: Collected, as_json: bool) -> None:
        with understood(done.machine):
            render.collected(done, as_json)

    with connect() as client:

        def free(name: str | None) -> Collected:
            return client.machines.gc(name, keep=keep, envs=envs, unused=seconds, dry_run=dry_run)

        return of_each(client, machine, free, show, Collected.record, json)[1]


def _clear_cloud(yes: bool, dry_run: bool, json: bool) -> None:
    with connect() as client:
        found = client.hosts.orphans(render.warning)
        render.orphans(found, json)
        if dry_run or not found:
            return
        if not yes and not render.person_there():
            raise UsageError("nobody is here to agree", hint="`remoterun gc --cloud -y`, or `--dry-run` to see")
        if yes or render.ask("End and remove these?", default=False):
            refused = []
            for orphan in found:
                try:
                    client.hosts.clear(orphan)
                except RemoterunError as error:  # the others cost money, too
                    refused.append(error)
            render.line(f"{len(found) - len(refused)} ended or removed")
            if refused:
                raise refused[0]
        else:
            render.line("Nothing was ended or removed.")


@app.command(cls=Command, epilog=example("remoterun df k80"))
def df(machine: Machine = None, json: Json = False) -> int:
    """Show who uses how much of a machine's disk.

    SIZE is all that something refers to, ALONE what removing it would give back: data that two uploads share is in
    both sizes, and in neither's ALONE.
    """

    def show(found: Usage, as_json: bool) -> None:
        with understood(found.machine):
            render.usage_table(found, as_json)

    with connect() as client:
        return of_each(client, machine, client.machines.df, show, Usage.record, json)[1]
