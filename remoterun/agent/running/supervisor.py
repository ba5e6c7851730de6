"""One run, from QUEUED to its end, with nobody else: a detached process per run.

All its state is files. If it dies, the next contact with the home starts it again (supervision.py), and each step
inspects before it acts: the slot may be held, the image built, the work tree made, the container running or gone.
"""

from __future__ import annotations

import errno
import os
import subprocess
import time
import traceback
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Sequence

from ..shared.files import DISK_FULL, read_bytes, remove_tree, write_whole
from ..shared.identity import boot_id
from ..shared.machines import CAPABILITIES, candidates, lacks
from ..shared.records import to_json
from ..shared.spec import SpecError
from ..shared.states import ENDINGS, FINAL, Reason, RunState
from ..shared.tree import Manifest, TreeError, laid_over
from ..store.errors import HomeError, disk_full
from ..store.home import Home
from ..store.run_folder import RunFolder
from . import gpus
from .ending import Ended, clean_up, finish, not_answering, note_once, save
from .engines import BaseImageUnavailable, Engine, EngineError, Interrupted, Presence, engine_of, engine_of_run
from .engines.building import BuildJob
from .engines.mount_points import make_folders
from .measurer import Measurer
from .queues import queue_of_run
from .sampling import used
from .supervision import ensure_keeper, revive
from .variants import VARIANTS, describe, is_old, resolve
from .watching import Watch

if TYPE_CHECKING:
    from ..shared.spec import RunSpec
    from .archiving import RunArchiving

FULL_PAUSE = 3.0
_ASKED = {"image": "--image", "apt": "--apt", "mount": "a mount at an absolute path"}


def supervise(home: Home, key: str) -> int:
    """Drive the run to its end. Returns at once when another supervisor holds it. Exit status of the process."""
    run = home.existing_run(key)
    with queue_of_run(home, run).supervising(run) as ours:
        if not ours:
            return 0
        home.mark_active(key)  # who made the run may have died before that
        home.reserve.make()
        ensure_keeper(home)
        ended = False
        try:
            ended = Supervisor(home, run).drive()
        except SpecError as error:  # damaged, or of another remoterun: what it holds is given back all the same
            _give_up(home, run, str(error))
    if not ended and (run.kill_asked() or run.stop_asked() is not None):
        return supervise(home, key)  # asked while we still had its lock
    revive(home)  # who is the first of its line now; this run, too, if that was noticed while we still had its lock
    if ended and os.path.exists(run.webhooks_file):
        from .webhooks import send_messages  # few runs need it

        send_messages(home, run)
    return 0


def _give_up(home: Home, run: RunFolder, why: str) -> None:
    """The end of a run whose records can't be read, once its command has ended. It may have that end already."""
    engine = engine_of_run(home, run) if os.path.exists(run.engine_file) else None
    while engine is not None and engine.inspect(run).presence in (Presence.RUNNING, Presence.UNKNOWN):
        time.sleep(1)
    if run.state()[0] not in FINAL:
        finish(run, Reason.HOST_LOST, message="its records can't be read: %s; its files are in %s" % (why, run.work))
    clean_up(home, run, engine)


