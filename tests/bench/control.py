"""How long a command takes before anything of the user's happens: `python -m tests.bench.control`.

On one lab host with sshd and Docker. Every figure is the median of some rounds, ours and the peer's in turns; bounds
in seconds are the project's promises, the ratios tell what they cost beside plain ssh and docker. Writes
`control.json` beside itself, or where `--out` says.
"""

from __future__ import annotations

import argparse
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
from remoterun.client import Client, LogBytes, StateChange
from remoterun.config import Config
from remoterun.model import MachineType, RunRequest, new_key
from remoterun.registry import Registry
from tests.bench import table
from tests.bench.table import Bound, Row, at_least_times, at_most, at_most_times
from tests.lab import BASE_IMAGE, Lab, LabHost

REMOTERUN = str(Path(sys.executable).parent / "remoterun")
ROUNDS, QUICK_ROUNDS = 7, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON; 1 if a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.control", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"), help="where the JSON goes")
    options = parser.parse_args(arguments)
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    missing = Lab.missing()
    if missing:
        print(f"no lab here: {missing}", file=sys.stderr)
        return table.SHORT
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed command has its modules compiled
    with Lab() as lab, tempfile.TemporaryDirectory() as folder:
        host = lab.host("bench").up()
        rows, steps = _measure(lab, host, Path(folder), rounds)
    print(table.text(rows))
    print("\nwhere the time of `run echo hi` goes, from the open connection on:")
    for name, seconds in steps.items():
        print(f"  {name:<40} {seconds * 1000:7.0f} ms")
    table.write(options.out, rows, steps=steps, rounds=rounds)
    return table.status(rows)


def _measure(lab: Lab, host: LabHost, home: Path, rounds: int) -> tuple[list[Row], dict[str, float]]:
    machine = MachineType("bench", host="bench", engine="docker", base_image=BASE_IMAGE)
    config = Config(home, "bench", {"bench": machine}, lab.ssh_config())
    home.joinpath("config.toml").write_text('default = "bench"\n[machines.bench]\nhost = "bench"\nengine = "docker"\n')
    env = {**os.environ, "REMOTERUN_HOME": str(home), "REMOTERUN_SSH_CONFIG": str(lab.ssh_config())}
    with Client(config) as client:
        _first_line(client)  # installs the agent, warms the engine
    ssh = ["ssh", "-F", str(lab.ssh_config()), "bench"]
    submit = [REMOTERUN, "run", "-b", "-y", "--image", BASE_IMAGE, "true"]

    laps: list[dict[str, float]] = []

    def first_line() -> float:
        with Client(config) as client:
            laps.append(_first_line(client))
        return laps[-1]["total"]

    def beside(what: str, ours: Callable[[], float], bound: float, peer_name: str, peer: Callable[[], float]) -> Row:
        figures = table.in_turns({"ours": ours, "peer": peer}, rounds)
        mine, theirs = (statistics.median(figures[side]) for side in ("ours", "peer"))
        ratio = table.median_ratio(figures["ours"], figures["peer"])
        return Row(what, "s", at_most(bound), mine, peer_name, theirs, ratio)

    rows = [
        beside(
            "remoterun --version (CPU time)", lambda: _cpu([REMOTERUN, "--version"], env), 0.150,
            "python -c pass", lambda: _cpu([sys.executable, "-c", "pass"], env),
        ),
        beside(
            "remoterun run -b true", lambda: _wall(submit, env, home), 1.0,
            "ssh HOST true", lambda: _wall([*ssh, "true"], env, home),
        ),
        beside(
            "first log line of run echo hi, connected", first_line, 1.0,
            "ssh HOST docker run --rm echo hi",
            lambda: _wall([*ssh, "docker", "run", "--rm", BASE_IMAGE, "echo", "hi"], env, home),
        ),
    ]  # fmt: skip
    new = itertools.count()
    rows.append(
        beside(
            "run --pip cowsay, first in a new home, here", lambda: _in_new_home(home / f"new{next(new)}"), 5.0,
            "python3 -m venv; pip install; cowsay", lambda: _by_hand(home / f"new{next(new)}"),
        )
    )  # fmt: skip
    rows.append(
        beside(
            f"ps -a, {MANY:,} runs", lambda: _wall([REMOTERUN, "ps", "-a"], _with_many_runs(home / "many"), home), 0.3,
            "python -c pass", lambda: _wall([sys.executable, "-c", "pass"], env, home),
        )
    )  # fmt: skip
    rows.append(_latency(config, env, ssh, home))
    rows += _prompts(config, env, ssh, home, rounds)
    rows += _ports(lab, host, config, rounds)
    names = [name for name in laps[-1] if name != "total"]
    return rows, {name: statistics.median(lap.get(name, 0.0) for lap in laps) for name in names}


