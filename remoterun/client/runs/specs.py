"""What is asked of a run: how the `RunRequest` of a user becomes the `RunSpec` that a host keeps, and the reverse."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from remoterun.agent.shared.asked import HandedOn, Packages
from remoterun.agent.shared.records import BadRecord, decode, encode, options_in, same_fields
from remoterun.agent.shared.spec import (
    MOST_BYTES,
    NONE,
    PYTHON,
    EnvironmentSpec,
    GitState,
    MountSpec,
    RunSpec,
    SpecError,
    check_variables,
    has_zero_byte,
    require,
)
from remoterun.agent.shared.tree import Manifest
from remoterun.clouds import front
from remoterun.environments import context
from remoterun.errors import UsageError
from remoterun.machines import HERE
from remoterun.model import MachineType, Mount, Resource, Run, RunRequest
from remoterun.parsing import VARIABLE

if TYPE_CHECKING:
    from remoterun.source import Source

NO_CHARACTER = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates that stand for no byte of a file's name."""
STDIN = ".remoterun-stdin"
"""Where in the work tree the file lies from which a command reads its standard input."""
PARAMETER = "REMOTERUN_PARAM_"
"""Variables of this beginning name parameters of the run, which are recorded with it: they are no secrets."""
MOST_OPTIONS = 64 << 10
"""Characters of REMOTERUN_OPTIONS: a command must start that has thousands of mounts, too."""


def spec_of(
    run: Run,
    request: RunRequest,
    source: Source | None,
    tree: Manifest,
    machine: MachineType,
    mounts: Sequence[MountSpec] = (),
    again: str = "",
) -> RunSpec:
    """What the host keeps as spec.json, with the settings of `machine`. Raises `UsageError` for a request that can't be
    one."""
    variables = {
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "REMOTERUN_RUN_ID": str(run.number),
        "REMOTERUN_RUN_KEY": run.key,
        "REMOTERUN_MACHINE": machine.name,
        "REMOTERUN_OUTPUTS": str(Resource("runs", str(run.number), source.workdir if source is not None else "")),
    }
    if request.options and len(request.options) < MOST_OPTIONS:
        variables["REMOTERUN_OPTIONS"] = request.options
    git = None
    if source is not None and source.commit is not None:
        diff = hashlib.sha256(source.diff).hexdigest() if source.diff else None
        git = GitState(source.commit, source.branch, source.remote, source.dirty, diff)
    framework = request.framework or ""
    environment = EnvironmentSpec(
        **same_fields(Packages, request),
        base=machine.base_image,
        variant=framework if framework in (NONE, PYTHON) else "gpu" if machine.gpus else "cpu",
        context=context()[0].digest,
    )
    spec = RunSpec(
        **dict(same_fields(HandedOn, request), description=run.description, labels=run.labels),
        key=run.key,
        number=run.number,
        created=run.created,
        machine=machine.name,
        command=request.command,
        environment=environment,
        workdir=source.workdir if source is not None else "",
        source=tree.digest,
        mounts=tuple(mounts),
        env=variables,
        asked_env=tuple(name for name, _ in (*request.env, *request.secrets)),
        secrets=dict(request.secrets),
        engine=machine.engine,
        gpus=machine.gpus,
        slots=machine.slots,
        queue=machine.queue,
        scheduling=machine.scheduling,
        git=git,
        bucket=_told(run.renting.bucket) if run.renting is not None else "",
        attempt=run.attempt,
        attempts=(request.attempts or 1) if run.renting is None else 1,
        again=again,
        stdin=STDIN if request.stdin is not None else "",
        of=run.of.key if run.of is not None else "",
        at_once=run.of.at_once if run.of is not None else 0,
        params=params_of(request),
    )
    with _refused():
        return spec.check()


def params_of(request: RunRequest) -> dict[str, str]:
    """The parameters that a run is given in variables."""
    return {name.removeprefix(PARAMETER): text for name, text in request.env if name.startswith(PARAMETER)}


def check_words(request: RunRequest) -> None:
    """Refuse what no spec can hold. Raises `UsageError`."""
    if request.command == "" or str(request.command).isspace():
        raise UsageError("the command is empty", hint='remoterun run "echo hello"')
    texts = (request.command, request.description or "", *request.labels, *(value for _, value in request.env))
    with _refused():
        check_variables(dict(request.env))
        require(isinstance(request.command, str), "the command is not a text")
        for kind in (HandedOn, Packages):
            part = decode(kind, encode(same_fields(kind, request)))
            require(not has_zero_byte(part), "a text with a zero byte")
            for name, option in options_in(kind).items():
                wrong = option.wrong(getattr(part, name))
                require(not wrong, wrong)
        require("\0" not in request.command, "a text with a zero byte")
        require(sum(map(len, texts)) < MOST_BYTES, f"its words have more than {MOST_BYTES >> 20} MiB")
    if any(NO_CHARACTER.search(text) for text in texts):
        raise UsageError(
            "the command, its description, a label or a variable holds what is neither a character nor a byte"
        )


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except (SpecError, BadRecord) as error:
        raise UsageError(f"it can't be run so: {error}") from None


def request_of(run: Run, spec: RunSpec, mounts: tuple[Mount, ...], *, trusted: bool) -> RunRequest:
    """What a run was asked for, by the spec that its home keeps; without the values of its variables, which are kept
    nowhere. Of a spec that is not `trusted` no secret is named."""
    rental = run.machine.rental
    packages = same_fields(Packages, spec.environment)
    if rental is not None and front(rental.provider).hosts_are_containers and spec.environment.framework == NONE:
        packages["image"] = rental.image
    named = tuple(name for name in spec.notify if VARIABLE.fullmatch(name))  # addresses are kept nowhere
    return RunRequest(
        **same_fields(HandedOn, spec),
        **packages,
        command=spec.command,
        mounts=mounts,
        secrets=tuple(spec.secrets.items()) if trusted else (),
        framework=None if spec.environment.image else spec.environment.framework,
        options=spec.env.get("REMOTERUN_OPTIONS", ""),
        attempts=rental.attempts if rental is not None else (spec.attempts if spec.attempts > 1 else None),
        spot=rental is not None and rental.spot,
        max_hours=rental.max_hours if rental is not None else None,
        max_cost=rental.max_cost if rental is not None else None,
        stdin=Path(spec.stdin) if spec.stdin else None,  # which the source has
        gpus=spec.gpus if spec.gpus != run.machine.gpus else None,
        notify=named or None if trusted else None,
    )


def digest_of_asked(spec: RunSpec) -> str:
    """The digest of what a spec says on every host of the run: all but what belongs to one attempt.

    What is empty does not count: so a field that a later version of remoterun adds, which is empty in the runs of this
    one, leaves the digests that are recorded true.
    """
    record = spec.to_record()
    for name in ("until", "attempt", "log_before", "err_before", "git"):
        del record[name]
    record["environment"]["context"] = ""
    record["environment"] = {name: value for name, value in record["environment"].items() if value}
    record["mounts"] = [(mount.typed, mount.path, mount.place, mount.resource.digest) for mount in spec.mounts]
    said = {name: value for name, value in record.items() if value}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _told(bucket: str) -> str:
    """The bucket as a host is told of it: where a folder lies on this machine is not its business."""
    return f"file://{HERE}" if bucket.startswith("file:") else bucket
