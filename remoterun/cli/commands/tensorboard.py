"""The curves of runs, side by side and while they grow: `tensorboard`."""

from __future__ import annotations

import shlex
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer

from remoterun.agent.shared.spec import PYTHON, PortSpec
from remoterun.agent.shared.states import RunState
from remoterun.cli import complete, render
from remoterun.cli.app import Command, Machine, app, example, named_resource
from remoterun.cli.asking import client as connect
from remoterun.cli.commands.run import launch
from remoterun.cli.forwarding import Forwards, Showing, forward_until_end, some_port
from remoterun.errors import HostError, RemoterunError, UsageError
from remoterun.machines import LOCAL
from remoterun.model import Mount, Resource, RunRequest

if TYPE_CHECKING:
    from remoterun.client import Client, StateChange
    from remoterun.client.mirroring import Mirror
    from remoterun.model import Run

PACKAGE = "tensorboard"
PORT = 6006
EVENTS = "tfevents"
"""What the names of the files that TensorBoard reads hold."""
LONGEST = 12 * 3600.0
"""Seconds after which TensorBoard ends where nobody has ended it."""
AGAIN = 2.0
"""Seconds until a lost connection is tried again."""


@app.command(cls=Command, epilog=example("remoterun tensorboard 3 5"))
def tensorboard(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|RESOURCE...",
            help="A run's number, a folder of its outputs, or an upload. Several stand side by side.",
            autocompletion=complete.resources,
        ),
    ],
    machine: Machine = None,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Ask nothing: rent the machine that -t names.")] = False,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
) -> int:
    """Show logs of runs in TensorBoard, in your browser, until ^C.

    For one run that is running it is started inside that run. For several, also on several machines, it is a run of its
    own beside them, and what they write comes as they write it.
    """
    typed = [named_resource(text) for text in sources]
    with connect() as client:
        resources = [client.registry.numbered(resource) for resource in typed]
        runs = {resource: client.runs.get(resource.name) for resource in resources if resource.kind == "runs"}
        for run in runs.values():
            if not run.final and run.placement is None:
                raise UsageError(
                    f"run {run.number} is {run.state.value}: there is nothing to show yet",
                    hint=f"remoterun logs {run.number}   shows when there is",
                )
        show = Showing(no_browser)
        if any(not run.final for run in runs.values()):
            show.more = "its ⟳ shows new points; Reload data in its ⚙ does so by itself"
        first = next(iter(runs.values()), None)
        if len(resources) == 1 and first is not None and first.state is RunState.RUNNING:
            status = _inside(client, first, resources[0].sub or ".", show)
            if status is not None:
                return status
        return _beside(client, resources, runs, machine or _where(client, runs), yes, show)


def _command(folder: str, port: int) -> str:
    words = ["python3", "-m", "tensorboard.main", "--logdir", folder, "--host", "127.0.0.1", "--port", str(port)]
    return shlex.join([*words, "--reload_interval", "2"])


def _inside(client: Client, run: Run, folder: str, show: Showing) -> int | None:
    """TensorBoard inside a run that is running; it ends with ^C, and with the run. None: its environment has none."""
    port = some_port()
    ports = [PortSpec(port, PORT)]
    said: deque[str] = deque(maxlen=20)
    render.line(f"The logs of run {run.number}, as it writes them")
    lost = False
    try:
        with Forwards(client, ports, lambda text: render.line(f"  {text}"), show, "TensorBoard") as forwards:
            while True:
                try:
                    with client.runs.exec(run.number, _command(folder, port)) as program:
                        forwards.start(run.number)
                        for data, _ in program.output():
                            said.extend(data.decode("utf-8", "replace").splitlines())
                        code = program.code
                    break
                except HostError as error:
                    if not error.passing:
                        raise
                    if not lost:
                        render.warning(f"{error.message}; trying again")
                    lost = True
                    time.sleep(AGAIN)
    except KeyboardInterrupt:
        render.line("")
        return 0
    run = client.runs.get(run.number)
    if run.final or run.state is RunState.SAVING:
        render.line(f"run {run.number} has ended; `remoterun tensorboard {run.number}` shows what it saved")
        return 0
    if "ModuleNotFoundError" in "".join(said):
        render.line("  its environment has no TensorBoard: one is started beside it")
        return None
    raise UsageError(
        f"TensorBoard does not start in run {run.number} (exit status {code})",
        evidence="\n".join(list(said)[-5:]),
    )


def _beside(
    client: Client,
    resources: list[Resource],
    runs: dict[Resource, Run],
    machine: str | None,
    yes: bool,
    show: Showing,
) -> int:
    """TensorBoard as a run of its own, of which nothing is left in the end. What has ended is mounted there, and what
    goes on is mirrored."""
    live = [resource for resource, run in runs.items() if not run.final]
    for resource in resources:
        if resource not in live and not any(EVENTS in entry.path for entry in client.files.list(resource)[0].files):
            raise UsageError(f"{resource} holds no logs of TensorBoard", hint=f"remoterun ls -r {resource}")
    names = ", ".join(map(str, resources))
    request = RunRequest(
        command=f"{_command('.', port := some_port())} 2>&1",
        mounts=tuple(Mount(resource, str(resource)) for resource in resources if resource not in live),
        pip=(PACKAGE,),
        framework=PYTHON,
        gpus=0,
        beside=True,
        timeout=LONGEST,
        description=f"TensorBoard of {names}",
        labels=("tensorboard",),
        ports=(PortSpec(port, PORT),),
    )
    run = launch(client, client.runs.prepare(request, None, machine), yes, False)
    assert run is not None
    with _Mirrors(client, live) as mirrors:
        forward_until_end(client, run, list(request.ports), show, mirrors, "TensorBoard")
    known = client.registry.run(run.number)
    if known.final:
        render.hint(f"remoterun logs {run.number}")
        return known.exit_status
    _remove(client, run)
    return 0


def _where(client: Client, runs: dict[Resource, Run]) -> str | None:
    """The machine of the first run, unless that is one that is rented; None: the default one. Where that is rented,
    too, it is this machine: nobody has asked for one that costs."""
    for run in runs.values():
        if run.machine.rental is None:
            return run.machine.name
    return LOCAL.name if client.machines.get(None).rental is not None else None


def _remove(client: Client, run: Run) -> None:
    try:
        client.runs.kill(run.number)
        for _ in client.runs.follow(run.number, log=False):
            pass
        client.runs.remove(run.number)
    except (RemoterunError, KeyboardInterrupt) as error:
        why = error.message if isinstance(error, RemoterunError) else "it was interrupted"
        render.warning(f"run {run.number}, which is TensorBoard, may go on: {why}")
        render.hint(f"remoterun kill {run.number}")


class _Mirrors:
    """What runs that go on write for TensorBoard, in its own run from the moment on that this runs. A context manager,
    which ends them."""

    def __init__(self, client: Client, sources: list[Resource]) -> None:
        self._client = client
        self._sources = sources
        self._mirrors: list[Mirror] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for mirror in self._mirrors:
            mirror.close()

    def at(self, change: StateChange) -> None:
        """TensorBoard's run has come to this state."""
        if change.past or change.state is not RunState.RUNNING:
            return
        for source in self._sources:

            def failed(why: str, source: Resource = source) -> None:
                render.warning(f"nothing more comes from {source}: {why}")

            self._mirrors.append(self._client.files.mirror(source, change.run.number, EVENTS, failed))
