"""What is wrong with a run by its metrics, and word of that."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

from ..shared.measured import Progress
from ..shared.spec import RunSpec
from ..store.run_folder import RunFolder
from .points import Stored


class Alerts:
    def __init__(self, run: RunFolder, spec: RunSpec, state: Dict[str, Any]) -> None:
        """`state`: JSON that is saved with what was read so far."""

    def check(
        self, progress: Progress, points: Sequence[Stored], usage: Sequence[Stored], now: float, ended: bool
    ) -> List[str]:
        """What is wrong now, each in words."""
        return []

    def close(self) -> None:
        """Wait for messages that are under way, 2 s at the most."""
