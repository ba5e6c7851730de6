"""What `remoterun.providers.base` promises, held against each provider."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from remoterun.config import Config
from remoterun.model import MachineType, Rental, new_key
from remoterun.providers import provider_named
from remoterun.providers.base import Intent, Leftover, NoCapacity, Provider
from tests.workshop import until


class Given:
    """A provider, and a machine type of it."""

    def __init__(self, provider: Provider, machine: MachineType) -> None:
        self.provider = provider
        self.machine = machine
        self.said: list[str] = []

    def intent(self, seconds: float = 3600.0) -> Intent:
        key = new_key()
        now = time.time()
        return Intent(f"rr-{key}-1", key, 7, 1, self.machine, now, now + seconds, 600.0)


@pytest.fixture(params=[pytest.param("aws", marks=pytest.mark.lab)])
def given(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Given:
    for name, value in request.getfixturevalue("cloud").environment().items():
        monkeypatch.setenv(name, value)
    machine = MachineType("gpu", rental=Rental(request.param, ("g4dn.xlarge",)))
    return Given(provider_named(request.param, Config(tmp_path / "home")), machine)


def test_its_name_is_its_row(given: Given) -> None:
    from remoterun.providers import PROVIDERS

    assert given.provider.name in PROVIDERS


def test_offers_name_what_may_be_had(given: Given) -> None:
    for live in (False, True):
        offers = given.provider.offers(given.machine, live)
        assert offers and all(offer.type for offer in offers)


def test_a_host_answers_and_has_what_its_intent_says(given: Given) -> None:
    intent = given.intent()
    rented = given.provider.acquire(intent, given.provider.offers(given.machine, True), given.said.append)
    assert rented.alive and rented.machine is not None and rented.machine.host
    assert (rented.token, rented.run, rented.number, rented.attempt) == (intent.token, intent.run, 7, 1)
    assert rented.deadline == pytest.approx(intent.deadline, abs=2)
    assert rented.offer.type in [offer.type for offer in given.provider.offers(given.machine)]
    given.provider.release(rented.id)


def test_an_intent_stands_for_one_host(given: Given) -> None:
    intent = given.intent()
    offers = given.provider.offers(given.machine, True)
    first = given.provider.acquire(intent, offers, given.said.append)
    again = given.provider.acquire(intent, offers, given.said.append)
    assert (again.id, again.machine) == (first.id, first.machine)
    assert [each.id for each in given.provider.hosts()] == [first.id]
    given.provider.release(first.id)


def test_without_an_offer_there_is_no_capacity(given: Given) -> None:
    with pytest.raises(NoCapacity):
        given.provider.acquire(given.intent(), [], given.said.append)
    assert given.provider.hosts() == []


def test_what_is_not_there_is_found_nowhere_and_released(given: Given) -> None:
    assert given.provider.find("rr-nothing-1") is None
    given.provider.release("i-0123456789abcdef0")


def test_release_may_be_repeated(given: Given) -> None:
    rented = given.provider.acquire(given.intent(), given.provider.offers(given.machine, True), given.said.append)
    given.provider.admit(rented)
    given.provider.release(rented.id)
    given.provider.release(rented.id)
    found = given.provider.find(rented.token)
    assert found is None or not found.alive


def test_nothing_is_left(given: Given) -> None:
    rented = given.provider.acquire(given.intent(), given.provider.offers(given.machine, True), given.said.append)
    given.provider.release(rented.id)
    until(lambda: (found := given.provider.find(rented.token)) is None or found.state == "gone")
    for leftover in given.provider.leftovers():
        assert isinstance(leftover, Leftover) and leftover.why
        given.provider.clear(leftover)
        given.provider.clear(leftover)
    assert given.provider.leftovers() == []


def test_who_the_client_is(given: Given) -> None:
    assert given.provider.identity().name


def test_checks_have_a_name_and_say_what_mends_them(given: Given) -> None:
    for check in given.provider.checks():
        assert check.name and (check.ok is not False or check.fix)


def test_who_is_known_before_anything_is_rented(given: Given) -> None:
    identity = given.provider.identity()
    assert identity.name and identity == given.provider.identity()
