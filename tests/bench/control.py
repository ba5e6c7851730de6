"""How long a command takes before anything of the user's happens: `python -m tests.bench.control`.

On one lab host with sshd and Docker. Every figure is the median of some rounds, ours and the peer's in turns; bounds
in seconds are the project's promises, the ratios tell what they cost beside plain ssh and docker. Writes
`control.json` beside itself, or where `--out` says.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import resource
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from remoterun.agent.shared.spec import PortSpec
from remoterun.agent.shared.states import Reason, RunState
from remoterun.agent.store.home import Home
from remoterun.client import Client
from remoterun.client.runs.following import LogBytes
from remoterun.config import Config, load
from remoterun.model import MachineType, Run, RunRequest, new_key
from remoterun.registry import Registry
from tests.bench import table
from tests.bench.table import Bound, Row, at_least_times, at_most
from tests.lab import BASE_IMAGE, Lab, LabHost

REMOTERUN = str(Path(sys.executable).parent / "remoterun")
ROUNDS, QUICK_ROUNDS = 7, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON; 1 if a bound is missed."""
    options = table.options("control", arguments, __doc__)
    missing = Lab.missing()
    if missing:
        print(f"no lab here: {missing}", file=sys.stderr)
        return table.SHORT
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed command has its modules compiled
    with Lab() as lab, tempfile.TemporaryDirectory() as folder:
        host = lab.host("bench").up()
        bench = Bench(lab, host, Path(folder), QUICK_ROUNDS if options.quick else ROUNDS)
        bench.measure()
    return table.finish(options.out, bench.rows, rounds=bench.rounds)


