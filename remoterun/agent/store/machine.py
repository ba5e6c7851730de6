"""Of a host that is rented its terms, and the mark that it goes away.

rented.json     its provider's `RentalTerms`
leaving         an `EndNotice`, written once by its keeper: what comes next is its end
"""

from __future__ import annotations

import os
import time
from typing import Optional

from ..shared.files import read_bytes, write_whole
from ..shared.identity import boot_id
from ..shared.machines import RENTAL_FILE, RentalTerms
from ..shared.records import Record, decode, encode

UNSAVED = 60.0
"""Seconds before the deadline at which a run ends with what the archive has."""
LAST = 5.0
"""Seconds before a host is taken away at which a run ends with what the archive has."""


class EndNotice(Record):
    at: float
    """When the host goes away, in seconds since 1970."""
    why: str
    """By its provider: "taken"; else "idle", or "deadline"."""
    boot: str
    """The boot in which this was noted."""


class RentalState:
    def __init__(self, home: str) -> None:
        self._terms_file = os.path.join(home, RENTAL_FILE)
        self._mark = os.path.join(home, "leaving")

    def terms(self) -> Optional[RentalTerms]:
        """None on a host that is not rented; also where they can't be read, as nothing can be done by them."""
        try:
            return decode(RentalTerms, read_bytes(self._terms_file))
        except (OSError, ValueError):
            return None

    def leaving(self) -> Optional[EndNotice]:
        """None while the host stays."""
        try:
            mark = decode(EndNotice, read_bytes(self._mark))
        except (OSError, ValueError):
            return None
        return mark if mark.boot == boot_id() else None

    def leave(self, at: float, why: str) -> None:
        """Say that the host goes away. The first word counts, unless the provider takes it sooner."""
        before = self.leaving()
        if before is None or at < before.at:
            write_whole(self._mark, encode(EndNotice(at, why, boot_id())))

    def taken_at(self) -> Optional[float]:
        """When the provider takes the host away; None if it does not."""
        leaving = self.leaving()
        return leaving.at if leaving is not None and leaving.why == "taken" else None

    def last_moment(self) -> float:
        """Until when (seconds since 1970) what a run made may still be put into the archive."""
        terms, leaving = self.terms(), self.leaving()
        moments = [] if terms is None else [terms.deadline - UNSAVED]
        if leaving is not None:
            moments.append(leaving.at - LAST)
        return min(moments) if moments else float("inf")

    def refusal(self) -> Optional[str]:
        """Why no new run may begin here; None if it may."""
        leaving = self.leaving()
        if leaving is not None and leaving.why == "idle":
            return "this machine ends, since nothing ran on it"
        if leaving is not None or time.time() > self.last_moment():
            at = self.last_moment() if leaving is None else leaving.at
            return "this machine will be taken away at %s" % time.strftime("%H:%M:%S UTC", time.gmtime(at))
        return None
