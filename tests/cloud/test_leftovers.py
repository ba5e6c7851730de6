"""What is left of ours at AWS, and who may remove it: regions that err, tags that are gone, rules of several homes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pexpect
import pytest

import remoterun.client
from remoterun.agent.shared.records import encode
from remoterun.clouds import folder
from remoterun.clouds.aws import network, tags
from remoterun.clouds.aws.acquire import LaunchRequest
from remoterun.clouds.base import ProviderError, ProviderUnreachable
from remoterun.clouds.folder import home_mark
from remoterun.sizes import iso
from tests.cloud.renters import T4, Client
from tests.e2e.conftest import Place, make_place
from tests.lab import BASE_IMAGE
from tests.workshop import until

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud


pytestmark = pytest.mark.lab

USUAL, OTHER = "us-east-1", "eu-central-1"


def recorded(client: Client, region: str, account: str, instance: str = "i-0123456789abcdef0") -> str:
    """The token of a host that a client has recorded, and that nobody else knows."""
    intent = client.intent()
    client.folder(intent.token).begin(intent)
    offer = replace(client.aws.offers(T4)[0], region=region)
    labels = tags.specification("instance", tags.of_intent(intent, offer, "", home_mark(client.home)))
    request = LaunchRequest(offer, {"TagSpecifications": [labels]}, 1, instance=instance, account=account)
    client.folder(intent.token).write("request.json", encode(request).decode())
    return intent.token


def test_one_regions_error_is_its_own_and_a_host_without_tags_is_found(cloud: Cloud, client: Client) -> None:
    rented = client.acquire()
    for status, code in ((401, "AuthFailure"), (401, "OptInRequired"), (500, "InternalError")):
        cloud.fail_in(OTHER, status=status, code=code)
        for ask in (client.aws.hosts, client.aws.leftovers):
            notes: list[str] = []
            found = ask(notes.append)
            assert [each.id for each in found] == ([rented.id] if ask == client.aws.hosts else [])
            (note,) = notes
            assert note.startswith(f"{OTHER} can't be asked: ") and "\n" not in note
    for name in ("i-0123456789abcdef0", "rr-nobodys-1"):  # it may be there
        with pytest.raises(ProviderUnreachable, match=f"{name} is not found"):
            client.aws.find(name)

    # the tags are removed in the console: the records know the host by its id, and its region is asked alone
    ec2 = {"Resources": [rented.id], "Tags": [{"Key": tag} for tag in cloud.machine(rented.id).tags]}
    client.aws.calls("ec2", "delete_tags", USUAL, **ec2)
    asked = len(cloud.calls)
    by_token, by_id = client.aws.find(rented.token), client.aws.find(rented.id)
    assert {call.region for call in cloud.calls[asked:]} == {USUAL}
    assert by_token == by_id and by_id is not None and by_id.alive and by_id.ours and by_id.machine is not None
    assert (by_id.token, by_id.number) == (rented.token, 7) and abs(by_id.deadline - rented.deadline) < 2
    assert [each.id for each in client.aws.hosts()] == [rented.id]
    (left,) = client.leftovers()
    assert left.id == rented.id and left.why == "no run needs it"

    # stopped in the console, it is ended as well
    client.aws.calls("ec2", "stop_instances", USUAL, InstanceIds=[rented.id])
    until(lambda: cloud.machines[rented.id].state == "stopped")
    (left,) = client.leftovers()
    assert (left.id, left.why) == (rented.id, "it was stopped, and its disk costs")
    with remoterun.client.Client(client.config) as whole:  # one pass is enough
        notes = []
        (left,) = whole.hosts.leftovers(notes.append)
        assert [note.partition(" ")[0] for note in notes] == [OTHER]
        cleared = [(each.kind, done) for each, done in whole.hosts.clear_all([left])]
    assert cleared == [("host", True), ("group", True)] and cloud.left_behind() == []
    cloud.fail_in(USUAL, status=401, code="AuthFailure")
    with pytest.raises(ProviderError, match="not accepted"):
        client.aws.hosts()


def test_a_usual_region_that_is_out_of_order_hides_no_other(cloud: Cloud, client: Client) -> None:
    recorded(client, "us-west-2", cloud.account)
    cloud.fail_in(USUAL)
    notes: list[str] = []
    assert client.aws.hosts(notes.append) == []
    assert {note.partition(" ")[0] for note in notes} == {USUAL}
    for code in ("OptInRequired", "UnauthorizedOperation"):  # also where it is the account that is not open for it
        cloud.fail_in(USUAL, status=401, code=code)
        notes.clear()
        assert client.aws.hosts(notes.append) == []
        assert {note.partition(" ")[0] for note in notes} == {USUAL}


def test_hosts_of_another_account_are_not_listed_and_that_is_said(cloud: Cloud, client: Client) -> None:
    gone = recorded(client, USUAL, cloud.account)
    notes: list[str] = []
    assert client.aws.hosts(notes.append) == [] and notes == [] and client.aws.find(gone) is None
    token = recorded(client, USUAL, "999999999999", "i-0123456789abcdef1")
    assert client.aws.hosts(notes.append) == []
    (note,) = notes
    assert note.startswith("hosts of the account 999999999999 are not listed: AWS_PROFILE=")
    for name in (token, "i-0123456789abcdef1"):
        with pytest.raises(ProviderError, match="not of the account 999999999999"):
            client.aws.find(name)


class Rules:
    """The security group of the usual network, and who lets itself in."""

    def __init__(self, cloud: Cloud, client: Client) -> None:
        self.cloud, self.calls = cloud, client.aws.calls
        self.vpc = next(iter(network.subnets(self.calls, USUAL).values()))["VpcId"]

    def admit(self, address: str, home: Path) -> str:
        return network.admit(self.calls, USUAL, self.vpc, address, home_mark(home))

    def wait_an_hour(self, home: Path) -> None:
        """As if the home had let itself in so long ago."""
        stamp = {"Key": f"{tags.PREFIX}{network.HOME}{home_mark(home)}", "Value": iso(time.time() - 3601)}
        listed = self.calls("ec2", "describe_security_group_rules", USUAL)["SecurityGroupRules"]
        for rule in listed:
            if stamp["Key"] in [tag["Key"] for tag in rule.get("Tags", ())]:
                self.calls("ec2", "create_tags", USUAL, Resources=[rule["SecurityGroupRuleId"]], Tags=[stamp])

    def only(self) -> tuple[str, list[str]]:
        """The rule that there is, and the names of its tags."""
        listed = self.calls("ec2", "describe_security_group_rules", USUAL)["SecurityGroupRules"]
        (rule,) = (each for each in listed if each.get("FromPort") == 22)
        return rule["SecurityGroupRuleId"], sorted(tag["Key"] for tag in rule["Tags"])

    def count(self) -> int:
        return len([each for each in self.cloud.left_behind() if each.startswith("rule")])


def test_a_rule_that_another_home_came_in_by_is_left_to_it(cloud: Cloud, client: Client, tmp_path: Path) -> None:
    """Two laptops behind one address share its rule, whoever made it, also where user and name are the same."""
    rules, other = Rules(cloud, client), tmp_path / "another home"
    rules.admit("203.0.113.7/32", client.home)
    (left,) = client.aws.leftovers()
    assert left.kind == "group"
    rules.admit("203.0.113.7/32", other)
    assert rules.count() == 1 and client.aws.leftovers() == []
    assert not client.aws.clear(left) and rules.count() == 1  # it was listed before the other one came
    rules.wait_an_hour(other)
    rules.admit("203.0.113.8/32", client.home)
    with client.folder(recorded(client, USUAL, cloud.account)).locked(print):  # another terminal acquires a host
        assert client.aws.leftovers() == [] and not client.aws.clear(left)
    rules.admit("203.0.113.8/32", other)
    rules.admit("203.0.113.9/32", client.home)
    found = {each.why.rpartition(" ")[2]: each for each in client.aws.leftovers()}
    assert found.keys() == {"203.0.113.7/32", "203.0.113.9/32"}
    rules.admit("203.0.113.9/32", other)
    assert client.aws.clear(found["203.0.113.7/32"]) and not client.aws.clear(found["203.0.113.9/32"])
    assert rules.count() == 2
    rules.wait_an_hour(other)
    assert client.clear_all() == ["group"] and cloud.left_behind() == []
    assert client.aws.clear(found["203.0.113.9/32"])  # it is gone


def test_homes_that_came_long_ago_leave_room_for_others_at_one_rule(cloud: Cloud, client: Client) -> None:
    rules, prefix = Rules(cloud, client), tags.PREFIX + network.HOME
    rules.admit("203.0.113.7/32", client.home)
    rule, before = rules.only()
    now = time.time()
    came = [{"Key": f"{prefix}{number:02}", "Value": iso(now - 3700 + number)} for number in range(40)]
    came[5]["Value"] = iso(now - 60)
    rules.calls("ec2", "create_tags", USUAL, Resources=[rule], Tags=came)
    rules.admit("203.0.113.7/32", client.home)
    left = [f"{prefix}{number:02}" for number in (5, *range(22, 40))]
    assert rules.only() == (rule, sorted([*before, *left]))


def typed(place: Place, said: str, answers: Sequence[str], *words: str) -> None:
    """A command at a terminal, which is answered, and says something at its end."""
    shell = place.spawn(*words)
    for answer in answers:
        shell.expect(r"\[y/N\]|\[Y/n\]|the account's number, ")
        shell.sendline(answer)
    shell.expect(said)
    shell.expect(pexpect.EOF)


def test_a_bucket_that_is_gone_is_made_again_and_everything_goes(cloud: Cloud, client: Client, tmp_path: Path) -> None:
    cloud.s3.ready()
    place = make_place(tmp_path)
    place.env.update(cloud.environment())
    upload = ("upload", "data/input.txt", "--name", "doom", "--to", "aws")
    typed(place, "doom", ["y"], *upload)
    (bucket,) = cloud.s3.buckets()
    cloud.s3.store.delete_bucket(bucket)
    doctor = place.run("doctor", "aws", status=1)
    assert "remoterun upload PATH --to aws   makes one" in doctor.stdout
    typed(place, "doom", ["y"], *upload)
    assert cloud.s3.buckets() == [bucket]
    assert "doom" in place.run("ls").stdout

    cloud.s3.store.delete_bucket(bucket)
    place.run("run", "-t", "t4", "--image", BASE_IMAGE, "-y", "-q", "--no-git", "true")  # also of a run
    (machine,) = cloud.alive()
    assert cloud.roles_made() != []
    Rules(cloud, client).admit("203.0.113.9/32", tmp_path / "another home")
    gc = ("machines", "gc", "aws", "--everything")
    cloud.denied.add("iam:GetRole")
    assert "roles can't be asked" in place.run(*gc, "--dry-run").stderr
    cloud.denied.clear()
    typed(place, "Nothing was ended", ["y", "y"], *gc)
    assert cloud.alive() == [machine] and cloud.s3.buckets() == [bucket]
    typed(place, "until those hosts are gone…\\s+6 ended or removed", ["y", cloud.account], *gc)  # the schedule, too
    assert cloud.left_behind() == cloud.roles_made() == cloud.s3.buckets() == []
    assert "bucket" not in (Path(place.env["REMOTERUN_HOME"]) / "config.toml").read_text()
    assert "Nothing is left over" in place.run(*gc).stderr

    boto3.client("s3").create_bucket(Bucket="company-data")  # whatever else may be in there
    (Path(place.env["REMOTERUN_HOME"]) / "config.toml").write_text('[aws]\nbucket = "company-data"\n')
    assert "s3://company-data stays, as remoterun did not make it" in place.run(*gc).stderr
    assert cloud.s3.buckets() == ["company-data"]


def test_a_copied_home_is_another_one_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    before = home_mark(home)
    assert home_mark(home) == before
    with ThreadPoolExecutor(8) as threads:  # regions are asked on threads of their own
        assert len(set(threads.map(home_mark, [tmp_path / "new home"] * 8))) == 1
    (tmp_path / "machine-id").write_text("another machine\n")
    monkeypatch.setattr(folder, "MACHINE_ID", tmp_path / "machine-id")
    assert home_mark(home) != before
