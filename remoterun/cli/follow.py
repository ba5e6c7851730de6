"""Showing a run as it goes: states on stderr, its log, byte for byte, on stdout; its ports; a notice of its end."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from remoterun.agent.shared.machines import CAPABILITIES
from remoterun.agent.shared.spec import PortSpec
from remoterun.agent.shared.states import Reason, RunState
from remoterun.cli import render
from remoterun.cli.render import live_views, run_views
from remoterun.client import Client
from remoterun.client.runs.following import Item, LogBytes, Note, StateChange, Wanted
from remoterun.model import Run, listed

if TYPE_CHECKING:
    from remoterun.client.live.ports import Forwarding, PortNews


JUPYTER = "JupyterLab"
"""The server that is started with a token."""
HERE = "127.0.0.1"
MOST_NAMED = 5
Told = Callable[[int, "PortNews", str], None]
"""Gets news of the ports of a run: its number, the news, and the address here."""


class Forwards:
    """The ports of a run, from the moment on that its command runs, until `close`.

    `ports`: which (none: those of its spec; None: no port at all). `say` gets each line, also on other threads.
    `server`: what answers on the port, where that is known; the number of its port then tells nobody anything.
    """

    def __init__(
        self,
        client: Client,
        ports: Sequence[PortSpec] | None,
        say: Callable[[str], None],
        told: Told = lambda *_: None,
        server: str = "",
    ) -> None:
        self._server = server
        self._client = client
        self._ports = ports
        self._say = say
        self._told = told
        self._forwarding: Forwarding | None = None

    def at(self, change: StateChange) -> None:
        """The run has come to this state: where that is RUNNING, on a new host perhaps, its ports are forwarded."""
        if self._ports is None or change.past or change.state is not RunState.RUNNING:
            return
        self.close()
        number, waited = change.run.number, False

        def tell(news: PortNews) -> None:
            nonlocal waited
            where = address(self._client, number, news, self._server)
            if not (self._server and waited and news.kind == "waiting"):
                self._say(text(number, news, where, self._server))
            waited = waited or news.kind == "waiting"
            self._told(number, news, where)

        self._forwarding = self._client.runs.forward(number, self._ports or (), tell)

    def close(self) -> None:
        if self._forwarding is not None:
            self._forwarding.close()


def address(client: Client, number: int, news: PortNews, server: str) -> str:
    """Where a browser reaches a port of a run; JupyterLab with its token. It is a name of the run's own, under which no
    other's cookies are sent to it; browsers know it without being told, but for Safari."""
    name = HERE if sys.platform == "darwin" else f"run-{number}.localhost"
    token = client.runs.tokens.find(client.runs.known(number).key) if server == JUPYTER else None
    return f"http://{name}:{news.local}" + ("" if token is None else f"/lab?token={token}")


def text(number: int, news: PortNews, address: str, server: str = "") -> str:
    """What is said of a port of run `number`, which is reached at `address` here."""
    port = server or f"port {news.port} of run {number}"
    if news.kind == "waiting" and server:
        return f"waiting for {server} to start…"
    if news.kind == "waiting" and news.others:
        more = [f"{len(news.others) - MOST_NAMED} more"] if len(news.others) > MOST_NAMED else []
        others = listed([*map(str, news.others[:MOST_NAMED]), *more])
        return f"nothing listens at {news.port} in run {number} yet; it listens at {others}"
    if news.kind == "waiting":
        return f"waiting until something listens at {news.port} in run {number}…"
    if news.kind == "down":
        return f"nothing listens at {news.port} in run {number} any more" if not server else f"{server} has ended"
    if news.kind == "failed":
        return f"the ports of run {number} can't be reached: {news.text}"
    taken = "" if news.local == news.wanted else f" ({news.wanted} is taken here)"
    return f"{address}{taken}" if server else f"{address} ({HERE}:{news.local}) -> {port}{taken}"


PORTS = 20000, 30000


class Showing:
    """Shows the first address in the browser."""

    def __init__(self, no_browser: bool) -> None:
        self._wanted = not no_browser
        self.ending = "^C ends it"

    def __call__(self, number: int, news: PortNews, address: str) -> None:
        from remoterun.cli import browser

        if news.kind != "up":
            return
        shown = self._wanted and browser.show(address)
        self._wanted = False
        from remoterun.cli.render import file_views

        file_views.page_shown(news.local, shown, browser.far_away(), self.ending)


def some_port() -> int:
    """A port that nobody else is likely to use, where runs have the network of their machine."""
    return random.randrange(*PORTS)


def forward_until_end(
    client: Client,
    run: Run,
    ports: list[PortSpec],
    told: Told = lambda *_: None,
    also: Callable[[StateChange], None] = lambda change: None,
    server: str = "",
) -> int:
    """Forward ports until ^C, or until the run ends; the exit status. `server` is what answers there; `also` is called
    with each state of the run."""
    steps = live_views.Steps()
    try:
        with contextlib.closing(Forwards(client, ports, steps.say, told, server)) as forwards:
            for item in client.runs.follow(run.number, Wanted(log=False)):
                if isinstance(item, Note):
                    _show_note(item, steps, run)
                elif isinstance(item, StateChange):
                    run = item.run
                    if run.state is RunState.RUNNING:
                        steps.clear()
                    elif run.final or not item.past:
                        _show_state(item, steps)
                    forwards.at(item)
                    also(item)
    except KeyboardInterrupt:
        steps.abandon()
        render.line("")
    return 0


