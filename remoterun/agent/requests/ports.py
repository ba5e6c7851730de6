"""Requests about the ports of a run: who listens on them, and connections to them."""

from __future__ import annotations

from typing import List, Optional, Set

from ..running.network import Network, network_of, opened
from ..running.queues import queue_of_run
from ..shared import api
from ..shared.protocol import Cancelled
from ..shared.splicing import splice
from ..shared.states import FINAL, RunState
from ..store.errors import HomeError
from ..store.run_folder import RunFolder
from . import Call

POLL = 0.2
"""Seconds between checks of who listens, which are two small files to read."""


def watch_ports(call: Call, asked: api.Ports) -> api.Nothing:
    run = call.home.existing_run(asked.key)
    if _until_running(call, run):
        if queue_of_run(call.home, run).reach(run):
            raise HomeError("elsewhere", "the run has started on another machine")
        try:
            with opened(call.home, run) as network:
                _watch(call, run, set(asked.ports), network)
        except HomeError as error:
            # A container's network goes with the command, before anybody says that it has ended.
            if error.code != "no_network" or not _has_ended(run):
                raise
    return api.Nothing()


def _watch(call: Call, run: RunFolder, ports: Set[int], network: Network) -> None:
    """Report on which of the ports somebody listens, for as long as the command runs."""
    up: Set[int] = set()
    before: Set[int] = set()
    listening_before: Optional[Set[int]] = None
    others: Optional[List[int]] = None
    while True:
        listening = network.listening()
        found = ports if listening is None else ports & listening
        if listening is not None and found - up:  # others of this machine may listen there
            found -= (found - up) - network.listening_of_run()
        missing = ports - found - up
        if missing and (others is None or listening != listening_before):
            others_before, others = others, sorted(network.listening_of_run() - missing)  # one may begin just now
            for port in sorted(missing) if others != others_before else ():
                call.stream.send(waiting=port, others=others)
        for port in sorted(found - up):
            call.stream.send(up=port)
        for port in sorted(up - found - before):  # in two looks: a server may begin anew, and a run may end
            call.stream.send(down=port)
        up = (up | found) & (found | before)
        if call.stream.wait_cancelled(POLL):
            raise Cancelled
        if _has_ended(run):
            return
        before, listening_before = found, listening


def connect(call: Call, asked: api.Port) -> api.Nothing:
    run = call.home.existing_run(asked.key)
    if run.state()[0] is not RunState.RUNNING:
        raise HomeError("not_running", "the run is %s" % run.state()[0].value)
    with network_of(run).connect(asked.port) as connection:
        splice(call.stream, connection)
    return api.Nothing()


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


def _has_ended(run: RunFolder) -> bool:
    return run.state()[0] is not RunState.RUNNING or run.exit_code() is not None
