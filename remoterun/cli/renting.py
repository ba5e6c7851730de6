"""The questions before money is spent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remoterun.cli import render
from remoterun.errors import UsageError

if TYPE_CHECKING:
    from remoterun.client import Client, NewBucket, Plan


def agree(client: Client, plan: Plan, new: NewBucket | None, yes: bool) -> None:
    """Show what will be rented, and what it costs; go on only where somebody agrees, or `yes`; then make the bucket,
    where there is none. Raises `UsageError` where nobody can be asked, and `KeyboardInterrupt` for a no."""
    if yes:
        render.renting_goes_on(plan, new)
    elif not render.person_there():
        first = plan.offers[0].price
        price = f"at {render.hourly(first)}, " if first is not None else ""
        most = f"{render.dollars(plan.most)} at the most" if plan.most is not None else "at a price that is not known"
        raise UsageError(
            f"`-t {plan.machine.name}` rents a host {price}{most}, and nobody is here to agree",
            hint="-y agrees; --dry-run shows what would be rented",
        )
    else:
        render.renting(plan, new)
        if not render.ask("Rent it?", default=False):
            render.line("Nothing was rented.")
            raise KeyboardInterrupt
    if new is not None:
        client.hosts.make_bucket(new)


def with_bucket(client: Client, machine: str | None) -> None:
    """Make the bucket, after a question, where `machine` means one that is not there yet. Raises `UsageError` where
    nobody can be asked, and `KeyboardInterrupt` for a no."""
    type_ = client.machines.get(machine)
    if type_.rental is None and type_.bucket is None:
        return
    new = client.hosts.bucket()
    if new is None:
        return
    text = " ".join(render.bucket_lines(new))
    if not new.exists:
        if not render.person_there():
            raise UsageError(
                f"the bucket {text}, and nobody is here to agree",
                hint=f'[aws] bucket = "{new.name}" in {client.config.file}, once you have made it',
            )
        render.line(f"The bucket {text}.")
        if not render.ask("Make it?", default=True):
            render.line("Nothing was made.")
            raise KeyboardInterrupt
    client.hosts.make_bucket(new)
