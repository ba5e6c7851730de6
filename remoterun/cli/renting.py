"""The question before money is spent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remoterun.cli import render
from remoterun.errors import UsageError

if TYPE_CHECKING:
    from remoterun.client import Plan


def agree(plan: Plan, yes: bool) -> None:
    """Show what will be rented, and what it costs; go on only where somebody agrees, or `yes`. Raises `UsageError`
    where nobody can be asked, and `KeyboardInterrupt` for a no."""
    if yes:
        render.renting_goes_on(plan)
        return
    if not render.person_there():
        price = f"at {render.hourly(plan.price)}, " if plan.price is not None else ""
        most = f"{render.dollars(plan.most)} at the most" if plan.most is not None else "at a price that is not known"
        raise UsageError(
            f"`-t {plan.machine.name}` rents a host {price}{most}, and nobody is here to agree",
            hint="-y agrees; --dry-run shows what would be rented",
        )
    render.renting(plan)
    if not render.ask("Rent it?", default=False):
        render.line("Nothing was rented.")
        raise KeyboardInterrupt
