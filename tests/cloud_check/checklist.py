"""The steps of the check, in their order: each gives a remark, or raises; and the removal of what they made."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import re
import shlex
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import boto3

from remoterun.clouds.aws import catalogue
from remoterun.clouds.folder import home_mark
from remoterun.parsing import parse_duration
from tests.cloud_check.bill import saved
from tests.cloud_check.user import RENTING_SECONDS, Failure, User

GPU_TYPE = catalogue.NAMES["t4"]
ENDING_SECONDS = 420.0
"""From when a host is idle for long enough, or is to end, until AWS says that it is gone."""
HOST, GUARD = "remoterun-host", "remoterun-guard"
LATE = 120.0
"""Seconds after a host's deadline, at which AWS itself ends it."""
FOR_TESTS = "AWS_ENDPOINT_URL" in os.environ
"""Whether the account is one of the cloud for tests."""
LISTING_SECONDS = 1.0 if FOR_TESTS else 10.0
"""AWS may list a host so long after the call that made it."""
PANIC = (
    "sleep 1; grep -qs 'Amazon EC2' /sys/class/dmi/id/sys_vendor || exit 1; "
    "sysctl -q kernel.panic=0 kernel.sysrq=1; echo c >/proc/sysrq-trigger"
)
"""Hangs a kernel for good: on a machine that is Amazon's, and nowhere else."""
STOP = "sleep 1; test -e /usr/local/lib/lab && systemctl stop remoterun-last-resort.timer && kill -STOP -1"
"""Stops all processes of a host of the lab, but its first one, which has nothing to do then."""
TRAIN = "nvidia-smi -L && python -m trainer.train --data_dir=./data --steps 50 --save_every 50"


