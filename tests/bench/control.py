"""How long a command takes before anything of the user's happens: `python -m tests.bench.control`.

On one lab host with sshd and Docker. Every figure is the median of some rounds, ours and the peer's in turns; bounds
in seconds are the project's promises, the ratios tell what they cost beside plain ssh and docker. Writes
`control.json` beside itself, or where `--out` says.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from remoterun.client import Client, LogBytes, StateChange
from remoterun.config import Config
from remoterun.model import MachineType, RunRequest
from tests.bench import table
from tests.bench.table import Row, at_most
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
    names = [name for name in laps[-1] if name != "total"]
    return rows, {name: statistics.median(lap.get(name, 0.0) for lap in laps) for name in names}


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
