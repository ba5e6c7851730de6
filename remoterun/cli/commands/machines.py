"""`machines` with its own commands: machines, those that are rented, too."""

from __future__ import annotations

import functools
import inspect
import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remoterun.cli import complete, render
from remoterun.cli.app import Command, Json, Wait, argument, example, for_each, machines_app, option, typed_options
from remoterun.cli.asking import client as connect
from remoterun.cli.commands.doctor import Machine, of_each
from remoterun.cli.commands.exec import ShellCommand, line_of, terminal_here
from remoterun.cli.render import file_views
from remoterun.cli.render.terminal import when
from remoterun.errors import RemoterunError

if TYPE_CHECKING:
    from remoterun.client.upkeep.upkeep import Checked
from remoterun.cli.render import live_views, machine_views
from remoterun.clouds import ARCHIVE, PROVIDERS, front
from remoterun.config import Setting, settings
from remoterun.errors import UsageError
from remoterun.machines import is_host
from remoterun.model import MachineType
from remoterun.parsing import parse_duration

RENTS = f"--{ARCHIVE} {front(ARCHIVE).example}"
"""An example of what rents a host."""


@machines_app.callback()
def machines(
    context: typer.Context,
    every: Annotated[bool, option("--all", "Also what can be rented, with its price.")] = False,
    spot: Annotated[bool, option("--spot", "As --all, with the spot prices of now.")] = False,
    json: Json = False,
) -> None:
    """List machines; add, inspect and remove them."""
    from remoterun.machines import ssh_aliases

    if context.invoked_subcommand is not None:
        return
    with connect() as client:
        config = client.config
        offers = client.machines.rented_types(spot) if every or spot else None
        machine_views.machines(client.machines.list(), config.default, ssh_aliases(config), offers, json)


@machines_app.command("status", cls=Command, epilog=example("remoterun machines status box"))
def machines_status(
    names: Annotated[list[str] | None, argument("NAME...", "Default: all.", complete.machine_types)] = None,
    wait: Wait = "2s",
    json: Json = False,
) -> None:
    """Show who uses machines: GPUs, slots, lines, load, disk."""
    with connect() as client:
        machine_views.machines_status(client.machines.status(names or (), parse_duration(wait)), json)


def _parameter(name: str, setting: Setting) -> inspect.Parameter:
    """The option for a setting."""
    kind = setting.kinds[0]
    declared = typer.Option(f"--{name.replace('_', '-')}", metavar=setting.metavar or None, help=setting.help)
    typed, default = (bool, False) if kind is bool else (kind | None, None)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[typed, declared]
    )


@machines_app.command(
    "add",
    cls=Command,
    epilog=example(
        "remoterun machines add k80 me@gpu.example.org --gpus 1 --default\n"
        "remoterun machines add lab k80 box\n"
        f"remoterun machines add gpu {RENTS} --spot --max-cost 5\n"
        "remoterun machines add hf-t4 --provider hf --types t4-small"
    ),
)
@typed_options(_parameter(*item) for item in settings().items())
def machines_add(
    name: Annotated[str, argument("NAME", "What -t will name.")],
    hosts: Annotated[
        list[str] | None,
        argument(
            "HOST...",
            f"user@host[:port], an alias of ~/.ssh/config, or `local`; or --{ARCHIVE}. Several machines: a pool.",
        ),
    ] = None,
    default: Annotated[bool, option("--default", "Make it the default machine.")] = False,
    yes: Annotated[bool, option("-y --yes", "Replace a machine of that name.")] = False,
    **typed: Any,
) -> None:
    """Give a machine a name. It is tried with `remoterun doctor NAME`."""
    from remoterun import config as configuration
    from remoterun.hosts.ssh.config import SSHTarget

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UsageError(
            f"`{name}` is not a name for a machine: it has letters, digits, `.`, `_` and `-`",
            hint="remoterun machines add box user@host",
        )
    settings = {key: value for key, value in typed.items() if value is not None and value is not False}
    if hosts and len(hosts) > 1:
        _add_pool(name, hosts, settings, default, yes)
        return
    host, at = hosts[0] if hosts else None, {each: settings[each] for each in PROVIDERS if each in settings}
    if "provider" in settings:
        at[settings["provider"]] = settings.get("types", "")
    if (host is not None) + len(at) != 1:
        raise UsageError(
            "a machine has a host, or it is rented" + (": both were given" if host else ""),
            hint=f"remoterun machines add {name} user@host\nremoterun machines add {name} {RENTS}",
        )
    if host not in (None, "local"):
        SSHTarget.parse(host)
        settings = {"host": host, **settings}
    for each, types in at.items() if at.keys() <= PROVIDERS.keys() else ():
        _warn_of_unknown(each, types)
    if "program" in settings:
        settings["program"] = [str(Path(settings["program"]).expanduser().resolve())]
    config = configuration.load()
    configuration.add_machine(config, name, settings, overwrite=yes, make_default=default)
    render.line(f"machine `{name}` is in {config.file}" + ("; it is the default" if default else ""))
    if not at:
        render.line(f"  remoterun doctor {name}   tries it")
    else:
        render.line(f"  remoterun run -t {name} --dry-run COMMAND   shows what a run would rent, and its price")


