"""What a run on a rented host costs at the most, how that is said, and whose attempt it is."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from remoterun.agent.shared.facts import RunStatus
from remoterun.agent.shared.states import RunState
from remoterun.agent.store.host_role import NOTICES
from remoterun.cli.render import run_views
from remoterun.cli.render.machine_views import plan_lines
from remoterun.cli.render.terminal import dollars, hourly, hours, when
from remoterun.client.runs.placement import rented_with, with_wishes
from remoterun.clouds.aws import acquire, catalogue
from remoterun.clouds.base import NOT_MADE, Offer, RentedHost, Roles
from remoterun.clouds.ledger import planning
from remoterun.clouds.ledger.planning import Plan
from remoterun.config import Config
from remoterun.connections import Connections
from remoterun.errors import UsageError
from remoterun.model import HostUse, MachineType, Rental, Renting, Run, RunRequest
from remoterun.parsing import UNKNOWN, parse_price
from remoterun.registry import Registry
from remoterun.sizes import clock
from tests.recorder import Recorded

T4 = MachineType("t4", gpus=1, rental=Rental("aws", ("g4dn.xlarge",)))
OFFERS = tuple(
    Offer("g4dn.xlarge", "us-east-1", zone, 4, 16.0, 1, "T4", 16.0, price=0.526, priced="2026-07-20", extra=0.016)
    for zone in ("us-east-1a", "us-east-1b")
)
DEAREST = (*OFFERS, Offer("g5.xlarge", "us-east-1", "us-east-1a", 4, 16.0, 1, "A10G", 24.0, price=1.006))


def test_types_with_too_little_are_left_out(tmp_path: Path, recorded: Recorded) -> None:
    with contextlib.closing(Connections(Config(tmp_path))) as connections:
        two = MachineType("big", rental=Rental("aws", ("g4dn.xlarge", "g4dn.12xlarge")))
        asks = partial(RunRequest, "true")
        for request, types in (
            (asks(gpus=1), ("g4dn.xlarge", "g4dn.12xlarge")),
            (asks(gpus=4), ("g4dn.12xlarge",)),
            (asks(gpus=0), ("g4dn.xlarge", "g4dn.12xlarge")),
            (asks(cpus=4, memory=14 << 30), ("g4dn.xlarge", "g4dn.12xlarge")),
            (asks(cpus=5), ("g4dn.12xlarge",)),
            (asks(memory=16 << 30), ("g4dn.12xlarge",)),
        ):
            found = rented_with(connections, two, request)
            assert found.rental is not None and (found.gpus, found.rental.types) == (request.gpus or 0, types)
        for request in (asks(gpus=2), asks(cpus=8, memory=1 << 50)):
            with recorded.raises(UsageError):
                rented_with(connections, T4, request)
        assert rented_with(connections, T4, asks()) is T4


def text(plan: Plan) -> str:
    return "\n".join(f"{head:<8} {line}".rstrip() for head, line in plan_lines(plan))


def test_the_plan_in_words(recorded: Recorded) -> None:
    plan = Plan(T4, OFFERS, 24.0, 600.0, 1)
    longer = replace(plan, wait=7200.0)
    host = RentedHost("i-0abc", "rr-x-1", "running", OFFERS[0], began=1.0, deadline=86400.0 * 365, idle=7200.0)
    plans = {
        "a host": plan,
        "a host that waits longer for a login": longer,
        "a host with a role": replace(longer, roles=Roles(writer="AROAEXAMPLE")),
        "a host with a guard": replace(plan, roles=Roles("AROAEXAMPLE", "arn:guard")),
        "new roles": replace(plan, roles=Roles(why_not=NOT_MADE)),
        "a bucket in another region": replace(plan, bucket_region="eu-west-1"),
        "a bucket in the same region": replace(plan, bucket_region="us-east-1"),
        "a type without a price": Plan(T4, (*OFFERS, Offer("g9.xlarge")), 10.0, 600.0, 1),
        "a host that is free": Plan(T4, OFFERS, 20.0, 600.0, 1, kept=host),
    }
    for name, each in plans.items():
        assert all(len(line) <= 78 for line in text(each).splitlines())
        recorded.same(text(each), name)


def test_the_most_is_that_of_the_dearest_type() -> None:
    plan = Plan(T4, DEAREST, 10.0, 600.0, 1)
    assert plan.most == pytest.approx(10.06)
    assert Plan(T4, (*OFFERS, Offer("g9.xlarge")), 10.0, 600.0, 1).most is None


@pytest.mark.parametrize(
    ("rental", "expected"),
    [
        ({}, 20 / 1.006),
        ({"max_hours": 2.0}, 2.0),
        ({"max_cost": 1.006}, 1.0),
        ({"max_hours": 0.5, "max_cost": 1.006}, 0.5),
        ({"max_hours": 3.0, "max_cost": 1.006}, 1.0),
    ],
)
def test_the_tighter_limit_counts(rental: dict[str, float], expected: float) -> None:
    machine = replace(T4, rental=Rental("aws", ("g4dn.xlarge", "g5.xlarge"), **rental))  # type: ignore[arg-type]
    assert planning.hours(machine, DEAREST)[0] == pytest.approx(expected)


def test_the_cap_on_spot_is_one_that_its_price_can_not_pass(recorded: Recorded) -> None:
    """The price of a spot host moves, up to that on demand, which is what AWS is told to take at the most."""
    (spot,) = (catalogue.offer("g4dn.xlarge", "us-east-1", "us-east-1a", spot=True, price=0.158),)
    plan = Plan(T4, (spot,), 24.0, 600.0, 1)
    most = 0.526 + spot.extra
    assert (spot.price, spot.limit, spot.at_most, plan.price) == (0.158, 0.526, most, most)
    assert plan.most == pytest.approx(24 * most)
    recorded.same(text(plan))
    machine = replace(T4, rental=Rental("aws", ("g4dn.xlarge",), spot=True, max_cost=10 * most))
    assert planning.hours(machine, (spot,))[0] == pytest.approx(10)
    use = HostUse("t", "i-0", "g4dn.xlarge", "us-east-1a", 0.158, began=0.0, limit=spot.limit)
    assert Renting(0.0, hosts=(use,)).cost(3600.0, at_most=True) == 0.526


def test_who_names_no_dollars_has_those_of_the_config(recorded: Recorded) -> None:
    machine = MachineType("h100x8", rental=Rental("aws", ("p5.48xlarge",)))
    h100 = Offer("p5.48xlarge", "us-east-1", price=55.04, extra=0.016)
    wanted: list[tuple[dict[str, Any], float]] = [
        ({}, 20 / 55.056), ({"max_hours": 30.0}, 20 / 55.056), ({"max_hours": 0.2}, 0.2),
        ({"max_cost": 110.112}, 2.0), ({"max_hours": 1.0, "max_cost": 110.112}, 1.0),
    ]  # fmt: skip
    for rental, expected in wanted:
        limited = replace(machine, rental=Rental("aws", ("p5.48xlarge",), **rental))
        found, by = planning.hours(limited, (h100,), 20.0)
        assert found == pytest.approx(expected)
        default, by_default = planning.hours(limited, (h100,))
        assert default == rental.get("max_hours", found)  # which gives way to what somebody named
        for name, limited_by in {"of the config": by, "of the program": by_default}.items():
            said = text(Plan(limited, (h100,), found, 600.0, 1, limited_by=limited_by))
            assert all(len(line) <= 78 for line in said.splitlines())
            recorded.same(said, f"{rental}, the limit {name}")
    with recorded.raises(UsageError, "a limit that pays for no boot"):
        planning.hours(machine, (h100,), 1.0)
    with recorded.raises(UsageError, "hours that pay for no boot"):
        planning.hours(replace(machine, rental=Rental("aws", ("p5.48xlarge",), max_hours=0.01)), (h100,))


def test_who_wrote_last_comes_last() -> None:
    """Also one that has had the run before."""
    hosts = [
        HostUse("t", "i-0", "g4dn.xlarge", "", None, began=0.0, writer=writer) for writer in ("", "a", "b", "a", "")
    ]
    assert [Renting(0.0, hosts=tuple(hosts[:count])).writers for count in range(6)] == [
        (), ("",), ("", "a"), ("", "a", "b"), ("", "b", "a"), ("b", "a", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rental", "own", "most"),
    [({"max_cost": 1.0}, 20.0, 1.0), ({}, 20.0, 20.0), ({}, None, 20.0), ({"max_hours": 2.0}, None, None)],
    ids=["typed", "config", "built-in", "hours"],
)
def test_a_limit_in_dollars_needs_a_price(
    rental: dict[str, float], own: float | None, most: float | None, recorded: Recorded
) -> None:
    """The plan is shown all the same, and nobody rents by it."""
    machine = replace(T4, rental=Rental("aws", ("g9.xlarge",), **rental))  # type: ignore[arg-type]
    offers = (Offer("g9.xlarge", "eu-central-1", unpriced="the Price List can't be asked"),)
    found, by = planning.hours(machine, offers, own)
    plan = Plan(machine, offers, found, 600.0, 1, limited_by=by, max_cost=most)
    recorded.same(text(plan), "the plan")
    with recorded.raises(UsageError, "without a price"):
        planning.agreed(plan)
    if most is None:
        assert planning.agreed(plan, UNKNOWN) is plan
    else:
        with recorded.raises(UsageError, "with `unknown` for a price"):
            planning.agreed(plan, UNKNOWN)
    run = Run(1, "k", RunState.INTERRUPTED, machine, "true", 0.0, renting=Renting(1e6, 3))
    assert planning.deadline(run, plan, 5000.0) == (1e6 if most is None else 5000.0), "nor does another attempt"


@pytest.mark.parametrize("pay", [None, 0.0, 0.54, 36.0, 55.05, 55.06, 60.0, UNKNOWN])
@pytest.mark.parametrize("price", [0.54, 5.0, 5.01, 55.056, None])
def test_what_is_rented_without_a_question(price: float | None, pay: float | None) -> None:
    """Up to $5 an hour, or what was agreed to; a price that is not known is agreed to as such, and by no figure."""
    plan = Plan(T4, (Offer("p5.48xlarge", "us-east-1", price=price),), 2.0, 600.0, 1)
    kept = RentedHost("i-0", "rr-x-1", "running", plan.offers[0], began=1.0, deadline=2.0)
    covered = pay == UNKNOWN if price is None else price <= (5.0 if pay in (None, UNKNOWN) else pay) + 0.005
    for each, fine in ((plan, covered), (replace(plan, kept=kept), covered or pay is None)):
        if fine:
            assert planning.agreed(each, pay) is each
            continue
        with pytest.raises(UsageError, match="`t4` rents a host in us-east-1 ") as caught:
            planning.agreed(each, pay)
        at = (
            "at a price that is not known"
            if price is None
            else f"for {dollars(price)} an hour, {dollars(price * 2)} at"
        )
        wanted = 'pay="unknown"' if price is None else f"pay={price:.2f}"
        assert at in caught.value.message and caught.value.hint == f"{wanted}   agrees to that"
        assert planning.agreed(each, parse_price(wanted.partition("=")[2].strip('"'))) is each, "and the hint mends it"


def test_a_further_attempt_costs_no_more_than_was_agreed_to() -> None:
    """Or than is agreed to without a question; of several types, those that fit."""
    cheap, dear = Offer("g4dn.xlarge", price=0.5), Offer("p5.48xlarge", price=55.0)
    both = Plan(T4, (cheap, dear), 2.0, 600.0, 1)
    for pay in (0.5, 5.0, None):
        assert planning.agreed_before(both, pay).offers == (cheap,)
    assert planning.agreed_before(both, 55.0).offers == both.offers
    for pay in (0.5, None):
        with pytest.raises(UsageError, match=r"for \$55.00 an hour"):
            planning.agreed_before(replace(both, offers=(dear,)), pay)
    unknown = replace(both, offers=(replace(dear, price=None),))
    assert planning.agreed_before(unknown, None) is not None
    with pytest.raises(UsageError, match="price that is not known"):
        planning.agreed_before(unknown, 55.0)


def test_what_is_typed_after_pay(recorded: Recorded) -> None:
    assert [parse_price(text) for text in ("55.06", "$7", ".5", "unknown")] == [55.06, 7.0, 0.5, UNKNOWN]
    for wrong in ("", "nan", "inf", "-1", "1e3", "lots", "None"):
        with recorded.raises(UsageError, f"`{wrong}`"):
            parse_price(wrong)


def test_a_limit_that_pays_for_no_more_than_a_boot_is_refused(recorded: Recorded) -> None:
    machine = replace(T4, rental=Rental("aws", ("g4dn.xlarge",), max_cost=0.01))
    with recorded.raises(UsageError):
        planning.hours(machine, DEAREST[:1])


def test_options_of_the_run_win_and_are_refused_for_machines_of_ones_own(recorded: Recorded) -> None:
    request = RunRequest("true", spot=True, max_hours=2.0)
    assert with_wishes(replace(T4, rental=Rental("aws", ("x.y",), max_hours=9.0, disk=100)), request).rental == Rental(
        "aws", ("x.y",), spot=True, max_hours=2.0, disk=100
    )
    with recorded.raises(UsageError):
        with_wishes(MachineType("box", host="me@box"), request)
    assert with_wishes(T4, RunRequest("true")) is T4


def test_what_a_run_may_cost_is_for_all_its_attempts() -> None:
    machine = replace(T4, rental=Rental("aws", ("g4dn.xlarge",), max_cost=1.0))
    had = HostUse("rr-k-1", "i-1", "g4dn.xlarge", "us-east-1a", 0.526, began=0.0, ended=3600.0)
    run = Run(1, "k", RunState.INTERRUPTED, machine, "true", 0.0, renting=Renting(1e6, 3, hosts=(had,)))
    plan = Plan(machine, DEAREST, 1.0, 600.0, 3, max_cost=1.0)
    assert planning.deadline(run, plan, 5000.0) == pytest.approx(5000.0 + (1.0 - 0.526) / 1.006 * 3600)
    assert planning.deadline(run, replace(plan, max_cost=None), 5000.0) == 1e6


def test_moments_around_now_are_said_as_people_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        now = datetime.datetime(2026, 11, 30, 4, 33, tzinfo=ZoneInfo("Asia/Tokyo")).timestamp()
        far = (20 * 60, 7.5, 86400, 76 * 3600, 8 * 86400, -3600, 400 * 86400)
        assert [when(now + seconds, now) for seconds in far] == [
            "today 04:53, in 20 min",
            "today 04:33, in 7.5 s",
            "tomorrow 04:33, in 24 h",
            "Thursday 08:33, in 3 d 4 h",
            "8 December 04:33, in 8 d 0 h",
            "today 03:33, 1 h ago",
            "4 January 2028 04:33, in 400 d 0 h",
        ]
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now)
        run = Run(1, "k", RunState.RUNNING, MachineType("one"), "true", now - 200, started=now)
        run_views.run_info(run, {"spec": None})
        rows = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
        assert (rows["created"], rows["started"]) == (when(now - 200), when(now)), "one clock, as in a plan"
        assert (clock(0.0), clock(1e12)) == ("1970-01-01 09:00 JST", "9999-12-30 08:59 JST"), "a file names the zone"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_amounts_for_people() -> None:
    amounts = [dollars(amount) for amount in (None, 0.0, 0.00003, 0.0042, 0.05263, 0.5, 0.526, 0.9996, 1234.5)]
    assert amounts == ["", "$0.00", "<$0.001", "$0.0042", "$0.053", "$0.50", "$0.526", "$1.00", "$1,234.50"]
    assert [hourly(price) for price in (None, 0.526, 55.04)] == ["price not known", "$0.526/h", "$55.04/h"]
    assert [hours(count) for count in (24.0, 24 + 2 / 60, 0.5, 1.26)] == ["24 h", "24 h 2 min", "30 min", "1 h 15 min"]


class TestRecords:
    @pytest.fixture
    def registry(self, tmp_path: Path) -> Iterator[Registry]:
        with contextlib.closing(Registry(tmp_path / "registry.db")) as registry:
            yield registry

    def a_run(self, registry: Registry) -> Run:
        run = registry.add_run("k" * 26, T4, "true", 100.0)
        host = HostUse("rr-k-1", "i-1", "g4dn.xlarge", "us-east-1a", 0.5, began=100.0)
        return registry.save_renting(run, Renting(deadline=1000.0, attempts=3, bucket="s3://b", hosts=(host,)))

    def test_what_is_known_of_hosts_comes_back(self, registry: Registry) -> None:
        run = self.a_run(registry)
        assert registry.run(run.number) == run and run.renting is not None
        assert run.renting.hosts[0].zone == "us-east-1a"
        assert run.cost(100.0 + 3600) == pytest.approx(0.5)
        assert run.record()["cost"] > 0
        ended = run._replace(state=RunState.COMPLETE, ended=100.0 + 1800)
        assert ended.cost(time.time()) == pytest.approx(0.25)

    def test_what_an_earlier_host_says_changes_nothing(self, registry: Registry) -> None:
        first = registry.change_state(self.a_run(registry), RunState.INTERRUPTED, 200.0)
        assert first.renting is not None
        registry.next_attempt(first, replace(first.renting, attempt=2), 300.0)
        registry.update(first, RunStatus(first.key, RunState.INTERRUPTED), 301.0)
        registry.change_state(first, RunState.INTERRUPTED, 302.0)
        assert registry.run(first.number).state is RunState.PROVISIONING

    def test_a_run_that_has_not_been_interrupted_is_not_taken_up(self, registry: Registry) -> None:
        run = registry.change_state(self.a_run(registry), RunState.RUNNING, 200.0)
        assert run.renting is not None
        assert registry.next_attempt(run, replace(run.renting, attempt=2), 300.0) is None


def test_the_agent_knows_the_notices_that_a_provider_names() -> None:
    assert acquire.NOTICES in NOTICES
