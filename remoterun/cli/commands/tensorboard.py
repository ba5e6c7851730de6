"""The curves of runs, side by side and while they grow: `tensorboard`."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated

from remoterun.agent.shared.spec import PYTHON, PortSpec
from remoterun.agent.shared.states import RunState
from remoterun.cli import complete, render
from remoterun.cli.app import Command, app, argument, example, option
from remoterun.cli.asking import client as connect
from remoterun.cli.commands.run import launch
from remoterun.cli.follow import Showing, forward_until_end, some_port
from remoterun.client import Client
from remoterun.client.runs.following import StateChange, Wanted
from remoterun.errors import HostError, RemoterunError, UsageError
from remoterun.machines import LOCAL
from remoterun.model import Resource, Run, RunRequest

PACKAGE = "tensorboard"
PORT = 6006
COMMAND = "python3 -m tensorboard.main --host 127.0.0.1 --reload_interval 2"
EVENTS = "tfevents"
"""What the names of the files that TensorBoard reads hold."""
LONGEST = 12 * 3600.0
"""Seconds after which TensorBoard ends where nobody has ended it."""
EVERY, SHARE = 3.0, 5
"""Seconds between copies; where copying takes long, as many times longer than that."""


@app.command(cls=Command, epilog=example("remoterun tensorboard 3 5"))
def tensorboard(
    sources: Annotated[
        list[str],
        argument(
            "RUN|RESOURCE...",
            "A run's number, a folder of its outputs, or an upload. Several stand side by side.",
            complete.resources,
        ),
    ],
    no_browser: Annotated[bool, option("--no-browser", "Only print the address.")] = False,
) -> int:
    """Show logs of runs in TensorBoard, in your browser, until ^C.

    For one run that is running it is started inside that run, if it is installed there. For all else it is a run of its
    own on this machine, to which the logs are copied: again every few seconds, as long as runs write them.
    """
    typed = [Resource.parse(text) for text in sources]
    with connect() as client:
        resources = [client.runs.numbered(resource) for resource in typed]
        runs = {resource: client.runs.get(resource.name) for resource in resources if resource.kind == "runs"}
        for run in runs.values():
            if not run.final and run.placed is None:
                raise UsageError(
                    f"run {run.number} is {run.state.value}: there is nothing to show yet",
                    hint=f"remoterun logs {run.number}   shows when there is",
                )
        show, first = Showing(no_browser), next(iter(runs.values()), None)
        if len(resources) == 1 and first is not None and first.state is RunState.RUNNING and _has_it(client, first):
            return _inside(client, first, resources[0].sub or ".", show)
        return _beside(client, resources, runs, show)


def _has_it(client: Client, run: Run) -> bool:
    find = "import importlib.util, sys; sys.exit(importlib.util.find_spec('tensorboard') is None)"
    with client.runs.exec(run.number, shlex.join(["python3", "-c", find])) as program:
        for _ in program.output():
            pass
    return program.code == 0


def _inside(client: Client, run: Run, folder: str, show: Showing) -> int:
    """TensorBoard inside a run that is running; it ends with ^C, and with the run."""
    port = some_port()

    def serve() -> None:
        command = f"{COMMAND} --logdir {shlex.quote(folder)} --port {port}"
        with contextlib.suppress(RemoterunError), client.runs.exec(run.number, command) as program:
            for _ in program.output():
                pass

    render.line(f"The logs of run {run.number}, as it writes them")
    threading.Thread(target=serve, name="remoterun tensorboard", daemon=True).start()
    return forward_until_end(client, run, [PortSpec(port, PORT)], show, server="TensorBoard")


def _beside(client: Client, resources: list[Resource], runs: dict[Resource, Run], show: Showing) -> int:
    """TensorBoard as a run of its own on this machine, which is removed in the end."""
    live = [resource for resource, run in runs.items() if not run.final]
    for resource in resources:
        if resource not in live and not any(EVENTS in entry.path for entry in client.files.list(resource)[0].files):
            raise UsageError(f"{resource} holds no logs of TensorBoard", hint=f"remoterun ls -r {resource}")
    request = RunRequest(
        command=f"{COMMAND} --logdir . --port {(port := some_port())} 2>&1",
        pip=(PACKAGE,),
        framework=PYTHON,
        gpus=0,
        beside=True,
        timeout=LONGEST,
        description=f"TensorBoard of {', '.join(map(str, resources))}",
        labels=("tensorboard",),
        ports=(PortSpec(port, PORT),),
    )
    run = launch(client, client.runs.prepare(request, None, LOCAL.name), True, False)
    assert run is not None
    with contextlib.closing(_Copies(client, resources)) as copies:
        forward_until_end(client, run, list(request.ports), show, copies.at, "TensorBoard")
    known = client.runs.known(run.number)
    if known.final:
        render.hint(f"remoterun logs {run.number}")
        return known.exit_status
    _remove(client, run)
    return 0


def _remove(client: Client, run: Run) -> None:
    try:
        client.runs.kill(run.number)
        for _ in client.runs.follow(run.number, Wanted(log=False)):
            pass
        client.runs.remove(run.number)
    except (RemoterunError, KeyboardInterrupt) as error:
        why = error.message if isinstance(error, RemoterunError) else "it was interrupted"
        render.warning(f"run {run.number}, which is TensorBoard, may go on: {why}")
        render.hint(f"remoterun kill {run.number}")


class _Copies:
    """Copies logs into the folder of TensorBoard's run, from the moment on that this runs: each once, and again every
    few seconds as long as its run goes on, until `close`."""

    def __init__(self, client: Client, sources: list[Resource]) -> None:
        self._client = client
        self._left = list(sources)
        self._sizes: dict[Resource, int] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def close(self) -> None:
        self._ended.set()

    def at(self, change: StateChange) -> None:
        """TensorBoard's run has come to this state."""
        if not change.past and change.state is RunState.RUNNING and self._thread is None:
            folder = Path(self._client.runs.info(change.run.number)[1]["folder"], "work")
            self._thread = threading.Thread(target=self._copy_on, args=(folder,), name="remoterun logs", daemon=True)
            self._thread.start()

    def _copy_on(self, folder: Path) -> None:
        pause = 0.0
        while self._left and not self._ended.wait(pause):
            begun = time.monotonic()
            for source in list(self._left):
                try:
                    live = source.kind == "runs" and not self._client.runs.get(source.name).final
                    self._copy(source, folder / str(source))
                    if not live:
                        self._left.remove(source)
                except RemoterunError as error:
                    if not self._ended.is_set() and not (isinstance(error, HostError) and error.passing):
                        self._left.remove(source)
                        render.warning(f"nothing more comes from {source}: {error.message}")
            pause = max(EVERY, SHARE * (time.monotonic() - begun))

    def _copy(self, source: Resource, folder: Path) -> None:
        """As `cp` does it, where there is anything new. Files grow in place: TensorBoard has them open."""
        size = sum(entry.size for entry in self._client.files.list(source)[0].files if EVENTS in entry.path)
        if size == self._sizes.get(source, 0):
            return
        with tempfile.TemporaryDirectory(prefix="remoterun-") as copied:
            self._client.files.copy(f"{source}/**/*{EVENTS}*", Path(copied), into=True)
            for path in filter(Path.is_file, Path(copied).rglob(f"*{EVENTS}*")):
                target = folder / path.relative_to(copied)
                target.parent.mkdir(parents=True, exist_ok=True)
                with path.open("rb") as new, target.open("ab") as file:
                    new.seek(file.tell())
                    shutil.copyfileobj(new, file)
        self._sizes[source] = size
