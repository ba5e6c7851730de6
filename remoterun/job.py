"""remoterun for Python programs: run a command on a machine, follow it, and copy the files that it made.

    from remoterun import Client

    with Client() as client:
        job = client.run("python train.py", machine="box", gpus=1, mounts={"data": "uploads/doom"})
        for line in job.logs():
            print(line)
        job.copy("models", "models")

Each call does what the command of its name does, and blocks as long. Nothing prints or asks: what goes wrong is a
`RemoterunError` with a `message`, a `hint` and an `exit_status`. Several threads may use one `Client`.
"""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack

from remoterun import client as nouns
from remoterun.agent.shared.asked import PortSpec
from remoterun.client.runs.following import LogBytes, Wanted
from remoterun.config import Config
from remoterun.errors import UsageError
from remoterun.model import ALL_GPUS, Mount, Resource, Run, RunRequest
from remoterun.parsing import known_words, parse_price
from remoterun.source import Source, mentioned, snapshot

if TYPE_CHECKING:
    from remoterun.agent.shared.measured import Progress
    from remoterun.client.data.metrics import Points
    from remoterun.client.runs.following import Following

Words = tuple[str, ...] | list[str]
More = TypedDict("More", {  # noqa: UP013 - a table
    "pip": Words, "requirements": str, "apt": Words, "image": str | None, "framework": str | None, "stdin": Path | None,
    "description": str | None, "labels": Words, "timeout": float | None, "ports": tuple[PortSpec, ...], "split": bool,
    "alerts": Words, "metrics": Words, "notify": Words | None, "wait_for_login": float | None, "attempts": int | None,
    "spot": bool, "max_hours": float | None, "max_cost": float | None,
    "after": Sequence[int], "after_any": Sequence[int], "cpus": int | None, "memory": int | None,
    "nodes": int | None, "metric_step": str, "metric_hide": Words,
}, total=False)  # fmt: skip
"""Further fields of `RunRequest`, for `Client.run`."""


