"""Requests about runs: handing one over, its status, following its log, ending and removing it."""

from __future__ import annotations

import os
import threading
import time
from typing import Dict, List, Set

from ..running import awaiting, supervision
from ..running.queues import queue_named, queue_of_run
from ..shared import api, logs
from ..shared.facts import RunEvent, RunStatus
from ..shared.files import locked
from ..shared.follower import RunFollower
from ..shared.protocol import Cancelled
from ..shared.records import from_json, to_json
from ..shared.spec import MountSpec, ResolvedMount, RunSpec
from ..shared.states import FINAL, Reason, RunState
from ..shared.submission import Submission
from ..shared.tree import show
from ..shared.webhooks import MOST_ADDRESSES, BadAddress, check_address
from ..store import outputs
from ..store.errors import HomeError
from ..store.home import Home
from ..store.run_folder import RunFolder
from . import Call
from .uploads import find

POLL_LEAST, POLL_MOST = 0.005, 0.1
ENSURE_EVERY = 2.0
"""Seconds between checks whether a run that is followed still has its supervisor, and where it stands in the line."""
REMOVAL_PATIENCE = 15.0
"""Seconds that a supervisor may take to give back what its run held."""
_SUBMITTING = threading.Lock()
"""A run of a set that has no place in the line yet is started by none of the others of the set."""


def stay(call: Call, _: api.Nothing) -> api.Nothing:
    _refuse_if_ending(call.home)
    call.stream.send()
    call.stream.read()
    return api.Nothing()


def submit(call: Call, _: api.Nothing) -> api.Status:
    asked = Submission.decode(call.stream.read())
    spec = asked.spec
    run = call.home.run(spec.key)
    with _SUBMITTING:
        if not run.exists():
            _refuse_if_ending(call.home)
            queue = queue_named(call.home, spec.queue)
            lacking = queue.lacks(spec)
            if lacking is not None:
                raise HomeError("no_capacity", lacking, "remoterun doctor %s   shows what it has" % spec.machine)
            _check_after(call.home, spec)
            with locked(call.home.lock("blobs"), shared=True):  # what the mounts name stays until the run names it
                mounts = tuple(_resolve(call.home, mount) for mount in spec.mounts)
                run = call.home.create_run(asked, mounts, os.environ)
            queue.submit(run, spec)
        elif asked.grant is not None:
            run.renew(asked.grant)
        _ensure_supervised(call.home, run)
    _release(call, run)
    return api.Status(run.status())


def runs(call: Call, asked: api.RunKeys) -> api.Statuses:
    found: List[RunStatus] = []
    unreadable: Dict[str, str] = {}
    waiting = queue_named(call.home, "").asleep().intersection(asked.waiting) if asked.waiting else set()
    for key in call.home.run_keys() if asked.keys is None else asked.keys:
        if key in waiting:
            continue
        run = call.home.run(key)
        if run.exists():
            try:
                found.append(run.status())
            except (OSError, ValueError, AttributeError) as error:  # one that can't be read hides no other
                unreadable[key] = str(error)
        else:
            call.home.check_present()
    supervision.revive(call.home, [status.key for status in found if status.state not in FINAL])
    return api.Statuses(found, unreadable, sorted(waiting))


def run(call: Call, asked: api.RunKey) -> api.RunDetails:
    run = call.home.existing_run(asked.key)
    events = [from_json(RunEvent, event) for event in run.events()]
    return api.RunDetails(run.status(), run.spec().to_record(), run.path, events, list(run.mounts()), run.reading(True))


def end(call: Call, asked: api.EndRuns) -> api.EndedRuns:
    ended: List[api.Acknowledgement] = []
    failed: Dict[str, str] = {}
    queues: Dict[str, List[RunFolder]] = {}
    for key in sorted(asked.keys):
        run = call.home.run(key)
        try:
            if not run.exists():
                call.home.check_present()
                continue
            status = run.status()
            goes_on = status.state not in FINAL
            if goes_on:
                queues.setdefault(run.queue(), []).append(run)
            now = status._replace(stopping=status.stopping or goes_on)
            ended.append(api.Acknowledgement(goes_on, now, status.stopping))
        except (OSError, ValueError, AttributeError) as error:
            failed[key] = str(error)

    def ask(run: RunFolder) -> None:
        if asked.grace is None:
            run.ask_kill()
        else:
            run.ask_stop(asked.grace)

    for name, runs in queues.items():
        queue_named(call.home, name).cancel(runs, Reason.KILLED if asked.grace is None else Reason.STOPPED, ask)
    if queues:
        supervision.revive(call.home)
    return api.EndedRuns(ended, failed)


def notify(call: Call, asked: api.Notify) -> api.Acknowledgement:
    try:
        addresses = {shown: check_address(url) for shown, url in asked.addresses.items()}
    except BadAddress as error:
        raise HomeError("bad_request", str(error))
    run = call.home.existing_run(asked.key)
    status, known = run.status(), run.webhooks()
    if status.state in FINAL:
        return api.Acknowledgement(False, status)
    together = {**known.addresses, **addresses}
    if len(together) > MOST_ADDRESSES:
        raise HomeError("bad_request", "%d addresses get word of a run at the most" % MOST_ADDRESSES)
    run.save_webhooks(known._replace(addresses=together))
    return api.Acknowledgement(True, status)


