"""Requests about the ports of a run: who listens on them, and connections to them."""

from __future__ import annotations

from typing import Dict, Optional, Set

from ..running.network import Network, network_of
from ..shared import api
from ..shared.protocol import Cancelled
from ..shared.splicing import splice
from ..shared.states import FINAL, RunState
from ..store.errors import HomeError
from ..store.run_folder import RunFolder
from . import Call, Handler

POLL = 0.2
"""Seconds between looks at who listens, which are two small files to read."""


def watch_ports(call: Call, asked: api.Ports) -> api.Nothing:
    run = call.home.existing_run(asked.key)
    ports = set(asked.ports)
    if not ports:
        named = run.spec().ports
        call.stream.send(ports=[[each.port, each.wanted] for each in named])
        ports = {each.port for each in named}
    if ports and _until_running(call, run):
        with network_of(call.home, run) as network:
            _watch(call, run, ports, network)
    return api.Nothing()


def _watch(call: Call, run: RunFolder, ports: Set[int], network: Network) -> None:
    """Tell who listens for as long as the command runs."""
    found = _of(ports, network.listening())
    for port in sorted(ports - found):
        call.stream.send(waiting=port)
    up: Set[int] = set()
    while True:
        for port in sorted(found - up):
            call.stream.send(up=port)
        up |= found
        if call.stream.wait_cancelled(POLL):
            raise Cancelled
        if run.state()[0] is not RunState.RUNNING or run.exit_code() is not None:
            return
        before, found = found, _of(ports, network.listening())
        for port in sorted(up - found - before):  # in two looks: a server may begin anew, and a run may end
            call.stream.send(down=port)
            up.discard(port)


def connect(call: Call, asked: api.Port) -> api.Nothing:
    run = call.home.existing_run(asked.key)
    if run.state()[0] is not RunState.RUNNING:
        raise HomeError("not_running", "the run is %s" % run.state()[0].value)
    with network_of(call.home, run) as network, network.connect(asked.port) as connection:
        splice(call.stream, connection)
    return api.Nothing()


HANDLERS: Dict[str, Handler] = {"watch_ports": watch_ports, "connect": connect}


def _until_running(call: Call, run: RunFolder) -> bool:
    """Wait for the command to start; False for a run that ends without."""
    while True:
        state = run.state()[0]
        if state is RunState.RUNNING:
            return True
        if state in FINAL or state is RunState.SAVING:
            return False
        if call.stream.wait_cancelled(POLL):
            raise Cancelled


def _of(ports: Set[int], listening: Optional[Set[int]]) -> Set[int]:
    return ports if listening is None else ports & listening
