"""The most that a run may cost by its plan, held against the cost of its hosts in lives that are computed."""

from __future__ import annotations

import contextlib
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from remoterun.agent.shared.states import RunState
from remoterun.client.runs.following import WORTH_IT
from remoterun.clouds import PROVIDERS
from remoterun.clouds.base import Offer
from remoterun.clouds.fronts import NoSettings
from remoterun.clouds.ledger import planning
from remoterun.config import Config
from remoterun.connections import Connections
from remoterun.errors import UsageError
from remoterun.model import HostUse, MachineType, Rental, Renting, Run
from tests import folder_provider

LIVES = 200


class Market(folder_provider.SmallFolders):
    """Its offers change."""

    now: tuple[Offer, ...] = ()

    def offers(self, machine: MachineType, live: bool = False) -> list[Offer]:
        return list(self.now)


class MarketFront(folder_provider.FolderFront):
    def provider(self, config: Config) -> Market:
        return Market(config.home / "market", config.home)


def test_no_life_of_a_run_costs_more_than_its_plan_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where hosts are taken away, others are of the next type, and prices have risen since."""
    monkeypatch.setitem(PROVIDERS, "folder", "tests.unit.test_most.MarketFront")
    config, chance, attempts = Config(tmp_path, providers={"folder": NoSettings()}), random.Random(15), 0
    with contextlib.closing(Connections(config)) as connections:
        for number in range(LIVES):
            most, bill, had = life(connections, chance)
            assert bill <= most + 1e-6, f"life {number}: {bill} of {most}"
            attempts += had
    assert attempts > LIVES * 1.2


def life(connections: Connections, chance: random.Random) -> tuple[float, float, int]:
    """(the most by the plan, the cost of the hosts, their number)."""
    limits = chance.choice([{}, {"max_hours": chance.uniform(0.5, 30)}, {"max_cost": chance.uniform(2, 30)}])
    limits |= {"max_hours": chance.uniform(1, 9)} if chance.random() < 0.2 else {}
    rental = Rental("folder", ("a", "b"), spot=chance.random() < 0.5, attempts=chance.randint(1, 4), **limits)
    machine = MachineType("gpu", rental=rental)
    prices = [chance.uniform(0.1, 4) for _ in range(chance.randint(1, 3))]

    def offered(change: float) -> None:
        offers = [Offer("a", "r", price=each * change, limit=each * change * 1.5, spot=rental.spot) for each in prices]
        Market.now = tuple(replace(each, extra=chance.choice([0.0, 0.02])) for each in offers)

    offered(1.0)
    plan, created = planning.plan(connections, machine), time.time()
    plan = planning.agreed(plan, plan.price)
    assert plan.most is not None
    renting = Renting(created + plan.hours * 3600, plan.attempts, pay=plan.price)
    run = Run(1, "k", RunState.INTERRUPTED, machine, "true", created, renting=renting)
    now, bill, most, hosts, ends = created, 0.0, plan.most, list[HostUse](), renting.deadline
    for attempt in range(plan.attempts):
        if attempt:
            offered(chance.choice([0.3, 1.0, 1.0, 1.2, 3.0]))
            try:
                plan = planning.agreed_before(planning.plan(connections, machine), renting.pay)
            except UsageError:  # it has become too dear
                break
            ends = planning.deadline(run, plan, now)
            if ends < now + WORTH_IT:
                break
        began, offer = now + chance.uniform(0, 60), chance.choice(plan.offers)  # the types before it were refused
        over = chance.choice([began + chance.uniform(60, 40000), began + chance.uniform(60, 3000), ends])
        lost = over < ends and chance.random() < 0.7
        ended = min(ends, over if lost else over + plan.idle)
        assert offer.at_most is not None
        bill += max(ended - began, 0.0) / 3600 * offer.at_most
        told = {"limit": offer.limit, "deadline": ends, "extra": offer.extra}
        hosts.append(HostUse(f"rr-k-{attempt}", f"i-{attempt}", "a", "r", offer.price, began, min(over, ends), **told))
        renting = replace(renting, hosts=tuple(hosts), deadline=ends, attempt=attempt + 1)
        run, now = run._replace(renting=renting), ended + chance.uniform(0, 600)
        if not lost:
            break
    return most, bill, len(hosts)