def renew(call: Call, asked: api.Renewal) -> api.Nothing:
    run = call.home.existing_run(asked.key)
    if not run.spec().bucket:
        raise HomeError("bad_request", "the run %s has no bucket" % asked.key)
    run.renew(asked.grant)
    _ensure_supervised(call.home, run)
    return api.Nothing()


def remove_run(call: Call, asked: api.RunKey) -> api.Removed:
    run = call.home.run(asked.key)
    if not run.exists():
        call.home.check_present()
        run.remove()
        return api.Removed(False)
    state = run.state()[0]
    if state not in FINAL:
        raise HomeError("busy", "the run is %s" % state.value)
    from ..running.ending import clean_up

    deadline = time.monotonic() + REMOVAL_PATIENCE
    queue = queue_of_run(call.home, run)
    while queue.supervised(run) and time.monotonic() < deadline:
        time.sleep(0.02)
    if asked.key in call.home.active_keys() and not clean_up(call.home, run):
        raise HomeError("engine_silent", "its container can't be removed: the engine does not answer")
    run.remove()
    call.home.unmark_active(asked.key)
    return api.Removed(True)


def follow(call: Call, asked: api.Follow) -> api.Followed:
    run = call.home.existing_run(asked.key)
    follower = RunFollower(run, asked)
    build_line, pause, next_ensured = "", POLL_LEAST, 0.0
    while True:
        if time.monotonic() >= next_ensured:
            _ensure_supervised(call.home, run)
            if asked.follow and run.state()[0] is RunState.QUEUED and not run.waiting_for():
                _send_line(call, run)
            next_ensured = time.monotonic() + ENSURE_EVERY
        moved = False
        for header, data in follower.news():
            call.stream.send(data, **header)
            moved = True
        if not run.exists():
            call.home.check_present()
            raise HomeError("not_found", "the run was removed")
        line = "" if follower.started else run.waiting_for() or logs.last_lines(run.build_log, 1).strip()
        if line and line != build_line:
            build_line = line
            call.stream.send(build=line[:200])
        if follower.done or not asked.follow:
            return follower.until(run.status())
        pause = POLL_LEAST if moved else min(pause * 1.2, POLL_MOST)
        if call.stream.wait_cancelled(pause):
            raise Cancelled


def _send_line(call: Call, run: RunFolder) -> None:
    """The users of the machine for which the run waits."""
    spec = run.spec()
    found = queue_of_run(call.home, run).occupancy(api.Demand(spec.gpus, spec.slots, queue=spec.queue))
    runs = [one for one in found.runs if one.key == run.key or not one.place]
    if any(one.key == run.key and one.place for one in runs):
        call.stream.send(line=to_json(found._replace(runs=runs)))


def _ensure_supervised(home: Home, run: RunFolder) -> None:
    if run.state()[0] not in FINAL:
        supervision.revive(home, [run.key])


def _refuse_if_ending(home: Home) -> None:
    """Refuse what a rented host that ends soon can't do any more."""
    refusal = home.rental.refusal()
    if refusal is not None:
        raise HomeError("leaving", refusal, "another machine takes it: try again")


def _check_after(home: Home, spec: RunSpec) -> None:
    """Refuse a run that can never start, or that waits for one that is not here."""
    for other in spec.after:
        if not home.run(other.key).exists():
            raise HomeError("not_found", "run %d is not on this machine" % other.number)
    failed = awaiting.awaited_runs(home, spec).failed
    if failed is not None:
        raise HomeError("bad_spec", "%s, so a run that waits for it would never start" % failed)


def _resolve(home: Home, mount: MountSpec) -> ResolvedMount:
    """Pin what a mount reads: its tree becomes a blob of the home."""
    resource = mount.resource
    if resource.kind == "run":
        run = home.existing_run(resource.key)
        if outputs.saved(run) is None:
            raise HomeError(
                "not_saved",
                "%s can't be mounted: its run is %s, and outputs are mountable once they are saved"
                % (show(mount.typed), run.state()[0].value),
            )
    manifest = find(home, resource._replace(sub="")).manifest
    entry = manifest.find(resource.sub) if resource.sub else None
    try:
        part = manifest.below(resource.sub)
    except KeyError:
        raise HomeError("not_found", "there is no %s" % show(mount.typed))
    if resource.kind == "tree" and home.blobs.missing(part):
        raise HomeError("missing_blob", "files of %s are missing here" % show(mount.typed))
    file = next(iter(part)).path if entry is not None and entry.kind == "f" else ""
    return ResolvedMount(mount.place, home.blobs.put(part.encode()), file)


def _release(call: Call, run: RunFolder) -> None:
    """What a run refers to is named by its folder now: no lease need protect it."""
    if call.lease.held:
        from ..upkeep.references import ReferenceReader

        digests: Set[bytes] = set()
        ReferenceReader(call.home).take_run(run, digests)
        call.lease.release(digests)
