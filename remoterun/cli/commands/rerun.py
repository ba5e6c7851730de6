"""`rerun`: a run once more, as it was or with what is typed."""

from __future__ import annotations

import shlex
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from remoterun.cli import complete, render
from remoterun.cli.app import Machine, RunNumber, app, example, run_number
from remoterun.cli.commands.run import above_zero, apt_name, command_of, follow_or_report, launch
from remoterun.cli.connect import client as connect
from remoterun.cli.editing import Asked, Edit
from remoterun.cli.manual import RunThenCommand
from remoterun.cli.packages import requirements_of
from remoterun.cli.run_options import Attempts, Background, MaxCost, Notify, RunAsJson, Timeout, Variables
from remoterun.errors import UsageError
from remoterun.model import ALL_GPUS, Mount, RunRequest
from remoterun.parsing import parse_duration, parse_gpus, parse_package, parse_secret, parse_variable

if TYPE_CHECKING:
    from remoterun.client import Client, OriginalRun, Prepared


@app.command(
    cls=RunThenCommand,
    context_settings={"allow_interspersed_args": False},
    epilog=example('remoterun rerun 16 -t box\nremoterun rerun last "python train.py --lr 0.01"'),
)
def rerun(
    run: RunNumber,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND...", help="Another command; all that follows its first word is its own."),
    ] = None,
    machine: Machine = None,
    mount: Annotated[
        list[str],
        typer.Option(
            "-m",
            "--mount",
            metavar="RESOURCE[:PATH]",
            help="Mount the newest version of this there, as well or instead. Repeat for more.",
            autocompletion=complete.resources,
        ),
    ] = [],  # noqa: B006
    env: Variables = [],  # noqa: B006
    secret: Annotated[
        list[str],
        typer.Option(
            "--secret",
            metavar="NAME[=VARIABLE]",
            help="A secret as a variable, as well or instead. Repeat for more.",
            autocompletion=complete.secrets,
        ),
    ] = [],  # noqa: B006
    pip: Annotated[
        list[str], typer.Option("--pip", metavar="PACKAGE", help="One more Python package. Repeat for more.")
    ] = [],  # noqa: B006
    pip_req: Annotated[
        Path | None, typer.Option("--pip-req", metavar="FILE", help="Another requirements file.")
    ] = None,
    apt: Annotated[
        list[str], typer.Option("--apt", metavar="PACKAGE", help="One more Debian package. Repeat for more.")
    ] = [],  # noqa: B006
    image: Annotated[
        str | None, typer.Option("--image", "--from", metavar="IMAGE", help="Another Docker image.")
    ] = None,
    framework: Annotated[
        str | None,
        typer.Option(
            "--framework",
            metavar="NAME",
            help="Another framework: none, python, tensorflow.",
            autocompletion=complete.frameworks,
        ),
    ] = None,
    description: Annotated[str | None, typer.Option("-d", "--description", metavar="TEXT", help="For `ps`.")] = None,
    label: Annotated[
        list[str], typer.Option("--label", metavar="LABEL", help="Instead of those it had. Repeat for more.")
    ] = [],  # noqa: B006
    timeout: Timeout = None,
    notify: Notify = [],  # noqa: B006
    spot: Annotated[bool, typer.Option("--spot", help="Rent a cheaper host, which may be taken away.")] = False,
    gpus: Annotated[
        str | None, typer.Option("--gpus", metavar="N", help="GPUs that it gets, or `all`; 0 for none.")
    ] = None,
    attempts: Attempts = None,
    max_hours: Annotated[
        float | None, typer.Option("--max-hours", metavar="H", help="End it after so long on rented hosts.")
    ] = None,
    max_cost: MaxCost = None,
    edit: Annotated[
        bool, typer.Option("--edit", help="Change what is asked for in an editor ($VISUAL, $EDITOR), then run that.")
    ] = False,
    background: Background = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", "-f", "--force", help="Ask nothing: rent what it needs.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be run; do nothing.")] = False,
    json: RunAsJson = False,
) -> int:
    """Run a run again: its source and mounts as they were then.

    It gets a new number. What is typed here takes the place of what the run had. Its machine must be there, as it
    keeps the files; they go to another one with -t.
    """
    if json and not background:
        raise UsageError("--json goes with -b", hint="without -b, stdout is the command's own")
    changes = {
        "command": command_of(command) if command else None,
        "pip_req": requirements_of(pip_req) if pip_req is not None else None,
        "image": image,
        "framework": framework,
        "description": description,
        "labels": tuple(label) or None,
        "timeout": parse_duration(timeout) if timeout is not None else None,
        "spot": spot or None,
        "notify": tuple(word for word in notify if word != "none") if notify else None,
        "attempts": attempts,
        "gpus": parse_gpus(gpus) if gpus is not None else None,
        "max_hours": above_zero("--max-hours", max_hours),
        "max_cost": above_zero("--max-cost", max_cost),
    }
    given = [parse_variable(text) for text in env]
    secrets = [parse_secret(text) for text in secret]
    more_mounts = [Mount.parse(text) for text in mount]
    with connect() as client:
        if machine is not None:
            client.machines.get(machine)  # refuse a wrong name before anything is opened
        kept = client.runs.original(run_number(run)).without(more_mounts)
        before = kept.request
        changes["requirements"] = changes.pop("pip_req")
        request = replace(
            before,
            **{name: value for name, value in changes.items() if value is not None},  # type: ignore[arg-type]
            mounts=with_mounts(before.mounts, more_mounts),
            secrets=with_secrets(before.secrets, secrets, dict(given)),
            pip=(*before.pip, *(parse_package(name) for name in pip if name not in before.pip)),
            apt=(*before.apt, *(apt_name(name) for name in apt if name not in before.apt)),
        )
        if image is not None:
            request = replace(request, framework=None)
        variables = tuple(name for name in kept.variables if name not in dict(given) | dict(request.secrets))
        asked = Asked(request, machine or kept.run.machine.name, variables, tuple(given))
        editing = Edit(client.config.home, kept, asked) if edit else None
        if editing is not None:
            changed = editing.ask()
            if changed is None:
                return 1
            asked = changed
        try:
            prepared = _prepared(client, kept, asked)
            request = prepared.request
            if not dry_run:
                render.line(changes_text(kept, request, asked.machine, [name for name, _ in asked.given]))
            submitted = launch(client, prepared, yes, dry_run)
        except BaseException:
            if editing is not None:
                render.line(f"What you wrote is kept: `remoterun rerun --edit {kept.run.number}`")
            raise
        if editing is not None and submitted is not None:
            editing.done()
        return follow_or_report(client, submitted, request, background, json) if submitted is not None else 0


