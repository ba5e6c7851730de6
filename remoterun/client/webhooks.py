"""Who gets word when a run ends: addresses, or names of secrets that are addresses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from remoterun.agent.shared.webhooks import (
    MOST_ADDRESSES,
    BadAddress,
    Webhooks,
    check_address,
    place_of,
)
from remoterun.client.secrets import Secrets
from remoterun.connections import Connections
from remoterun.errors import RemoterunError, UsageError
from remoterun.parsing import VARIABLE

if TYPE_CHECKING:
    from pathlib import Path

    from remoterun.model import Run

EXAMPLE = "https://…, ntfy://ntfy.sh/TOPIC, or the name of a secret that is one"


def addresses_again(connections: Connections, names: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """The addresses of a run of which a spec has the names; those that are known: what was `given`, secrets, and what
    config.toml has."""
    found = {name: given[name] for name in names if name in given}
    for word in (*(name for name in names if VARIABLE.fullmatch(name)), *connections.config.notify):
        try:
            known = addresses(connections.config.home, [word])
        except RemoterunError:  # no run stays behind for it
            continue
        found |= {name: url for name, url in known.items() if name in names}
    return found


def webhooks_of(run: Run, known: Mapping[str, str]) -> Webhooks:
    """Addresses as they go with a run, and what its host needs to tell what it has cost."""
    if run.renting is None or not run.renting.hosts:
        return Webhooks(dict(known))
    *earlier, host = run.renting.hosts
    costs = [before.cost(before.ended or host.began) for before in earlier]
    spent = [cost for cost in costs if cost is not None]
    price = host.price if len(spent) == len(costs) else None
    return Webhooks(dict(known), price, host.began, sum(spent))


def addresses(home: Path, asked: Sequence[str]) -> dict[str, str]:
    """The addresses that words stand for, by what may be shown of each. Raises `UsageError`, `NotFound`; no error
    holds an address."""
    found: dict[str, str] = {}
    for word in asked:
        named = VARIABLE.fullmatch(word) is not None
        url = Secrets(home).values([word])[word].strip() if named else word
        try:
            check_address(url)
        except BadAddress as error:
            what = f"the secret `{word}`" if named else "this"
            raise UsageError(f"{what} is not the address of a webhook: {error}", hint=EXAMPLE) from None
        name = word if named else place_of(url)
        number = 2
        while found.get(name, url) != url:
            name, number = f"{name.partition(' ')[0]} {number}", number + 1
        found[name] = url
    if len(found) > MOST_ADDRESSES:
        raise UsageError(f"{MOST_ADDRESSES} addresses get word of a run at the most", hint=EXAMPLE)
    return found