def _warn_of_unknown(provider: str, types: str) -> None:
    """A provider has more types than our table, and may have this one; a slip of the finger is more likely."""
    for type in types.split(","):
        if meant := front(provider).meant(type.strip()):
            render.warning(f"`{type.strip()}` is not in remoterun's table of types: did you mean {' or '.join(meant)}?")


def _add_pool(name: str, names: list[str], settings: dict[str, Any], default: bool, yes: bool) -> None:
    from remoterun import config as configuration
    from remoterun.machines import members

    if settings:
        raise UsageError(
            "a pool has the settings of its machines", hint=f"remoterun machines add {name} {' '.join(names)}"
        )
    config = configuration.load()
    found = members(MachineType(name, pool=tuple(names)), config)
    wrong = {member: error for member, error in found.items() if isinstance(error, UsageError)}
    if wrong:
        raise UsageError(
            f"{' and '.join(wrong)} can't be in a pool",
            evidence="\n".join(error.message for error in wrong.values()),
            hint="remoterun machines   lists those that can\nremoterun machines add NAME user@host   adds one",
        )
    configuration.add_machine(config, name, {"pool": names}, overwrite=yes, make_default=default)
    render.line(f"pool `{name}` is in {config.file}" + ("; it is the default" if default else ""))
    render.line(f"  remoterun run -t {name} COMMAND   goes to the one that is free: {', '.join(names)}")


@machines_app.command(
    "rm", cls=Command, epilog=example("remoterun machines rm k80\nremoterun machines rm i-0123456789abcdef0")
)
def machines_rm(
    names: Annotated[
        list[str],
        argument(
            "NAME|ID...", "Machines of yours; or rented hosts, as `machines rented` lists them.", complete.configured
        ),
    ],
    forget: Annotated[bool, option("--forget", "Also its runs and copies of uploads: it is gone.")] = False,
    yes: Annotated[bool, option("-y --yes", "Without a question.")] = False,
) -> int:
    """Forget machines, or end rented hosts now.

    What a machine holds stays there. What a rented host has not saved of its runs is lost; while a run
    goes on there, you are asked first.
    """
    with connect() as client:

        def remove(name: str) -> None:
            if is_host(name, client.config):
                runs = " and ".join(f"run {run.number}" for run in client.hosts.runs_on(name))
                question = f"What {runs} has not saved will be lost. End the host?"
                if runs and not yes and render.is_interactive() and not render.ask(question, default=False):
                    render.line(f"host {name} goes on")
                    return
                cost = client.hosts.end(name).cost(time.time())
                render.line(f"host {name} is ending" + (f"; it cost {render.dollars(cost)}" if cost else ""))
            elif not forget or yes or render.ask(f"Forget {name}, its runs and copies of uploads?", default=False):
                if forget:
                    client.runs.forget_machine(client.machines.get(name))
                if not forget or name in client.config.machines:
                    _forget(name)
                    for use, until in client.hosts.going_on(name):
                        costs = f"its host {use.id} costs {render.hourly(use.hourly)} until {when(until)}"
                        render.warning(f"{costs}: `remoterun machines rm {use.id}` ends it now")
            else:
                render.line(f"{name} is not forgotten")

        return for_each(names, remove)


