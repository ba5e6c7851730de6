"""A client that can ask the person at the terminal, and the questions before money is spent."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from remoterun.cli import render
from remoterun.cli.render import machine_views
from remoterun.client import Client
from remoterun.errors import HostError, UsageError
from remoterun.hosts.base import Prompts
from remoterun.providers.base import NOT_MADE, ProviderError, Roles

if TYPE_CHECKING:
    from remoterun.client.rented_hosts import NewBucket
    from remoterun.client.renting import Plan
    from remoterun.hosts.base import UnknownHostKey


def client() -> Client:
    """A client for one command, to be used as a context manager."""
    if not render.is_interactive():
        return Client(warn=render.warning)
    return Client(prompts=Prompts(_confirm_host_key, _log_in), warn=render.warning)


def _confirm_host_key(key: UnknownHostKey) -> bool:
    if not render.can_ask():
        return False
    render.line(f"The host `{key.known_as}` ({key.address}) has not been seen before.")
    render.line(f"Its {key.kind} key has the fingerprint {key.fingerprint}")
    return render.ask(f"Is that the machine you mean? Connect, and write the key to `{key.file}`?", default=False)


def _log_in(log_in: Callable[[], None]) -> None:
    render.begin_question()
    log_in()


def agree(client: Client, plan: Plan, new: NewBucket | None, yes: bool, pay: float | None = None) -> Plan:
    """Show what will be rented, and what it costs; go on only where somebody agrees, or `yes`, or `pay`, the US dollars
    that an hour may cost; then make the bucket, where there is none. A high price is agreed to by its figure only.
    Returns the plan with the roles that a new host has. Raises `UsageError` where nobody can be asked, and
    `KeyboardInterrupt` for a no."""
    from remoterun.client.renting import DEAR

    price, dear = plan.price, plan.kept is None and plan.dear
    typed = f"{price:.2f}" if dear and price is not None else None
    agrees = f"--pay {typed or 'DOLLARS'}" if dear else "-y"
    at = "at a price that is not known" if price is None else f"for {render.dollars(price)} an hour"
    rents = f"`-t {plan.machine.name}` rents a host {at}"
    if pay is not None:
        if price is not None and price > pay + 0.005:
            raise UsageError(f"{rents}, and --pay {pay:g} does not cover it", hint=f"--pay {price:.2f}")
        yes, dear, typed = True, False, None
    if yes and dear:
        raise UsageError(
            f"{rents}, and -y agrees to ${DEAR:g} at the most",
            hint=f"{agrees}   agrees to that; without -y you are asked",
        )
    if not yes and not render.can_ask():
        first = plan.offers[0].hourly
        at = f"at {render.hourly(first)}, " if first is not None else ""
        most = f"{render.dollars(plan.most)} at the most" if plan.most is not None else "at a price that is not known"
        raise UsageError(
            f"`-t {plan.machine.name}` rents a host {at}{most}, and nobody is here to agree",
            hint=f"{agrees} agrees; --dry-run shows what would be rented",
        )
    plan = _with_roles(client, plan, new, yes)  # none is made for a price that is refused
    if yes:
        machine_views.renting_goes_on(plan, new)
    else:
        machine_views.renting(plan, new)
        if not (render.ask("Rent it?", default=False) if typed is None else _typed(typed)):
            render.line("Nothing was rented.")
            raise KeyboardInterrupt
    if new is not None:
        client.hosts.make_bucket(new)
    return plan


def _typed(price: str) -> bool:
    """Whether a person types a price."""
    answer = render.ask_text(f"Type the price of an hour, {price}, to rent it:")
    if answer.lstrip("$").rstrip("/h") in (price, price.removesuffix("0"), price.removesuffix(".00")):
        return True
    if answer:
        render.line(f"`{answer}` is not {price}.")
    return False


def _with_roles(client: Client, plan: Plan, new: NewBucket | None, yes: bool) -> Plan:
    """The plan with the roles that are there for a new host; those that are absent are made first, where somebody
    agrees, or `yes`. What AWS refuses is said, and the run goes on without it."""
    if plan.kept is not None or plan.roles.why_not != NOT_MADE:
        return plan
    machine_views.new_roles(client.config.aws.host_role, client.config.aws.guard_role)
    if not yes and not render.ask("Make them?", default=True):
        client.hosts.refuse_roles()
        return replace(plan, roles=Roles())
    try:
        made = client.hosts.make_roles(new)
    except (ProviderError, HostError) as error:
        made = replace(plan.roles, why_not=error.message)
    if made.why_not:
        render.warning(f"not all roles could be made: {made.why_not}; `roles = false` below [aws] tries it no more")
    return replace(plan, roles=made)


def agree_to_link(path: str) -> None:
    """Ask before what is sent is not what its name says, since a link of a repository leads elsewhere. Raises
    `UsageError` where nobody can be asked, and `KeyboardInterrupt` for a no."""
    from remoterun.transfer.destination import way_out

    way = way_out(path)
    if way is None or not way.tracked:
        return
    text = f"`{render.name(os.path.relpath(way.link))}`, a link of the repository, leads to `{render.name(way.goal)}`"
    if not render.can_ask():
        real = render.word(os.path.relpath(os.path.realpath(path)))
        raise UsageError(f"{text}, and nobody has agreed to send that", hint=f"type {real} in its place")
    if not render.ask(f"{text}. Send that?", default=False):
        render.line("Nothing was sent.")
        raise KeyboardInterrupt


def with_bucket(client: Client, machine: str | None) -> None:
    """Make the bucket, after a question, where `machine` means one that is not there yet. Raises `UsageError` where
    nobody can be asked, and `KeyboardInterrupt` for a no."""
    type_ = client.machines.get(machine)
    if type_.rental is None and type_.bucket is None:
        return
    new = client.hosts.bucket()
    if new is None:
        return
    text = " ".join(machine_views.bucket_lines(new))
    if not new.exists:
        if not render.can_ask():
            raise UsageError(
                f"the bucket {text}, and nobody is here to agree",
                hint=f'[aws] bucket = "{new.name}" in {client.config.file}, once you have made it',
            )
        render.line(f"The bucket {text}.")
        if not render.ask("Make it?", default=True):
            render.line("Nothing was made.")
            raise KeyboardInterrupt
    client.hosts.make_bucket(new)


LOOKS_SECRET = re.compile(r"(.*_)?(TOKEN|KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)|.*PASSWORD", re.IGNORECASE)


def hint_at_secrets(typed: Iterable[str]) -> None:
    """Say of each name that its value need not be typed. `typed`: the words after `-e`."""
    if not render.is_interactive():
        return
    for name, _, value in (text.partition("=") for text in typed):
        if value and LOOKS_SECRET.fullmatch(name):
            render.hint(f"`remoterun secret set {name}`, then `--secret {name}`, keeps it out of your shell's history")
