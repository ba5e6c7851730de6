"""One run, from QUEUED to its end, with nobody else: a detached process per run.

All its state is files. If it dies, the next contact with the home starts it again (supervision.py), and each step
looks before it acts: the slot may be held, the image built, the work tree made, the container running or gone.
Standard library only; Python >= 3.8.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import time
import traceback
from typing import Any, Callable, Dict, List, Optional

from ..shared.files import DISK_FULL, read_json, remove_tree, write_whole
from ..shared.states import ENDINGS, FINAL, Reason, RunState
from ..shared.tree import TreeError, show
from ..store import outputs
from ..store.errors import HomeError
from ..store.home import Home
from ..store.outputs import all_readable
from ..store.run_folder import RunFolder
from ..store.this_machine import boot_id
from . import processes, queue
from .engines import BaseImageUnavailable, BuildJob, EngineError, Interrupted, Look, Presence
from .engines.docker import Docker
from .engines.environment import Environment
from .engines.process import ProcessEngine
from .supervision import look_after

POLL_LEAST, POLL_MOST = 0.02, 0.25
QUEUE_POLL_MOST = 5.0
LOOK_EVERY = 3.0
"""Seconds between questions to the engine while the exit file isn't there."""
FULL_PAUSE = 3.0
PULL_AGAIN_AFTER = 3600.0
AFTER_EXIT = 5.0
"""Seconds that a container may take to end after the command has."""


def engine_of(home: Home, name: str, reaper: Optional[int] = None) -> Any:
    if name == "process":
        return ProcessEngine(home, reaper)
    return Docker(home, name)


def supervise(home: Home, key: str) -> int:
    """Drive the run to its end. Returns at once when another supervisor holds it. Exit status of the process."""
    run = home.existing_run(key)
    lock = run.take_supervision()
    if lock is None:
        return 0
    home.mark_active(key)  # an agent that started while the run was made may have taken the mark away
    home.reserve.make()
    processes.become_subreaper()
    Supervisor(home, run).drive()
    return 0


def clean_up(home: Home, run: RunFolder, engine: Any = None) -> bool:
    """Give back all that an ended run holds; what is given back already is fine. Whether nothing is left.

    What can't be, since the engine doesn't answer, keeps the run's mark, so that the next contact comes here again.
    """
    if engine is None and os.path.exists(run.engine_file):
        engine = engine_of(home, read_json(run.engine_file)["engine"])
    gone = engine is None or bool(engine.remove(run))
    remove_tree(os.path.join(run.path, "mounts"))
    remove_tree(os.path.join(run.io, "home"))
    remove_tree(os.path.join(run.io, "wrapper.sh"))
    run.forget_values()
    queue.release(home, run.key)
    if gone:
        home.unmark_active(run.key)
    if not home.active_keys():
        home.reserve.release()
    return gone


class _Ended(Exception):
    """The run has come to its end before there was anything to save."""

    def __init__(self, reason: Reason, message: Optional[str] = None, **fields: Any) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.fields = {name: value for name, value in dict(fields, message=message).items() if value is not None}


