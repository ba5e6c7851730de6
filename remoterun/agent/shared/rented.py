"""The terms of a host that is rented: what its provider wrote into its home before the first agent started there.

Made by the client (`providers/`), read by the agent.
"""

from __future__ import annotations

from typing import List

from .records import Record

FILE = "rented.json"
"""Its name in the home; without it a host is nobody's but its owner's."""


class RentalTerms(Record):
    """`deadline` (seconds since 1970, by the provider's clock): the host ends then, whatever goes on; `idle`: seconds
    without a run, or a client, after which it ends; `end`: the words of the command that ends it; `notices`: a key of
    `running.keeper.NOTICES`, how the host is told that it will be taken away, "" for never."""

    token: str
    deadline: float
    idle: float
    end: List[str]
    notices: str = ""
