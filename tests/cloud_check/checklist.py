"""The steps of the check, in their order. Each tells what it saw, or raises `Failure`."""

from __future__ import annotations

import datetime
import hashlib
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remoterun.providers.aws.tags import home_mark
from tests.cloud_check.account import Account
from tests.cloud_check.report import Row
from tests.cloud_check.spending import GPU_TYPE, Spending
from tests.cloud_check.user import RENTING_SECONDS, Failure, User, last_line

MACHINE, SPOT, GPU = "check", "check-spot", "check-gpu"
ENDING_SECONDS = 300.0
"""From when a host is idle for long enough, or is told to end, until AWS says that it is gone."""
TRAIN = "nvidia-smi -L && python -m trainer.train --data_dir=./data --steps 50 --save_every 50"


@dataclass(frozen=True)
class Settings:
    """As typed; see `__main__`."""

    type: str
    region: str | None = None
    spot: bool = False
    gpu: bool = False
    idle: str = "2m"
    image: str = "python:3.12-slim"


class NotDone(Exception):
    """A step can't be done here; why."""


class Checklist:
    """What was there before is noted first, so that nothing but what the check made is removed."""

    def __init__(self, user: User, settings: Settings, spending: Spending, region: str) -> None:
        self.user = user
        self.settings = settings
        self.account = Account(region, home_mark(user.home))
        self.rows: list[Row] = []
        self.buckets_before = self.account.buckets()
        self.groups_before = self.account.groups()
        self.bucket: str | None = None
        self.objects_before: set[str] = set()
        self._hours = spending.hours
        self._region = region
        self._runs: dict[str, int] = {}
        self._doctor: dict[str, dict[str, Any]] = {}
        self._contact = 0.0
        """When the agent of a host was last talked to (`time.monotonic()`); what has ended is read from the bucket."""

    def go_through(self) -> None:
        """Do all steps; one that fails does not stop the next. An interrupt ends it."""
        self.step("doctor aws finds no fault", self._examined)
        self.step("a machine type of one's own", self._machines)
        self.step("an upload to the bucket", self._uploaded)
        self.step("the same upload again", self._uploaded_again)
        self.step("a price is shown, and no means no", self._refused)
        self.step("a run on a new host, to its first line", self._first_run)
        self.step("its log and its outputs", self._copied)
        self.step("a second run on the kept host, to its first line", self._second_run)
        self.step("^C, ps, logs", self._interrupted)
        self.step("hosts, and hosts from another laptop", self._listed)
        self.step("the host key was known, and is another one now", self._host_key)
        self.step("a timer of root's ends the host", self._timer)
        self.step("the instance, its disk, its firewall", self._instance)
        self.step("a container gets no token of the metadata service", self._metadata)
        self.step("stop, of the run that kept the host in use", self._stopped)
        self.step("the host ends by itself when it is idle", self._idle)
        self.step("log, info, outputs without the host", self._without_host)
        if self.settings.spot:
            self.step("a run on a spot host", self._spot_run)
        if self.settings.gpu:
            self.step("a training on a GPU", self._gpu_run)

    def step(self, what: str, do: Callable[[], str]) -> None:
        print(f"{what} …", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            verdict, remark = "ok", do()
        except NotDone as why:
            verdict, remark = "not done", str(why)
        except KeyboardInterrupt:
            self.rows.append(Row(what, "not done", time.monotonic() - began, "it was interrupted"))
            raise
        except Exception as error:  # noqa: BLE001 - the next steps, and the cleaning, are to be done all the same
            kind = "" if isinstance(error, Failure) else f"{type(error).__name__}: "
            verdict, remark = "FAILED", f"{kind}{error}"
        self.rows.append(Row(what, verdict, time.monotonic() - began, remark))
        print(f"  {verdict} after {self.rows[-1].seconds:.1f} s{': ' + remark if remark else ''}", file=sys.stderr)

    # --- before a host ---

    def _examined(self) -> str:
        checks = self.user.json("doctor", "aws", status=None)
        self._doctor = {check["name"]: check for check in checks}
        faults = [f"{check['name']}: {check['detail']}" for check in checks if check["ok"] is False]
        require(not faults, "; ".join(faults))
        return f"{len(checks)} lines"

    def _machines(self) -> str:
        common = ("--region", self._region, "--idle", self.settings.idle, "--max-hours", f"{self._hours:.3f}")
        self.user.run("machines", "add", MACHINE, "--aws", self.settings.type, *common)
        self.user.run("machines", "add", SPOT, "--aws", self.settings.type, "--spot", *common)
        self.user.run("machines", "add", GPU, "--aws", GPU_TYPE, *common)
        plan = self.user.run("run", "--dry-run", "--image", self.settings.image, "-t", MACHINE, "true").output
        require(self.settings.type in plan and "at most" in plan, f"the plan does not say it: {plan!r}")
        return f"{self._hours * 60:.0f} minutes at the most, idle for {self.settings.idle}"

    def _uploaded(self) -> str:
        with self.user.terminal("upload", str(self.user.upload), "--name", self.user.name, "--to", "aws") as terminal:
            if terminal.wait_for("Make it?", f"uploads/{self.user.name}") == "Make it?":
                self._found_bucket(re.findall(r"The bucket (\S+)", terminal.shown)[-1])
                terminal.type("y")
                terminal.wait_for(f"uploads/{self.user.name}")
            terminal.end()
        self._found_bucket(self.user.json("machines", "whoami")["bucket"])
        assert self.bucket is not None
        made = "made" if self.bucket not in self.buckets_before else "yours already"
        return f"{self.bucket}, {made}"

    def _found_bucket(self, name: str) -> None:
        if self.bucket is None:
            self.bucket = name
            if name in self.buckets_before:
                self.objects_before = set(self.account.objects(name))

    def _uploaded_again(self) -> str:
        done = self.user.run("upload", str(self.user.upload), "--name", self.user.name, "--to", "aws")
        require("version 1" in done.talk, f"it is not version 1: {last_line(done.talk)}")
        return ""

    def _refused(self) -> str:
        with self.user.terminal(*self._words(MACHINE, "true")) as terminal:
            terminal.wait_for("Rent it?")
            terminal.type("n")
            terminal.end(status=130)
            require("$" in terminal.shown, "no price was shown")
        require(not self.account.instances(), "there is a host all the same")
        return ""

    # --- on the first host ---

    def _first_run(self) -> str:
        mount = ("-m", f"uploads/{self.user.name}:data")
        with self.user.terminal(*self._words(MACHINE, "first", *mount)) as terminal:
            terminal.wait_for("Rent it?")
            terminal.type("y")
            began = time.monotonic()
            terminal.wait_for("CHECK began", seconds=RENTING_SECONDS)
            took = time.monotonic() - began
            shown = terminal.end(seconds=RENTING_SECONDS)
        self._touch("first")
        return f"{took:.1f} s: {steps_of(shown)}"

    def _copied(self) -> str:
        number = self._number("first")
        log = self.user.run("logs", number).output
        require(log.splitlines()[:1] == ["CHECK began"], f"the log begins otherwise: {log[:80]!r}")
        self._compare(number, self.user.folder.parent / "copied")
        return ""

    def _second_run(self) -> str:
        self._host()
        with self.user.terminal(*self._words(MACHINE, "ticks 1")) as terminal:
            terminal.wait_for("Rent it?")
            require("is free" in terminal.shown, "no host was kept")
            terminal.type("y")
            began = time.monotonic()
            terminal.wait_for("CHECK began")
            took = time.monotonic() - began
            terminal.end()
        self._touch("second")
        return f"{took:.2f} s"

    def _interrupted(self) -> str:
        self._host()
        with self.user.terminal(*self._words(MACHINE, "ticks 600", "-y")) as terminal:
            terminal.wait_for("CHECK tick 2")
            terminal.interrupt()
            shown = terminal.end(status=130)
        self._touch("long")
        number = self._number("long")
        require("goes on" in shown, f"^C does not say that it goes on: {last_line(shown)}")
        state = self.user.json("ps")[-1]["state"]
        require(state == "running", f"after ^C it is {state}")
        with self.user.terminal("logs", number) as terminal:
            terminal.wait_for("CHECK tick 0")
            terminal.wait_for("CHECK tick 6")
            terminal.interrupt()
            terminal.end(status=130)
        return ""

    def _stopped(self) -> str:
        number = self._number("long")
        self.user.run("stop", number)
        with self.user.terminal("logs", number) as terminal:
            terminal.wait_for("saved")
            terminal.end(status=143)
        self._touch()
        return ""

    def _listed(self) -> str:
        host = self._host()
        for user in (self.user, self.user.another()):
            listed = {each["id"]: each for each in user.json("machines", "rented")}
            require(host["InstanceId"] in listed, f"{host['InstanceId']} is not listed: {sorted(listed)}")
            cost = listed[host["InstanceId"]]["cost"]
            require(cost is not None and cost > 0, "its cost is not known")
        return f"${cost:.4f} so far"

    def _host_key(self) -> str:
        token = self._token()
        folder = self.user.home / "hosts" / token
        first = " ".join((folder / "host_key.pub").read_text().split()[:2])
        known = [" ".join(line.split()[1:3]) for line in (folder / "known_hosts").read_text().splitlines()]
        require(len(known) == 1 and first not in known, "the key of the first contact is still accepted")
        done = self.user.ssh(token, "true")
        require(done.returncode == 0, f"ssh does not get in with the fresh key: {done.stderr.strip()}")
        other = self.user.home.parent / "first_host_key"
        other.write_text(f"{token.lower()} {first}\n")
        refused = self.user.ssh(token, "true", options=(f"UserKnownHostsFile={other}",))
        require(refused.returncode == 255, "the host still shows the key that stood in its user-data")
        return ""

    def _timer(self) -> str:
        host, token = self._host(), self._token()
        shown = self.user.ssh(token, "systemctl list-timers --all --no-pager").stdout
        line = next((line for line in shown.splitlines() if "remoterun-deadline.timer" in line), None)
        require(line is not None, f"there is no such timer: {shown[-300:]!r}")
        assert line is not None
        found = re.search(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC", line)
        require(found is not None, f"the timer has no time: {line}")
        assert found is not None
        deadline = datetime.datetime.fromisoformat(tag(host, "deadline").replace("Z", "+00:00"))
        off = datetime.datetime.fromisoformat(f"{found[1]}+00:00") - deadline
        require(abs(off.total_seconds()) < 60, f"the timer is {off} off the deadline in the tags")
        watch = self.user.ssh(token, "systemctl is-active remoterun-watch.service").stdout.strip()
        require(watch == "active", f"the watch is {watch}")
        return f"at {found[1]} UTC"

    def _instance(self) -> str:
        host = self._host()
        behavior = self.account.attribute(host["InstanceId"], "instanceInitiatedShutdownBehavior")
        require(behavior == "terminate", f"a shutdown does not terminate it but: {behavior}")
        options = host["MetadataOptions"]
        require(options["HttpTokens"] == "required", "the metadata service answers without a token")
        require(options["HttpPutResponseHopLimit"] == 1, f"the hop limit is {options['HttpPutResponseHopLimit']}")
        kept = [each["DeviceName"] for each in host["BlockDeviceMappings"] if not each["Ebs"]["DeleteOnTermination"]]
        require(not kept, f"disks stay when it ends: {kept}")
        disks = self.account.disks()
        require(bool(disks), "its disk has no tags")
        groups = {group["GroupId"] for interface in host["NetworkInterfaces"] for group in interface["Groups"]}
        rules = [rule for group in groups for rule in self.account.groups().get(group, ["by a group that is not ours"])]
        require(bool(rules), "no rule lets anybody in, and yet it was reached")
        wide = [rule for rule in rules if not re.fullmatch(r"\d+\.\d+\.\d+\.\d+/(2[4-9]|3[0-2]) 22-22", rule)]
        require(not wide, f"the firewall lets in: {wide}")
        return f"{', '.join(rules)}; {', '.join(str(disk['Size']) + ' GB' for disk in disks)}"

    def _metadata(self) -> str:
        log = self.user.run("logs", "--no-follow", self._number("first")).output
        told = re.search(r"CHECK token (.*)", log)
        require(told is not None, "the run did not say")
        assert told is not None
        require(told[1].startswith("not given"), "a container gets one")
        return told[1]

    def _idle(self) -> str:
        self._host()
        self._until_gone(seconds_of(self.settings.idle) + ENDING_SECONDS)
        return f"{time.monotonic() - self._contact:.0f} s after the last command; idle: {self.settings.idle}"

    def _without_host(self) -> str:
        number = self._number("first")
        require(not self.account.alive(), "the host is still there")
        log = self.user.run("logs", number).output
        require("CHECK began" in log and "CHECK token" in log, f"the log is another one: {log[-80:]!r}")
        info = self.user.json("info", number)
        require(info["state"] == "complete", f"it is {info['state']}")
        self._compare(number, self.user.folder.parent / "copied-later")
        return f"the run cost ${info['cost']:.4f}" if info.get("cost") is not None else ""

    # --- on other hosts ---

    def _spot_run(self) -> str:
        before = {each["InstanceId"] for each in self.account.instances()}
        done = self.user.run(*self._words(SPOT, "ticks 3", "-y"), seconds=RENTING_SECONDS)
        self._touch("spot")
        require("CHECK tick 2" in done.output, f"its log is another one: {done.output[-80:]!r}")
        new = [each for each in self.account.instances() if each["InstanceId"] not in before]
        require(len(new) == 1 and new[0].get("InstanceLifecycle") == "spot", "it was not one spot host")
        price = tag(new[0], "price")
        self.user.run("machines", "rm", new[0]["InstanceId"])
        return f"{done.seconds:.1f} s, at ${price}/h"

    def _gpu_run(self) -> str:
        quota = self._doctor.get("quota G on demand")
        if quota is not None and quota["ok"] is not True:
            raise NotDone(f"the quota: {quota['detail']}")
        mount = ("-m", f"uploads/{self.user.name}:data")
        words = ("run", "-t", GPU, "-y", *mount, TRAIN)
        done = self.user.run(*words, seconds=2 * RENTING_SECONDS)
        self._touch("gpu")
        card = re.search(r"GPU 0: ([^(\n]+)", done.output)
        require(card is not None, "nvidia-smi lists no GPU")
        assert card is not None
        return f"{card[1].strip()}, {done.seconds:.0f} s with the environment's first build"

    # --- what the steps stand on ---

    def _words(self, machine: str, what: str, *options: str) -> tuple[str, ...]:
        command = what if what == "true" else f"python3 workload.py {what}"
        return ("run", "-t", machine, "--image", self.settings.image, *options, command)

    def _host(self) -> dict[str, Any]:
        """The one that is there."""
        alive = self.account.alive()
        if not alive:
            raise NotDone("there is no host")
        require(len(alive) == 1, f"there are {len(alive)} hosts")
        return alive[0]

    def _token(self) -> str:
        return tag(self._host(), "token")

    def _touch(self, name: str = "") -> None:
        """A host was talked to just now; `name`: by the newest run."""
        self._contact = time.monotonic()
        if name:
            self._runs[name] = self.user.json("ps")[-1]["number"]

    def _number(self, name: str) -> str:
        if name not in self._runs:
            raise NotDone("there is no such run")
        return str(self._runs[name])

    def _compare(self, number: str, target: Path) -> None:
        self.user.run("cp", f"runs/{number}/made", str(target))
        wanted = "".join(
            f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.name}\n"
            for path in sorted(self.user.upload.iterdir(), key=lambda path: path.name)
        )
        require((target / "digests.txt").read_text() == wanted, "its outputs are not what they should be")

    def _until_gone(self, seconds: float) -> None:
        """Asks AWS, and no host: that would keep it."""
        deadline = time.monotonic() + seconds
        while self.account.alive():
            require(time.monotonic() < deadline, f"it is still there after {seconds:.0f} s")
            time.sleep(2)


def require(condition: bool, what: str) -> None:
    if not condition:
        raise Failure(what)


def tag(instance: dict[str, Any], name: str) -> str:
    return str(next((each["Value"] for each in instance["Tags"] if each["Key"] == f"remoterun:{name}"), ""))


def steps_of(shown: str) -> str:
    """The steps of a run with the time that each took, as its screen told."""
    found = re.findall(r"^✓ (?!run )(?:Waiting for )?(.+?) (\d[\d.]* (?:s|min|h).*)$", shown, re.MULTILINE)
    return ", ".join(f"{what} {took.strip()}" for what, took in found)


def seconds_of(text: str) -> float:
    from remoterun.parsing import parse_duration

    return parse_duration(text)