class Client:
    """Jobs on the machines of `~/.remoterun/config.toml` and of your ssh configuration."""

    def __init__(self, config: Config | None = None) -> None:
        self._nouns = nouns.Client(config)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop every connection; jobs go on. What other threads do with this client ends with an error."""
        self._nouns.close()

    def run(
        self,
        command: str | Sequence[str],
        machine: str | None = None,
        *,
        gpus: int | Literal["all"] | None = None,
        mounts: Mapping[str, str] | Words = (),
        env: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        source: Source | Path | str | None = ".",
        pay: float | Literal["unknown"] | None = None,
        **more: Unpack[More],
    ) -> Job:
        """Hand a command over to `machine` (None: the default one), as `run -b -y` does; it needs this program
        no more then. A machine that is rented costs money from here on, up to $5 an hour or `pay` (or "unknown").

        `command`: a line for the shell, or its words. `mounts`: a path in the work tree to what is read there, such as
        {"data": "uploads/doom"}, or what follows `-m`: ["uploads/doom:data"]. `env`: variables; `secrets`: a variable
        to the name of the secret that is its value. `source` is sent as the work tree: that of the git repository in
        which a folder lies, what `remoterun.snapshot` returns, or None for nothing. `more`: what the options of these
        names do. Raises `TypeError`, and `UsageError` for what can't be run so, also where the command names a file
        that git does not track; `HostError`, `TransferError`, `ProviderError`.
        """
        for name in more.keys() - More.__annotations__.keys():
            raise TypeError(f"there is no keyword `{name}`: {known_words(name, More.__annotations__)}")
        typed = [f"{it}:{path}" for path, it in mounts.items()] if isinstance(mounts, Mapping) else mounts
        line = command if isinstance(command, str) else shlex.join(command)
        given: dict[str, Any] = {name: tuple(value) if type(value) is list else value for name, value in more.items()}
        request = RunRequest(
            line,
            gpus=ALL_GPUS if gpus == "all" else gpus,
            mounts=tuple(map(Mount.parse, [typed] if isinstance(typed, str) else typed)),
            env=tuple((env or {}).items()),
            secrets=tuple((secrets or {}).items()),
            **given,
        )
        agreed = None if pay is None else parse_price(str(pay))
        taken = snapshot(Path(source)) if isinstance(source, (str, Path)) else source
        try:
            prepared = self._nouns.runs.prepare(request, taken, machine, partial(_check_tracked, line))
            return Job(self._nouns, self._nouns.runs.launch(prepared, pay=agreed))
        finally:
            if taken is not None and taken is not source:
                taken.close()

    def job(self, number: int | str) -> Job:
        """The run of that number, or the newest one for "last". Raises `NotFound`."""
        return Job(self._nouns, self._nouns.runs.known(number))

    def jobs(self, limit: int | None = 50) -> list[Job]:
        """The newest runs (None: all), the newest first. No machine is asked."""
        return [Job(self._nouns, run) for run in reversed(self._nouns.runs.all_known(limit))]

    def upload(self, path: Path | str, name: str | None = None, machine: str | None = None) -> str:
        """Make a file or a folder the newest version of an upload (None: of its folder's name), on `machine` (None: the
        default one); its name for `mounts`, such as "uploads/doom". Raises `UsageError`, `TransferError`, `HostError`.
        """
        return f"uploads/{self._nouns.uploads.upload(Path(path), name, machine).upload.name}"


class Job:
    """One run. What it says of the run is asked of its machine each time."""

    def __init__(self, client: nouns.Client, run: Run) -> None:
        self._nouns = client
        self.number = run.number
        self.command = run.command

    def __repr__(self) -> str:
        return f"<Job {self.number}: {self.command}>"

    @property
    def status(self) -> str:
        """One of "queued", "building", "mounting", "running", "saving"; at the end "complete", "failed", "stopped",
        "killed" or "interrupted". Raises `HostError` where its machine does not answer."""
        return self._now().state.value

    @property
    def exit_status(self) -> int | None:
        """That of the command, or 125 where it has none; None while the job goes on. Raises `HostError`."""
        run = self._now()
        return run.exit_status if run.final else None

    def wait(self, timeout: float | None = None) -> int:
        """Block until the job has ended; its exit status. Raises `TimeoutError` after `timeout` seconds, `HostError`
        where its machine has lost it; a machine that does not answer is asked again."""
        for item in self._nouns.runs.wait([self.number], timeout):
            if isinstance(item, Run):
                if item.fault is not None:
                    raise item.fault
                return item.exit_status
        raise TimeoutError(f"job {self.number} has not ended within {timeout:g} s")

    def logs(self, *, follow: bool = True, offset: int = 0) -> LogLines:
        """The lines of the log from byte `offset` on; with `follow` until the job has ended, else those of now. A lost
        connection is made again, and no line is lost or doubled."""
        return LogLines(self._nouns.runs.follow(self.number, Wanted(live=follow, offset=offset)), offset)

    @property
    def progress(self) -> Progress | None:
        """How far it is by the metrics that it reports: step, total, rate, and a summary of each series; None where it
        has reported none. Raises `HostError`."""
        return self._now().progress

    def metrics(self) -> dict[str, Points]:
        """The points (step, time, value) of each metric that it has reported, by its name. Raises `HostError`."""
        curves = self._nouns.runs.metrics(self.number)
        curves.update()
        return curves.all()

    @property
    def files(self) -> list[str]:
        """The paths of the files that it has made, also while it goes on. Raises `HostError`, `UsageError`."""
        manifest, _ = self._nouns.files.list(Resource("runs", str(self.number)))
        return [entry.path for entry in manifest.files]

    def copy(self, path: str, to: Path | str, *, overwrite: bool = False) -> None:
        """Copy a file or a folder that the job has made to `to`, also while it goes on; "" is all that it has made.
        The contents of a folder land in `to`. Raises `NotFound`, `AlreadyExists` without `overwrite`, `HostError`."""
        source = f"runs/{self.number}/{path}".rstrip("/")
        self._nouns.files.copy(source, Path(to), (lambda _: True) if overwrite else None)

    def stop(self, grace: float = 10.0) -> None:
        """Ask it to end: SIGTERM, `grace` seconds, SIGKILL; its files are saved. Returns at once; a job that has ended
        stays as it is."""
        self._nouns.runs.stop(self.number, grace)

    def kill(self) -> None:
        """End it now; its files are not saved. As `stop`."""
        self._nouns.runs.kill(self.number)

    def _now(self) -> Run:
        run = self._nouns.runs.get(self.number)
        if run.fault is not None:
            raise run.fault
        return run


class LogLines(Iterator[str]):
    """Lines of a log, without their ends; a last line without an end counts. One thread iterates."""

    def __init__(self, items: Following, offset: int) -> None:
        self._items = items
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self.offset = offset
        """The byte behind the last line that was returned, from which another reader may go on."""

    def __next__(self) -> str:
        while not self._lines:
            try:
                item = next(self._items)
            except StopIteration:
                if not self._rest:
                    raise
                self._lines.append(self._rest)
                self._rest = b""
                break
            if isinstance(item, LogBytes) and not item.stderr:
                *lines, self._rest = (self._rest + item.data).split(b"\n")
                self._lines.extend(line + b"\n" for line in lines)
        line = self._lines.popleft()
        self.offset += len(line)
        return line.removesuffix(b"\n").decode(errors="replace")

    def close(self) -> None:
        """End the iteration, also from another thread while this one blocks. May be called twice."""
        self._items.close()


def _check_tracked(command: str, source: Source, places: Sequence[str]) -> Source:
    """Refuse to leave out a file that the command names."""
    provided = tuple(f"{place}/" for place in places)
    for path in mentioned(command, source.workdir):
        if path in source.untracked and not f"{path}/".startswith(provided):
            raise UsageError(
                f"`{path}`, which the command names, is not tracked by git, so it would not be sent",
                hint=f"git add {path}\nsource=snapshot(Path('.'), include_untracked=True)   sends all such files",
            )
    return source
