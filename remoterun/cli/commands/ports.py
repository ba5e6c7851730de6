"""Servers inside runs, on this machine: `forward`, `tensorboard`."""

from __future__ import annotations

import random
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from remoterun.agent.shared.spec import PYTHON, PortSpec, RunSpec
from remoterun.agent.shared.states import RunState
from remoterun.cli import browser, complete, render, selection
from remoterun.cli.app import Json, Machine, RunNumber, app, example, run_number
from remoterun.cli.commands.run import launched
from remoterun.cli.connect import client as connect
from remoterun.cli.forwarding import Forwards, address
from remoterun.cli.manual import Command
from remoterun.errors import HostError, UsageError
from remoterun.model import Mount, Resource, RunRequest, parse_port

if TYPE_CHECKING:
    from remoterun.client import Client, PortNews
    from remoterun.model import Run

TENSORBOARD = "tensorboard"
TENSORBOARD_PORT = 6006
LONGEST = 12 * 3600.0
"""Seconds after which TensorBoard ends where nobody has ended it."""
PORTS = 20000, 30000
AGAIN = 2.0
"""Seconds until a lost connection is tried again."""


@app.command(cls=Command, epilog=example("remoterun forward last 6006"))
def forward(
    run: RunNumber,
    ports: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PORT[:LOCAL]", help="A port of the run, and the one here. Default: those of `run --port`."
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Reach ports of a run at 127.0.0.1 of this machine, until ^C.

    The server in the run may listen on 127.0.0.1, too. Nothing is published on the host.
    """
    wanted = [parse_port(text) for text in ports or ()]
    with connect() as client:
        known = client.runs.get(run_number(run))
        if known.final:
            raise UsageError(f"run {known.number} has ended: {render.state_text(known)}", hint="remoterun ps")
        return hold(client, known, wanted or _named(client, known), _as_json(client) if json else _until_interrupted())


@app.command(cls=Command, epilog=example("remoterun tensorboard 3 5"))
def tensorboard(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|RESOURCE",
            help="A run's number, a folder of its outputs, or an upload. Several stand side by side.",
            autocompletion=complete.resources,
        ),
    ],
    machine: Machine = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
) -> int:
    """Show logs of runs in TensorBoard, in your browser, until ^C.

    For a run that is running it is started inside that run, where its environment has it. For others it is a run of its
    own, on the machine of the first of them, with their outputs mounted.
    """
    typed = [selection.resource(text) for text in sources]
    with connect() as client:
        resources = [client.registry.numbered(resource) for resource in typed]
        show = Showing(client, no_browser)
        live = [run for run in _runs(client, resources) if not run.final]
        if live and len(resources) > 1:
            raise UsageError(
                f"run {live[0].number} is {live[0].state.value}: its outputs can't stand beside others yet",
                hint=f"remoterun tensorboard {live[0].number}   shows it alone",
            )
        if live:
            return _inside(client, live[0], resources[0].sub or ".", show)
        mounts = tuple(Mount(resource, str(resource)) for resource in resources)
        names = ", ".join(map(str, resources))
        port = some_port()
        request = RunRequest(
            command=f"{_tensorboard('.', port)} 2>&1",
            mounts=mounts,
            pip=(TENSORBOARD,),
            framework=PYTHON,
            timeout=LONGEST,
            description=f"TensorBoard of {names}",
            labels=("tensorboard",),
            ports=(PortSpec(port, TENSORBOARD_PORT),),
        )
        run = launched(client, client.runs.prepare(request, None, machine or _where(client, resources)), True, False)
        assert run is not None
        status = hold(client, run, list(request.ports), show)
        if not client.registry.run(run.number).final:
            client.runs.stop(run.number, 2.0)
            render.line(f"run {run.number}, which showed {names}, is stopping")
        return status


class Showing:
    """Shows the first address in the browser."""

    def __init__(self, client: Client, no_browser: bool) -> None:
        self._client = client
        self._wanted = not no_browser
        self.ending = "^C ends it"

    def __call__(self, number: int, news: PortNews) -> None:
        if news.kind != "up":
            return
        shown = self._wanted and browser.show(address(self._client, number, news))
        self._wanted = False
        render.page_shown(news.local, shown, browser.far_away(), self.ending)


def _tensorboard(folder: str, port: int) -> str:
    return f"python3 -m tensorboard.main --logdir {shlex.quote(folder)} --host 127.0.0.1 --port {port}"


def some_port() -> int:
    """A port that nobody else is likely to use, where runs have the network of their machine."""
    return random.randrange(*PORTS)


def _runs(client: Client, resources: list[Resource]) -> list[Run]:
    return [client.runs.get(resource.name) for resource in resources if resource.kind == "runs"]


def _where(client: Client, resources: list[Resource]) -> str | None:
    """The machine of the first run, unless that is one that is rented; None: the default one."""
    for run in _runs(client, resources):
        if run.machine.rental is None:
            return run.machine.name
    return None


def _inside(client: Client, run: Run, folder: str, show: Showing) -> int:
    """TensorBoard inside a run that is running; it ends with ^C, and with the run."""
    port = some_port()
    ports = [PortSpec(port, TENSORBOARD_PORT)]
    said: deque[str] = deque(maxlen=20)
    render.line(f"The logs of run {run.number}, as it writes them")
    lost = False
    try:
        with Forwards(client, ports, lambda text: render.line(f"  {text}"), show) as forwards:
            while True:
                try:
                    with client.runs.exec(run.number, _tensorboard(folder, port)) as program:
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
        run = client.runs.get(run.number)
        if run.final or run.state is RunState.SAVING:
            render.line(f"run {run.number} has ended; `remoterun tensorboard {run.number}` shows what it saved")
            return 0
        if "ModuleNotFoundError" in "".join(said):
            raise UsageError(
                f"the environment of run {run.number} has no TensorBoard",
                hint=f"remoterun tensorboard {run.number}   shows what it saved, once it has ended\n"
                f"remoterun run --pip {TENSORBOARD} …   has it",
            )
        raise UsageError(
            f"TensorBoard does not start in run {run.number} (exit status {code})",
            evidence="\n".join(list(said)[-5:]),
        )
    except KeyboardInterrupt:
        render.line("")
        return 0


def hold(
    client: Client, run: Run, ports: list[PortSpec], told: Callable[[int, PortNews], None] = lambda number, news: None
) -> int:
    """Forward ports until ^C, or until the run ends; the exit status."""
    from remoterun.cli.follow import STEPS, show_note
    from remoterun.client import Note, StateChange

    steps = render.Steps()
    try:
        with Forwards(client, ports, steps.say, told) as forwards:
            for item in client.runs.follow(run.number, log=False):
                if isinstance(item, Note):
                    show_note(item, steps, run)
                elif isinstance(item, StateChange):
                    run = item.run
                    if run.final:
                        steps.abandon()
                        render.ending(run)
                    elif item.state in STEPS and not item.past:
                        steps.at(STEPS[item.state])
                    elif item.state is RunState.RUNNING:
                        steps.clear()
                    forwards.at(item)
    except KeyboardInterrupt:
        steps.abandon()
        render.line("")
    return 0


def _as_json(client: Client) -> Callable[[int, PortNews], None]:
    def told(number: int, news: PortNews) -> None:
        if news.kind == "up":
            where = {"address": address(client, number, news), "port": news.port, "local": news.local}
            render.out_json({"run": number, **where})
            render.finish()

    return told


def _until_interrupted() -> Callable[[int, PortNews], None]:
    hinted = threading.Event()

    def told(number: int, news: PortNews) -> None:
        if news.kind == "up" and not hinted.is_set():
            hinted.set()
            render.line("  ^C ends it; the run goes on")

    return told


def _named(client: Client, run: Run) -> list[PortSpec]:
    """The ports that `run --port` named. Raises `UsageError` without any."""
    known, details = client.runs.info(run.number)
    if details["spec"] is None:
        raise HostError(known.unreached or f"{known.host.name} does not know run {run.number} yet", hint="try again")
    named = list(RunSpec.from_record(details["spec"]).ports)
    if not named:
        raise UsageError(f"run {run.number} was given no --port", hint=f"remoterun forward {run.number} 6006")
    return named