def _prepared(client: Client, kept: OriginalRun, asked: Asked) -> Prepared:
    request = replace(asked.request, env=kept.values(asked.variables, asked.given))
    options = options_of(kept.request, request, kept.run.machine.name, asked.machine)
    return client.runs.prepare_again(kept, replace(request, options=options), asked.machine)


def with_mounts(before: Sequence[Mount], more: Iterable[Mount]) -> tuple[Mount, ...]:
    """The mounts with `more`, each in the place of the one at its path."""
    by_path = {mount.path: mount for mount in before}
    by_path.update((mount.path, mount) for mount in more)
    return tuple(by_path.values())


def with_secrets(
    before: Sequence[tuple[str, str]], more: Sequence[tuple[str, str]], given: Container[str]
) -> tuple[tuple[str, str], ...]:
    """Which variables get which secrets: `more` in the place of those for the same variables; none for one that is
    `given` a value."""
    names = [variable for variable, _ in more]
    return (*(pair for pair in before if pair[0] not in given and pair[0] not in names), *more)


def changes_text(kept: OriginalRun, request: RunRequest, machine: str, given: Sequence[str]) -> str:
    """What is other than in the run that is repeated, in one line."""
    before, parts = kept.request, []
    if machine != kept.run.machine.name:
        parts.append(f"on {machine} (it ran on {kept.run.machine.name})")
    if request.command != before.command:
        parts.append("another command")
    for mount in request.mounts:
        if mount not in kept.mounts:
            parts.append(str(mount.resource) + ("" if mount.resource.version else " as it is now"))
    parts += [f"without {mount.resource}" for mount in before.mounts if mount.path not in _paths(request.mounts)]
    added = [name for name in (*request.apt, *request.pip) if name not in (*before.apt, *before.pip)]
    parts += [f"with {' '.join(added)}"] if added else []
    dropped = [name for name in (*before.apt, *before.pip) if name not in (*request.apt, *request.pip)]
    parts += [f"without {' '.join(dropped)}"] if dropped else []
    parts += [f"-e {' -e '.join(given)}"] if given else []
    words = {
        "requirements": "other requirements",
        "framework": f"--framework {request.framework}" if request.framework else "",
        "image": f"image {request.image}",
        "timeout": f"time limit {render.duration(request.timeout)}" if request.timeout else "no time limit",
        "labels": f"labels {' '.join(request.labels)}" if request.labels else "no labels",
        "description": "another description",
        "notify": "word to others when it ends",
        "secrets": f"secrets {', '.join(render.variables(dict(request.secrets)))}" if request.secrets else "no secrets",
        "attempts": f"{request.attempts or 1} attempts",
        "split": "its stderr apart" if request.split else "its stderr in the log",
        "gpus": "all GPUs" if request.gpus == ALL_GPUS else f"--gpus {request.gpus}",
        "spot": "on a spot host" if request.spot else "not on a spot host",
        "max_hours": f"{request.max_hours} h at the most",
        "max_cost": f"${request.max_cost} at the most",
    }
    parts += [text for name, text in words.items() if text and getattr(request, name) != getattr(before, name)]
    return f"Run {kept.run.number} is run again, " + (f"changed: {'; '.join(parts)}" if parts else "as it was")