class Bench:
    """The rows so far, and what they are measured with."""

    def __init__(self, lab: Lab, host: LabHost, home: Path, rounds: int) -> None:
        machine = MachineType("bench", host="bench", engine="docker", base_image=BASE_IMAGE)
        self.config = Config(home, "bench", {"bench": machine}, lab.ssh_config())
        text = 'default = "bench"\n[machines.bench]\nhost = "bench"\nengine = "docker"\n'
        home.joinpath("config.toml").write_text(text)
        self.env = {**os.environ, "REMOTERUN_HOME": str(home), "REMOTERUN_SSH_CONFIG": str(lab.ssh_config())}
        self.ssh = ["ssh", "-F", str(lab.ssh_config()), "bench"]
        self.lab, self.home, self.rounds = lab, home, rounds
        self.rows: list[Row] = []

    def measure(self) -> None:
        """All rows; those with a live connection last."""
        self._first_line()  # installs the agent, warms the engine
        plain, ps = [sys.executable, "-c", "pass"], [REMOTERUN, "ps", "-a"]
        docker = [*self.ssh, "docker", "run", "--rm", BASE_IMAGE, "echo", "hi"]
        new = (self.home / f"new{number}" for number in itertools.count())
        many = _with_many_runs(self.home / "many")
        self._beside(
            "remoterun --version (CPU time)", at_most(0.15), lambda: _cpu([REMOTERUN, "--version"], self.env),
            "python -c pass", lambda: _cpu(plain, self.env),
        )  # fmt: skip
        self._run("", at_most(0.6))
        self._beside(
            "first log line of run echo hi, connected", at_most(1), self._first_line,
            "ssh HOST docker run --rm echo hi", lambda: self._wall(docker),
        )  # fmt: skip
        self._beside(
            "run --pip cowsay, first in a new home, here", at_most(5), lambda: _in_new_home(next(new)),
            "python3 -m venv; pip install; cowsay", lambda: _by_hand(next(new)),
        )  # fmt: skip
        self._beside(
            f"ps -a, {MANY:,} runs", at_most(0.3), lambda: _wall(ps, many, self.home),
            "python -c pass", lambda: self._wall(plain),
        )  # fmt: skip
        self._latency()
        self._line()
        self._ports()
        self._exec("", at_most(0.45))
        self._wall([REMOTERUN, "login", "bench"])
        self._run(", logged in", at_most(0.4))
        self._exec(", logged in", at_most(0.25))
        self._wall([REMOTERUN, "logout", "bench"])

    def _beside(
        self,
        what: str,
        bound: Bound,
        ours: Callable[[], float],
        peer_name: str,
        peer: Callable[[], float],
        unit: str = "s",
    ) -> None:
        figures = table.in_turns({"ours": ours, "peer": peer}, self.rounds)
        self.rows.append(table.beside(what, unit, bound, figures["ours"], peer_name, figures["peer"]))

    def _wall(self, words: list[str]) -> float:
        return _wall(words, self.env, self.home)

    def _run(self, how: str, bound: Bound) -> None:
        """How long it takes to hand a run over."""
        words = [REMOTERUN, "run", "-b", "-y", "--image", BASE_IMAGE, "true"]
        peer = [*self.ssh, "true"]
        self._beside(f"run -b true{how}", bound, lambda: self._wall(words), "ssh HOST true", lambda: self._wall(peer))

    def _first_line(self) -> float:
        """Seconds from the open connection to the first byte of the log."""
        with Client(self.config) as client:
            client.machines.session(client.machines.get(None))
            begun = time.perf_counter()
            news = client.runs.follow(client.runs.submit(RunRequest("echo hi", image=BASE_IMAGE)).number)
            next(item for item in news if isinstance(item, LogBytes))
            seconds = time.perf_counter() - begun
            for _ in news:
                pass
        return seconds

    def _latency(self) -> None:
        """From when a command writes a line to when it is read here: the median of its lines."""
        with Client(self.config) as client:
            number = client.runs.submit(RunRequest(LINES, image=BASE_IMAGE)).number
        ours = _age_of_lines([REMOTERUN, "logs", str(number)], self.env, self.home)
        docker = [*self.ssh, "docker", "run", "--rm", BASE_IMAGE, "sh", "-c", shlex.quote(LINES)]
        theirs = _age_of_lines(docker, self.env, self.home)
        what, peer = "a line of the log, until it is here", "ssh HOST docker run --rm"
        self.rows.append(table.beside(what, "s", at_most(0.05), [ours], peer, [theirs]))

    def _line(self) -> None:
        """What it costs that many runs wait, in a home of this machine, and how soon the next one has a freed slot."""
        home = _empty(self.home / "line").parent
        (home / "config.toml").write_text('default = "here"\n[machines.here]\nengine = "process"\nslots = 1\n')
        env = {**os.environ, "REMOTERUN_HOME": str(home)}

        def row(what: str, most: float, figures: Sequence[float]) -> None:
            self.rows.append(Row(what, "s", at_most(most), statistics.median(figures)))

        def submit(command: str = "true") -> float:
            begun = time.perf_counter()
            runs.append(client.runs.submit(RunRequest(command, framework="none")))
            return time.perf_counter() - begun

        runs: list[Run] = []
        with Client(load(env)) as client:
            submit(f"until [ -e {home}/go ]; do sleep 0.2; done")
            for _ in range(MANY):
                submit()
            row(f"one more run, while {MANY:,} wait", 0.1, [submit() for _ in range(self.rounds)])
        row(f"ps, {MANY:,} runs wait", 0.5, [_wall([REMOTERUN, "ps"], env, home) for _ in range(self.rounds)])
        before = table.processor_seconds(str(home))
        time.sleep(SOME_SECONDS)
        used = (table.processor_seconds(str(home)) - before) / SOME_SECONDS
        row(f"processor time per second, while {MANY:,} runs wait", 0.02, [used])
        with Client(load(env)) as client:
            (home / "go").touch()
            for _ in client.runs.follow(runs[self.rounds].number):
                pass
            for run in reversed(runs):
                client.runs.kill(run.number)
        passed = [_moments(home, run) for run in runs[: self.rounds + 1]]
        gaps = [next_["building"] - one["complete"] for one, next_ in itertools.pairwise(passed)]
        row("a slot, from the end of one run to the start of the next", 0.5, gaps)

    def _ports(self) -> None:
        """Bytes per second through a port of a container, in each direction, and how long one byte takes."""
        command = f"exec python3 -c {shlex.quote(SERVER % MEGABYTES)}"
        with self._running(command) as (client, run, address), contextlib.ExitStack() as stack:
            up = queue.Queue[int]()
            stack.enter_context(client.runs.forward(run.number, [PortSpec(7000)], lambda news: up.put(news.local)))
            ours = up.get(timeout=60)
            theirs = stack.enter_context(_ssh_forward(self.lab, f"{address.decode().strip()}:7000"))

            def row(what: str, bound: Bound, measure: Callable[[int], float], unit: str) -> None:
                self._beside(what, bound, lambda: measure(ours), "ssh -L", lambda: measure(theirs), unit)

            row("bytes per second from a forwarded port", at_least_times(0.5), _down, "bytes")
            row("bytes per second to a forwarded port", at_least_times(0.5), _up, "bytes")
            row("a connection through it, with one byte each way", at_most(0.1), _one_byte, "s")

    def _exec(self, how: str, bound: Bound) -> None:
        """How long it takes to a shell's prompt in the container of a run."""
        with self._running("echo up; exec sleep 3600") as (_, run, _):
            ours = [REMOTERUN, "exec", str(run.number)]
            shell = ["docker", "exec", "-it", "-e", "PS1=(run", f"remoterun-{run.key}", "bash", "--norc"]
            peer = [*self.ssh[:1], "-t", *self.ssh[1:], *shell]
            self._beside(
                f"exec, to the prompt{how}", bound, lambda: _prompt(ours, self.env, self.home),
                "ssh HOST docker exec", lambda: _prompt(peer, self.env, self.home),
            )  # fmt: skip

    @contextlib.contextmanager
    def _running(self, command: str) -> Iterator[tuple[Client, Run, bytes]]:
        """A run, and what it wrote first; it is killed at the end."""
        with Client(self.config) as client:
            run = client.runs.submit(RunRequest(command, image=BASE_IMAGE))
            try:
                news = client.runs.follow(run.number)
                yield client, run, next(item.data for item in news if isinstance(item, LogBytes))
            finally:
                client.runs.kill(run.number)


