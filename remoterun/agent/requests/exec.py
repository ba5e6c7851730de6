"""Requests about what goes on inside a run while its command does: a program of `exec`, and how much it uses."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import threading
import time
import uuid
from typing import Dict, List, Optional

from ..running.engines import Engine, EngineError, engine_of_run
from ..running.engines.wrapper import Program, words_of
from ..running.queues import queue_of_run
from ..running.sampling import Sampler
from ..shared import api
from ..shared.frames import PIECE
from ..shared.protocol import Cancelled, LinkClosed, Stream
from ..shared.states import RunState
from ..shared.tree import show
from ..store.errors import HomeError
from ..store.home import Home
from ..store.run_folder import RunFolder
from . import Call

RATES = 0.5
"""Seconds over which the rates of a run are taken."""
CHECK_EVERY = 0.2
"""Seconds between checks whether the program has ended, or its client is gone, while neither says anything."""
LAST_WORDS = 0.2
"""Seconds after a program's end in which its output is awaited that something it left behind holds open."""
_TERMINAL = re.compile(r"[A-Za-z0-9._+-]{0,64}\Z")
_ACQUIRE_TERMINAL = ': <"$0"; exec "$@"'
"""The first terminal that the leader of a session opens controls it: ^C and changes of its size then arrive."""


def reach(call: Call, asked: api.RunKey) -> api.Words:
    run = call.home.existing_run(asked.key)
    return api.Words(queue_of_run(call.home, run).reach(run))


def execute(call: Call, asked: api.Execute) -> api.Exit:
    if not _TERMINAL.match(asked.terminal):
        raise HomeError("bad_request", "%s is not a kind of terminal" % show(asked.terminal[:80]))
    run = call.home.existing_run(asked.key)
    engine = engine_of_running(call.home, run)
    name = uuid.uuid4().hex
    spec = run.resolved_spec()
    try:
        program = engine.exec(run, spec, words_of(asked.command, spec.number), name, asked.terminal)
    except EngineError as error:
        raise HomeError("engine_silent", error.message, error.hint)
    conversation = _ExecSession(call.stream, program, asked.size)
    try:
        return api.Exit(conversation.until_end())
    except BaseException:
        engine.end_exec(run, name)
        raise
    finally:
        conversation.close()


def sample(call: Call, asked: api.Sampling) -> api.Samples:
    sampler = Sampler(call.home, asked.keys)
    sampler.sample()
    if call.stream.wait_cancelled(RATES):
        raise Cancelled
    return api.Samples(sampler.sample())


def engine_of_running(home: Home, run: RunFolder) -> Engine:
    """The engine of a run whose command goes on, on this machine. Raises `HomeError`."""
    state = run.state()[0]
    if state is not RunState.RUNNING:
        raise HomeError("not_running", "the run is %s" % state.value)
    if not queue_of_run(home, run).is_here(run):
        raise HomeError("not_running", "the run goes on on another machine, which shares this home")
    return engine_of_run(home, run)


class _ExecSession:
    """A program, and what goes to and fro between it and the client."""

    def __init__(self, stream: Stream, program: Program, size: List[int]) -> None:
        self._stream = stream
        self._terminal: Optional[int] = None
        words, ends = program.words, [subprocess.PIPE] * 3
        if program.terminal:
            self._terminal, slave = os.openpty()
            _set_size(self._terminal, size)
            words, ends = ["/bin/sh", "-c", _ACQUIRE_TERMINAL, os.ttyname(slave), *words], [slave] * 3
        try:
            self._process = subprocess.Popen(
                words,
                stdin=ends[0],
                stdout=ends[1],
                stderr=ends[2],
                env=program.env,
                cwd=program.folder,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            if self._terminal is not None:
                os.close(self._terminal)
            raise HomeError("engine_silent", "it can't be started: %s" % (error.strerror or error))
        finally:
            if program.terminal:
                os.close(slave)
        if self._process.stdin is None:
            assert self._terminal is not None
            self._inlet = os.dup(self._terminal)
        else:
            self._inlet = os.dup(self._process.stdin.fileno())
            self._process.stdin.close()
        os.set_blocking(self._inlet, False)

    def until_end(self) -> int:
        """Pass on what both sides say until the program has ended; its exit status. Raises what ended the stream."""
        self._stream.send(started=1)
        threading.Thread(target=self._hear_client, name="remoterun program", daemon=True).start()
        outputs = self._outputs()
        until = float("inf")
        while outputs and time.monotonic() < until:
            ready, _, _ = select.select(list(outputs), [], [], CHECK_EVERY)
            self._check_client()
            if until == float("inf") and self._process.poll() is not None:
                until = time.monotonic() + LAST_WORDS
            for end in ready:
                data = _read(end)
                if data is None:
                    continue
                if not data:
                    del outputs[end]
                elif outputs[end]:
                    self._stream.send(data, error=1)
                else:
                    self._stream.send(data)
        while True:
            try:
                code = self._process.wait(CHECK_EVERY)
                return code if code >= 0 else 128 - code
            except subprocess.TimeoutExpired:  # it has closed its output, and goes on
                self._check_client()

    def _check_client(self) -> None:
        if self._stream.cancelled:  # also after the end of the program's input, when nobody hears the client any more
            raise Cancelled

    def close(self) -> None:
        """End the program, if it has not ended; a hangup of its terminal ends what listens to that."""
        if self._terminal is not None:
            os.close(self._terminal)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for file in (self._process.stdout, self._process.stderr):
            if file is not None:
                file.close()

    def _outputs(self) -> Dict[int, bool]:
        """Where the program writes; whether as errors."""
        if self._terminal is not None:
            return {self._terminal: False}
        assert self._process.stdout is not None and self._process.stderr is not None
        return {self._process.stdout.fileno(): False, self._process.stderr.fileno(): True}

    def _hear_client(self) -> None:
        """Give the program what the client sends, on a thread of its own, and the end of that."""
        try:
            for frame in self._stream:
                if "size" in frame.header:
                    _set_size(self._inlet, frame.header["size"])
                if frame.body:
                    self._write(memoryview(frame.body))
        except (Cancelled, LinkClosed, HomeError):
            pass  # the other thread sees that the client has gone
        finally:
            os.close(self._inlet)

    def _write(self, data: memoryview) -> None:
        """Raises `Cancelled` where the client goes while the program does not read."""
        while data:
            try:
                data = data[os.write(self._inlet, data) :]
            except BlockingIOError:
                select.select([], [self._inlet], [], CHECK_EVERY)
                if self._stream.cancelled:
                    raise Cancelled
            except OSError:  # it has ended, or reads no more: its exit status says why
                return


def _read(end: int) -> Optional[bytes]:
    """None where there is nothing to be read yet; b"" at the end."""
    try:
        return os.read(end, PIECE)
    except BlockingIOError:
        return None
    except OSError:  # a terminal that nobody has open any more
        return b""


def _set_size(terminal: int, size: List[int]) -> None:
    """Raises `HomeError` for rows and columns that a terminal can't have."""
    if len(size) != 2 or not all(isinstance(number, int) and 0 <= number < 1 << 16 for number in size):
        raise HomeError("bad_request", "a terminal can't have this size")
    with contextlib.suppress(OSError):
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
