"""The questions, in their order: each gives a remark, or raises; and the end of what they rented."""

from __future__ import annotations

import hashlib
import re
import secrets
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

from remoterun.clouds.base import Identity
from remoterun.clouds.hf.hardware import table
from remoterun.clouds.hf.provider import Jobs
from remoterun.clouds.vendor import ListedHost, Order
from remoterun.config import Config
from remoterun.errors import RemoterunError
from remoterun.hosts.ssh.host import SSHHost
from remoterun.parsing import parse_duration
from tests.cloud_check.checklist import require
from tests.cloud_check.user import RENTING_SECONDS, User

TYPE, GPU_TYPE = "cpu-basic", "t4-small"
LIMIT = 60
"""Seconds after which the server is to end a job that does not end by itself."""
LATE = 180.0
"""Seconds until it has, or a host that is idle has ended, and the list says so."""
LARGE_SECONDS = 1800.0
"""Within which a large output is made and saved, or copied."""
CHANNELS = 6
RENAME = (
    "(cd /mnt/remoterun && echo whole >check.tmp && mv check.tmp check.txt && cat check.txt && "
    "test ! -e check.tmp && rm check.txt && test ! -e check.txt)"
)
TRAIN = "nvidia-smi -L && python -m trainer.train --data_dir=./data --steps 50 --save_every 50"


