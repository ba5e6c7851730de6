"""Ports of a run on this machine: while it is followed, or while nothing else is done."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from remoterun.agent.shared.spec import PortSpec
from remoterun.agent.shared.states import RunState
from remoterun.cli import render
from remoterun.model import listed

if TYPE_CHECKING:
    from remoterun.client import Client, Forwarding, PortNews, StateChange
    from remoterun.model import Run


JUPYTER = "JupyterLab"
"""The server that is started with a token."""
MOST_NAMED = 5
Told = Callable[[int, "PortNews", str], None]
"""Is told of news of the ports of a run: its number, the news, and the address here."""


class Forwards:
    """The ports of a run, from the moment on that its command runs; a context manager, which ends them.

    `ports`: which (none: those of its spec; None: no port at all). `say` gets each line, also on other threads.
    `server`: what answers on the port, where that is known; the number of its port then tells nobody anything.
    """

    def __init__(
        self,
        client: Client,
        ports: Sequence[PortSpec] | None,
        say: Callable[[str], None],
        told: Told = lambda number, news, address: None,
        server: str = "",
    ) -> None:
        self._server = server
        self._client = client
        self._ports = ports
        self._say = say
        self._told = told
        self._forwarding: Forwarding | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    @property
    def are_wanted(self) -> bool:
        """Whether there is any port to forward, as far as was asked here."""
        return bool(self._ports)

    def at(self, change: StateChange) -> None:
        """The run has come to this state: where that is RUNNING, on a new host perhaps, its ports are forwarded."""
        if self._ports is None or change.past or change.state is not RunState.RUNNING:
            return
        self.start(change.run.number)

    def start(self, number: int) -> None:
        """Forward the ports of a run whose command runs."""
        self._close()
        waited = False

        def tell(news: PortNews) -> None:
            nonlocal waited
            where = address(self._client, number, news) if self._server == JUPYTER else news.address
            if not (self._server and waited and news.kind == "waiting"):
                self._say(text(number, news, where, self._server))
            waited = waited or news.kind == "waiting"
            self._told(number, news, where)

        self._forwarding = self._client.runs.forward(number, self._ports or (), tell)

    def _close(self) -> None:
        if self._forwarding is not None:
            self._forwarding.close()


def address(client: Client, number: int, news: PortNews) -> str:
    """Where JupyterLab is reached here, with its token."""
    token = client.runs.tokens.find(client.registry.run(number).key)
    return f"{news.address}/lab?token={token}" if token is not None and news.kind == "up" else news.address


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
    return f"{address} -> {port}{taken}" if address == news.address and not server else f"{address}{taken}"


PORTS = 20000, 30000


class Showing:
    """Shows the first address in the browser."""

    def __init__(self, no_browser: bool) -> None:
        self._wanted = not no_browser
        self.ending = "^C ends it"
        self.more = ""
        """Another line, about the page."""

    def __call__(self, number: int, news: PortNews, address: str) -> None:
        from remoterun.cli import browser

        if news.kind != "up":
            return
        shown = self._wanted and browser.show(address)
        self._wanted = False
        render.page_shown(news.local, shown, browser.far_away(), self.ending)
        if self.more:
            render.line(f"  {self.more}")


def some_port() -> int:
    """A port that nobody else is likely to use, where runs have the network of their machine."""
    return random.randrange(*PORTS)


class Beside(Protocol):
    """What is done beside the forwarding of ports."""

    def at(self, change: StateChange) -> None:
        """The run has come to this state."""


def forward_until_end(
    client: Client,
    run: Run,
    ports: list[PortSpec],
    told: Told = lambda number, news, address: None,
    beside: Beside | None = None,
    server: str = "",
) -> int:
    """Forward ports until ^C, or until the run ends; the exit status. `server` is what answers there."""
    from remoterun.cli.follow import STEPS, show_note
    from remoterun.client import Note, StateChange

    steps = render.Steps()
    try:
        with Forwards(client, ports, steps.say, told, server) as forwards:
            for item in client.runs.follow(run.number, log=False):
                if isinstance(item, Note):
                    show_note(item, steps, run)
                elif isinstance(item, StateChange):
                    run = item.run
                    if run.final:
                        steps.abandon()
                        render.ending(run)
                    elif item.state in STEPS and not item.past:
                        steps.at(STEPS[item.state])
                    elif item.state is RunState.RUNNING:
                        steps.clear()
                    forwards.at(item)
                    if beside is not None:
                        beside.at(item)
    except KeyboardInterrupt:
        steps.abandon()
        render.line("")
    return 0
