"""What a host is to the rest of the client: a way to open a pipe to an agent.

A `Host` opens `Pipe`s. A pipe is a byte stream to and from one `agent serve` process; what is said over it is
the business of `agent.shared.protocol`. Each implementation passes `tests/contract/test_hosts.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from remoterun.agent.shared.protocol import MAGIC

KEPT = 64 << 10
"""Bytes that are kept of what a host prints beside the agent's frames: before the first one, and as errors."""
TAIL = 4096
"""Bytes of that which an error shows as evidence."""


@dataclass(frozen=True)
class UnknownHostKey:
    """What a person is asked about. After a yes the key is written to `file`."""

    host: str
    """As the user named it."""
    known_as: str
    """As known_hosts files name it."""
    address: str
    kind: str
    """ED25519, RSA, ECDSA."""
    fingerprint: str
    """As `ssh-keygen -l` prints it: `SHA256:…`."""
    file: Path


@dataclass(frozen=True)
class Prompts:
    """How to ask a person. None: nobody is there to ask, and the answer is no."""

    confirm_host_key: Callable[[UnknownHostKey], bool] | None = None
    """Asked about a host key seen for the first time."""
    log_in: Callable[[Callable[[], None]], None] | None = None
    """Calls its argument, with which the system's ssh asks on the terminal, where no key lets the user in."""


NOBODY = Prompts()


class Pipe(Protocol):
    """A two-way byte stream to one agent process. One thread may read while another writes."""

    def read(self, limit: int) -> bytes:
        """Block until there is something; at most `limit` bytes. `b""` means that the other side is gone."""
        ...

    def pump(self, taker: Callable[[memoryview], None]) -> None:
        """Give `taker` all that comes, as it comes, until the other side is gone; blocks. Meanwhile nothing may `read`.

        `taker` may be called on another thread, one call after the other. It must not block, and must not keep the
        memory that it is given. When it raises, `pump` ends and raises the same.
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
        """Drop the connections that `open` keeps for its next call. May be called twice."""
        ...


def await_agent(pipe: Pipe) -> None:
    """Read until the agent's first bytes (`protocol.MAGIC`), past what a login shell's start-up files print.

    The pipe then stands at the first frame. Raises `AgentSilent` when the pipe ends, or `KEPT` bytes come, without
    them. Blocks as long as the pipe's `read` does: the caller sets a deadline for it.
    """
    heard = bytearray()
    while len(heard) < KEPT:
        data = pipe.read(1)  # byte by byte, so that nothing of the first frame is taken; normally MAGIC comes first
        if not data:
            break
        heard += data
        if heard.endswith(MAGIC):
            return
    raise AgentSilent(bytes(heard[-TAIL:]), endless=len(heard) >= KEPT)


class AgentSilent(Exception):
    """The program that was started isn't a running agent. Each host turns it into its own `HostError`.

    `heard` is the end of what it wrote instead; `endless` means that it wrote `KEPT` bytes, and may still write.
    """

    def __init__(self, heard: bytes, *, endless: bool) -> None:
        super().__init__(heard)
        self.heard = heard.decode("utf-8", "replace").strip()
        self.endless = endless