MANY = 1000
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
                registry.move(run, RunState.FAILED, now, reason=Reason.KILLED.value)
    return {**os.environ, "REMOTERUN_HOME": str(home)}


def _latency(config: Config, env: dict[str, str], ssh: list[str], home: Path) -> Row:
    """From when a command writes a line to when it is read here: the median of its lines."""
    with Client(config) as client:
        run = client.runs.submit(RunRequest(LINES, image=BASE_IMAGE))
        ours = _age_of_lines([REMOTERUN, "logs", str(run.number)], env, home)
    theirs = _age_of_lines([*ssh, "docker", "run", "--rm", BASE_IMAGE, "sh", "-c", shlex.quote(LINES)], env, home)
    peer = "ssh HOST docker run --rm"
    return Row("a line of the log, until it is here", "s", at_most(0.05), ours, peer, theirs, ours / theirs)


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


def _ports(lab: Lab, host: LabHost, config: Config, rounds: int) -> list[Row]:
    """Bytes per second through a port of a container, in each direction, and how long one byte takes."""
    with Client(config) as client, contextlib.ExitStack() as stack:
        run = client.runs.submit(RunRequest(f"exec python3 -c {shlex.quote(SERVER % MEGABYTES)}", image=BASE_IMAGE))
        stack.callback(client.runs.kill, run.number)
        address = next(item.data for item in client.runs.follow(run.number) if isinstance(item, LogBytes))
        up = queue.Queue[int]()
        stack.enter_context(client.runs.forward(run.number, [PortSpec(7000)], lambda news: up.put(news.local)))
        ours = up.get(timeout=60)
        theirs = stack.enter_context(_ssh_forward(lab, f"{address.decode().strip()}:7000"))

        def row(what: str, unit: str, bound: Bound, measure: Callable[[int], float]) -> Row:
            figures = table.in_turns({"ours": lambda: measure(ours), "peer": lambda: measure(theirs)}, rounds)
            mine, peer = (statistics.median(figures[side]) for side in ("ours", "peer"))
            return Row(what, unit, bound, mine, "ssh -L", peer, table.median_ratio(figures["ours"], figures["peer"]))

        return [
            row("bytes per second from a forwarded port", "bytes", at_least_times(1), _down),
            row("bytes per second to a forwarded port", "bytes", at_least_times(1), _up),
            row("a connection through it, with one byte each way", "s", at_most(0.1), _one_byte),
        ]


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


def _prompts(config: Config, env: dict[str, str], ssh: list[str], home: Path, rounds: int) -> list[Row]:
    """How long it takes to a shell's prompt in the container of a run."""
    with Client(config) as client, contextlib.ExitStack() as stack:
        run = client.runs.submit(RunRequest("echo up; exec sleep 3600", image=BASE_IMAGE))
        stack.callback(client.runs.kill, run.number)
        next(item for item in client.runs.follow(run.number) if isinstance(item, LogBytes))
        ours = [REMOTERUN, "exec", str(run.number)]
        shell = ["docker", "exec", "-it", "-e", "PS1=(run", f"remoterun-{run.key}", "bash", "--norc"]
        peer = [*ssh[:1], "-t", *ssh[1:], *shell]
        figures = table.in_turns(
            {"ours": lambda: _prompt(ours, env, home), "peer": lambda: _prompt(peer, env, home)}, rounds
        )
    mine, theirs = (statistics.median(figures[side]) for side in ("ours", "peer"))
    ratio = table.median_ratio(figures["ours"], figures["peer"])
    return [Row("exec, to the prompt", "s", at_most_times(1.2), mine, "ssh HOST docker exec", theirs, ratio)]


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


def _first_line(client: Client) -> dict[str, float]:
    """Seconds from the open connection to the first byte of the log, by step."""
    client.machines.session(client.machines.get(None))
    begun = before = time.perf_counter()
    run = client.runs.submit(RunRequest("echo hi", image=BASE_IMAGE))
    laps = {"submit": time.perf_counter() - before}
    before, name = time.perf_counter(), "queued"
    for item in client.runs.follow(run.number):
        if isinstance(item, LogBytes):
            now = time.perf_counter()
            laps[f"{name}, to the first line"] = now - before
            laps["total"] = now - begun
            break
        if isinstance(item, StateChange) and item.state.value != name:
            now = time.perf_counter()
            laps[name] = now - before
            before, name = now, item.state.value
    for _ in client.runs.follow(run.number):
        pass
    return laps


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
