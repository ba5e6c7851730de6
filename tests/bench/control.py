"""How long a command takes before anything of the user's happens: `python -m tests.bench.control`.

On one lab host with sshd and Docker. Every figure is the median of some rounds, ours and the peer's in turns; bounds
in seconds are the project's promises, the ratios tell what they cost beside plain ssh and docker. Writes
`control.json` beside itself, or where the first argument says.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from remoterun.client import Client, LogBytes, StateChange
from remoterun.config import Config
from remoterun.model import MachineType, RunRequest
from tests.lab import BASE_IMAGE, Lab, LabHost

REMOTERUN = str(Path(sys.executable).parent / "remoterun")
ROUNDS = 7


@dataclass
class Row:
    """`ours` and `peer` in seconds; `bound` is the most that `ours` may be."""

    what: str
    ours: float
    peer_name: str
    peer: float
    bound: float

    @property
    def ok(self) -> bool:
        return self.ours <= self.bound

    def text(self) -> str:
        verdict = "ok" if self.ok else "short"
        return (
            f"{self.what:<44} {self.ours * 1000:7.0f} ms  {self.peer_name:<32} {self.peer * 1000:7.0f} ms"
            f"  {self.ours / self.peer:5.1f} x  at most {self.bound * 1000:5.0f} ms  {verdict}"
        )


def main() -> int:
    """Measure, print the table, write the JSON; 1 if a bound is missed."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "control.json"
    missing = Lab.missing()
    if missing:
        print(f"no lab here: {missing}", file=sys.stderr)
        return 1
    with Lab() as lab, tempfile.TemporaryDirectory() as folder:
        host = lab.host("bench").up()
        rows, steps = _measure(lab, host, Path(folder))
    for row in rows:
        print(row.text())
    print("\nwhere the time of `run echo hi` goes, from the open connection on:")
    for name, seconds in steps.items():
        print(f"  {name:<40} {seconds * 1000:7.0f} ms")
    report = {"rows": [{**asdict(row), "ok": row.ok} for row in rows], "steps": steps, "rounds": ROUNDS}
    target.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if all(row.ok for row in rows) else 1


def _measure(lab: Lab, host: LabHost, home: Path) -> tuple[list[Row], dict[str, float]]:
    machine = MachineType("bench", host="bench", engine="docker", base_image=BASE_IMAGE)
    config = Config(home, "bench", {"bench": machine}, lab.ssh_config())
    home.joinpath("config.toml").write_text('default = "bench"\n[machines.bench]\nhost = "bench"\nengine = "docker"\n')
    env = {**os.environ, "REMOTERUN_HOME": str(home), "REMOTERUN_SSH_CONFIG": str(lab.ssh_config())}
    with Client(config) as client:
        _first_line(client)  # installs the agent, warms the engine
    ssh = ["ssh", "-F", str(lab.ssh_config()), "bench"]
    submit = [REMOTERUN, "run", "-b", "-y", "--image", BASE_IMAGE, "true"]

    version, bare = _in_turns(
        lambda: _cpu([REMOTERUN, "--version"], env), lambda: _cpu([sys.executable, "-c", "pass"], env)
    )
    background, plain = _in_turns(lambda: _wall(submit, env, home), lambda: _wall([*ssh, "true"], env, home))
    laps: list[dict[str, float]] = []

    def first_line() -> float:
        with Client(config) as client:
            laps.append(_first_line(client))
        return laps[-1]["total"]

    line, docker = _in_turns(
        first_line, lambda: _wall([*ssh, "docker", "run", "--rm", BASE_IMAGE, "echo", "hi"], env, home)
    )
    rows = [
        Row("remoterun --version (CPU time)", version, "python -c pass", bare, 0.150),
        Row("remoterun run -b true", background, "ssh HOST true", plain, 1.0),
        Row("first log line of run echo hi, connected", line, "ssh HOST docker run --rm echo hi", docker, 1.0),
    ]
    names = [name for name in laps[-1] if name != "total"]
    return rows, {name: statistics.median(lap.get(name, 0.0) for lap in laps) for name in names}


def _first_line(client: Client) -> dict[str, float]:
    """Seconds from the open connection to the first byte of the log, by step."""
    client.session(client.machine(None))
    begun = before = time.perf_counter()
    run = client.submit(RunRequest("echo hi", image=BASE_IMAGE))
    laps = {"submit": time.perf_counter() - before}
    before, name = time.perf_counter(), "queued"
    for item in client.follow(run.number):
        if isinstance(item, LogBytes):
            now = time.perf_counter()
            laps[f"{name}, to the first line"] = now - before
            laps["total"] = now - begun
            break
        if isinstance(item, StateChange) and item.state.value != name:
            now = time.perf_counter()
            laps[name] = now - before
            before, name = now, item.state.value
    for _ in client.follow(run.number):
        pass
    return laps


def _in_turns(ours: Callable[[], float], peer: Callable[[], float]) -> tuple[float, float]:
    pairs = [(ours(), peer()) for _ in range(ROUNDS)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


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
