"""`secret` with its own commands."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from remoterun.cli import complete, render
from remoterun.cli.app import Command, Json, Machine, argument, example, secret_app
from remoterun.cli.asking import client as connect
from remoterun.cli.render import file_views
from remoterun.client.webhooks import addresses as addresses_of
from remoterun.errors import HostError, UsageError


@secret_app.callback()
def secret(context: typer.Context, json: Json = False) -> None:
    """Keep secrets, such as tokens, for runs."""
    if context.invoked_subcommand is None:
        with connect() as client:
            file_views.secrets(client.secrets.list(), json)


@secret_app.command(
    "set",
    cls=Command,
    context_settings={"allow_extra_args": True},
    epilog=example("remoterun secret set HF_TOKEN\nremoterun secret set HF_TOKEN < token.txt"),
)
def secret_set(
    context: typer.Context,
    name: Annotated[str, argument("NAME", "Letters, digits and `_`.", complete.secrets)],
) -> None:
    """Keep a value under NAME: it asks for it, or reads it from stdin.

    It is kept in the system's keyring, or in a file that only you may read. A run gets it with --secret NAME.
    """
    from remoterun.client.secrets import check_name

    check_name(name)
    if context.args:
        raise UsageError(
            "a secret's value is not typed into a command: others on this machine could read it there",
            hint=f"remoterun secret set {name}   asks for it\nremoterun secret set {name} < FILE   reads it",
        )
    with connect() as client:
        value = _value(name)
        kept = client.secrets.set(name, value)
        render.line(render.DONE, f"{name} is kept in {render.name(kept.where)}")
        if "://" in value:
            render.line(f"  remoterun run --notify {name} …   sends word there when the run ends")
        else:
            render.line(f"  remoterun run --secret {name} …   gives it to a run")


@secret_app.command("rm", cls=Command, epilog=example("remoterun secret rm HF_TOKEN"))
def secret_rm(
    names: Annotated[list[str], argument("NAME...", "Names of secrets.", complete.secrets)],
) -> None:
    """Delete secrets."""
    with connect() as client:
        for name in names:
            client.secrets.remove(name)
            render.line(f"{name} is deleted")


def _value(name: str) -> str:
    """What a person types, unseen, or what comes on stdin, without its last newline."""
    if sys.stdin.isatty():
        return render.ask_secret(f"Value of {name}: ") or ""
    data = sys.stdin.buffer.read(1 << 20)
    try:
        return data.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise UsageError("the value is not UTF-8 text", hint=f"remoterun secret set {name} < FILE") from None


@secret_app.command("test", cls=Command, epilog=example("remoterun secret test PHONE -t box"))
def secret_test(
    addresses: Annotated[
        list[str] | None,
        argument(
            "URL|NAME...", "A webhook, or a secret that is one. Default: `notify` in config.toml.", complete.secrets
        ),
    ] = None,
    machine: Machine = None,
) -> int:
    """Send a test message to those who get word of runs.

    From here, or from a machine. Shows what the server answered.
    """
    failed = False
    with connect() as client:
        asked = addresses or list(client.config.notify)
        if not asked:
            raise UsageError(
                f"`notify` is not set in {client.config.file}", hint="remoterun secret test ntfy://ntfy.sh/TOPIC"
            )
        for name, url in [pair for word in asked for pair in addresses_of(client.config.home, [word]).items()]:
            try:
                render.line(render.DONE, f"{name} answered {client.machines.post(url, machine)}")
            except HostError as error:
                render.line(render.FAILED, f"{name} did not get it: {error.message.removeprefix('local: ')}")
                failed = True
    return 125 if failed else 0