class Questions:
    def __init__(self, user: User, options: Namespace) -> None:
        self._user, self._options = user, options
        user.settings(f'[archive]\nbucket = "file://{user.folder}/archive"\n')
        self._vendor = Jobs(Config(user.home))
        self._known = user.home / "hosts" / "hf.known_hosts"
        self._made: set[str] = set()
        self.failed: list[str] = []

    def ask(self) -> None:
        """All of them; one that fails does not stop the next. An interrupt ends it."""
        self._question("doctor hf finds no fault", self._examined)
        self._question("are the prices still those of our table?", self._prices)
        self._question("a run on a new host, to its first line", self._first_run)
        self._question("its log and its outputs", self._read)
        self._question("does the list repeat its timeout?", self._limit)
        self._question("which host key has its SSH server?", self._host_key)
        self._question(f"{CHANNELS} commands at once, beside a log", self._channels)
        self._question("does a run go on without a session?", self._alone)
        self._question(f"a quiet session of {self._options.session:g} minutes", self._session)
        self._question("stop, with its outputs saved", self._stopped)
        self._question("does the list go by a label?", self._label)
        self._question("does a host end by itself when it is idle?", self._idle)
        self._question("what does cancelling an ended job do?", self._again)
        self._question(f"does the server end a job after {LIMIT} s?", self._server)
        if self._options.bucket:
            self._question("a bucket that is mounted, and rename in it", self._bucket)
            self._question("a large file, whose host is ended once it is saved", self._large)
        if self._options.gpu:
            self._question("a training on a GPU", self._gpu)

    def _question(self, what: str, do: Callable[[], str | None]) -> None:
        began = time.monotonic()
        try:
            verdict, remark = "ok", do() or ""
        except Exception as error:  # noqa: BLE001 - the next questions, and the end, are to come all the same
            verdict, remark = "FAILED", f"{type(error).__name__}: {error}"
            self.failed.append(what)
        print(f"{what:<50}  {verdict:<6} {time.monotonic() - began:7.1f} s  {remark}".rstrip(), flush=True)

    def identity(self) -> Identity:
        """Exits where there is no login."""
        try:
            return self._vendor.identity()
        except RemoterunError as error:
            sys.exit(f"error: {error.message}\n\nhint: {error.hint}")

    def trusted(self) -> str:
        """The fingerprint of its SSH server's host key, which is taken as it is now."""
        address, _, port = self._options.ssh.partition(":")
        words = ["ssh-keyscan", "-t", "ed25519", "-p", port or "22", address]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
        key = next((line.split()[1:] for line in said if not line.startswith("#")), [])
        self._known.parent.mkdir(0o700, parents=True, exist_ok=True)
        self._known.write_text(f"hf {' '.join(key)}\n")
        return self._host_key()

    # --- before a host

    def _examined(self) -> str:
        self._user.run("machines", "add", "check", "--provider", "hf", "--types", TYPE, *self._terms())
        self._user.run("machines", "add", "gpu", "--provider", "hf", "--types", GPU_TYPE, *self._terms())
        checks = self._user.json("doctor", "check", status=None)
        faults = [f"{check['name']}: {check['detail']}" for check in checks if check["ok"] is False]
        require(not faults, "; ".join(faults))
        return f"{len(checks)} lines"

    def _prices(self) -> str:
        live = {type: offer for type in table() for offer in self._offers(type)}
        others = [f"{type} ${offer.price}/h" for type, offer in live.items() if offer.price != table()[type].price]
        return "; ".join([*others, *(f"no {type}" for type in sorted({*table()} - {*live}))])

    # --- on the first host

    def _first_run(self) -> str:
        self._user.run("upload", str(self._user.data), "--name", self._user.upload)
        words = self._words("check", "python3 workload.py first", "-m", f"uploads/{self._user.upload}:data")
        with self._user.running(*words, line="CHECK began") as (process, seconds):
            require(process.wait(RENTING_SECONDS) == 0, f"its status is {process.returncode}")
        return f"{seconds:.1f} s"

    def _read(self) -> None:
        require("CHECK began\n" in self._user.run("logs", "1").stdout, "the log is another one")
        made = self._user.run("cp", "runs/1/made/digests.txt", "-").stdout
        require(len(made.splitlines()) == len([*self._user.data.iterdir()]), "an output lacks lines")

    def _limit(self) -> str:
        ends = self._host().ends
        require(ends is not None, "it does not")
        return f"ends in {((ends or 0) - time.time()) / 60:.0f} minutes"

    def _host_key(self) -> str:
        words = ["ssh-keygen", "-lf", str(self._known)]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    def _channels(self) -> str:
        self._user.run(*self._words("check", "python3 workload.py ticks 7200", "-b"))
        with (
            self._user.running("logs", "2", line="CHECK tick 1") as (log, _),
            ThreadPoolExecutor(CHANNELS) as at_once,
        ):
            began = time.monotonic()
            answers = at_once.map(lambda n: self._user.run("exec", "2", f"echo $(({n} * 7))").stdout, range(CHANNELS))
            require([int(each) for each in answers] == [n * 7 for n in range(CHANNELS)], "an answer is another one")
            require(log.poll() is None, "the log has ended")
        return f"{time.monotonic() - began:.1f} s"

    def _alone(self) -> str:
        """Counts the lines that come while nobody is there."""
        before = self._ticks()
        time.sleep(self._options.alone)
        ticks = self._ticks() - before
        require(ticks >= self._options.alone / 2, f"{ticks} lines in {self._options.alone:g} s")
        return f"{ticks} lines in {self._options.alone:g} s"

    def _session(self) -> None:
        token = "-".join(self._host().name.split("-")[:3])
        file, seconds = self._user.home / "hosts" / token / "ssh_config", self._options.session * 60
        with closing(SSHHost(token, config_file=file)) as host:
            said = host.run(["sh", "-c", f"sleep {seconds:g}; echo still there"], seconds + 60).output
        require(said == "still there", f"it said {said!r}")

    def _stopped(self) -> None:
        self._user.run("stop", "2")
        require("saved" in self._user.run("logs", "2", status=143).stderr, "nothing was saved")

    def _label(self) -> str:
        from huggingface_hub import HfApi, constants, get_session

        url = f"{constants.ENDPOINT}/api/jobs/{self.identity().account}"
        headers = HfApi()._build_hf_headers()
        found = get_session().get(url, params={"label": f"made-by={secrets.token_hex(8)}"}, headers=headers, timeout=30)
        require(found.json() == [], f"a label that no job has: {len(found.json())} jobs")
        return f"{len(self._vendor.hosts())} by ours"

    def _idle(self) -> str:
        host, began = self._host(), time.monotonic()
        most = parse_duration(self._options.idle) + LATE
        while any(each.id == host.id and each.state != "gone" for each in self._vendor.hosts()):
            require(time.monotonic() - began < most, "it is still there")
            time.sleep(1)
        self._made.add(host.id)
        return f"{time.monotonic() - began:.0f} s after its last run, with --idle {self._options.idle}"

    def _again(self) -> None:
        for id in self._made:
            self._vendor.delete(id)

    # --- on others

    def _server(self) -> str:
        name, began = f"hf-check-{secrets.token_hex(4)}", time.time()
        order = Order(name, self._offers(TYPE)[0], LIMIT, began + LIMIT, "", "#!/bin/sh\nexec sleep 3600\n")
        self._vendor.create(order)
        ids = set[str]()
        while (
            listed := [each.id for each in self._vendor.hosts() if each.name == name and each.state != "gone"]
        ) or not ids:
            ids.update(listed)
            self._made |= ids
            require(time.time() - began < LIMIT + LATE, "it is still there" if ids else "it was never listed")
            time.sleep(1)
        return f"{time.time() - began:.0f} s after the order"

    def _bucket(self) -> str:
        namespace, _, name = self._options.bucket.partition("/")
        place = f'bucket = "{name}"\nendpoint = "{self._options.buckets}/{namespace}"\nregion = "us-east-1"\n'
        profile = f'profile = "{self._options.profile}"\n' if self._options.profile else ""
        file = self._user.home / "config.toml"
        own = re.sub(r"(?s)\[archive\]\n.*?\n(?=\n|\[|\Z)", f"[archive]\n{place}{profile}", file.read_text(), count=1)
        file.write_text(f'{own}\n[hf]\nbuckets = "{self._options.buckets}"\n')
        self._user.run(*self._words("check", f"{RENAME} && echo kept >kept.txt"))
        host = self._host()
        self._user.run("machines", "rm", f"hf/{host.id}")
        kept = self._user.run("cp", f"runs/{self._newest()}/kept.txt", "-").stdout
        require(kept == "kept\n", f"without its host the output is {kept!r}")
        return "its output is there without the host"

    def _large(self) -> str:
        """What is written just before a host is ended must be there for S3."""
        size, began = self._options.size, time.monotonic()
        self._user.run(
            *self._words("check", f"head -c {size} /dev/urandom >large; sha256sum large"), seconds=LARGE_SECONDS
        )
        saved = time.monotonic() - began
        self._user.run("machines", "rm", f"hf/{self._host().id}")
        number = self._newest()
        self._user.run("cp", f"runs/{number}/large", str(self._user.folder / "large"), seconds=LARGE_SECONDS)
        said = self._user.run("logs", str(number)).stdout.split()[0]
        with (self._user.folder / "large").open("rb") as file:
            require(hashlib.file_digest(file, "sha256").hexdigest() == said, "it is another one")
        return f"{size / 1e6:.0f} MB, saved after {saved:.0f} s"

    def _gpu(self) -> str:
        words = self._words("gpu", TRAIN, "-m", f"uploads/{self._user.upload}:data")
        found = re.search(r"GPU 0: ([^(\n]+)", self._user.run(*words, seconds=RENTING_SECONDS).stdout)
        assert found, "nvidia-smi lists no GPU"
        return found[1].strip()

    # --- what the questions stand on

    def _terms(self) -> tuple[str, ...]:
        return ("--idle", self._options.idle, "--max-hours", f"{self._options.hours:.3f}")

    def _words(self, machine: str, command: str, *options: str) -> tuple[str, ...]:
        return ("run", "-t", machine, "-y", *options, command)

    def _offers(self, type: str) -> list[Any]:
        """Of one type, as it is now; [] if it is gone."""
        return [offer for name, offer in self._vendor.hardware().items() if name == type]

    def _newest(self) -> int:
        return int(self._user.json("ps")[-1]["number"])

    def _ticks(self) -> int:
        return self._user.run("logs", "--no-follow", "2").stdout.count("CHECK tick")

    def _host(self) -> ListedHost:
        found = [each for each in self._mine() if each.state == "running"]
        require(len(found) == 1, f"there are {len(found)} hosts")
        return found[0]

    def _mine(self) -> list[ListedHost]:
        """The hosts of this home that are not gone."""
        homes = self._user.home / "hosts"
        own = [each for each in self._vendor.hosts() if (homes / "-".join(each.name.split("-")[:3])).is_dir()]
        return [each for each in own if each.state != "gone"]

    def clean(self) -> list[str]:
        """End what was rented; what is left."""
        print("ending what was rented …", file=sys.stderr, flush=True)
        for run in self._user.json("ps", status=None):
            self._user.run("kill", str(run["number"]), status=None)
            if self._options.bucket:
                self._user.run("rm", f"runs/{run['number']}", status=None)
        self._user.run("machines", "gc", "hf", "-y", status=None)
        for id in [*self._made, *(each.id for each in self._mine())]:
            with suppress(RemoterunError):  # it may have ended
                self._vendor.delete(id)
        return [f"hf/{each.id}" for each in self._mine()]