MANY, SOME_SECONDS = 1000, 10
LINES = "for i in $(seq 60); do date +%s.%N; sleep 0.1; done"
"""Writes when each of its lines was written."""


def _with_many_runs(home: Path) -> dict[str, str]:
    """The environment of a user whose registry, made once, has so many runs, which have ended."""
    if not home.exists():
        home.mkdir()
        with contextlib.closing(Registry(home / "registry.db")) as registry:
            for number in range(MANY):
                now = time.time() - MANY + number
                run = registry.add_run(new_key(now), MachineType("bench"), f"python train.py {number}", now, "", ())
                registry.change_state(run, RunState.FAILED, now, reason=Reason.KILLED.value)
    return {**os.environ, "REMOTERUN_HOME": str(home)}


def _moments(home: Path, run: Run) -> dict[str, float]:
    """When a run of this machine reached each state."""
    events = Home.open(str(home)).run(run.key).events()
    return {event["state"]: event["t"] for event in events if "state" in event}


def _age_of_lines(words: list[str], env: dict[str, str], folder: Path) -> float:
    ages = []
    with subprocess.Popen(
        words, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        for line in iter(process.stdout.readline, b""):
            ages.append(time.time() - float(line))
    return statistics.median(ages[len(ages) // 2 :])  # earlier ones were written before anybody listened


SERVER = """
import socket
listener = socket.create_server(("0.0.0.0", 7000))
print(socket.gethostbyname(socket.gethostname()), flush=True)
block = b"x" * (1 << 20)
while True:
    connection, _ = listener.accept()
    asked = connection.recv(1)
    if asked == b"d":
        for _ in range(%d):
            connection.sendall(block)
    elif asked == b"u":
        while connection.recv(1 << 20):
            pass
        connection.sendall(b".")
    connection.close()
"""
MEGABYTES = 256


@contextlib.contextmanager
def _ssh_forward(lab: Lab, there: str) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    words = ["ssh", "-F", str(lab.ssh_config()), "-N", "-L", f"127.0.0.1:{port}:{there}", "bench"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 20
            while True:
                with contextlib.suppress(OSError):
                    _one_byte(port)
                    break
                if time.monotonic() > deadline:
                    raise TimeoutError("ssh -L does not answer")
                time.sleep(0.05)
            yield port
        finally:
            process.terminate()


def _down(port: int) -> float:
    begun = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"d")
        room, total = bytearray(1 << 20), 0
        while size := connection.recv_into(room):
            total += size
    assert total == MEGABYTES << 20
    return total / (time.perf_counter() - begun)


def _up(port: int) -> float:
    begun, block = time.perf_counter(), b"x" * (1 << 20)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"u")
        for _ in range(MEGABYTES):
            connection.sendall(block)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b"."
    return (MEGABYTES << 20) / (time.perf_counter() - begun)


def _one_byte(port: int) -> float:
    begun = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"u")
        connection.shutdown(socket.SHUT_WR)
        if connection.recv(1) != b".":
            raise ConnectionError
    return time.perf_counter() - begun


def _prompt(words: list[str], env: dict[str, str], folder: Path) -> float:
    """Seconds from the start of a program, in a terminal of its own, to its prompt."""
    terminal, its = os.openpty()
    begun = time.perf_counter()
    with subprocess.Popen(
        words, env=env, cwd=folder, stdin=its, stdout=its, stderr=its, start_new_session=True
    ) as process:
        os.close(its)
        said = b""
        while b"(run" not in said:
            said += os.read(terminal, 4096)
        seconds = time.perf_counter() - begun
        os.write(terminal, b"exit\n")
        with contextlib.suppress(OSError):  # its end
            while os.read(terminal, 4096):
                pass
        process.wait()
    os.close(terminal)
    return seconds


def _in_new_home(folder: Path) -> float:
    """A command with a package, where nothing was ever run, in a virtual environment of this machine."""
    folder.mkdir()
    folder.joinpath("config.toml").write_text('[machines.here]\nengine = "process"\n')
    env = {**os.environ, "REMOTERUN_HOME": str(folder)}
    return _wall([REMOTERUN, "run", "-y", "-t", "here", "--pip", "cowsay", "cowsay -t hi"], env, _empty(folder))


def _by_hand(folder: Path) -> float:
    words = f"{sys.executable} -m venv v && v/bin/python -m pip install -q cowsay && v/bin/cowsay -t hi"
    return _wall(["sh", "-c", words], dict(os.environ), _empty(folder))


def _empty(folder: Path) -> Path:
    work = folder / "work"
    work.mkdir(parents=True)
    return work


def _wall(words: list[str], env: dict[str, str], folder: Path) -> float:
    begun = time.perf_counter()
    subprocess.run(words, env=env, cwd=folder, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return time.perf_counter() - begun


def _cpu(words: list[str], env: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, env=env, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
