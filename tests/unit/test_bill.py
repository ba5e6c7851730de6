"""What hosts have cost: by day, run and machine, with the minutes without a run; and what a month may cost."""

from __future__ import annotations

import contextlib
import datetime
import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import botocore.session
import pytest
from botocore.validate import ParamValidator

from remoterun.agent.shared.states import RunState
from remoterun.cli.render import machine_views
from remoterun.client.upkeep.rented_hosts import RentedHosts
from remoterun.clouds import PROVIDERS, all_fronts
from remoterun.clouds.aws.budget import budget_command
from remoterun.clouds.base import Intent, Leftover, Offer, RentedHost, Spent
from remoterun.clouds.command.provider import ProviderProgram
from remoterun.clouds.folder import HostFolder
from remoterun.clouds.ledger import billing, planning, renting
from remoterun.clouds.ledger.billing import Row
from remoterun.config import ArchivePlace, Config, Limits
from remoterun.connections import Connections
from remoterun.errors import NoLogin, UsageError
from remoterun.model import HostUse, MachineType, Rental, Renting, Run
from tests import folder_provider
from tests.folder_cloud import FolderFront, Folders
from tests.recorder import Recorded

GPU = MachineType("gpu", rental=Rental("aws", ("folder.small",)))
DAY = datetime.datetime(2026, 11, 29, tzinfo=datetime.UTC).timestamp()
OFFER = Offer("folder.small", "here", "here-1", price=3.5, extra=0.1, limit=3.5)
NIGHT = DAY + 86400
"""A midnight in UTC."""


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    monkeypatch.setitem(PROVIDERS, "aws", "tests.folder_cloud.FolderFront")
    monkeypatch.setenv(folder_provider.ROOT, str(tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a login")
    return Folders(tmp_path)


@pytest.fixture
def connections(tmp_path: Path, folders: Folders) -> Iterator[Connections]:
    config = Config(
        tmp_path / "laptop", machines={"gpu": GPU}, archive=ArchivePlace("b"), limits=Limits(max_cost_month=50.0)
    )
    with contextlib.closing(Connections(config)) as connections:
        yield connections


def rented(connections: Connections, *uses: HostUse, key: str = "k") -> Run:
    run = connections.registry.add_run(key * 26, GPU, "true", DAY)
    return connections.registry.save_renting(run, Renting(DAY + 1e6, hosts=uses))


def use(began: float, ended: float | None, *, id: str = "i-1", idle: float = 600.0) -> HostUse:
    """3.5 $/h and 10 cents for disk and address: a tenth of a cent a second."""
    return HostUse(f"rr-{id}", id, "folder.small", "here", 3.5, began, ended, 3.5, idle, DAY + 2e5, extra=0.1)


def test_minutes_without_a_run_are_idle_and_days_are_those_of_utc(connections: Connections) -> None:
    """Two runs on one host, over midnight: 1000 s, 300 s idle, 500 s, then 600 s idle."""
    rented(connections, use(NIGHT - 1200, NIGHT - 200), key="a")
    second = rented(connections, use(NIGHT + 100, NIGHT + 600), key="b")
    found = billing.bill(connections, DAY, NIGHT + 9000)
    days = found.rows("day")
    assert [(row.name, round(row.cost, 6), round(row.idle, 6)) for row in days] == [
        ("2026-11-29", 1.2, 0.2),
        ("2026-11-30", 1.2, 0.7),
    ]
    assert [(row.name, round(row.cost, 6)) for row in found.rows("run")] == [("1", 1.0), ("2", 0.5), ("idle", 0.9)]
    assert [(row.name, round(row.hours * 3600)) for row in found.rows("machine")] == [("folder.small", 2400)]
    assert found.total.cost == pytest.approx(2.4) and second.cost(NIGHT + 9000) == pytest.approx(0.5)
    assert billing.bill(connections, NIGHT, NIGHT + 9000).total.cost == pytest.approx(1.2)


def test_a_host_costs_a_minute_at_least_once(connections: Connections) -> None:
    rented(connections, use(DAY, DAY + 10, idle=0.0), use(DAY + 10, DAY + 15, idle=0.0))
    total = billing.bill(connections, DAY, DAY + 900).total
    assert (total.cost, total.idle, total.hours) == (pytest.approx(0.06), pytest.approx(0.045), pytest.approx(1 / 60))


def test_what_a_removed_run_cost_stays_and_no_host_costs_after_its_end(connections: Connections) -> None:
    run = rented(connections, use(DAY, DAY + 1000))
    gone = RentedHost("i-1", "rr-i-1", "gone", OFFER, DAY, DAY + 2e5, ended=DAY + 1100)
    renting.host_ended(connections, gone, "by hand")
    renting.host_ended(connections, replace(gone, ended=DAY + 1500), "by itself")  # it is known
    (host,) = connections.registry.run(run.number).renting.hosts  # type: ignore[union-attr]
    assert (host.ended, host.idle_end) == (DAY + 1000, DAY + 1100)
    connections.registry.remove_run(run)
    (row, idle) = billing.bill(connections, DAY, DAY + 9000).rows("run")
    assert (row.name, row.cost, idle.cost) == (str(run.number), pytest.approx(1.0), pytest.approx(0.1))


def test_a_host_that_nobody_saw_end_costs_until_its_deadline(connections: Connections) -> None:
    run = rented(connections, use(DAY, None))
    week = DAY + 7 * 86400
    assert run.cost(week) == pytest.approx(200.0) == billing.bill(connections, DAY, week).total.cost
    assert run.renting is not None and run.renting.given_back_at(week).hosts[-1].ended == DAY + 2e5
    # its provider has ended it, two minutes later; of another one that is gone it does not say when
    gone = RentedHost("i-1", "rr-i-1", "gone", OFFER, DAY, DAY + 2e5, ended=DAY + 2e5 + 119)
    renting.host_ended(connections, gone, "by its provider, at its deadline")
    rented(connections, use(DAY, DAY + 1000, id="i-2"), key="l")
    renting.host_ended(connections, replace(gone, id="i-2", token="rr-i-2", ended=None), "by itself")
    ended = [row.cost for row in billing.bill(connections, DAY, week).rows("run")]
    assert ended == [pytest.approx(200.119), pytest.approx(1.0), pytest.approx(0.6)]


@pytest.mark.parametrize("at", [7, 59, 3600, 2e5, 2e5 + 720])
def test_a_run_its_host_and_the_bill_cost_the_same(connections: Connections, folders: Folders, at: float) -> None:
    """What `ps`, `machines rented`, `bill` and `machines rm` say at one moment: until the deadline, and after it."""
    now = time.time()
    began, said = now - at, list[str]()
    connections.warn = said.append
    folders._keep(RentedHost("i-1", "rr-i-1", "running", OFFER, began, began + 2e5, run="k" * 26, number=1))
    run = rented(connections, replace(use(began, None), deadline=began + 2e5))
    hosts = RentedHosts(connections)
    assert billing.bill(connections, began, now).total.cost == pytest.approx(at / 1000)
    (host,) = hosts.list()
    run = connections.registry.run(run.number)
    assert host.cost(now) == pytest.approx(at / 1000) == run.cost(now)
    if at > 2e5:
        assert len(said) == 1 and said[0].startswith("the host i-1 should have ended 12 min ")
        assert said[0].endswith(" s ago and costs $3.60/h: `remoterun machines rm i-1` ends it")
    home = folders.home("rr-i-1")
    home.with_suffix(".folder").mkdir(parents=True)
    home.symlink_to(home.with_suffix(".folder"))
    ended = hosts.end("i-1").cost(time.time())
    assert ended is not None
    assert max(at, 60.0) / 1000 - 2e-3 <= ended <= max(time.time() - began, 60.0) / 1000 + 2e-3
    assert billing.bill(connections, began, time.time() + 900).total.cost == pytest.approx(ended, abs=2e-3)


def test_a_host_of_ours_without_a_guard_is_given_one_or_it_is_said_why_not(
    connections: Connections, folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    now, said = time.time(), list[str]()
    connections.warn = said.append
    deadline = now + 7200
    folders._keep(RentedHost("i-1", "rr-i-1", "running", OFFER, now, deadline, idle=600.0))
    HostFolder(connections.config.home, "rr-i-1").begin(Intent("rr-i-1", "k" * 26, 1, 1, GPU, deadline, 600.0))
    (folders.root / "no guard").write_text("these credentials may not do `scheduler:CreateSchedule`")
    run = rented(connections, replace(use(now, None), deadline=deadline))
    run = connections.registry.save_renting(run, replace(run.renting, deadline=now + 1800))  # type: ignore[arg-type]
    hosts = RentedHosts(connections)
    for _ in range(2):
        found = hosts.list()
        billing.bill(connections, now, now)
    assert not found[0].guarded and len(said) == 1
    assert said[0].endswith("is ended by its own clock alone: these credentials may not do `scheduler:CreateSchedule`")
    machine_views.hosts_table(found, hosts.uses(found, 1.0), False)
    (head, row) = (line.split() for line in capsys.readouterr().out.splitlines())
    assert "GUARD" in head and "no" in row and row[-3] == "min" and row[-4] in ("39", "40")
    machine_views.hosts_table([replace(found[0], deadline=now - 7200)], hosts.uses(found, 1.0), False)
    assert capsys.readouterr().out.splitlines()[-1].endswith("2 h 0 min late")
    (folders.root / "no guard").unlink()
    (host,) = hosts.list()
    (kept,) = connections.registry.run(run.number).renting.hosts  # type: ignore[union-attr]
    assert host.guarded and kept.guarded and len(said) == 1
    # what would rent meets one that should have ended; one that is gone is asked about once
    connections.config = replace(connections.config, archive=ArchivePlace(), limits=Limits())
    late, folder = (
        replace(host, id="i-2", token="rr-i-2", deadline=now - 720),
        HostFolder(connections.config.home, "rr-i-2"),
    )
    folder.begin(Intent("rr-i-2", "l" * 26, 2, 1, GPU, now, 600.0))
    folder.record(late)
    folders._keep(late)
    assert planning.plan(connections, GPU).kept is None
    assert len(said) == 2 and said[1].startswith("the host i-2 should have ended 12 min ")
    folders.forget("rr-i-2")
    planning.plan(connections, GPU)
    assert folder.intent() is None


def test_who_never_rented_is_not_warned_that_there_is_no_login(
    connections: Connections, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    said: list[str] = []
    assert billing.bill(connections, DAY, NIGHT, said.append).total.hours == 0 and said == []
    rented(connections, use(DAY, DAY + 1000))
    assert billing.bill(connections, DAY, NIGHT, said.append).total.hours and len(said) == 1
    assert said[0].startswith("hosts of other clients are not counted: ")


def test_hosts_that_only_their_tags_know_count_for_their_owner(connections: Connections, folders: Folders) -> None:
    offer = Offer("folder.small", "here", "here-1", price=3.5, extra=0.1, limit=3.5)
    other = RentedHost("i-9", "rr-x-1", "running", offer, DAY, DAY + 86400, number=4, owner="bob@box")
    folders._keep(other)
    folders._keep(replace(other, id="i-8", token="rr-y-1", offer=replace(offer, price=None)))
    found = billing.bill(connections, DAY, DAY + 500)
    (row,) = found.rows("run")
    assert row == Row("run 4 of bob@box", pytest.approx(1000 / 3600), pytest.approx(0.5), 0.0, complete=False)
    folders._keep(replace(other, state="stopped", ended=DAY + 500, offer=replace(offer, disk=0.072)))
    (idle, _) = billing.bill(connections, DAY, DAY + 1500).rows("run")  # its disk is there
    assert (idle.name, idle.cost) == ("idle", pytest.approx(0.02))


def test_a_month_without_hosts_says_so(
    connections: Connections, capsys: pytest.CaptureFixture[str], recorded: Recorded
) -> None:
    rented(connections, use(DAY, DAY + 1000, idle=0.0))
    september = datetime.datetime(2026, 9, 15, tzinfo=datetime.UTC).timestamp()
    found = billing.bill(connections, september, DAY + 9000)
    machine_views.bill(replace(found, archive="aws", stored=500 * 10**9, monthly=11.5), "day", False)
    shown = capsys.readouterr()
    recorded.each({"stdout": shown.out, "stderr": shown.err})


def test_a_month_may_not_cost_more_than_its_limit(
    connections: Connections, folders: Folders, recorded: Recorded
) -> None:
    """$10 have been spent, a host that runs comes to $20 more by its deadline: of $50, $20 are left."""
    now = NIGHT - 10
    rented(connections, use(DAY, DAY + 10000, idle=0.0))
    offer = Offer("folder.small", "here", "here-1", price=3.5, extra=0.1)
    folders._keep(RentedHost("i-9", "rr-x-1", "running", offer, now, now + 20000, owner="bob@box"))
    billing.check_month(connections, 19.5, now)
    with recorded.raises(UsageError, "more than is left"):
        billing.check_month(connections, 20.5, now)
    with recorded.raises(UsageError, "a price that is not known"):
        billing.check_month(connections, None, now)
    unknown = RentedHost("i-8", "rr-y-1", "running", replace(offer, price=None), now, now + 20000, owner="bob@box")
    folders._keep(unknown)
    with recorded.raises(UsageError, "a host that runs at a price that is not known"):
        billing.check_month(connections, 1.0, now)
    spot = replace(offer, price=1.0, limit=3.5, spot=True)  # its price may come to the one on demand
    folders._keep(replace(unknown, offer=spot))
    with recorded.raises(UsageError, "a spot host"):
        billing.check_month(connections, 1.0, now)
    folders.forget("rr-y-1")
    one, other = rented(connections, key="a"), rented(connections, key="b")  # two shells that rent at once
    for run in (one, other):
        connections.registry.save_renting(run, Renting(now + 1e6, most=12.0))
    billing.check_month(connections, 7.0, now, one.key)
    for run in (one, other):
        with recorded.raises(UsageError, "two shells"):
            billing.check_month(connections, 12.0, now, run.key)
    connections.registry.change_state(one, RunState.FAILED, now)
    billing.check_month(connections, 12.0, now, other.key)


def test_the_larger_one_of_our_records_and_the_bill_counts_and_is_asked_for_now_and_then(
    connections: Connections, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folders.root / "spent").write_text(json.dumps([["2026-11-03", 44.0, "rr-old-1"]]))
    with pytest.raises(UsageError, match=r"this month has cost \$44.00 at AWS, and this run may cost \$7.00"):
        billing.check_month(connections, 7.0, DAY)
    (folders.root / "spent").write_text(json.dumps([["2026-11-03", 48.0, "rr-old-1"]]))
    billing.check_month(connections, 5.0, DAY + 3600)
    with pytest.raises(UsageError, match=r"has cost \$48.00"):
        billing.check_month(connections, 5.0, DAY + billing.FRESH)
    assert billing.spent(connections, "aws", DAY, DAY) == [Spent("2026-11-03", 48.0, "rr-old-1")]
    (folders.root / "spent").write_text("[]")
    (folders.root / "account").write_text("999999999999")  # another AWS_PROFILE
    assert billing.spent(connections, "aws", DAY, DAY) == []


@pytest.mark.parametrize(
    ("id", "name"), [("i-0123456789abcdef0", "aws"), ("hf/68a", "hf"), ("pod/1", "command"), (None, "command")]
)
def test_an_id_is_of_one_provider_whatever_their_order(id: str | None, name: str) -> None:
    id = id or f"{ProviderProgram(['python3', './hf.py']).key}/68a"  # it is not Hugging Face
    assert [each.name for each in all_fronts() if each.is_host(id)] == [name]


def test_what_no_provider_was_asked_to_remove_is_not_removed(connections: Connections) -> None:
    assert not RentedHosts(connections).clear(Leftover("group", "here/sg-1", "no host needs it", at="aws"))


class ShutFront(FolderFront):
    """Of a provider to which nobody can log in here."""

    name = "shut"

    def provider(self, config: Config) -> Folders:
        raise NoLogin("there is no login at it here")


def test_what_one_provider_bills_counts_where_another_can_not_be_asked(
    connections: Connections, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROVIDERS, "shut", "tests.unit.test_bill.ShutFront")
    (folders.root / "spent").write_text(json.dumps([["2026-11-03", 44.0, "rr-old-1"]]))
    with pytest.raises(UsageError, match=r"this month has cost \$44.00 at AWS, and this run may cost \$7.00"):
        billing.check_month(connections, 7.0, DAY)


def test_the_budget_is_one_command_of_a_shell_that_aws_takes() -> None:
    words = shlex.split(budget_command("123456789012", 50.0, "ada@example.org").replace("\\\n", ""))
    assert words[:5] == ["aws", "budgets", "create-budget", "--account-id", "123456789012"]
    asked = {
        "AccountId": words[4],
        "Budget": json.loads(words[words.index("--budget") + 1]),
        "NotificationsWithSubscribers": json.loads(words[words.index("--notifications-with-subscribers") + 1]),
    }
    model = botocore.session.get_session().get_service_model("budgets").operation_model("CreateBudget").input_shape
    assert not ParamValidator().validate(asked, model).has_errors()
    thresholds = [each["Notification"]["Threshold"] for each in asked["NotificationsWithSubscribers"]]  # type: ignore[index]
    assert thresholds == [50, 80, 100]
