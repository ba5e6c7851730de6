"""A client that can ask the person at the terminal, and the questions before money is spent."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from remoterun.cli import render
from remoterun.client import Client
from remoterun.errors import UsageError
from remoterun.hosts.base import Prompts, UnknownHostKey
from remoterun.parsing import UNKNOWN

if TYPE_CHECKING:
    from remoterun.client.upkeep.rented_hosts import NewBucket
    from remoterun.clouds.ledger.planning import AgreedPlan, Plan


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


def agree(client: Client, plan: Plan, new: NewBucket | None, yes: bool, pay: float | None = None) -> AgreedPlan:
    """Show what will be rented, and what it costs; go on only where somebody agrees, or `yes` or `pay` does, as
    `planning.agreed` has it; then make the roles and the bucket, where they are absent. A high price is agreed to by
    its figure only. Returns the plan with the roles that a new host has. Raises `UsageError` where nobody can be asked,
    and `KeyboardInterrupt` for a no."""
    from remoterun.cli.render import machine_views
    from remoterun.clouds.base import NOT_MADE
    from remoterun.clouds.ledger.planning import AgreedPlan, agreed

    yes = yes or pay is not None
    if yes or plan.price is None or not render.can_ask():  # no answer gives up a limit for a price that is not known
        try:
            agreed(plan, pay if yes else UNKNOWN if render.can_ask() else 0.0)
        except UsageError as error:
            if not yes and not plan.dear:
                error.hint = "-y   agrees to that; --dry-run shows what would be rented"
            raise
    if not yes:
        machine_views.renting(plan, new)
        if not _agreed(plan, plan.roles.why_not == NOT_MADE):
            render.line("Nothing was rented.")
            raise KeyboardInterrupt
    if plan.roles.why_not == NOT_MADE:
        of = plan.provider
        render.line(f"Two roles are made in your account, once; with `roles = false` below [{of}] there are none")
        plan = replace(plan, roles=client.hosts.make_roles(of, new))
        if why_not := plan.roles.why_not:
            render.warning(f"not all roles could be made: {why_not}; `roles = false` below [{of}] tries it no more")
    if yes:
        machine_views.renting_goes_on(plan, new)
    if new is not None:
        client.hosts.make_bucket(new)
    return AgreedPlan(plan)


def _agreed(plan: Plan, makes_roles: bool) -> bool:
    """Whether a person agrees: to a high price by typing it."""
    also = ", and make the two roles" if makes_roles else ""
    if plan.kept is not None or not plan.dear or plan.price is None:
        return render.ask(f"Rent it{also}?", default=False)
    price = f"{plan.price:.2f}"
    answer = render.ask_text(f"Type the price of an hour, {price}, to rent it{also}:")
    if answer.lstrip("$").rstrip("/h") in (price, price.removesuffix("0"), price.removesuffix(".00")):
        return True
    if answer:
        render.line(f"`{answer}` is not {price}.")
    return False


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
    from remoterun.cli.render import machine_views

    text = " ".join(machine_views.bucket_lines(new))
    if not new.exists:
        if not render.can_ask():
            raise UsageError(
                f"the bucket {text}, and nobody is here to agree",
                hint=f'[archive] bucket = "{new.name}" in {client.config.file}, once you have made it',
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
