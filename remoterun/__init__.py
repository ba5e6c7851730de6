"""remoterun: put `remoterun run` in front of your command, and it runs on a machine you own."""

from __future__ import annotations

__version__ = "0.1.0"