class Supervisor:
    def __init__(self, home: Home, run: RunFolder) -> None:
        self.home = home
        self.run = run
        self.spec = run.resolved_spec()
        self._queue = queue_of_run(home, run)
        self._engine: Optional[Engine] = None
        self._archiving = _archiving(home, run, self.spec)
        self._measurer = Measurer(home, run, self.spec)
        self._values: Optional[Dict[str, str]] = None  # of the user's variables: in no file while the command runs
        self._started_again = False
        self._asleep = False

    def drive(self) -> bool:
        """Step after step until the end is recorded and all is given back; False where the run waits behind others,
        and needs no supervisor for that."""
        steps = {
            RunState.QUEUED: self._wait,
            RunState.BUILDING: self._build,
            RunState.MOUNTING: self._mount_and_start,
            RunState.RUNNING: self._watch,
            RunState.SAVING: self._save,
        }
        if self._archiving is not None and self.run.state()[0] not in FINAL:
            self._archiving.follow()
        self._end_lost()
        while True:
            state, _ = self.run.state()
            if state in FINAL:
                break
            if self._asleep:
                return False
            try:
                self._take(state, steps[state])
            except OSError as error:
                if error.errno not in DISK_FULL:
                    raise
                if not self.home.reserve.release():
                    time.sleep(FULL_PAUSE)  # not even the end could be written down; once there is room, it can
        clean_up(self.home, self.run, self._engine)
        return True

    def _end_lost(self) -> None:
        """Have a run end whose queue has lost its supervisor: by what its command left, if that had started."""
        lost, state = self._queue.lost(self.run), self.run.state()[0]
        if lost is None:
            return
        reason, message = lost
        if state is not RunState.RUNNING:
            if state is not RunState.SAVING:
                self._finish(Ended(reason, message or None))
            return
        code = self.run.exit_code()
        if code is not None:
            reason, message = Reason.EXITED if code == 0 else Reason.EXIT_NONZERO, ""
        self.run.move(RunState.SAVING, reason=reason.value, code=code, message=message or None)

    def _take(self, state: RunState, step: Callable[[], None]) -> None:
        """One step; what goes wrong in it is the run's end, with its reason."""
        try:
            step()
        except Ended as end:
            self._finish(end)
        except HomeError as error:
            if error.code != "disk_full":
                self._fail(state, Reason.MOUNT_FAILED, error.message)
            elif not self._may_use_reserve(state):
                self._fail(state, Reason.DISK_FULL, error.message)
        except TreeError as error:
            self._fail(state, Reason.MOUNT_FAILED, str(error))
        except subprocess.TimeoutExpired as error:  # an engine that stalls: the step is taken again
            note_once(self.run, not_answering(os.path.basename(str(error.cmd[0]))))
            time.sleep(1)
        except OSError as error:
            if error.errno in DISK_FULL:
                if not self._may_use_reserve(state):
                    self._fail(state, Reason.DISK_FULL, disk_full(self.home.path).message)
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

    def _wait(self) -> None:
        """Wait in the run's queue for what it needs. Raises `Ended`."""
        said = self.run.status().note

        def report(waiting_for: str) -> None:
            nonlocal said
            self._check_asked()
            if waiting_for and waiting_for != said:
                said = waiting_for
                self.run.note(said)

        if not self._queue.wait(self.run, self.spec, report):
            self._asleep = True
            return
        self.run.move(RunState.BUILDING)
        revive(self.home)

    def _gpus(self) -> List[str]:
        """The GPUs that the queue has granted. Raises `Ended` where it knows nothing of that any more."""
        granted = self._queue.gpus(self.run)
        if granted is None:
            raise Ended(Reason.START_FAILED, "what it had been granted in its queue is lost")
        return granted

    def _build(self) -> None:
        self._check_asked()
        if not self._resolve():
            return
        names = self._usable()
        for name in names:
            engine = engine_of(self.home, name)
            job = BuildJob(self.run.build_log, self.run.note, lambda: self._asked_end() is not None)
            try:
                engine.build(self.run, self.spec, job)
                self._store_images(engine, job)
            except Interrupted:
                self._check_asked()
            except BaseImageUnavailable as error:
                if name == names[-1]:
                    raise Ended(Reason.BUILD_FAILED, error.message, evidence=error.evidence, hint=error.hint)
                if not os.listdir(self.home.envs):  # once for a machine, as in `_usable`
                    self.run.note("%s, so it runs %s" % (error.message, CAPABILITIES[names[-1]].place))
                continue
            except EngineError as error:
                raise Ended(Reason.BUILD_FAILED, error.message, evidence=error.evidence, hint=error.hint)
            write_whole(self.run.engine_file, b'{"engine": "%s"}' % name.encode())
            self.run.move(RunState.MOUNTING, engine=name)
            return

    def _store_images(self, engine: Engine, job: BuildJob) -> None:
        """Store the images that were built for this run in the archive, before the command starts, which could put
        something else in their place: what allows that is gone by then. Raises `Interrupted`."""
        images = self.run.images()
        if images and engine.name == "docker":
            from .images import store  # few runs need it

            stored = store(self.home, engine.name, list(images), job)
            if stored:
                self.run.note("the environment is in the archive", images=to_json(stored))
        remove_tree(self.run.images_file)

    def _mount_and_start(self) -> None:
        engine = self._chosen_engine()
        found = engine.inspect(self.run)
        while found.presence is Presence.UNKNOWN:
            self._check_asked()
            note_once(self.run, not_answering(engine.name))
            time.sleep(1)
            found = engine.inspect(self.run)
        if found.presence is Presence.ABSENT:
            self._check_asked()
            self._make_work_tree(engine)
            if self.spec.attempts > 1:
                self._values = self.run.values()
            try:
                self._start(engine, self._gpus())
            except EngineError as error:
                if engine.inspect(self.run).presence is Presence.UNKNOWN:
                    return  # it went away meanwhile: we wait for it, and inspect again
                remove_tree(self.run.work)
                raise Ended(Reason.START_FAILED, error.message, evidence=error.evidence, hint=error.hint)
        self.run.move(RunState.RUNNING, boot=boot_id())

    def _watch(self) -> None:
        engine = self._chosen_engine()
        self._drop_values()  # `start` has written them where the wrapper reads them
        watch = Watch(self.home, self.run, self.spec, engine, self._queue, self._measurer, self._start_again)
        watch.until_end()
        self._asleep = watch.goes_on_elsewhere

    def _save(self) -> None:
        self._measurer.end()
        save(self.home, self.run, self.spec)

    def _start_again(self, reason: Reason) -> bool:
        """Start a command that was lost once more, in its work tree, if it may have another attempt; whether that is
        under way."""
        attempt, _ = self.run.attempt()
        # An attempt that was counted, and that a supervisor which died did not begin, counts no more.
        more = attempt == 1 or self._started_again or os.path.lexists(self.run.pid_file)
        if more and attempt >= self.spec.attempts:
            return False
        engine, known = self._chosen_engine(), self._values or {}
        lost = [name for name in self.spec.asked_env if name not in known]
        if lost:
            self.run.note("it can't be started again without %s, which is saved nowhere" % ", ".join(lost))
            return False
        granted = self._queue.gpus(self.run)
        if granted is None:
            self.run.note("it can't be started again: what it had been granted in its queue is lost")
            return False
        if not engine.remove(self.run):
            note_once(self.run, not_answering(engine.name))
            time.sleep(1)
            return True
        if more:
            words = "attempt %d of %d: %s" % (attempt + 1, self.spec.attempts, ENDINGS[reason].words)
            self.run.note(words, attempt=attempt + 1, boot=boot_id())
        for path in (self.run.pid_file, self.run.stopping_file):
            remove_tree(path)
        self.run.save_values(known)
        try:
            self._start(engine, granted)
            self._started_again = True
        except EngineError as error:
            if engine.inspect(self.run).presence is not Presence.UNKNOWN:
                self.run.note(error.message)
                return False
        return True

    def _drop_values(self) -> None:
        """Of the user's variables, save only what is still needed in a file: for another attempt, those that are not
        secrets. Their values are lost when the machine goes down."""
        if self.spec.attempts == 1:
            self.run.save_values({})
            return
        if self._values is None:
            self._values = self.run.values()
        self.run.save_values({name: text for name, text in self._values.items() if name not in self.spec.secrets})

    # -- parts of steps

    def _resolve(self) -> bool:
        """Whether it is recorded which TensorFlow the run's GPUs need: this machine knows them, the client does not."""
        environment = self.spec.environment
        if environment.image or environment.variant != "gpu" or os.path.exists(self.run.environment_file):
            return True
        granted = self._gpus()
        try:
            cards = [card for card in gpus.generations() if card.uuid in granted]
        except gpus.GpuError as error:
            note_once(self.run, "waiting for a GPU; %s" % error)
            time.sleep(1)
            return False
        self.spec = self.run.resolve_environment(resolve(environment, [card.capability for card in cards]))
        old = [card for card in cards if is_old(card.capability)]
        if old:
            self.run.note("%s, so it runs with %s" % (describe(old), VARIANTS[self.spec.environment.variant].title))
        return True

    def _usable(self) -> Sequence[str]:
        """The engines to try, best first. Raises `Ended` where there is none."""
        names: Sequence[str] = candidates("process" if (self.spec.nodes or 1) > 1 else self.spec.engine)
        lacking = ""
        if len(names) > 1:
            lacking = self._lacking(names[-1])
            names = [name for name in names if not self._lacking(name)]
        problems = {}
        for name in names:
            problem = engine_of(self.home, name).problem()
            if problem is None:
                break
            problems[name] = problem
        usable = names[len(problems) :]
        if not usable:
            why = problems[names[0]]
            if lacking:
                why = "%s needs %s: %s" % (_ASKED[lacking], CAPABILITIES[names[0]].title, why)
            raise Ended(Reason.BUILD_FAILED, why, hint="remoterun doctor %s" % self.spec.machine)
        if problems and not os.listdir(self.home.envs):  # once for a machine: with its first environment
            self.run.note("%s, so runs use %s" % (problems[names[0]], CAPABILITIES[usable[0]].title))
        return usable

    def _lacking(self, name: str) -> str:
        """What this run asks for that the engine `name` does not have; "" for nothing."""
        environment = self.spec.environment
        absolute = any(mount.is_absolute for mount in self.spec.mounts)
        return lacks(name, environment.image is not None, bool(environment.apt), absolute)

    def _chosen_engine(self) -> Engine:
        if self._engine is None:
            self._engine = engine_of_run(self.home, self.run)
        return self._engine

    def _start(self, engine: Engine, gpus: List[str]) -> None:
        engine.start(self.run, self.spec._replace(command=self._queue.command(self.run, self.spec)), gpus)

    def _make_work_tree(self, engine: Engine) -> None:
        remove_tree(self.run.work)
        tree = Manifest.decode(read_bytes(self.run.source_file))
        if os.path.exists(self.run.left_file):
            tree = laid_over(tree, Manifest.decode(read_bytes(self.run.left_file)))
        self.home.checkout(tree, self.run.work, private=True)
        make_folders(self.run.work, self.spec.workdir)
        try:
            engine.mount(self.run, self.spec)
        except EngineError as error:
            remove_tree(self.run.work)
            raise Ended(Reason.MOUNT_FAILED, error.message, hint=error.hint)

    def _check_asked(self) -> None:
        end = self._asked_end()
        if end is not None:
            raise end

    def _asked_end(self) -> Optional[Ended]:
        """The end that a run shall come to before its command has started; None if it shall go on.

        A stop and a kill are one then: there is nothing to save.
        """
        if self.run.kill_asked():
            return Ended(Reason.KILLED)
        if self.run.stop_asked() is not None:
            return Ended(Reason.STOPPED)
        if self._queue.taken_at(self.run) is not None:
            return Ended(Reason.PREEMPTED)
        limits = self.spec.until, self._queue.until(self.run)
        if any(limit is not None and time.time() >= limit for limit in limits):
            return Ended(Reason.TIMEOUT, "its time was up before the command had started")
        return None

    # -- the end

    def _fail(self, state: RunState, reason: Reason, message: str) -> None:
        """Something of ours failed in `state`. Work that may hold outputs is left where it is."""
        if state in (RunState.RUNNING, RunState.SAVING):
            event = self.run.state()[1]
            message = "%s; its files are in %s" % (message, self.run.work)
            self._finish(Ended(reason, message, unsaved=True, code=event.get("code")))
        else:
            remove_tree(self.run.work)
            hint = "remoterun machines df %s   shows who uses it\nremoterun rm runs --failed" % self.spec.machine
            self._finish(Ended(reason, message, hint=hint if reason is Reason.DISK_FULL else None))

    def _finish(self, end: Ended) -> None:
        """Record the end, once the archive has all of the run if it shall."""
        fields = end.fields
        fields.update(used(self.run))
        if self.run.state()[0] in (RunState.RUNNING, RunState.SAVING):
            fields.update(self._measurer.progress())
        if self._archiving is not None:
            try:
                fields = self._archiving.complete(end, self.run.state()[0] is RunState.SAVING)
            except Ended as killed:
                self._finish(killed)
                return
        finish(self.run, end.reason, **fields)


def _archiving(home: Home, run: RunFolder, spec: RunSpec) -> Optional[RunArchiving]:
    """Imported only where it is needed: HTTP and TLS take longer to import than all else."""
    if not spec.bucket:
        return None
    from .archiving import RunArchiving

    return RunArchiving(home, run, spec)
