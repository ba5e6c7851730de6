"""The tokens of servers that this client started in runs: whoever has one may use the server."""

from __future__ import annotations

import contextlib
from pathlib import Path

from remoterun.agent.shared.files import write_whole


class Tokens:
    """A file of mode 0600 for each run that has one, by the run's key."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "tokens"

    def keep(self, key: str, token: str) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(str(self._folder / key), token.encode(), 0o600)

    def find(self, key: str) -> str | None:
        try:
            return (self._folder / key).read_text()
        except OSError:
            return None

    def remove(self, key: str) -> None:
        """What is absent is fine."""
        with contextlib.suppress(OSError):
            (self._folder / key).unlink()