class Supervisor:
    def __init__(self, home: Home, run: RunFolder, clock: Callable[[], float] = time.time) -> None:
        self.home = home
        self.run = run
        self.spec = run.spec()
        self._clock = clock
        self._engine: Any = None

    def drive(self) -> None:
        """Step after step until the end is recorded and all is given back."""
        steps = {
            RunState.QUEUED: self._queue,
            RunState.BUILDING: self._build,
            RunState.MOUNTING: self._mount_and_start,
            RunState.RUNNING: self._watch,
            RunState.SAVING: self._save,
        }
        while True:
            state, _ = self.run.state()
            if state in FINAL:
                break
            try:
                self._take(state, steps[state])
            except OSError as error:
                if error.errno not in DISK_FULL:
                    raise
                if not self.home.reserve.release():
                    time.sleep(FULL_PAUSE)  # not even the end could be written down; once there is room, it can
        clean_up(self.home, self.run, self._engine)

    def _take(self, state: RunState, step: Callable[[], None]) -> None:
        """One step; what goes wrong in it is the run's end, with its reason."""
        try:
            step()
        except _Ended as end:
            self._finish(end.reason, **end.fields)
        except HomeError as error:
            if error.code != "disk_full":
                self._fail(state, Reason.MOUNT_FAILED, error.message)
            elif not self._may_use_reserve(state):
                self._fail(state, Reason.DISK_FULL, error.message)
        except TreeError as error:
            self._fail(state, Reason.MOUNT_FAILED, str(error))
        except subprocess.TimeoutExpired as error:  # an engine that stalls; the step looks what was done, and goes on
            self._say_silent(os.path.basename(str(error.cmd[0])))
            time.sleep(1)
        except OSError as error:
            if error.errno in DISK_FULL:
                if not self._may_use_reserve(state):
                    self._fail(state, Reason.DISK_FULL, "the disk that holds %s is full" % self.home.path)
            elif error.errno in (errno.EMFILE, errno.ENOMEM, errno.EAGAIN):
                time.sleep(1)
            else:
                traceback.print_exc()
                self._fail(state, Reason.START_FAILED, str(error))
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the run gets its end and its reason
            traceback.print_exc()
            self._fail(state, Reason.START_FAILED, "%s: %s" % (type(error).__name__, error))

    def _may_use_reserve(self, state: RunState) -> bool:
        """Whether the disk has some room again, for the end of a run: then the step is tried once more."""
        return state in (RunState.RUNNING, RunState.SAVING) and self.home.reserve.release()

    # -- steps

    def _queue(self) -> None:
        gpus = self.spec.gpus
        pause, least, said = POLL_LEAST, 2.0 if gpus else 0.4, ""  # the driver takes its time over each question
        while True:
            self._check_asked()
            turn = queue.ask(self.home, self.run.key, gpus, self.spec.slots)
            if turn.granted:
                break
            if turn.waiting_for != said:
                said = turn.waiting_for
                self.run.note("waiting for " + said)
            most = min(least * (1 + turn.ahead), QUEUE_POLL_MOST)  # a long line must not take the time of those who run
            if pause >= most:
                self._revive(turn.behind)
            pause = min(pause, most)
            time.sleep(pause)
            pause = min(pause * 1.5, most)
        self.run.move(RunState.BUILDING)

    def _build(self) -> None:
        self._check_asked()
        candidates, why = self._candidates()
        for name in candidates:
            engine = engine_of(self.home, name, os.getpid())
            job = BuildJob(self.run.build_log, self.run.note, self._asked)
            try:
                engine.build(self.run, self.spec, job)
            except Interrupted:
                self._check_asked()
            except BaseImageUnavailable as error:
                if name == candidates[-1]:
                    raise _Ended(Reason.BUILD_FAILED, error.message, evidence=error.evidence, hint=error.hint)
                write_whole(self._pull_failed_mark(), b"")
                self.run.note("%s: using the engine `%s`" % (error.message, candidates[-1]))
                continue
            except EngineError as error:
                raise _Ended(Reason.BUILD_FAILED, error.message, evidence=error.evidence, hint=error.hint)
            write_whole(self.run.engine_file, b'{"engine": "%s"}' % name.encode())
            self.run.move(RunState.MOUNTING, engine=name)
            return
        raise _Ended(Reason.BUILD_FAILED, why, hint="remoterun doctor %s" % self.spec.machine)

    def _mount_and_start(self) -> None:
        engine = self._chosen_engine()
        look = engine.look(self.run)
        while look.presence is Presence.UNKNOWN:
            self._check_asked()
            self._say_silent(engine.name)
            time.sleep(1)
            look = engine.look(self.run)
        if look.presence is Presence.ABSENT:
            self._check_asked()
            self._make_work_tree(engine)
            try:
                engine.start(self.run, self.spec, self._gpus())
            except EngineError as error:
                if engine.look(self.run).presence is Presence.UNKNOWN:
                    return  # it went away meanwhile: we wait for it, and look again
                self._discard_work()
                raise _Ended(Reason.START_FAILED, error.message, evidence=error.evidence, hint=error.hint)
        self.run.move(RunState.RUNNING, boot=boot_id())
        with contextlib.suppress(OSError):  # it goes at the end at the latest
            os.unlink(self.run.values_file)  # `start` has written them where the wrapper reads them

    def _watch(self) -> None:
        """Wait for the command's end, or bring it about."""
        engine = self._chosen_engine()
        event = self.run.state()[1]
        deadline = event["t"] + self.spec.timeout if self.spec.timeout is not None else None
        pause, next_look = POLL_LEAST, time.monotonic() + LOOK_EVERY
        times = _LogTimes(self.run, self._clock)
        reason: Optional[Reason] = None
        terminated_at: Optional[float] = None
        grace = 0.0
        while True:
            told = True
            times.record()
            if self.run.kill_asked():
                told = engine.kill(self.run)
                if told or self.run.exit_code() is not None:
                    times.record()
                    return self._finish(Reason.KILLED, code=137)
            if self.run.exit_code() is not None:
                times.record()
                if terminated_at is not None:
                    patience = terminated_at + grace - time.monotonic()
                else:
                    patience = AFTER_EXIT if engine.name != "process" else 0
                return self._exited(engine, reason, patience)
            now = self._clock()
            asked = self.run.stop_asked()
            if reason is None and (asked is not None or (deadline is not None and now >= deadline)):
                reason = Reason.STOPPED if asked is not None else Reason.TIMEOUT
                grace = asked if asked is not None else 10.0
            if reason is not None and told and terminated_at is None:
                told = engine.terminate(self.run)
                terminated_at = time.monotonic() if told else None
                pause = POLL_LEAST
                if told:
                    self._tell("stopping" if reason is Reason.STOPPED else "its time is up: stopping")
            if terminated_at is not None and time.monotonic() > terminated_at + grace:
                told = engine.kill(self.run)
                if told:
                    return self._exited(engine, reason, 0, 137)
            if not told:
                self._say_silent(engine.name)
                pause = 1.0
            if time.monotonic() >= next_look:
                look = engine.look(self.run)
                if look.presence in (Presence.ENDED, Presence.ABSENT) and self.run.exit_code() is None:
                    return self._lost(engine, look, reason, event)
                next_look = time.monotonic() + LOOK_EVERY
            time.sleep(pause)
            pause = min(pause * 1.1, POLL_MOST)

    def _say_silent(self, engine: str) -> None:
        """Tell the user once why nothing moves."""
        text = "waiting for %s, which does not answer" % engine
        if self.run.status().note != text:
            self._tell(text)

    def _tell(self, text: str) -> None:
        """A note, unless the disk is full: nothing of what is done may depend on it."""
        try:
            self.run.note(text)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise

    def _exited(self, engine: Any, reason: Optional[Reason], patience: float, forced: Optional[int] = None) -> None:
        """The command has ended: see that all of it has, and go on to SAVING with the reason.

        `patience`: seconds that what it left behind may take to end by itself.
        """
        deadline = time.monotonic() + patience
        pause = 0.01
        while engine.alive(self.run) and time.monotonic() < deadline:
            if self.run.kill_asked():
                return  # `_watch` comes back and kills
            time.sleep(pause)
            pause = min(pause * 1.5, 0.2)
        engine.kill(self.run)
        code = self.run.exit_code()
        if code is None:
            code = forced
        if reason is None:
            reason = Reason.EXITED if code == 0 else Reason.EXIT_NONZERO
            if code != 0 and engine.look(self.run).out_of_memory:
                reason = Reason.OUT_OF_MEMORY
        self.run.move(RunState.SAVING, reason=reason.value, code=code)

    def _lost(self, engine: Any, look: Look, reason: Optional[Reason], event: Dict[str, Any]) -> None:
        """The command is gone and left no exit code."""
        code = look.code
        if reason is None:
            if event.get("boot") != boot_id():
                reason, code = Reason.HOST_REBOOTED, None
            elif look.out_of_memory:
                reason = Reason.OUT_OF_MEMORY
            elif look.presence is Presence.ENDED and code is not None and code not in (137, 143, 255):
                reason = Reason.EXITED if code == 0 else Reason.EXIT_NONZERO
            else:
                reason, code = Reason.HOST_LOST, None
        engine.kill(self.run)
        self.run.move(RunState.SAVING, reason=reason.value, code=code)

    def _save(self) -> None:
        if self.run.kill_asked():
            self._finish(Reason.KILLED)
            return
        event = self.run.state()[1]
        reason = Reason(event["reason"])
        if not os.path.exists(self.run.outputs_file):
            self._unmount()
            _, special = outputs.save(self.home, self.run, self._places())
            if special:
                named = ", ".join(show(path) for path in special[:5]) + (", …" if len(special) > 5 else "")
                self.run.note("not saved, since no file that this user can read: %s" % named)
        elif all_readable(self.run.work):  # a crash came before it was discarded
            with contextlib.suppress(PermissionError):
                self._discard_work()
        saved = outputs.saved(self.run)
        manifest = saved.manifest() if saved else None
        fields = {"code": event.get("code")}
        if manifest is not None:
            fields["outputs"] = {"files": len(manifest.files), "size": manifest.size}
        self._finish(reason, **fields)

    # -- parts of steps

    def _candidates(self) -> Any:
        """The engines to try, best first, and why there is none."""
        wanted = self.spec.engine
        if wanted != "auto":
            problem = engine_of(self.home, wanted).problem()
            return ([], problem) if problem else ([wanted], None)
        problem = Docker(self.home).problem()
        if self.spec.environment.image or self.spec.environment.apt:
            what = "--image" if self.spec.environment.image else "--apt"
            return ([], "%s needs Docker: %s" % (what, problem)) if problem else (["docker"], None)
        if problem:
            self.run.note("%s: using the engine `process`" % problem)
            return ["process"], None
        if self._pull_failed_lately():
            return ["process"], None
        return ["docker", "process"], None

    def _pull_failed_mark(self) -> str:
        return self.home.lock("pull-failed-" + Environment.of(self.spec).bundled_hash)

    def _pull_failed_lately(self) -> bool:
        """Whether the base image could not be had an hour ago or less: asking again costs every run some seconds."""
        try:
            age = self._clock() - os.stat(self._pull_failed_mark()).st_mtime
        except OSError:
            return False
        return 0 <= age < PULL_AGAIN_AFTER and not Docker(self.home).has_image(self.spec.environment.base)

    def _chosen_engine(self) -> Any:
        if self._engine is None:
            self._engine = engine_of(self.home, read_json(self.run.engine_file)["engine"], os.getpid())
        return self._engine

    def _gpus(self) -> List[str]:
        turn = queue.ask(self.home, self.run.key, self.spec.gpus, self.spec.slots)
        return turn.gpus

    def _make_work_tree(self, engine: Any) -> None:
        remove_tree(self.run.work)
        self.home.checkout(_source(self.run), self.run.work, private=True)
        if self.spec.workdir:
            os.makedirs(os.path.join(self.run.work, self.spec.workdir), exist_ok=True)
        try:
            engine.mount(self.run, self.spec)
        except EngineError as error:
            self._discard_work()
            raise _Ended(Reason.MOUNT_FAILED, error.message, hint=error.hint)

    def _places(self) -> List[str]:
        return [mount.place for mount in self.spec.mounts if not mount.is_absolute]

    def _unmount(self) -> None:
        folders = [self.spec.workdir]
        for place in self._places():
            if not self._leads_out(place):
                remove_tree(os.path.join(self.run.work, place))
                folders.append(os.path.dirname(place))
        for folder in folders:
            while folder and not self._leads_out(folder):  # ours, if the command left it empty
                try:
                    os.rmdir(os.path.join(self.run.work, folder))
                except OSError:
                    break
                folder = os.path.dirname(folder)

    def _leads_out(self, path: str) -> bool:
        """Whether the command has put a link where `path` has a folder: what lies behind it is not ours to delete."""
        folder = os.path.dirname(path)
        while folder:
            if os.path.islink(os.path.join(self.run.work, folder)):
                return True
            folder = os.path.dirname(folder)
        return False

    def _discard_work(self) -> None:
        remove_tree(self.run.work)

    def _revive(self, keys: List[str]) -> None:
        """Those for whom we wait may have lost their supervisors, and nobody else would notice."""
        for key in keys:
            run = self.home.run(key)
            if run.exists():
                look_after(self.home, run)

    def _asked(self) -> bool:
        return self.run.kill_asked() or self.run.stop_asked() is not None

    def _check_asked(self) -> None:
        """Before the command has started, a stop and a kill are one: there is nothing to save."""
        if self.run.kill_asked():
            raise _Ended(Reason.KILLED)
        if self.run.stop_asked() is not None:
            raise _Ended(Reason.STOPPED)

    # -- the end

    def _fail(self, state: RunState, reason: Reason, message: str) -> None:
        """Something of ours failed in `state`. Work that may hold outputs is left where it is."""
        if state in (RunState.RUNNING, RunState.SAVING):
            event = self.run.state()[1]
            self._finish(reason, message="%s; its files are in %s" % (message, self.run.work), code=event.get("code"))
        else:
            self._discard_work()
            self._finish(reason, message=message)

    def _finish(self, reason: Reason, **fields: Any) -> None:
        self.run.forget_values()
        self.run.move(ENDINGS[reason].state, reason=reason.value, **fields)


class _LogTimes:
    """Notes when the log had which size, so that its lines can be given times though the command writes it itself."""

    def __init__(self, run: RunFolder, clock: Callable[[], float]) -> None:
        self._run = run
        self._clock = clock
        self._size = 0

    def record(self) -> None:
        try:
            size = os.stat(self._run.log).st_size
        except OSError:
            return
        if size == self._size:
            return
        self._size = size
        try:
            with open(self._run.times_file, "a") as file:
                file.write("%d %.3f\n" % (size, self._clock()))
        except OSError:
            pass  # a full disk must not end the run


def _source(run: RunFolder) -> Any:
    from ..shared.tree import Manifest

    with open(run.source_file, "rb") as file:
        return Manifest.decode(file.read())
