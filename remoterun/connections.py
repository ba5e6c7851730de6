"""What the parts of a client share: its configuration, its registry, and the conversations that it has open."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from remoterun import config as configuration
from remoterun import errors, machines
from remoterun.agent.shared import api
from remoterun.agent.shared.archive import IDENTITY
from remoterun.clouds import ARCHIVE, PROVIDERS, front
from remoterun.errors import (
    AgentError,
    AuthenticationError,
    HomeMissing,
    HostError,
    HostKeyError,
    NoAnswerInTime,
    NoLogin,
    NotFound,
    RemoterunError,
    UsageError,
)
from remoterun.hosts import host_of
from remoterun.hosts.base import Prompts
from remoterun.machines import HERE, HOW_TO_MAKE_ONE, NO_BUCKET
from remoterun.model import MachineType, Run
from remoterun.registry import Registry
from remoterun.session import Session

if TYPE_CHECKING:
    from remoterun.archive import Archive
    from remoterun.clouds.base import Provider
    from remoterun.hosts.base import Host

FOREVER = float("inf")
MOMENT = 1.0
"""Seconds that others have to answer, once an answer is good."""
RECONNECT_LEAST, RECONNECT_MOST = 0.25, 5.0
"""Seconds until a lost connection is made again: each time twice as many."""
PROVIDER_WAIT = 10.0
"""Seconds that a bucket or a rented host has to answer, and its provider to say whether it is still there."""
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C", "Session", "Archive")


class Connections:
    """Sessions are opened when they are needed, one for each machine, and kept until `close`.

    Any thread may call any method. Questions to a person are asked one at a time.
    """

    def __init__(
        self,
        config: configuration.Config | None = None,
        prompts: Prompts | None = None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.config = config or configuration.load()
        self.closed = threading.Event()
        self.warn = warn
        self.warned_of: set[str] = set()  # ids of rented hosts, and what is said once
        self._question = threading.Lock()  # held while a person is asked something
        self._prompts = _one_at_a_time(prompts or Prompts(), self._question)
        self._lock = threading.Lock()  # guards what follows; not held while a host is opened
        self._sessions: dict[MachineType, Session] = {}
        self._archives: dict[MachineType, Archive] = {}
        self._opening: dict[MachineType, threading.Lock] = {}
        self._registry: Registry | None = None
        self._providers: dict[str, Provider] = {}
        self._at_close = contextlib.ExitStack()
        self._events: weakref.WeakSet[threading.Event] = weakref.WeakSet()

    def close(self) -> None:
        """Drop every connection; runs go on. What another thread is doing with them ends with an error. May be called
        twice."""
        with self._lock:
            self.closed.set()
            for event in self._events:
                event.set()
            opened: list[Session | Archive] = [*self._sessions.values(), *self._archives.values()]
            registry = self._registry
            self._sessions.clear()
            self._archives.clear()
            self._registry = None
        for each in opened:
            each.close()
        self._at_close.close()
        if registry is not None:
            registry.close()

    def event(self) -> threading.Event:
        """A new event, which is also set when this is closed."""
        event = threading.Event()
        with self._lock:
            self._check_open()
            self._events.add(event)
        return event

    @property
    def registry(self) -> Registry:
        with self._lock:
            self._check_open()
            if self._registry is None:
                self._registry = Registry(self.config.home / "registry.db", self.warn)
            return self._registry

    def machine(self, name: str | None, ask: bool = True) -> MachineType:
        """The machine type that a name stands for (None: the default one). Opens nothing; but to `ask` for its GPUs may
        start its provider's program.

        Raises `NotFound`, and `UsageError` for an address that is not one.
        """
        machine = machines.resolve(name, self.config)
        if machine.pool or machine.bucket is not None:
            return machine
        if machine.rental is None:
            host_of(machine, self.config, Prompts())
        elif ask:
            machine = self.with_gpus(machine)
        return machine

    def with_gpus(self, machine: MachineType) -> MachineType:
        """A machine type that is rented, with the GPUs of its type, unless it names others."""
        if machine.gpus or machine.rental is None:
            return machine
        offers = self.provider(machine.rental.provider).offers(machine)
        return replace(machine, gpus=offers[0].gpus if offers else 0)

    def home(self, name: str | None, any: bool = False) -> MachineType:
        """The machine that keeps files for a name: of a machine type that is rented, the bucket; of a pool that is the
        default, or with `any`, its first machine. Raises `UsageError` for a pool that is named."""
        machine = self.machine(name)
        if machine.pool:
            members = machines.members(machine, self.config).values() if name is None or any else ()
            own = [member for member in members if isinstance(member, MachineType)]
            if not own:
                raise machines.name_one_of(machine)
            return own[0]
        return machine if machine.rental is None else self.bucket()

    def bucket(self) -> MachineType:
        """The bucket of `[archive]`, or the folder in its place. Raises `NotFound` where neither is there yet."""
        found = machines.bucket_of(self.config)
        if found.bucket == NO_BUCKET:
            raise NotFound("no bucket is set up yet", hint=f"{HOW_TO_MAKE_ONE}, after a question")
        return found

    def named_bucket(self) -> list[MachineType]:
        """The bucket of `[archive]`, or the folder in its place, if it is there, and can be asked."""
        found = machines.bucket_of(self.config)
        if found.bucket == NO_BUCKET or not self.may_ask(found):
            return []
        is_there = self.config.archive.bucket is not None or (self.config.home / HERE).exists()
        return [found] if is_there else []

    def may_ask(self, archive: MachineType) -> bool:
        """Whether there is a login for its bucket, if that needs one."""
        login = login_for(archive)
        return login is None or front(login).can_log_in(self.config)

    def need_login_for(self, archive: MachineType, what: str) -> None:
        """Raises `NoLogin` where there is none that its bucket needs. `what`: what lies there, as a beginning."""
        login = login_for(archive)
        if login is not None:
            self.need_login(f"{what} in the bucket {archive.bucket}", login)

    def need_login(self, why: str, name: str = ARCHIVE) -> None:
        """Raises `NoLogin` where there is nothing to log in at a provider with; `why` it is needed, as a sentence, in
        which `{}` stands for what people call it."""
        of = front(name)
        if not of.can_log_in(self.config):
            raise NoLogin(f"{why.format(of.title)}, and there is no login at {of.title} here", hint=of.how_to_log_in)

    def provider(self, name: str) -> Provider:
        """A provider, made at its first use. Raises `ConfigError`."""
        with self._lock:
            self._check_open()
            if name not in self._providers:
                self._providers[name] = front(name).provider(self.config)
            return self._providers[name]

    def of_providers(self, ask: Callable[[Provider], Iterable[A]], note: Callable[[str], None] | None) -> list[A]:
        """What `ask` finds at all providers. One that has no login here, or can't be asked, hides nothing of another:
        `note` is called with why; without it, and where that is so of all of them, it is raised."""
        found, errors = list[A](), dict[str, RemoterunError]()
        used = [name for name in PROVIDERS if front(name).is_set_up(self.config)] or [ARCHIVE]
        for name in used:
            try:
                self.need_login("which hosts are rented is asked of {}", name)
                found += ask(self.provider(name))
            except RemoterunError as failed:
                errors[name] = failed
        if len(errors) == len(used):
            raise min(errors.values(), key=lambda error: isinstance(error, NoLogin))
        for name, error in errors.items():
            if note is None and not isinstance(error, NoLogin):
                raise error
            if note is not None:
                note(f"{front(name).title} was not asked: {error.message}")
        return found

    def session(self, machine: MachineType) -> Session:
        """The open session with a machine, or a new one. Raises `HostError`, `UsageError` for one that has yet to be
        rented."""
        if machine.rental is not None and machine.host is None:
            raise UsageError(
                f"`{machine.name}` is rented for a run, and there is none", hint="remoterun machines rented"
            )
        if machine.pool:
            raise machines.name_one_of(machine)
        if machine.bucket is not None:
            raise UsageError(f"`{machine.name}` is a bucket: nothing runs there", hint="remoterun machines")

        def begin() -> Session:
            host = host_of(machine, self.config, self._prompts)
            return Session(machine, host, lambda: host_of(machine, self.config, Prompts()))

        return self._opened(self._sessions, machine, begin)

    def archive(self, machine: MachineType) -> Archive:
        """The archive in the bucket of a machine type, opened at its first use. Raises `HostError`, also for a
        folder that had been one and is empty now: what was there must not seem to be gone."""
        if machine.bucket in (None, NO_BUCKET):
            raise HostError("no bucket is set up", hint=HOW_TO_MAKE_ONE)
        from remoterun.archive import open_archive
        from remoterun.archive.objects import FOLDER, BucketPlace, missing

        self.need_login_for(machine, "what is archived is")
        place = BucketPlace.of(str(machine.bucket), self.config.archive)
        if (
            place.scheme == FOLDER
            and not os.path.exists(f"{place.name}/{IDENTITY}")
            and self.registry.uses(place.address)
        ):
            raise missing(place)
        return self._opened(self._archives, machine, lambda: open_archive(place))

    def _opened(self, known: dict[MachineType, C], machine: MachineType, begin: Callable[[], C]) -> C:
        """The conversation with a machine that is `known`, if it goes on, or a new one."""
        with self._lock:
            self._check_open()
            opening = self._opening.setdefault(machine, threading.Lock())
        with opening:
            with self._lock:
                self._check_open()
                before = known.get(machine)
            if before is not None:
                if before.alive:
                    return before
                before.close()
            begun = begin()
            with self._lock:
                if not self.closed.is_set():
                    known[machine] = begun
                    return begun
            begun.close()
            raise _closed()

    def session_of(self, run: Run) -> Session:
        """The session with the machine that has a run. Raises `HomeMissing` where the home there is another one by now,
        else as `session`."""
        session = self.session(run.host)
        check_home(run, session.home_id)
        return session

    def session_where(self, run: Run) -> Session:
        """The session with an agent of the machine where a run is, which a scheduler may have chosen. Raises as
        `session_of`."""
        session = self.session_of(run)
        words = session.ask(api.reach, api.RunKey(run.key)).words if run.host.queue else []
        return self.session(replace(run.host, prefix=tuple(words))) if words else session

    def ask_all(
        self,
        questions: Mapping[MachineType, Callable[[], A]],
        wait: float | None,
        good: Callable[[A], bool] = lambda _: False,
        provider_wait: float = PROVIDER_WAIT,
    ) -> dict[MachineType, A | HostError]:
        """What each question returned, or the `HostError` that it raised. All are asked at once, on threads.

        Of a machine that takes longer than `wait` seconds (None: as long as it takes), not counting those in which a
        person was asked something, it is `NoAnswerInTime`; its thread keeps no process from ending. A bucket and a
        rented host, whose provider may have to be asked, have at least `provider_wait` seconds. Once an answer
        is `good`, all others have `MOMENT` seconds.
        """
        waits = dict.fromkeys(questions, FOREVER if wait is None else wait)
        for machine in questions:
            if machine.rented or machine.bucket:
                waits[machine] = max(waits[machine], provider_wait)
        told: queue.SimpleQueue[tuple[MachineType, A | BaseException]] = queue.SimpleQueue()

        def ask(machine: MachineType) -> None:
            try:
                told.put((machine, questions[machine]()))
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
                told.put((machine, error))

        if len(questions) == 1 and wait is None:
            ask(*questions)
        else:
            for machine in questions:
                threading.Thread(target=ask, args=(machine,), daemon=True).start()
        answers: dict[MachineType, A | HostError] = {}
        began = time.monotonic()
        while missing := [machine for machine in questions if machine not in answers]:
            give_up_at = began + max(waits[machine] for machine in missing)
            try:
                seconds = max(give_up_at - time.monotonic(), 0.0)
                machine, answer = told.get(timeout=None if seconds == FOREVER else seconds)
            except queue.Empty:
                if self._question.locked():
                    with self._question:  # until the person has answered
                        began = time.monotonic()
                    continue
                for late in missing:
                    answers[late] = NoAnswerInTime(f"{late.name} does not answer within {waits[late]:g} s")
                break
            if isinstance(answer, errors.ConfigError):  # it is about this machine: the others are shown
                answer = HostError(answer.message, hint=answer.hint)
            if isinstance(answer, HostError):
                answers[machine] = answer
            elif isinstance(answer, BaseException):
                raise answer
            else:
                answers[machine] = answer
                if good(answer):
                    soon = round(time.monotonic() - began + MOMENT, 1)
                    waits = {each: min(most, soon) for each, most in waits.items()}
        return {machine: answers[machine] for machine in questions}

    def host(self, machine: MachineType) -> Host:
        """Another host of a machine, which lives until this is closed."""
        host = host_of(machine, self.config, self._prompts)
        with self._lock:
            self._check_open()
            self._at_close.callback(host.close)
        return host

    def ask_about(self, server: MachineType) -> None:
        """Ask a person about the host key of an SSH server that lets nobody in. Raises `HostError`."""
        try:
            with contextlib.closing(host_of(server, self.config, replace(self._prompts, log_in=None))) as host:
                host.open().close()
        except (AgentError, AuthenticationError):
            pass
        except HostKeyError as error:
            ask = f"ssh -F {server.ssh_config} {server.host}   shows its fingerprint, and asks"
            raise HostKeyError(error.message, evidence=error.evidence, hint=ask)

    def _check_open(self) -> None:
        if self.closed.is_set():
            raise _closed()


def login_for(archive: MachineType) -> str | None:
    """The provider whose login an archive needs; None where it needs none that is known here."""
    from remoterun.archive.objects import LOGINS

    return next((name for scheme, name in LOGINS.items() if str(archive.bucket).startswith(scheme)), None)


def check_home(run: Run, home_id: str) -> None:
    """Raises `HomeMissing` where the home `home_id` is not the one that has a run."""
    if run.home_id and run.home_id != home_id:
        raise home_gone("runs", run.host, "remoterun rm --forget RUN   forgets a run that was there")


def home_gone(what: str, machine: MachineType, *cures: str) -> HomeMissing:
    """The error where a machine has another home than before. That may come back: what is known of it stays."""
    doctor = f"remoterun doctor {machine.name}   shows the folder: is a disk not mounted there?"
    return HomeMissing(f"{what} lay on {machine.name}, whose home is gone", hint="\n".join([doctor, *cures]))


def _closed() -> UsageError:
    return UsageError("this client is closed", hint="make another Client")


def _one_at_a_time(prompts: Prompts, lock: threading.Lock) -> Prompts:
    def alone(ask: Callable[[A], B] | None) -> Callable[[A], B] | None:
        if ask is None:
            return None

        def asked(about: A) -> B:
            with lock:
                return ask(about)

        return asked

    return Prompts(alone(prompts.confirm_host_key), alone(prompts.log_in))
