"""The conformance test of a program, for `doctor`: every question that costs nothing, and what to mend."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from functools import partial

from remoterun.agent.shared.api import MachineCheck
from remoterun.clouds.base import NoCapacity
from remoterun.clouds.command.provider import ProviderProgram, RefusedByProgram
from remoterun.clouds.simple import CLIENT, by_whom
from remoterun.errors import RemoterunError
from remoterun.model import Rental

ODD = "remoterun-doctor-no-such-thing"
"""A type, a host and a question that no program knows."""
Verdict = tuple[bool | None, str]


def checks(program: ProviderProgram, rentals: Sequence[Rental]) -> list[MachineCheck]:
    """What the program answers to all but `create`, for the types of its machines; and to what it can't know."""
    hand = f"""try it by hand:  echo '{{"do": "hello"}}' | {shlex.join(program.words)}"""
    offer = "answer `offers`: those of `types` that may be had, with `price`, or with `unpriced`, which says why not"
    more = 'answer {"error": "…"} to what is not known: a later version may ask more'
    questions: list[tuple[str, Callable[[], Verdict], str, bool | None]] = [
        ("hello", lambda: (None if program.ends()[0] == CLIENT else True, by_whom(program.ends()[0])), hand, False),
        ("identity", lambda: (True, program.identity().name), "log in, as the program's first lines say", False),
        *(("offers", partial(_offers, program, each), offer, False) for each in rentals if each.types),
        (
            "hosts",
            lambda: (True, f"{len(program.hosts())} listed"),
            "answer `hosts`: a list, if only an empty one",
            False,
        ),
        ("unknown type", partial(_offers, program, Rental("command", (ODD,)), True), "answer offers: []", True),
        (
            "unknown host",
            lambda: (program.ask("delete", id=ODD) is not None, "it may be deleted"),
            "answer {}: it is gone",
            None,
        ),
        ("unknown question", lambda: (False, f"it answers {program.ask(ODD)}"), more, True),
    ]
    found = []
    for name, ask, fix, refused in questions:
        try:
            ok, detail = ask()
        except RemoterunError as error:
            ok, detail = refused if isinstance(error, (RefusedByProgram, NoCapacity)) else False, error.message
            if ok is False and error.evidence:
                detail += f" ({error.evidence.strip().splitlines()[-1]})"
        found.append(MachineCheck(f"{program.key}: {name}", ok, detail, "" if ok else fix))
        if name == "hello" and ok is False:
            return found
    return [*found, MachineCheck(f"{program.key}: create", None, "not tried, as it costs")]


def _offers(program: ProviderProgram, rental: Rental, unknown: bool = False) -> Verdict:
    offers, said, ok = program.offers(rental), [], None if unknown else True
    for each in offers:
        price = each.unpriced or "its price is missing" if each.price is None else f"${each.price:.4g} an hour"
        said.append(f"{each.type} {each.region}".strip() + f": {price}")
        if unknown or each.type not in rental.types or (each.price is None and not each.unpriced):
            ok = False
    return ok if offers else unknown or None, ", ".join(said) or f"no {', '.join(rental.types)} now"