def _forget(name: str) -> None:
    from remoterun import config as configuration

    config = configuration.load()
    was_default = configuration.remove_machine(config, name)
    render.line(f"machine `{name}` is forgotten; what it holds stays there")
    if was_default:
        render.line("it was the default machine; now that is `local`")
        render.line("  remoterun machines default NAME   makes it another one")
    for pool in (each.name for each in config.machines.values() if name in each.pool):
        render.line(f"the pool `{pool}` still names it")


@machines_app.command("default", cls=Command, epilog=example("remoterun machines default k80"))
def machines_default(
    name: Annotated[str, argument("NAME", "A machine.", complete.machine_types)],
) -> None:
    """Make a machine the one that is used without -t."""
    from remoterun import config as configuration
    from remoterun.machines import resolve

    config = configuration.load()
    chosen = resolve(name, config)
    configuration.set_default(config, chosen.name)
    render.line(f"the default machine is `{chosen.name}`")


@machines_app.command("rented", cls=Command, epilog=example("remoterun machines rented --json"))
def machines_rented(json: Json = False) -> None:
    """List the hosts rented now, and what they have cost so far.

    What is listed is what their provider says, from any machine with the same account. COST is from a host's start on,
    with the minutes in which it has no run; IDLE is what it cost since its last run ended. RUN is what it serves now;
    ENDS IN is how long it stays if no other run comes, and GUARD whether its provider ends it at its deadline, too.
    IDLE and RUN are of runs that this machine knows; `remoterun bill` has all idle time.
    """
    with connect() as client:
        found = client.hosts.list(render.warning)
        uses = client.hosts.uses(found)
    machine_views.hosts_table(found, uses, json)


@machines_app.command(
    "ssh",
    cls=Command,
    context_settings={"allow_interspersed_args": False},
    epilog=example("remoterun machines ssh k80\nremoterun machines ssh k80 df -h"),
)
def ssh(
    machine: Annotated[
        str,
        argument(
            "MACHINE",
            "A machine, as after -t; or a run's number, for the machine that it is on.",
            complete.machine_types,
        ),
    ],
    command: ShellCommand = None,
) -> int:
    """Open a shell on a machine, with the system's ssh.

    The user, port, key and settings are those that remoterun uses. The exit status is that of ssh.
    """
    with connect() as client:
        words = client.machines.ssh(machine, line_of(command) or "", bool(terminal_here()[0]))
    render.finish()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and `ssh` would inherit that
    os.execv(words[0], list(words))


@machines_app.command("check", cls=Command, epilog=example("remoterun machines check k80"))
def check(
    machine: Machine = None,
    dry_run: Annotated[bool, option("--dry-run", "Only say what is damaged.")] = False,
    json: Json = False,
) -> int:
    """Verify all that a machine keeps, by its SHA-256.

    What is damaged is moved to `damaged/` in its folder, so that an upload sends it again, and is named with the
    command that makes it whole. The exit status is 1 if anything is damaged.
    """

    with connect() as client:

        def verify(name: str | None) -> Checked:
            with live_views.progress() as progress:
                return client.machines.check(name, set_aside=not dry_run, progress=progress)

        found, status = of_each(client, machine, verify, file_views.checked, json)
    return status or (0 if all(done.sound for done in found) else 1)


