"""What a host is to the rest of the client: a way to open a pipe to an agent.

A `Host` opens `Pipe`s. A pipe is a byte stream to and from one `agent serve` process; what is said over it is
`agent.protocol`'s business. Each implementation passes `tests/contract/test_hosts.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from remoterun.agent.shared.protocol import MAGIC


class Pipe(Protocol):
    """A two-way byte stream to one agent process. One thread may read while another writes."""

    def read(self, limit: int) -> bytes:
        """Block until there is something; at most `limit` bytes. `b""` means that the other side is gone."""
        ...

    def pump(self, taker: Callable[[memoryview], None]) -> None:
        """Give `taker` all that comes, as it comes, until the other side is gone; blocks. Nobody reads beside it.

        `taker` may be called on another thread, one call after the other; it doesn't block, and keeps nothing of what
        it is given. What it raises ends this, and is raised.
        """
        ...

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        """Block until all of `parts` is handed to the link. Raises `LinkLost` (an `OSError` never escapes)."""
        ...

    def close(self) -> None:
        """End the agent's input and drop the link. May be called twice, from any thread; wakes a blocked `read`."""
        ...

    @property
    def round_trip(self) -> float:
        """Seconds that the link takes there and back, as last measured; 0 for an agent on this machine."""
        ...

    def diagnosis(self) -> str:
        """What the agent or the link said on its error channel, at most a few kB; "" if nothing."""
        ...


class Host(Protocol):
    """A machine we can execute on. Cheap to make: nothing is opened before `open`."""

    @property
    def name(self) -> str:
        """How the user named it, for messages."""
        ...

    def open(self) -> Pipe:
        """Start `agent serve` there, copying the agent first where it is missing. Blocks, within the host's deadlines.

        Raises `HostUnreachable`, `HostKeyError`, `AuthenticationError` or `AgentError`. May be called again after a
        pipe was lost: it opens a new connection if the old one is dead.
        """
        ...

    def close(self) -> None:
        """Drop what `open` keeps for the next call. May be called twice."""
        ...


def await_agent(pipe: Pipe) -> None:
    """Read until the agent's first bytes (`protocol.MAGIC`), past whatever a login shell's start-up files print.

    The pipe then stands at the first frame. Raises `AgentSilent` when the pipe ends, or 64 KiB come, without it; the
    exception's `heard` holds the tail of what came instead.
    """
    heard = bytearray()
    while len(heard) < 65536:
        data = pipe.read(1)  # byte by byte, so that nothing of the first frame is taken; MAGIC comes first, normally
        if not data:
            break
        heard += data
        if heard.endswith(MAGIC):
            return
    raise AgentSilent(bytes(heard[-4096:]))


class AgentSilent(Exception):
    """The program that was started isn't a running agent. Each host turns it into its own `HostError`."""

    def __init__(self, heard: bytes) -> None:
        super().__init__(heard)
        self.heard = heard.decode("utf-8", "replace").strip()
