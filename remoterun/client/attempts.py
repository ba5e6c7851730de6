"""A run whose rented host was lost goes on under its number on another one, with what it had made by then."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from remoterun import transfer
from remoterun.agent.shared import api
from remoterun.agent.shared.spec import MountSpec, ResourceRef, RunSpec, SpecError
from remoterun.agent.shared.states import ENDINGS, Reason, RunState
from remoterun.agent.shared.submission import Submission
from remoterun.agent.shared.tree import Manifest
from remoterun.client import bucket, renting
from remoterun.client.connections import Connections
from remoterun.client.following import Item, Note, Wanted, follow
from remoterun.client.rented_runs import record_status
from remoterun.client.reruns import KeptTree, fetch_tree
from remoterun.client.secrets import variables_of
from remoterun.client.specs import digest_of_asked
from remoterun.client.submitting import bring_resource, may_have_arrived, why_not_handed_over
from remoterun.client.upload_copies import bring_version
from remoterun.client.webhooks import addresses_again, webhooks_of
from remoterun.config import HOME_VARIABLE
from remoterun.environments import context
from remoterun.errors import HostUnreachable, NotFound, RemoterunError, UsageError
from remoterun.model import Placement, Resource, Run
from remoterun.providers.base import NoCapacity
from remoterun.session import Session
from remoterun.transfer import Progress

WORTH_IT = 120.0
"""Seconds before a run's deadline from which on it is not given another host."""
PATIENCE = 60.0
"""Seconds until a host is asked for again where there was none."""
TURN = 1.0
"""Seconds between two looks whether another client has given a run its host."""


def may_go_on(run: Run, now: float) -> bool:
    """Whether a run shall have another host."""
    if run.renting is None or run.state is not RunState.INTERRUPTED or run.reason is None:
        return False
    more = run.renting.attempt < run.renting.attempts and now + WORTH_IT < run.renting.deadline
    return more and ENDINGS[run.reason].retry


def start_next_attempt(
    connections: Connections,
    run: Run,
    values: Mapping[str, str],
    progress: Progress,
    waiting: Callable[[str], None] = lambda _: None,
) -> Run | None:
    """Give an interrupted run its next host, and hand it over; None where another client does so.

    `values`: of the variables that the user set, which are kept nowhere; those that are missing are taken from this
    process's own, and those of secrets from where these are kept; so are addresses that get word. What goes wrong
    leaves the run INTERRUPTED, with the reason. Blocks for minutes. Raises `ProviderError`, `HostError`, `UsageError`.
    """
    if run.renting is None:
        return None
    spec, source, left = _as_kept(connections, run)
    if digest_of_asked(spec) != run.renting.asked or source.digest != spec.source:
        raise UsageError(
            f"run {run.number} can't go on: its bucket has another command, mounts or source than you asked for",
            hint=f"remoterun info {run.number}",
        )
    known = _values(connections, run, spec, values)
    home = connections.session(bucket.machine_of(run))
    written = home.ask(api.follow, api.Follow(run.key, follow=False, tail=0))
    plan = renting.plan(connections, run.machine, without={host.token for host in run.renting.hosts})
    ends = renting.deadline(run, plan, time.time())
    if ends < time.time() + WORTH_IT:
        raise UsageError(f"run {run.number} has cost what it may", hint=f"remoterun info {run.number}")
    limit = _time_limit(run, spec)
    if limit < time.time() + WORTH_IT:
        raise UsageError(f"run {run.number} has had the time of its --timeout", hint=f"remoterun rerun {run.number}")
    attempt = run.renting.attempt + 1
    later = replace(run.renting, attempt=attempt, log_before=written.offset, err_before=written.err, deadline=ends)
    taken = connections.registry.next_attempt(run, later, time.time())
    if taken is None:
        return None
    asked = False
    try:
        with contextlib.ExitStack() as held:
            taken, session = renting.rent(connections, taken, plan, waiting, held)
            waiting("")
            taken = connections.registry.place(taken, Placement(session.machine, session.home_id))
            mounts = tuple(_mounted(connections, mount, session, progress) for mount in spec.mounts)
            taken = connections.registry.move(taken, RunState.UPLOADING, time.time())
            bucket.copy_contents(connections, home, source, session, progress)
            if left is not None:
                bucket.copy_contents(connections, home, left, session, progress, run.key)
            assert taken.renting is not None
            until = renting.until(taken.renting, session, time.time())  # a host that was kept may end sooner
            build, blobs = context()
            transfer.send_blobs(session, {**blobs, build.digest: build.encode()}, progress)
            again = spec._replace(
                mounts=mounts,
                environment=spec.environment._replace(context=build.digest),
                git=spec.git and spec.git._replace(diff=None),
                until=min(until, limit),
                attempt=later.attempt,
                log_before=later.log_before,
                err_before=later.err_before,
            )
            grant, images = bucket.introduce(connections, taken, again, source, session)
            taken = connections.registry.rent(taken, replace(taken.renting, grant_ends=grant.expires))
            webhooks = webhooks_of(taken, addresses_again(connections, spec.notify, values))
            left_then = left.encode() if left is not None else b""
            body = Submission(again, known, source.encode(), grant, left_then, images, webhooks)
            asked = True
            result = session.ask(api.submit, api.Nothing(), body.encode())
    except BaseException as error:
        if asked and may_have_arrived(error):
            connections.registry.give_up(taken)
            raise
        _give_up(connections, run, error)
        raise
    return record_status(connections, taken, session.told(result.status))


def _time_limit(run: Run, spec: RunSpec) -> float:
    """When the command must end by the run's time limit, which counts from its first start; inf without one. `spec`:
    of the last attempt, whose `until` says so where an earlier one had started."""
    if spec.timeout is None:
        return math.inf
    earlier = spec.until if spec.attempt > 1 and spec.until is not None else math.inf
    return min(earlier, math.inf if run.started is None else run.started + spec.timeout)