def _paths(mounts: Iterable[Mount]) -> set[str]:
    return {mount.path for mount in mounts}


def options_of(before: RunRequest, request: RunRequest, machine_before: str, machine: str) -> str:
    """The options of `remoterun run` that ask for the same again: those of the run that is repeated, with what is other
    in this one. Options that name a file are left as they were."""
    changed: dict[str, list[str]] = {}
    if machine != machine_before:
        changed["-t"] = [machine]
    if request.mounts != before.mounts:
        changed["-m"] = [f"{mount.resource}:{mount.path}" for mount in request.mounts]
    single = {
        "image": "--image",
        "framework": "--framework",
        "attempts": "--attempts",
        "max_hours": "--max-hours",
        "max_cost": "--max-cost",
    }
    for name, option in single.items():
        if getattr(request, name) != getattr(before, name):
            value = getattr(request, name)
            changed[option] = [] if value is None else [str(value)]
    if request.gpus != before.gpus and request.gpus is not None:
        changed["--gpus"] = ["all" if request.gpus == ALL_GPUS else str(request.gpus)]
    if request.timeout != before.timeout:
        changed["--timeout"] = [f"{request.timeout:g}s"] if request.timeout else []
    for name, option in {"pip": "--pip", "apt": "--apt", "labels": "--label"}.items():
        if getattr(request, name) != getattr(before, name):
            changed[option] = list(getattr(request, name))
    changed["-e"] = [name for name, _ in request.env]
    if request.split != before.split:
        changed["--split"] = []
    options = replace_options(before.options, changed)
    return f"{options} --split".strip() if request.split and not before.split else options


def replace_options(options: str, changed: Mapping[str, Sequence[str]]) -> str:
    """Command line options with other values for those in `changed`; an empty list takes one away."""
    words, kept = shlex.split(options), []
    while words:
        count = 2 if len(words) > 1 and not words[1].startswith("-") else 1
        if words[0] not in changed:
            kept += words[:count]
        del words[:count]
    kept += [word for option, values in changed.items() for value in values for word in (option, value)]
    return shlex.join(kept)
