"""SSH's handshake: which algorithms are offered, and why it failed."""

from __future__ import annotations

import itertools
import logging
import struct
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import paramiko

from remoterun.errors import HostError, HostUnreachable
from remoterun.hosts.ssh import internals
from remoterun.hosts.ssh.config import SSHSettings, words_of
from remoterun.hosts.ssh.deadlines import Deadlines
from remoterun.hosts.ssh.login import DisconnectReason
from remoterun.hosts.ssh.wire import Wire

_CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
_KEXINIT = 20  # the type of the message in which each side lists its algorithms (RFC 4253, section 7.1)
_COOKIE = 16

_loggers = itertools.count()
_paramiko_log = logging.getLogger("paramiko")
if not _paramiko_log.handlers:  # paramiko prints every lost connection on stderr; here it becomes an exception
    _paramiko_log.addHandler(logging.NullHandler())
    _paramiko_log.propagate = False


class _AlgorithmKind(NamedTuple):
    """One kind of algorithm that both sides must agree on."""

    noun: str
    paramiko_says: str
    place: int  # of the list among those that the host sends
    ours: str  # attribute of paramiko's SecurityOptions
    keyword: str  # of sshd_config


_ALGORITHMS = (
    _AlgorithmKind("key exchange", "kex algorithm", 0, "kex", "KexAlgorithms"),
    _AlgorithmKind("kind of host key", "host key", 1, "key_types", "HostKeyAlgorithms"),
    _AlgorithmKind("cipher", "ciphers", 2, "ciphers", "Ciphers"),
    _AlgorithmKind("integrity check", "macs", 4, "digests", "MACs"),
)


def make_transport(
    wire: Wire, deadlines: Deadlines, reason: DisconnectReason, known_kinds: Sequence[str]
) -> paramiko.Transport:
    """A transport before its handshake. `known_kinds` are the kinds of host key that are known for the host."""
    transport = _quick_transport(wire) if not internals.missing() else paramiko.Transport(wire)
    own = logging.Logger(f"paramiko.connection.{next(_loggers)}", logging.INFO)  # in no tree, so it is freed with us
    own.addHandler(reason)
    transport.logger = own
    transport.packetizer.set_log(own)
    # When paramiko asks for new keys, the connection can stall for 30 s and end (paramiko #822). sshd asks in time, and
    # here only the limit of AES-GCM remains.
    transport.packetizer.REKEY_BYTES = 1 << 36
    transport.packetizer.REKEY_PACKETS = 1 << 40
    transport.banner_timeout = deadlines.banner
    transport.handshake_timeout = deadlines.handshake
    transport.auth_timeout = deadlines.auth
    options = transport.get_security_options()
    options.ciphers = tuple(cipher for cipher in _CIPHERS if cipher in transport.preferred_ciphers)
    options.key_types = _preferred(tuple(options.key_types), known_kinds)
    return transport


def _quick_transport(wire: Wire) -> paramiko.Transport:
    """A transport whose packets take the quick way where the cipher allows it."""
    from remoterun.hosts.ssh.packets import Packetizer

    transport = paramiko.Transport(wire, packetizer_class=Packetizer)
    transport.packetizer.grant_while(transport.clear_to_send.is_set)
    return transport


def _preferred(offered: tuple[str, ...], known_kinds: Sequence[str]) -> tuple[str, ...]:
    """Algorithms of which a key is known for this host stand first, so that the host shows that key."""
    first = [name for name in offered if ("ssh-rsa" if name.startswith("rsa-") else name) in known_kinds]
    return (*first, *(name for name in offered if name not in first))