def follow_attempts(connections: Connections, number: int, wanted: Wanted, values: Mapping[str, str]) -> Iterator[Item]:
    """Follow a run over the hosts that it gets from now on, each when the one before was lost."""
    while True:
        run = connections.registry.run(number)
        if not run.final and run.placement is None:  # another client gives it a host
            connections.closed.wait(TURN)
            if connections.registry.abandoned(run):
                return
            continue
        if not run.final:
            yield from follow(connections, run, replace(wanted, tail=None, since=None, onward=True))
            continue
        if not may_go_on(run, time.time()):
            return
        assert run.renting is not None
        yield Note("attempt", f"attempt {run.renting.attempt + 1} of {run.renting.attempts}")
        try:
            taken = yield from _waited(connections, run, values)
        except (NoCapacity, HostUnreachable) as error:
            yield Note("note", f"{error.message}; trying again in {PATIENCE:g} s")
            connections.closed.wait(PATIENCE)
            continue
        if taken is not None:
            yield from follow(connections, taken, replace(wanted, tail=None, since=None, onward=True))


def _waited(connections: Connections, run: Run, values: Mapping[str, str]) -> Generator[Item, None, Run | None]:
    """`start_next_attempt`, with what it waits for."""
    words: queue.Queue[str | None] = queue.Queue()
    done: list[Run | None] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            done.append(start_next_attempt(connections, run, values, Progress(), words.put))
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            failed.append(error)
        words.put(None)

    threading.Thread(target=work, name="remoterun attempt", daemon=True).start()
    while (text := words.get()) is not None:
        yield Note("waiting", text)
    if failed:
        raise failed[0]
    return done[0]


def _give_up(connections: Connections, before: Run, error: BaseException) -> None:
    """The run is as it was; what was tried counts as an attempt, unless nothing was to be had."""
    registry = connections.registry
    renting.give_back(connections, registry.run(before.number))
    now = registry.run(before.number)
    if isinstance(error, (NoCapacity, HostUnreachable)) and before.renting is not None:
        hosts = now.renting.hosts if now.renting is not None else ()  # what they cost counts all the same
        registry.rent(now, replace(before.renting, hosts=hosts))
        now = registry.run(before.number)
    registry.place(now, Placement(bucket.machine_of(before), now.renting.bucket_home if now.renting else ""))
    reason = before.reason or Reason.HOST_LOST
    message = f"no other host yet: {why_not_handed_over(error)}"
    registry.move(now, RunState.INTERRUPTED, time.time(), reason=reason.value, message=message)


def _as_kept(connections: Connections, run: Run) -> tuple[RunSpec, Manifest, Manifest | None]:
    """What was asked for, the source, and what earlier attempts left, as the bucket has them. Raises `UsageError` where
    it does not have enough of it."""
    session = connections.session(bucket.machine_of(run))
    try:
        spec = RunSpec.from_record(session.ask(api.run, api.RunKey(run.key)).spec)
        source, _ = transfer.fetch_manifest(session, ResourceRef("source", key=run.key))
    except (NotFound, SpecError) as error:
        raise UsageError(f"run {run.number} can't go on: its bucket does not have all of it ({error})")
    try:
        left, about = transfer.fetch_manifest(session, ResourceRef("run", key=run.key))
    except UsageError:  # it had not saved any
        return spec, source, None
    return spec, source, None if about.live else left


def _values(connections: Connections, run: Run, spec: RunSpec, given: Mapping[str, str]) -> dict[str, str]:
    secrets = variables_of(connections.config.home, spec.secrets)
    typed = [name for name in spec.asked_env if name not in spec.secrets]
    values = {name: given[name] if name in given else os.environ.get(name) for name in typed}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise UsageError(
            f"run {run.number} can't go on without the values of {', '.join(missing)}, which are kept nowhere",
            hint=f"export {' '.join(f'{name}=…' for name in missing)} && remoterun logs {run.number}",
        )
    return {name: value for name, value in values.items() if value is not None} | secrets


def _mounted(connections: Connections, mount: MountSpec, session: Session, progress: Progress) -> MountSpec:
    """A mount of the first attempt, with what it reads on this host, too."""
    typed = Resource.parse(mount.typed)
    if mount.resource.kind == "tree":
        home = connections.session(connections.bucket())
        tree = KeptTree(
            home, fetch_tree(home, mount.resource.digest or ""), mount.typed, "remoterun machines check aws"
        )
        tree.bring(connections, session, progress)
        return mount
    if typed.kind == "uploads" and mount.resource.digest is not None:
        bring_version(connections, mount.resource.name, mount.resource.digest, session, progress)
        return mount
    return mount._replace(resource=bring_resource(connections, typed, session, progress))


def start_in_background(number: int, home: Path) -> None:
    """Let a process of its own give a run its next host: for a command that ends soon."""
    import subprocess

    words = [sys.executable, "-m", __name__, str(number)]
    env = {**os.environ, HOME_VARIABLE: str(home)}
    nothing = subprocess.DEVNULL
    subprocess.Popen(words, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True, cwd="/", env=env)


def main(words: list[str]) -> int:
    connections = Connections()
    try:
        run = connections.registry.run(words[0])
        if not may_go_on(run, time.time()):
            return 0
        try:
            start_next_attempt(connections, run, {}, Progress())
        except RemoterunError as error:
            said = {"reason": run.reason and run.reason.value, "message": f"no other host yet: {error.message}"}
            connections.registry.move(run, RunState.INTERRUPTED, time.time(), **said)
            return error.exit_status
        return 0
    finally:
        connections.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