class Checklist:
    """What existed before is noted first, so that nothing but what the check made is removed."""

    def __init__(self, user: User, options: Namespace, region: str, hours: float) -> None:
        self._user, self._options, self._region, self._hours = user, options, region, hours
        self._ec2 = boto3.client("ec2", region_name=region)
        self._s3 = boto3.client("s3", region_name=region)
        self._runs: dict[str, str] = {}
        self._iam = boto3.client("iam", region_name=region)
        self._scheduler = boto3.client("scheduler", region_name=region)
        self._buckets, self._rules, self._roles = self.buckets(), self.rules(), self.roles()
        self.failed: list[str] = []

    def go_through(self) -> None:
        """Do all steps; one that fails does not stop the next. An interrupt ends it."""
        self.step("doctor aws finds no fault", self.examined)
        self.step("a plan says type and price", self.planned)
        self.step("an upload to the bucket, twice", self.uploaded)
        self.step("a price is shown, and no means no", self.refused)
        self.step("a run on a new host, to its first line", self.first_run)
        self.step("its log and its outputs", self.read)
        self.step("a second run on the kept host, to its first line", self.second_run)
        self.step("^C, ps, logs", self.interrupted)
        self.step("hosts, also from another laptop", self.listed)
        self.step("the host key was known, and is another one now", self.host_key)
        self.step("a timer of root's ends the host", self.timer)
        self.step("the instance, its disk, its firewall", self.instance)
        self.step("a role to save by, and AWS's own timer", self.guarded)
        self.step("a container gets no token of the metadata service", self.metadata)
        self.step("stop, of the run that kept the host in use", self.stopped)
        self.step("the host ends by itself when it is idle", self.idle)
        self.step("log and outputs without the host", self.read)
        if self._options.spot:
            self.step("a run on a spot host", self.spot_run)
        if self._options.gpu:
            self.step("a training on a GPU", self.gpu_run)
        if self._options.interrupt:
            self.step("a spot host that is interrupted", self.spot_interrupted)
        if self._options.hang is not None:
            self.step("a host whose kernel hangs past its deadline", self.hung)
        if self._options.save:
            self.step("what it cost is kept", self.kept)

    def step(self, what: str, do: Callable[[], str | None]) -> None:
        began = time.monotonic()
        try:
            verdict, remark = "ok", do() or ""
        except Exception as error:  # noqa: BLE001 - the next steps, and the removal, are to be done all the same
            verdict, remark = "FAILED", f"{type(error).__name__}: {error}"
            self.failed.append(what)
        print(f"{what:<50}  {verdict:<6} {time.monotonic() - began:7.1f} s  {remark}".rstrip(), flush=True)

    # --- before a host

    def examined(self) -> str:
        checks = self._user.json("doctor", "aws", status=None)
        faults = [f"{check['name']}: {check['detail']}" for check in checks if check["ok"] is False]
        require(not faults, "; ".join(faults))
        return f"{len(checks)} lines"

    def planned(self) -> None:
        for name, *what in (("check", self._options.type), ("spot", self._options.type, "--spot"), ("gpu", GPU_TYPE)):
            words = (*what, "--region", self._region, "--idle", self._options.idle, "--max-hours", f"{self._hours:.3f}")
            self._user.run("machines", "add", name, "--aws", *words)
        plan = self._user.run(*self._words("check", "true", "--dry-run")).stdout
        require(self._options.type in plan and "at most" in plan and "$" in plan, f"it does not: {plan!r}")

    def uploaded(self) -> str:
        words = ("upload", str(self._user.data), "--name", self._user.upload, "--to", "aws")
        self._user.answer(*words, answers={"Make it": "y"})
        require("version 1" in self._user.run(*words).stderr, "what did not change is another version")
        return f"{self._bucket()}, {'yours already' if self._bucket() in self._buckets else 'made'}"

    def refused(self) -> None:
        shown = self._user.answer(*self._words("check", "true"), answers={"Rent it": "n"}, status=130)
        require("$" in shown, "no price was shown")
        require(not self.hosts(), "there is a host all the same")

    # --- on the first host

    def first_run(self) -> str:
        words = self._words("check", "python3 workload.py first", "-y", "-m", f"uploads/{self._user.upload}:data")
        with self._user.running(*words, line="CHECK began") as (process, seconds):
            self._note("first")
            require(process.wait(RENTING_SECONDS) == 0, f"its status is {process.returncode}")
        return f"{seconds:.1f} s"

    def read(self) -> None:
        number = self._runs["first"]
        log = self._user.run("logs", number).stdout
        require(log.startswith("CHECK began\n") and "CHECK token" in log, f"the log is another one: {log[:80]!r}")
        require(self._user.json("info", number)["state"] == "complete", "it is not complete")
        made = self._user.run("cp", f"runs/{number}/made/digests.txt", "-").stdout
        files = sorted(self._user.data.iterdir(), key=lambda path: path.name)
        wanted = [f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.name}" for path in files]
        require(made.splitlines() == wanted, "its outputs are not what they should be")

    def second_run(self) -> str:
        words = self._words("check", "python3 workload.py ticks 1", "-y")
        with self._user.running(*words, line="CHECK began") as (process, seconds):
            require(process.wait(RENTING_SECONDS) == 0, f"its status is {process.returncode}")
        self._host()
        return f"{seconds:.2f} s"

    def interrupted(self) -> None:
        words = self._words("check", "python3 workload.py ticks 600", "-y")
        with self._user.running(*words, line="CHECK tick 2") as (process, _):
            self._note("long")
            process.send_signal(signal.SIGINT)
            _, talk = process.communicate(timeout=60)
        require(process.returncode == 130 and "goes on" in talk, f"^C does not say that it goes on: {talk}")
        require(self._user.json("ps")[-1]["state"] == "running", "after ^C it does not go on")
        with self._user.running("logs", self._runs["long"], line="CHECK tick 6"):
            pass

    def listed(self) -> str:
        host = self._host()["InstanceId"]
        for home in (self._user.home, self._user.folder / "other-home"):
            cost = next(each["cost"] for each in self._user.json("machines", "rented", home=home) if each["id"] == host)
            require(cost is not None and cost > 0, "its cost is not known")
        return f"${cost:.4f} so far"

    def host_key(self) -> None:
        token = tag(self._host(), "token")
        folder = self._user.home / "hosts" / token
        first = " ".join((folder / "host_key.pub").read_text().split()[:2])
        known = [" ".join(line.split()[1:3]) for line in (folder / "known_hosts").read_text().splitlines()]
        require(len(known) == 1 and first not in known, "the key of the first contact is still accepted")
        require(self._user.ssh(token, token, "true").returncode == 0, "ssh does not get in with the fresh key")

    def timer(self) -> str:
        token, units = tag(self._host(), "token"), ("remoterun-last-resort.timer", "remoterun-watch.service")
        for unit in units:
            state = self._user.ssh(token, token, f"sudo -n systemctl is-active {unit}").stdout.strip()
            require(state == "active", f"{unit} is {state}")
        return ", ".join(units)

    def instance(self) -> str:
        host = self._host()
        asked = {"InstanceId": host["InstanceId"], "Attribute": "instanceInitiatedShutdownBehavior"}
        behavior = self._ec2.describe_instance_attribute(**asked)["InstanceInitiatedShutdownBehavior"]["Value"]
        require(behavior == "terminate", f"a shutdown does not terminate it but: {behavior}")
        metadata = host["MetadataOptions"]["HttpTokens"], host["MetadataOptions"]["HttpPutResponseHopLimit"]
        require(metadata == ("required", 1), f"the metadata service: tokens are {metadata[0]}, hops {metadata[1]}")
        require(all(each["Ebs"]["DeleteOnTermination"] for each in host["BlockDeviceMappings"]), "a disk outlives it")
        require(bool(self.disks()), "its disk has no tags")
        if self._options.subnet:
            require(host["SubnetId"] == self._options.subnet, f"it is in the subnet {host['SubnetId']}")
        groups = {group["GroupId"] for interface in host["NetworkInterfaces"] for group in interface["Groups"]}
        rules = [rule for group, rule in self.rules() if group in groups and rule]
        narrow = [rule for rule in rules if re.fullmatch(r"\d+\.\d+\.\d+\.\d+/(2[4-9]|3[0-2]) 22-22", rule)]
        require(bool(rules) and narrow == rules and len(groups) == 1, f"the firewall lets in: {rules}")
        return ", ".join(rules)

    def guarded(self) -> str:
        host = self._host()
        profile = host.get("IamInstanceProfile", {}).get("Arn", "none")
        require(profile.endswith(f"/{HOST}"), f"its instance profile is {profile}")
        schedule = self._scheduler.get_schedule(Name=tag(host, "token"))
        require(schedule["ActionAfterCompletion"] == "DELETE", "its schedule stays when it is over")
        return str(schedule["ScheduleExpression"])

    def metadata(self) -> str:
        found = re.search(r"CHECK token (.*)", self._user.run("logs", "--no-follow", self._runs["first"]).stdout)
        assert found, "the run did not say"
        require(found[1].startswith("not given"), "a container gets one")
        return found[1]

    def stopped(self) -> None:
        self._user.run("stop", self._runs["long"])
        require("saved" in self._user.run("logs", self._runs["long"], status=143).stderr, "nothing was saved")

    def idle(self) -> str:
        """Asks AWS, and no host: that would keep it."""
        self._host()
        began, seconds = time.monotonic(), parse_duration(self._options.idle) + ENDING_SECONDS
        while self.hosts():
            require(time.monotonic() - began < seconds, f"it is still there after {seconds:.0f} s")
            time.sleep(2)
        return f"{time.monotonic() - began:.0f} s after the last command; idle: {self._options.idle}"

    # --- on other hosts

    def spot_run(self) -> str:
        self._user.run(*self._words("spot", "python3 workload.py ticks 3", "-y"), seconds=RENTING_SECONDS)
        host = self._host()
        require(host.get("InstanceLifecycle") == "spot", "it was no spot host")
        self._user.run("machines", "rm", host["InstanceId"])
        return f"at ${tag(host, 'price')}/h"

    def gpu_run(self) -> str:
        words = ("run", "-t", "gpu", "-y", "-m", f"uploads/{self._user.upload}:data", TRAIN)
        found = re.search(r"GPU 0: ([^(\n]+)", self._user.run(*words, seconds=2 * RENTING_SECONDS).stdout)
        assert found, "nvidia-smi lists no GPU"
        return found[1].strip()

    def spot_interrupted(self) -> str:
        """Asks for the interruption, which only a person, or their Fault Injection Service, can order."""
        words = self._words("spot", "python3 workload.py again", "-y")
        with self._user.running(*words, line="CHECK tick 2") as (process, _):
            self._note("again")
            host = self._host()
            ask = f"interrupt {host['InstanceId']}: EC2 console, Spot Requests, {host.get('SpotInstanceRequestId', '')}"
            print(f"now       {ask}, Actions, Initiate interruption", file=sys.stderr, flush=True)
            assert process.stdout
            began = time.monotonic()
            went_on = next((line for line in process.stdout if line.startswith("CHECK goes on")), "")
            require(went_on != "", "it does not go on on another host")
            require(process.wait(RENTING_SECONDS) == 0, f"its status is {process.returncode}")
        hosts = self._user.json("info", self._runs["again"])["renting"]["hosts"]
        require(len(hosts) == 2 and hosts[0]["id"] == host["InstanceId"], f"it had {len(hosts)} hosts")
        self._user.run("machines", "rm", hosts[1]["id"])
        return f"{went_on.strip()[6:]}, {time.monotonic() - began:.0f} s after the question"

    def hung(self) -> str:
        """Nothing in the host can end it then: AWS itself does. In the cloud for tests, which shares this machine's
        kernel, all of the host's processes are stopped instead."""
        hours = ("--max-hours", str(self._options.hang))
        words = self._words("check", "python3 workload.py ticks 3600", "-y", *hours)
        with self._user.running(*words, line="CHECK tick 1"):
            pass
        host = next(each for each in self._user.json("machines", "rented") if each["number"] == self._newest())
        (described,) = [each for each in self.hosts() if each["InstanceId"] == host["id"]]
        token = tag(described, "token")
        hang = STOP if FOR_TESTS else PANIC
        done = self._user.ssh(token, token, f"sudo -n setsid -f sh -c {shlex.quote(hang)} </dev/null >/dev/null 2>&1")
        require(done.returncode == 0 and not done.stdout, f"it can't be hung: {done.stdout}{done.stderr}")
        print(f"now       {host['id']} hangs; AWS is to end it {LATE / 60:.0f} minutes after its deadline",
              file=sys.stderr, flush=True)  # fmt: skip
        deadline = datetime.datetime.fromisoformat(host["ends_at"]).timestamp()
        while any(each["InstanceId"] == host["id"] for each in self.hosts()):
            require(time.time() < deadline + LATE + ENDING_SECONDS, "it is still there")
            time.sleep(2)
        return f"{time.time() - deadline:.0f} s after its deadline"

    def kept(self) -> str:
        runs = [run["renting"] for run in self._user.json("ps") if run["renting"]]
        tokens = list(dict.fromkeys(use["token"] for renting in runs for use in renting["hosts"]))
        rows = self._user.json("bill", "--by", "run")["rows"]  # those of other clients have a name
        cost = sum(row["cost"] for row in rows if row["name"].isdecimal() or row["name"] == "idle")
        saved(self._options.save, self._user.json("whoami")["account"], tokens, cost)
        return f"${cost:.4f}, of {len(tokens)} hosts"

    # --- what the steps stand on

    def _newest(self) -> int:
        return int(self._user.json("ps")[-1]["number"])

    def _words(self, machine: str, command: str, *options: str) -> tuple[str, ...]:
        return ("run", "-t", machine, "--image", self._options.image, *options, command)

    def _note(self, name: str) -> None:
        """The number of the newest run."""
        self._runs[name] = str(self._user.json("ps")[-1]["number"])

    def _bucket(self) -> Any:
        return self._user.json("whoami")["bucket"]

    def _host(self) -> dict[str, Any]:
        hosts = [each for each in self.hosts() if each["State"]["Name"] != "shutting-down"]
        require(len(hosts) == 1, f"there are {len(hosts)} hosts")
        return hosts[0]

    # --- the account, as AWS describes it

    def hosts(self) -> list[dict[str, Any]]:
        """Those of this home that are not gone."""
        answer = self._ec2.describe_instances(Filters=self._mine)
        found = [instance for reservation in answer["Reservations"] for instance in reservation["Instances"]]
        return [each for each in found if each["State"]["Name"] != "terminated"]

    def disks(self) -> list[str]:
        return [each["VolumeId"] for each in self._ec2.describe_volumes(Filters=self._mine)["Volumes"]]

    @property
    def _mine(self) -> list[dict[str, Any]]:
        return [{"Name": "tag:remoterun:home", "Values": [home_mark(self._user.home)]}]

    def rules(self) -> set[tuple[str, str]]:
        """Each security group of remoterun, whoever made it, with "" and with all that it lets in."""
        answer = self._ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["remoterun"]}])
        found = {(group["GroupId"], "") for group in answer["SecurityGroups"]}
        for group in answer["SecurityGroups"]:
            for rule in group["IpPermissions"]:
                ports = f"{rule.get('FromPort')}-{rule.get('ToPort')}"
                found |= {(group["GroupId"], f"{each['CidrIp']} {ports}") for each in rule["IpRanges"]}
        return found

    def buckets(self) -> set[str]:
        return {bucket["Name"] for bucket in self._s3.list_buckets()["Buckets"]}

    def roles(self) -> set[str]:
        """Those by which hosts save, and by which AWS ends them."""
        found = set()
        for name in (HOST, GUARD):
            with contextlib.suppress(self._iam.exceptions.NoSuchEntityException):
                found.add(self._iam.get_role(RoleName=name)["Role"]["RoleName"])
        return found

    def schedules(self) -> list[str]:
        """By which AWS itself would end hosts of this home."""
        listed = self._scheduler.list_schedules(NamePrefix="rr-")["Schedules"]
        return [each["Name"] for each in listed if (self._user.home / "hosts" / each["Name"]).exists()]

    # --- the end

    def clean(self) -> list[str]:
        """Remove what the check made, by remoterun's own commands first; what is left. Nothing that fails stops the
        rest."""
        print("removing what was made …", file=sys.stderr, flush=True)
        for host in self.hosts():
            self._user.run("machines", "rm", host["InstanceId"], status=None)
        self._until_gone()
        bucket = self._bucket()
        if bucket:
            for run in self._user.json("ps"):
                self._user.run("rm", f"runs/{run['number']}", status=None)
            self._user.run("rm", "-y", f"uploads/{self._user.upload}", status=None)
        for pause in (5, 20, 0):  # a group is in use for a while after its last host is gone
            self._user.run("machines", "gc", "aws", "-y", status=None)
            if self.rules() <= self._rules:
                break
            time.sleep(pause)
        if bucket in self.buckets() - self._buckets:
            made = boto3.resource("s3", region_name=self._region).Bucket(bucket)
            made.objects.delete()
            made.delete()
        for name in self.roles() - self._roles:
            self._remove_role(name)
        left = [each["InstanceId"] for each in self.hosts()] + self.disks() + self.schedules()
        left += self.roles() - self._roles
        return left + [" ".join(rule) for rule in self.rules() - self._rules]

    def _remove_role(self, name: str) -> None:
        if name == HOST:
            with contextlib.suppress(self._iam.exceptions.NoSuchEntityException):
                self._iam.remove_role_from_instance_profile(InstanceProfileName=HOST, RoleName=HOST)
                self._iam.delete_instance_profile(InstanceProfileName=HOST)
        for policy in self._iam.list_role_policies(RoleName=name)["PolicyNames"]:
            self._iam.delete_role_policy(RoleName=name, PolicyName=policy)
        self._iam.delete_role(RoleName=name)

    def _until_gone(self) -> None:
        began = time.monotonic()
        while time.monotonic() - began < (ENDING_SECONDS if self.hosts() else LISTING_SECONDS):
            if ids := [each["InstanceId"] for each in self.hosts()]:
                self._ec2.terminate_instances(InstanceIds=ids)
            time.sleep(1)


def require(condition: bool, what: str) -> None:
    if not condition:
        raise Failure(what)


def tag(instance: dict[str, Any], name: str) -> str:
    return str(next((each["Value"] for each in instance["Tags"] if each["Key"] == f"remoterun:{name}"), ""))