@machines_app.command("gc", cls=Command, epilog=example("remoterun machines gc k80 --keep 2 --dry-run"))
def gc(
    machine: Machine = None,
    keep: Annotated[
        int | None, option("--keep N", "Keep only the newest N versions of each upload. Default: all.", min=1)
    ] = None,
    envs: Annotated[bool, option("--envs", "Also environments and images that nothing has used for a week.")] = False,
    unused: Annotated[str | None, option("--unused TIME", "With --envs: for how long. Default: 7d.")] = None,
    everything: Annotated[
        bool, option("--everything", f"Of `{ARCHIVE}`: all that remoterun made there, for anybody. Asks twice.")
    ] = False,
    yes: Annotated[bool, option("-y --yes", f"Of `{ARCHIVE}`: ask nothing.")] = False,
    dry_run: Annotated[bool, option("--dry-run", "Only say what would be freed.")] = False,
    json: Json = False,
) -> int:
    """Free what nothing needs on a machine, or at a provider of hosts. Safe while runs go on.

    That is content of no upload and no run, outputs of other machines that were sent for a mount, and what crashes
    and cut transfers left. What a run uses stays until it has ended. Of a provider: rented hosts that no run needs
    are ended, and what hosts and runs left there is removed; with --keep, only versions in the bucket.
    """
    if everything and (machine not in PROVIDERS or yes or keep is not None or envs):
        raise UsageError(
            f"--everything goes with `{ARCHIVE}` alone, and asks", hint=f"remoterun machines gc {ARCHIVE} --everything"
        )
    if machine in PROVIDERS and keep is None and not envs:
        return _clear_cloud(machine, everything, yes, dry_run, json)
    if yes:
        raise UsageError(
            f"-y goes with `{ARCHIVE}`: of a machine nothing is asked", hint=f"remoterun machines gc {ARCHIVE} -y"
        )
    if unused is not None and not envs:
        raise UsageError("--unused is about environments", hint=f"remoterun machines gc --envs --unused {unused}")
    seconds = None if unused is None else parse_duration(unused, or_none=True)

    with connect() as client:
        free = functools.partial(client.machines.gc, keep=keep, envs=envs, unused=seconds, dry_run=dry_run)
        return of_each(client, machine, free, file_views.collected, json)[1]


def _clear_cloud(name: str, everything: bool, yes: bool, dry_run: bool, json: bool) -> int:
    with connect() as client:
        found = client.hosts.leftovers(render.warning, everything, name)
        machine_views.leftovers(found, json)
        if dry_run or not found:
            return 0
        if not yes and not render.can_ask():
            others = "" if everything else f"`remoterun machines gc {name} -y`, or "
            raise UsageError("nobody is here to agree", hint=f"{others}`--dry-run` to see")
        agreed = yes or render.ask("End and remove these?", default=False)
        if agreed and everything:
            account = client.hosts.identity(name).account
            agreed = render.ask_text(f"For good, for all who use it? Type the account's number, {account}:") == account
        if not agreed:
            render.line("Nothing was ended or removed.")
            return 0
        refused, count = [], 0
        waiting = functools.partial(render.line, "Waiting until those hosts are gone…")
        for each, result in client.hosts.clear_all(found, everything, waiting, name):
            if isinstance(result, RemoterunError):
                refused.append(result)
            elif result:
                count += 1
            else:
                render.line(f"{each.kind} {each.id} is needed by now")
        render.line(f"{count} ended or removed")
        if refused:
            raise refused[0]
    return 0


@machines_app.command("df", cls=Command, epilog=example("remoterun machines df k80"))
def df(machine: Machine = None, json: Json = False) -> int:
    """Show who uses how much of a machine's disk.

    SIZE is all that something refers to, ALONE what removing it would give back: data that two uploads share is in
    both sizes, and in neither's ALONE.
    """

    with connect() as client:
        return of_each(client, machine, client.machines.df, file_views.usage_table, json)[1]
