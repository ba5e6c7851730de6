"""`doctor --job`: what a run of a minute finds where a scheduler puts it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from remoterun.agent.shared.api import MachineCheck
from remoterun.agent.shared.states import RunState
from remoterun.client.runs.preparing import prepare
from remoterun.model import MachineType, RunRequest

if TYPE_CHECKING:
    from remoterun.client import Client

PATIENCE = 120.0
"""Seconds that it may wait for a node, and then for its end."""
COMMAND = """\
echo "node: $(uname -n), $(python3 -V 2>&1)"
outside='import urllib.request as it; it.urlopen("https://pypi.org/simple/pip/", timeout=10)'
python3 -c "$outside" 2>/dev/null && echo "node network: it reaches pypi.org" || echo "node network:"
echo "node gpu: $(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | paste -sd, -)"
"""


def by_run(client: Client, machine: MachineType) -> list[MachineCheck]:
    """The checks of a node. Blocks until a run has ended there, or has waited for too long; it leaves nothing. Raises
    `HostError`, and `UsageError` for what no node has."""
    request = RunRequest(COMMAND, framework="none", timeout=60.0, notify=(), description="remoterun doctor --job")
    run = client.runs.launch(prepare(client.connections, request, None, machine))
    try:
        give_up = time.monotonic() + PATIENCE
        while not run.final and time.monotonic() < give_up + (0 if run.state is RunState.QUEUED else PATIENCE):
            time.sleep(0.5)
            run = client.runs.get(run.number)
        if not run.final:
            return [MachineCheck("node", None, f"none in {PATIENCE:.0f} s: {run.note or run.state.value}")]
        if run.state is not RunState.COMPLETE:
            fix = "is its home on a disk that the nodes share? Else another `home`"
            return [MachineCheck("node", False, run.message or run.reason or run.state.value, fix)]
        text = client.runs.log_part(run.number, 0, 4096)[2].decode("utf-8", "replace")
    finally:
        client.runs.kill(run.number)
        list(client.runs.wait([run.number], PATIENCE))
        client.runs.remove(run.number)
    said = {name: words for name, _, words in (line.partition(": ") for line in text.splitlines())}
    outside, cards = said.get("node network"), said.get("node gpu")
    checks = [
        MachineCheck("node", True, said.get("node", "")),
        MachineCheck("node home", True, "what is written here is seen there, and the other way round"),
        MachineCheck("node network", bool(outside) or None, outside or "none"),
    ]
    return checks + ([MachineCheck("node gpu", bool(cards), cards or "nvidia-smi finds none")] if machine.gpus else [])
