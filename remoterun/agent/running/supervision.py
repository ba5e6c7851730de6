"""Every run that goes on has a supervisor, unless it waits behind others: its queue (queues/) has it started, and again
at the next contact, or by the first of a line, if it has died. A host that is rented has a keeper (keeper.py) in the
same way.

Little is imported, as every agent that serves imports this when it starts.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Callable, Dict, Iterable, Iterator, List, Mapping, Optional

from ..shared.files import locked, read_bytes, unless_held, write_whole
from ..shared.records import decode, encode
from ..store.home import Home
from ..store.run_folder import SUPERVISOR, RunFolder

if TYPE_CHECKING:
    import subprocess

KEEPER = "keep"
"""The lock that the keeper of a rented host holds while it lives."""
SERVING = "serving"
"""The lock that is held while a client uses a rented host (`ClientPresence`)."""
QUIET = 60.0
"""Seconds after a transfer for which its client may be about to begin the next one."""
STAYS = 3600.0
"""Seconds that a hand-over may take in which the host gets nothing."""


def spawn(home: Home, key: str, stdin: Optional[int] = None) -> None:
    """Start a supervisor for `key`, detached from us. If one lives, the new one ends at once. `stdin` as below."""
    run = home.run(key)
    variables = dict(session_variables(run), **{SUPERVISOR: key})
    detached(home, run.supervisor_log, variables, "supervise", "--home", home.path, key, stdin=stdin)


def session_variables(run: RunFolder) -> Dict[str, str]:
    """The variables of the session that handed a run over, for its supervisor, without those of another run: typed
    inside a run, `remoterun run` starts another, which must not count as one of the first one's processes. Nor must one
    that is started by another run's supervisor, which waits behind it."""
    with contextlib.suppress(OSError, ValueError):
        return _variables_of_no_run(decode(Dict[str, str], read_bytes(run.environ_file)))
    return _variables_of_no_run(os.environ)


def detached(
    home: Home, log_file: str, variables: Dict[str, str], *words: str, stdin: Optional[int] = None
) -> "subprocess.Popen[bytes]":
    """Start this agent once more with these words, in a session of its own. `stdin`: None for nothing to read."""
    import subprocess

    with open(log_file, "ab") as log:
        return subprocess.Popen(
            [*agent_command(), *words],
            bufsize=0,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=log,
            stderr=log,
            cwd=home.path,
            env=variables,
            start_new_session=True,
        )


def agent_command() -> List[str]:
    """The words that start this very agent again."""
    flags = (["-I"] if sys.flags.isolated else []) + (["-S"] if sys.flags.no_site else [])
    flags += ["-X", "utf8"] if sys.flags.utf8_mode else []
    return [sys.executable, *flags, os.path.abspath(sys.argv[0])]


def revive(home: Home, keys: Iterable[str] = (), ended: bool = False) -> None:
    """Have each active run supervised that needs it and is not, and `keys`; with `ended`, also what a run which has
    ended still holds. To be called once a run has come, ended, or left its queue: others may need a supervisor. Where
    none can be started, as in a home that is read-only, what is there can still be read."""
    with contextlib.suppress(OSError, ImportError):  # of a program that was deleted
        active = {*home.active_keys(), *keys}
        if active:
            from .queues import QUEUES, queue_named

            wanted = {home.run(key).queue() for key in active}
            for name in QUEUES:
                if not name or name in wanted:
                    queue_named(home, name).settle(active, ended)


def ensure_keeper(home: Home) -> None:
    """Start a keeper for a host that is rented, unless one lives. Costs next to nothing on others."""
    if home.rental.terms() is None:
        return
    with unless_held(home.lock(KEEPER)) as free:
        if free is None:
            return
    variables = _variables_of_no_run(os.environ)
    variables[SUPERVISOR] = KEEPER  # else a supervisor that started it would end it with its run
    words = ["sh", "-c", 'setsid "$@" >>keeper.log 2>&1 &', "sh", *agent_command(), "keep", "--home", home.path]
    with contextlib.suppress(OSError, ImportError):
        # for who watches the host (clouds/boot/on_host.py), and starts it again as the same user
        again = encode({"words": words, "variables": variables})
        write_whole(os.path.join(home.path, "keeper.json"), again)
        detached(home, os.path.join(home.path, "keeper.log"), variables, "keep", "--home", home.path)


class ClientPresence:
    """Keeps a rented host from ending while a client of one conversation transfers files, or hands a run over: until
    the request is done and `QUIET` seconds more, a `stay` for `STAYS` seconds at the most. A client that only asks
    keeps nothing: a window that was forgotten may stay open for days.

    Any thread may call any method. `clock`: seconds, monotonic.
    """

    def __init__(self, home: Home, clock: Callable[[], float] = time.monotonic) -> None:
        self._home = home
        self._clock = clock
        self._changing = threading.Lock()
        self._lock = contextlib.ExitStack()
        self._held = False
        self._until = 0.0
        self._transfers = 0

    @contextlib.contextmanager
    def using(self, stays: bool = False) -> Iterator[None]:
        """While a request is under way. Once this has begun, the keeper has either marked the host's end, or will not
        do so for want of use."""
        with self._changing, contextlib.suppress(OSError):  # of a home that is read-only: it has no keeper
            self._transfers += not stays
            self._until = max(self._until, self._clock() + (STAYS if stays else QUIET))
            if not self._held and self._home.rental.terms() is not None:
                self._lock.enter_context(locked(self._home.lock(SERVING), shared=True))
                self._held = True
        try:
            yield
        finally:
            with self._changing:
                self._transfers -= not stays
                quiet = self._clock() + QUIET
                self._until = quiet if stays else max(self._until, quiet)

    def refresh(self, busy: bool) -> None:
        """To be called now and then, with whether anything moves."""
        with self._changing:
            now = self._clock()
            if busy and self._transfers:
                self._until = max(self._until, now + QUIET)
            elif now > self._until:
                self._lock.close()
                self._held = False


def _variables_of_no_run(variables: Mapping[str, str]) -> Dict[str, str]:
    return {name: value for name, value in variables.items() if name not in ("REMOTERUN_KEY", "REMOTERUN_EXEC")}
