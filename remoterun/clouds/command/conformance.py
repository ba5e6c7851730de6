"""The conformance test of a program, for `doctor`: every question that costs nothing, and what to mend."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from functools import partial

from remoterun.agent.shared.api import MachineCheck
from remoterun.clouds.base import NoCapacity
from remoterun.clouds.command.provider import ProviderProgram, RefusedByProgram
from remoterun.clouds.vendor import CLIENT, by_whom
from remoterun.errors import RemoterunError
from remoterun.model import Rental

ODD = "remoterun-doctor-no-such-thing"  # a type, a host and a question that no program knows
OFFER = "answer `offers`: those of `types` that may be had, with `price`, or with `unpriced`: why it is not known"
MORE = 'answer {"error": "…"} to what is not known: a later version may ask more'
Verdict = tuple[bool | None, str]


def checks(program: ProviderProgram, rentals: Sequence[Rental]) -> list[MachineCheck]:
    """The answers of a program to all but `create`, for the types of its machines, and to odd questions. Without
    an answer to `hello` or `identity` no more is asked."""
    by_hand = f"""try it by hand:  echo '{{"do": "hello"}}' | {shlex.join(program.words)}"""
    questions: list[tuple[str, Callable[[], Verdict], str, bool | None]] = [
        ("hello", lambda: (None if program.ends()[0] == CLIENT else True, by_whom(program.ends()[0])), by_hand, False),
        ("identity", lambda: (True, program.identity().name), "log in as the program's first lines say", False),
        *(("offers", partial(_offers, program, each), OFFER, False) for each in rentals if each.types),
        ("hosts", lambda: (True, f"{len(program.hosts(strictly=True))} listed"), "answer `hosts`, a list", False),
        ("unknown type", partial(_offers, program, Rental("command", (ODD,))), "leave it out: `offers` is []", True),
        ("unknown host", lambda: (program.ask("delete", id=ODD) is not None, "may be deleted"), "answer {}", None),
        ("unknown question", lambda: (False, f"it answers {program.ask(ODD)}"), MORE, True),
    ]
    found = list[MachineCheck]()
    for name, ask, fix, refused in questions:
        try:
            ok, detail = ask()
        except RemoterunError as error:
            ok, detail = refused if isinstance(error, (RefusedByProgram, NoCapacity)) else False, error.message
            if ok is False and error.evidence:
                detail += f" ({error.evidence.strip().splitlines()[-1]})"
        found.append(MachineCheck(f"{program.key}: {name}", ok, detail, "" if ok else fix))
        if ok is False and name in ("hello", "identity"):
            return found
    return [*found, MachineCheck(f"{program.key}: create", None, "not tried: it costs")]


def _offers(program: ProviderProgram, rental: Rental) -> Verdict:
    offers, is_odd = program.offers(rental), rental.types == (ODD,)
    prices = [each.unpriced or "no price" if each.price is None else f"${each.price:.4g} an hour" for each in offers]
    text = ", ".join(f"{it.type} {it.region}".strip() + f": {price}" for it, price in zip(offers, prices, strict=True))
    if is_odd or "no price" in prices or any(each.type not in rental.types for each in offers):
        return is_odd and not offers, text or "is not offered"
    return True if offers else None, text or f"no {', '.join(rental.types)} now"
