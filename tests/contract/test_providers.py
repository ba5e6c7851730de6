"""What `remoterun.clouds` promises, held against each provider."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoterun.clouds import front
from remoterun.clouds.base import HasLeftovers, Intent, Leftover, NoCapacity, Provider, RentedHost
from remoterun.config import Config
from remoterun.model import MachineType, Rental, new_key
from tests.folder_cloud import add_provider
from tests.rented_jobs import Jobs, find_jobs
from tests.workshop import until


class Given:
    """A provider, and a machine type of it."""

    def __init__(self, provider: Provider, machine: MachineType) -> None:
        self.provider = provider
        self.machine = machine
        self.said: list[str] = []

    def intent(self, seconds: float = 3600.0) -> Intent:
        key = new_key()
        return Intent(f"rr-{key}-1", key, 7, 1, self.machine, time.time() + seconds, 600.0)


PROGRAM = Path(__file__).parents[1] / "rented_containers.py"


@pytest.fixture(
    params=["folder", *(pytest.param(name, marks=pytest.mark.lab) for name in ("aws", "hf", "command"))],
)
def given(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Given]:
    program = (sys.executable, str(PROGRAM), str(tmp_path / "cloud")) if request.param == "command" else ()
    types = ("t4-small",) if request.param == "hf" else ("g4dn.xlarge",)
    machine = MachineType("gpu", rental=Rental(request.param, types, program=program))
    stack = contextlib.ExitStack()
    if request.param == "hf":
        jobs = stack.enter_context(Jobs(tmp_path / "hf"))
        find_jobs(jobs, monkeypatch)
        jobs.trust(tmp_path / "home")
    elif request.param == "aws":
        for name, value in request.getfixturevalue("cloud").environment().items():
            monkeypatch.setenv(name, value)
    elif request.param == "folder":
        add_provider(tmp_path, request.getfixturevalue("environment"), monkeypatch)
    with stack:
        yield Given(front(request.param).provider(Config(tmp_path / "home", machines={"gpu": machine})), machine)


def test_offers_name_what_may_be_had(given: Given) -> None:
    for live in (False, True):
        offers = given.provider.offers(given.machine, live)
        assert offers and all(offer.type for offer in offers)


def test_an_intent_stands_for_one_host_from_its_start_to_its_end(given: Given) -> None:
    intent = given.intent()
    offers = given.provider.offers(given.machine, True)
    rented = given.provider.acquire(intent, offers, given.said.append)
    assert rented.alive and rented.machine is not None and (rented.machine.host or rented.machine.home)
    assert given.machine.rental is not None and front(given.machine.rental.provider).is_host(rented.id)
    assert (rented.token, rented.run, rented.number, rented.attempt) == (intent.token, intent.run, 7, 1)
    assert rented.deadline == pytest.approx(intent.deadline, abs=2)
    assert rented.offer.type in [offer.type for offer in given.provider.offers(given.machine)]
    again = given.provider.acquire(intent, offers, given.said.append)
    assert (again.id, again.machine) == (rented.id, rented.machine)
    assert [each.id for each in given.provider.hosts()] == [rented.id]
    given.provider.admit(rented)
    for _ in range(2):  # it may be repeated
        given.provider.release(rented)
    until(lambda: (found := given.provider.find(rented.token)) is None or found.state == "gone")
    if isinstance(given.provider, HasLeftovers):
        for leftover in given.provider.leftovers():
            assert isinstance(leftover, Leftover) and leftover.why
            assert given.machine.rental is not None and leftover.at == given.machine.rental.provider
            given.provider.clear(leftover)
            given.provider.clear(leftover)
        assert given.provider.leftovers() == []


def test_without_an_offer_there_is_no_capacity(given: Given) -> None:
    with pytest.raises(NoCapacity):
        given.provider.acquire(given.intent(), [], given.said.append)
    assert given.provider.hosts() == []


def test_what_is_not_there_is_found_nowhere_and_released(given: Given) -> None:
    assert given.provider.find("rr-nothing-1") is None
    offer = given.provider.offers(given.machine)[0]
    given.provider.release(RentedHost("i-0123456789abcdef0", "rr-nothing-1", "running", offer, 1.0, 2.0))


def test_checks_have_a_name_and_say_what_mends_them(given: Given) -> None:
    for check in given.provider.checks():
        assert check.name and (check.ok is not False or check.fix)


def test_who_is_known_before_anything_is_rented(given: Given) -> None:
    identity = given.provider.identity()
    assert identity.name and identity == given.provider.identity()
