"""The request about who uses the machine, and who waits for it."""

from __future__ import annotations

from typing import Dict

from ..running import occupancy as occupying
from ..shared import api
from . import Call, Handler


def occupancy(call: Call, asked: api.Demand) -> api.Occupancy:
    return occupying.look(call.home, asked)


HANDLERS: Dict[str, Handler] = {"occupancy": occupancy}