def shake_hands(
    transport: paramiko.Transport,
    settings: SSHSettings,
    deadlines: Deadlines,
    wire: Wire,
    address: str,
    proxy_errors: Callable[[], str] | None,
    began: float,
) -> None:
    """Returns when both sides have keys. Blocks for `deadlines.handshake` at most. Raises `HostError` with the reason.

    `proxy_errors` returns what a ProxyCommand printed; None without one. `began` (monotonic) is for messages.
    """
    trouble: Exception | None = None
    try:
        transport.start_client(timeout=deadlines.handshake)
    except (paramiko.SSHException, EOFError, OSError) as error:
        trouble = error
    if trouble is None and transport.initial_kex_done:
        return
    lost = wire.lost
    last_words = proxy_errors() if proxy_errors is not None and not wire.opening else ""
    wire.close()
    name, place = f"`{settings.target}`", f"{address} port {settings.port}"
    took = f"after {time.monotonic() - began:.1f} s"
    heard = wire.opening.decode("utf-8", "replace").strip()
    for kind in _ALGORITHMS:
        if isinstance(trouble, paramiko.SSHException) and f"no acceptable {kind.paramiko_says}" in str(trouble):
            raise _nothing_in_common(kind, transport, wire.opening, f"{name} ({place})") from trouble
    if "Not allowed at this time" in heard:
        raise HostUnreachable(
            f"{name} takes no connection from here for a while ({place}): Not allowed at this time",
            hint="its sshd punishes this address for failed logins (PerSourcePenalties): wait some minutes",
        )
    if "Exceeded MaxStartups" in heard:
        raise HostUnreachable(
            f"{name} has too many logins in progress ({place}): {heard}", hint="try again in a few seconds"
        )
    if proxy_errors is not None and not heard:
        raise HostUnreachable(
            f"the ProxyCommand for {name} does not reach it ({took}{': ' + lost if lost else ''})",
            evidence=last_words or None,
            hint=f"try it by hand: {settings.proxy_command}",
        )
    if heard and "SSH-" not in heard:
        raise HostUnreachable(
            f"what answers for {name} at {place} is not an SSH server",
            evidence=heard[:200],
            hint="is the port right?",
        )
    if lost and not heard:
        raise HostUnreachable(
            f"{name} closed the connection before it said anything ({place}, {took})",
            evidence=lost,
            hint="too many connections at once (MaxStartups), or a firewall: try again in a few seconds",
        )
    if not heard:
        raise HostUnreachable(
            f"{name} took the connection but its SSH server says nothing ({place}, {took})",
            hint="the machine may be overloaded or suspended, or the port is another program's",
        )
    raise HostUnreachable(
        f"{name} did not finish the SSH handshake ({place}, {took})",
        evidence=lost or (str(trouble) if trouble else None),
        hint=f"`ssh -v {words_of(settings.target)}` shows where it stops",
    )


def _nothing_in_common(kind: _AlgorithmKind, transport: paramiko.Transport, opening: bytes, host: str) -> HostError:
    theirs = offered(opening)[kind.place]
    ours = list(getattr(transport.get_security_options(), kind.ours))
    client = f"this client (paramiko {paramiko.__version__})"
    return HostError(
        f"{host} and this client have no {kind.noun} in common",
        evidence=f"the host offers: {', '.join(theirs)}\n{client} has: {', '.join(ours)}",
        hint=f"add one of this client's to `{kind.keyword}` in the sshd_config of that machine, or update its sshd",
    )


def offered(opening: bytes) -> list[list[str]]:
    """The host's lists of algorithms, in the order of RFC 4253 (section 7.1), from the first bytes that it sent: some
    lines of text, then its first packet. Ten empty lists where these bytes hold none."""
    nothing: list[list[str]] = [[]] * 10
    start = opening.find(b"SSH-")
    line_end = opening.find(b"\n", start)
    packet = opening[line_end + 1 :]
    if start < 0 or line_end < 0 or len(packet) < 6 or packet[5] != _KEXINIT:
        return nothing
    lists: list[list[str]] = []
    at = 6 + _COOKIE
    while len(lists) < len(nothing):
        if len(packet) < at + 4:
            return nothing
        (size,) = struct.unpack_from(">I", packet, at)
        lists.append(packet[at + 4 : at + 4 + size].decode("ascii", "replace").split(","))
        at += 4 + size
    return lists