STEPS = {
    RunState.QUEUED: "Waiting for its turn",
    RunState.BUILDING: "Preparing the environment",
    RunState.MOUNTING: "Putting files in place",
    RunState.SAVING: "Saving outputs",
}
_STEP_FAILED = (Reason.BUILD_FAILED, Reason.MOUNT_FAILED, Reason.START_FAILED, Reason.NO_CAPACITY, Reason.DISK_FULL)
"""Why a run ends whose last step did not do what it says."""


def follow(
    client: Client,
    run: Run,
    items: Iterable[Item],
    *,
    from_start: bool = False,
    ports: Sequence[PortSpec] | None = None,
    told: Told = lambda *_: None,
    server: str = "",
) -> int:
    """Show `items` until the run has ended; its exit status. On ^C: what goes on, and 130.

    `from_start`: show the states too that were passed before we looked. `ports` are forwarded while the run runs (None:
    none), of which `told` is told, too, on other threads; `server` is what answers there.
    """
    steps = live_views.Steps()
    ended = hinted = False
    try:
        with contextlib.closing(Forwards(client, ports, steps.say, told, server)) as forwards:
            for item in items:
                if isinstance(item, LogBytes):
                    steps.output(item.data, item.stderr)
                elif isinstance(item, StateChange):
                    run = item.run
                    if from_start or not item.past or run.final:
                        ended = _show_state(item, steps)
                        hinted = bool(item.event.hint)
                    forwards.at(item)
                else:
                    _show_note(item, steps, run)
    except KeyboardInterrupt:
        steps.abandon()
        if run.final and not ended:
            render.line("")
            render.line(f"run {run.number} has ended: {run_views.state_text(run)}")
        elif not ended:
            with render.loudly(run.renting is not None):  # it costs
                run_views.detached(run, bool(ports))
        return 130
    finally:
        steps.abandon()
    if client.config.notice:
        notice(run)
    run_views.can_go_on([run])
    if run.state is RunState.FAILED and run.code is None and not hinted:
        render.hint(f"remoterun info {run.number}")
    return run.exit_status


def _show_state(change: StateChange, steps: live_views.Steps) -> bool:
    """Whether that was the end."""
    run = change.run
    if run.final:
        steps.clear(failed=run.reason in _STEP_FAILED)
        with render.loudly(run.code is None and run.state is RunState.FAILED):
            run_views.ending(run)
            for part in (change.event.evidence or "").splitlines():
                render.line(f"    {part}")
        if change.event.hint:
            render.hint(run.host.says(change.event.hint))
        return True
    if change.state is RunState.RUNNING:
        steps.clear()
        place = f" {CAPABILITIES[run.engine].place}" if run.engine in CAPABILITIES else ""
        render.line(render.DONE, f"Running on {run.where}{place}; ^C leaves it running")
    elif change.state in STEPS:
        steps.at(STEPS[change.state])
    return False


def _show_note(note: Note, steps: live_views.Steps, run: Run) -> None:
    """What is worth reading of a run beside its states."""
    if note.kind == "build":
        steps.detail(note.text)
    elif note.kind == "line" or (note.kind == "note" and run.state is RunState.QUEUED):
        steps.waits(note.text)
    elif note.kind == "lost":
        steps.abandon()
        render.warning(f"{note.text}; trying again")
    elif note.kind == "kept":
        run_views.kept(run, note.text)
    elif note.kind == "attempt":
        steps.abandon()
        render.line(f"run {run.number} gets another host: {note.text}")
    elif note.kind == "waiting":
        if note.text:
            steps.at(f"Waiting for {note.text}")
        else:
            steps.clear()
    elif note.kind == "back":
        again = f"its host is gone: read from {note.text}" if note.text else f"connected to {run.host.name} again"
        render.line(f"  {again}")
    else:
        steps.say(note.text)


LONG = 60.0
"""Seconds from which on a run is long."""
JUST_NOW = 10.0
"""Seconds after its end in which that is news."""
PATIENCE = 5.0
_SCRIPT = ("on run argv", "display notification (item 2 of argv) with title (item 1 of argv)", "end run")


def notice(run: Run) -> None:
    """Tell of the end of a run, unless it was short, or ended a while ago. Never fails."""
    if run.ended is None or run.ended - run.created < LONG or abs(time.time() - run.ended) > JUST_NOW:
        return
    render.bell()
    words = command(f"run {run.number} {run_views.state_text(run)}", f"on {run.machine.name}")
    if words:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            nothing = subprocess.DEVNULL
            subprocess.run(words, stdin=nothing, stdout=nothing, stderr=nothing, timeout=PATIENCE, check=False)


def command(title: str, text: str) -> list[str]:
    """The words that show a notice on the desktop in front of us; none where there is no desktop."""
    if sys.platform == "darwin":
        here = "SSH_CONNECTION" not in os.environ and shutil.which("osascript")
        lines = [word for line in _SCRIPT for word in ("-e", line)]
        return ["osascript", *lines, title, text] if here else []
    shown = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return ["notify-send", "--app-name=remoterun", title, text] if shown and shutil.which("notify-send") else []
