"""The first session on a new host: what its boot still does is awaited, and its host key is changed.

The key of the first contact stood in user-data, which whoever may describe the instance can read. So the host makes
another one, and only that one is accepted from then on. All steps may be repeated, and while the key changes both are
accepted: a client that is killed here finds the host again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from remoterun.errors import HostError, HostUnreachable
from remoterun.hosts.ssh.config import Deadlines
from remoterun.providers.aws.user_data import PROGRAM, PYTHON
from remoterun.providers.base import HostNeverCame
from remoterun.providers.folder import HostFolder

BOOT_SECONDS = 660.0
ANSWER_SECONDS = 60.0
RESTART_SECONDS = 30.0


def settle(folder: HostFolder, alias: str, say: Callable[[str], None]) -> list[str]:
    """Make the host that `folder` knows ready for agents. Returns what went wrong at its boot without preventing use,
    a line each. Blocks for minutes. Raises `HostError`."""
    with _Session(folder, alias) as session:
        say("Docker")
        told = session.ask("await", seconds=BOOT_SECONDS)
        if _is_first_key(folder):
            _change_key(folder, session)
            say("sshd, with a key of its own")
    if len(folder.known()) > 1:
        _confirm(folder, alias)
    return [str(line) for line in told.get("problems", [])]


def _is_first_key(folder: HostFolder) -> bool:
    """Whether the key of the first contact is still accepted."""
    return " ".join(folder.text("host_key.pub").split()[:2]) in folder.known()


def _change_key(folder: HostFolder, session: _Session) -> None:
    keys = session.ask("fresh-key")
    current, fresh = _public(keys["current"]), _public(keys["fresh"])
    folder.know(list(dict.fromkeys([*folder.known()[:1], current, fresh])))
    session.run("use-key", *fresh.split())
    folder.write("fresh_key.pub", fresh + "\n")


def _confirm(folder: HostFolder, alias: str) -> None:
    """Accept only the fresh key, once the host has shown it."""
    before, fresh = folder.known(), folder.text("fresh_key.pub").strip()
    folder.know([fresh])
    give_up_at = time.monotonic() + RESTART_SECONDS
    while True:
        try:
            with _Session(folder, alias) as session:
                session.run("await")
                return
        except HostUnreachable:
            if time.monotonic() >= give_up_at:
                folder.know(before)
                raise
        except HostError:
            folder.know(before)
            raise
        time.sleep(0.1)


def _public(text: str) -> str:
    """A public key that a host told, as `ssh-ed25519 AAAA…`. Raises `HostNeverCame` for anything else."""
    words = text.split()
    if len(words) != 2 or words[0] != "ssh-ed25519" or not words[1].isascii() or len(words[1]) > 200:
        raise HostNeverCame("the new host did not tell its host key", evidence=text[:200])
    return text


class _Session:
    """Commands on a host over one connection, each a call of `on_host.py`."""

    def __init__(self, folder: HostFolder, alias: str) -> None:
        from remoterun.hosts.ssh.host import SSHHost

        self._alias = alias
        self._host = SSHHost(alias, config_file=folder.ssh_config, deadlines=Deadlines(connect=15, banner=15))

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._host.close()

    def ask(self, *words: str, seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """What the command prints, which is JSON."""
        text = self.run(*words, seconds=seconds)
        try:
            told = json.loads(text)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise HostNeverCame(f"`{self._alias}` answers nonsense at its first session", evidence=text[-500:])
        return told

    def run(self, *words: str, seconds: float = ANSWER_SECONDS) -> str:
        done = self._host.run(command(words), seconds)
        if done.status != 0:
            said = done.errors or done.output
            raise HostNeverCame(f"`{words[0]}` failed on the new host", evidence=said[-2000:] or None)
        return done.output


def command(words: Sequence[str]) -> list[str]:
    """The command of the first session that runs `on_host.py` as root."""
    return ["sudo", "-n", PYTHON, PROGRAM, *words]
