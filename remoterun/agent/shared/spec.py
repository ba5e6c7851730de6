"""What was asked of a run, as both sides understand it. Standard library only; Python >= 3.8."""

from __future__ import annotations

import re

APT_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*(:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?\Z")
"""The name of a Debian package, with an architecture and a version if one likes."""
