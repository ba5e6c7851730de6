"""Hugging Face's Jobs on this machine: its API, and its SSH server.

A job is a container of this machine with processes, a root's home and a `/mnt` of its own, whose first process is the
command that it was made with. `ssh.hf.jobs` is a real sshd, whose users are the jobs; it lets the keys of the account
in. A job's end by its `timeoutSeconds`, and its bill by the minute, are this server's. What it is asked and answers is
held to Hugging Face's own description (`apis/hf-jobs.json`): leaving its context fails where anything was not as there.

    with Jobs(FOLDER) as jobs:      jobs.variables: what a client needs to find it
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.lab.gpu import Gpu, install
from tests.published import Published
from tests.sshd import PATH, SSHD, has_penalties, make_key, public
from tests.workshop import own_port, real_environments, until

TOKEN, USER = "hf_test", "lisa"
USERS = {TOKEN: USER, "hf_bob": "bob"}
"""Who logs in with which token."""
PAGE = 2
"""Jobs in a page of the list."""
UNIT = 60.0
"""Seconds that are billed as one."""
NOW = time.time
"""Its own clock: a test that moves the clock of a client in this process moves that of `time`."""
PRICES = {"cpu-basic": 0.01, "t4-small": 0.40, "l4x1": 0.80}
GPUS = {"t4-small": Gpu("Tesla T4", 15360, compute_cap="7.5"), "l4x1": Gpu("NVIDIA L4", 23034, compute_cap="8.9")}
CONTAINER = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"]
INSIDE = """mount --bind {0}/root /root; mount -t tmpfs none /mnt
[ -z '{1}' ] || {{ mkdir -p '{2}'; mount --bind '{1}' '{2}'; }}
cd /; exec "$@" """
PROXY = 'mount --bind {0}/etc /etc; mkdir -p /run/sshd; exec "$@"'
ENTER = """#!/bin/sh
pid=$(cat {0}/jobs/$LOGNAME/inside 2>/dev/null) || {{ echo "no such job" >&2; exit 1; }}
exec nsenter --target $pid --pid --mount -- env -i HOME=/root PATH={0}/jobs/$LOGNAME/local/bin:{1} \
    /bin/sh -c 'cd; eval "$1"' sh "$SSH_ORIGINAL_COMMAND"
"""


@dataclass
class Job:
    id: str
    spec: dict[str, Any]
    created: float
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    ended: float = 0.0
    stage: str = "SCHEDULING"
    message: str | None = None
    reason: str = ""
    cancels: int = 0
    drained: float = 0.0
    stored: dict[str, int] = field(default_factory=dict)
    """The files of its mounted bucket that this has, by the times when they were changed."""
    owner: str = USER

    @property
    def name(self) -> str:
        return str(self.spec["labels"]["name"])

    @property
    def inside(self) -> int:
        """Its first process, as this machine sees it."""
        return int((self.folder / "inside").read_text())

    @property
    def type(self) -> str:
        return str(self.spec["flavor"])

    def bill(self, now: float) -> float:
        """US dollars so far."""
        seconds = (self.ended or now) - self.began if self.began else 0.0
        return -(-seconds // UNIT) * UNIT / 3600 * PRICES[self.type]


@dataclass
class Jobs:
    """What a test says: `refuses`, the types for which there is no capacity; `waits`, seconds until a job begins;
    `hides`, seconds until it is listed; `stays`, so many cancellations do nothing; `forgets`, the list has no
    `timeout`; `hurries`, its own clock runs so many times as fast for a job's end; `fails`, a status with which all
    calls are answered; `busy`, statuses with which the next ones of a call ("GET jobs") are; `refused_cancels`, so many
    cancellations of a job are; `next_page`, the address of that in place of the real one; `drains`, seconds after which
    a bucket has what a job has written, if the job still runs then; `odd`, what a path lists besides, as nobody would;
    `buckets`, folders by NAMESPACE/NAME; `environment`, a virtual environment that all hosts have, under the names of
    the real ones."""

    folder: Path
    refuses: set[str] = field(default_factory=set)
    waits: float = 0.0
    hides: float = 0.0
    stays: int = 0
    forgets: bool = False
    hurries: float = 1.0
    fails: int = 0
    busy: dict[str, list[int]] = field(default_factory=dict)
    refused_cancels: int = 0
    next_page: str = ""
    drains: float = 2.0
    odd: dict[str, Any] = field(default_factory=dict)
    buckets: dict[str, Path] = field(default_factory=dict)
    environment: Path | None = None

    def __enter__(self) -> Jobs:
        self.jobs: list[Job] = []
        self.published = Published("hf-jobs")
        self._lock, self._over = threading.RLock(), threading.Event()
        self._stack = contextlib.ExitStack()
        for name in ("jobs", "user/.ssh", "etc"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        shutil.copytree("/etc", self.folder / "etc", symlinks=True, dirs_exist_ok=True)
        self.key = make_key(self.folder / "user" / ".ssh" / "id_ed25519")
        self.allow(public(self.key))
        make_key(self.folder / "proxy_key")
        enter = self.folder / "enter"
        enter.write_text(ENTER.format(self.folder, PATH))
        enter.chmod(0o755)
        self._start_proxy()
        self._api = self._stack.enter_context(Server(("127.0.0.1", 0), Handler))
        self._api.jobs = self
        for work in (self._api.serve_forever, self._tend):
            threading.Thread(target=work, daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        self._api.shutdown()
        for job in self.jobs:
            self.end(job, "CANCELED")
        self._stack.close()
        self.published.__exit__(*raised)

    @property
    def variables(self) -> dict[str, str]:
        return {
            "HF_ENDPOINT": f"http://127.0.0.1:{self._api.server_port}",
            "HF_TOKEN": TOKEN,
            "HOME": str(self.folder / "user"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def trust(self, home: Path) -> None:
        """As somebody did who was asked about the host key of its SSH server, for a home of remoterun."""
        (home / "hosts").mkdir(0o700, parents=True, exist_ok=True)
        key = public(self.folder / "proxy_key")
        (home / "hosts" / "hf.known_hosts").write_text(f"hf {' '.join(key.split()[:2])}\n")

    def allow(self, keys: str) -> None:
        """The keys of the account."""
        (self.folder / "authorized_keys").write_text(keys)

    def alive(self) -> list[Job]:
        return [each for each in self.jobs if not each.ended]

    # -- its SSH server

    def _start_proxy(self) -> None:
        assert SSHD is not None
        options = {
            "ListenAddress": "127.0.0.1",
            "HostKey": str(self.folder / "proxy_key"),
            "AuthorizedKeysFile": str(self.folder / "authorized_keys"),
            "ForceCommand": str(self.folder / "enter"),
            "PidFile": "none",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "UsePAM": "no",
            "StrictModes": "no",
            "MaxSessions": "100",
            "MaxStartups": "100",
            **({"PerSourcePenalties": "no"} if has_penalties() else {}),
        }
        self.port = self._stack.enter_context(own_port())
        words = [SSHD, "-D", "-e", "-f", "/dev/null", "-p", str(self.port)]
        words += [f"-o{name}={value}" for name, value in options.items()]
        shell = ["unshare", "--mount", "sh", "-c", PROXY.format(self.folder), "sh", *words]
        with (self.folder / "proxy.log").open("wb") as log:
            self._proxy = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *shell], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._stack.callback(self._proxy.wait)
        self._stack.callback(self._proxy.kill)
        until(lambda: "listening" in (self.folder / "proxy.log").read_text(), 20)

    def _know(self, job: Job) -> None:
        with (self.folder / "etc" / "passwd").open("a") as users:
            users.write(f"{job.id}:*:0:0::/:/bin/sh\n")

    # -- its API

    def create(self, spec: dict[str, Any], owner: str = USER) -> Job:
        with self._lock:
            id = f"{len(self.jobs):04x}{os.urandom(10).hex()}"
            folder = self.folder / "jobs" / id
            (folder / "root").mkdir(parents=True, mode=0o700)
            if self.environment is not None:
                (home := folder / "root" / ".remoterun").mkdir(0o700)
                (home / "envs").mkdir(0o700)
                for name in real_environments():
                    (home / "envs" / name).symlink_to(self.environment)
            job = Job(id, spec, NOW(), folder, owner=owner)
            self.jobs.append(job)
            return job

    def _start(self, job: Job) -> None:
        volume: dict[str, Any] = next(iter(job.spec.get("volumes", ())), {})
        bucket = str(job.folder / "bucket") if volume else ""
        self._drain(job)
        script = INSIDE.format(job.folder, bucket, volume.get("mountPath", ""))
        words = [*CONTAINER, "sh", "-c", script, "sh", *job.spec["command"], *job.spec.get("arguments", [])]
        local = job.folder / "local"
        (local / "bin").mkdir(parents=True)
        if job.type in GPUS:
            install(local, [GPUS[job.type]], str(local / "share" / "lab-gpus"))
        variables = {
            "PATH": f"{local}/bin:{PATH}",
            "HOME": "/root",
            "JOB_ID": job.id,
            **job.spec.get("environment", {}),
        }
        with (job.folder / "log").open("wb") as log:
            job.process = subprocess.Popen(
                words, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        children = Path(f"/proc/{job.process.pid}/task/{job.process.pid}/children")
        until(lambda: job.process is None or job.process.poll() is not None or bool(children.read_text().split()), 20)
        with_pid = children.read_text().split() if children.exists() else []
        (job.folder / "inside").write_text("".join(with_pid[:1]))
        self._know(job)
        job.began, job.stage = NOW(), "RUNNING"

    def _drain(self, job: Job) -> None:
        """As Hugging Face mounts a bucket: what is new in it shows late, and what a job writes is in it later than the
        file is closed, or never, where the job ends before that."""
        for volume in job.spec.get("volumes", ()):
            bucket, mounted = self.buckets[volume["source"]], job.folder / "bucket"
            mounted.mkdir(exist_ok=True)
            for source, target, age in ((bucket, mounted, 0.0), (mounted, bucket, self.drains)):
                for file in [each for each in source.rglob("*") if each.is_file() and each.suffix != ".tmp"]:
                    name, changed = str(file.relative_to(source)), file.stat().st_mtime_ns
                    is_new = name not in job.stored or (source == mounted and job.stored[name] != changed)
                    if is_new and changed / 1e9 + age <= NOW():
                        (target / name).parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy2(file, target / f"{name}.tmp")
                        (target / f"{name}.tmp").rename(target / name)
                        job.stored[name] = (mounted / name).stat().st_mtime_ns

    def end(self, job: Job, stage: str, message: str | None = None, reason: str = "") -> None:
        with self._lock:
            if job.ended:
                return
            job.ended, job.stage, job.message, job.reason = NOW(), stage, message, reason
            if job.process is not None:
                if job.process.poll() is None:
                    os.killpg(job.process.pid, signal.SIGKILL)
                job.process.wait()

    def _tend(self) -> None:
        """What the service itself does, whoever is there."""
        while not self._over.wait(0.1):
            with self._lock:
                for job in self.alive():
                    if job.process is None:
                        if NOW() >= job.created + self.waits:
                            self._start(job)
                        continue
                    if NOW() > job.drained + 1:
                        job.drained = NOW()
                        self._drain(job)
                    if job.process.poll() is not None:
                        self.end(job, "COMPLETED" if job.process.returncode == 0 else "ERROR")
                    elif NOW() > job.began + job.spec.get("timeoutSeconds", 1800) / self.hurries:
                        self.end(job, "ERROR", "Job timeout")

    def listed(self, job: Job) -> dict[str, Any]:
        """What its description requires, and of the rest what the service is known to answer: nothing is null there
        but a message."""
        kept = ("flavor", "labels", "command", "arguments", "dockerImage", "volumes")
        found = {name: job.spec[name] for name in kept if name in job.spec}
        found |= {} if self.forgets else {"timeout": job.spec.get("timeoutSeconds", 1800)}
        status: dict[str, Any] = {"stage": job.stage, "message": job.message}
        status |= {"cancelReason": job.reason} if job.reason else {}
        if job.spec.get("ssh", {}).get("enabled"):
            status["sshUrl"] = f"ssh://{job.id}@127.0.0.1:{self.port}"
        moments = {"createdAt": job.created, "startedAt": job.began, "finishedAt": job.ended}
        found |= {name: _written(moment) for name, moment in moments.items() if moment}
        owner = {"id": "0" * 24, "name": job.owner, "type": "user", "avatarUrl": "/avatars/0.svg"}
        found |= {"createdBy": {"id": "0" * 24, "name": job.owner}, "environment": job.spec.get("environment", {})}
        return {"id": job.id, "type": "job", **found, "status": status, "owner": owner}

    def billed(self, user: str) -> dict[str, Any]:
        """The bill of the month."""
        now = datetime.fromtimestamp(NOW(), UTC)
        first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        had = [each for each in self.jobs if each.began and each.owner == user]
        details: list[dict[str, Any]] = [
            {
                "jobId": each.id,
                "hardwareFlavor": each.type,
                "totalMinutes": -(-((each.ended or NOW()) - each.began) // UNIT),
                "totalCostMicroUsd": round(each.bill(NOW()) * 1e6),
                "startedAt": _written(each.began),
                **({"completedAt": _written(each.ended)} if each.ended else {}),
            }
            for each in had
        ]
        usage = {
            "usedMicroUsd": sum(each["totalCostMicroUsd"] for each in details),
            "totalMinutes": sum(each["totalMinutes"] for each in details),
            "periodStart": _written(first.timestamp()),
            "periodEnd": _written(first.timestamp() + 31 * 86400),
            "jobDetails": details,
        }
        return {"usage": usage, "hasAccess": True}


def _written(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def hardware() -> list[dict[str, Any]]:
    gpus = {"t4-small": ("T4", "16 GB"), "l4x1": ("L4", "24 GB")}
    return [
        {
            "name": name,
            "prettyName": name,
            "cpu": "4 vCPU",
            "ram": "15 GB",
            "ephemeralStorage": "50 GB",
            "accelerator": {
                "type": "gpu",
                "model": gpus[name][0],
                "quantity": "1",
                "vram": gpus[name][1],
                "manufacturer": "Nvidia",
            }
            if name in gpus
            else None,
            "unitCostMicroUSD": round(price / 60 * 1e6),
            "unitCostUSD": price / 60,
            "unitLabel": "minute",
        }
        for name, price in PRICES.items()
    ]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    jobs: Jobs


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server
    user = ""

    def do_GET(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        asked, ours = urllib.parse.parse_qs(query), self.server.jobs
        if path == "/api/agent-harnesses":  # asked by the library, not by us
            self.send_error(404)
            return
        wrong = ours.published.check_request(self.command, self.path, json.loads(sent) if sent else None)
        self.user = USERS.get((self.headers.get("Authorization") or "").removeprefix("Bearer "), "")
        what = path.removeprefix("/api/").removeprefix(f"jobs/{self.user or USER}").strip("/")
        call = f"{self.command} " + (re.sub(r"^[0-9a-f]{24}", "ID", what) or "jobs")
        if wrong:
            self.answer(400, {"error": wrong})
        elif ours.fails or ours.busy.get(call):
            self.answer(ours.fails or ours.busy[call].pop(0), {"error": "try again later"})
        elif not self.user:
            self.answer(401, {"error": "Invalid credentials in Authorization header"})
        elif call == "GET whoami-v2":
            self.answer(200, {"type": "user", "name": self.user})
        elif call == "GET settings/billing/usage/jobs":
            self.answer(200, ours.billed(self.user))
        elif call == "GET jobs/hardware":
            self.answer(200, hardware())
        elif call == "POST jobs":
            self.create(json.loads(sent))
        elif call == "GET jobs":
            self.list(asked)
        elif call == "POST ID/cancel":
            self.cancel(what.partition("/")[0])
        else:
            self.answer(404, {"error": f"there is no {what}"})

    do_POST = do_GET

    def create(self, spec: dict[str, Any]) -> None:
        ours = self.server.jobs
        if spec["flavor"] in ours.refuses:
            self.answer(503, {"error": f"no capacity for {spec['flavor']}"})
        elif any(volume["source"] not in ours.buckets for volume in spec.get("volumes", ())):
            self.answer(404, {"error": "no such bucket"})
        else:
            self.answer(200, ours.listed(ours.create(spec, self.user)))

    def list(self, asked: dict[str, list[str]]) -> None:
        ours, now = self.server.jobs, NOW()
        with ours._lock:
            found = [
                ours.listed(job)
                for job in reversed(ours.jobs)
                if now >= job.created + ours.hides
                and job.owner == self.user
                and ("stage" not in asked or job.stage in asked["stage"])
                and all(
                    f"{k}={job.spec.get('labels', {}).get(k)}" == it
                    for it in asked.get("label", ())
                    for k in [it.split("=")[0]]
                )
            ]
        start = int(asked.get("cursor", ["0"])[0])
        rest = {**{name: each for name, each in asked.items() if name != "cursor"}, "cursor": [str(start + PAGE)]}
        address = f"{ours.variables['HF_ENDPOINT']}/api/jobs/{self.user}?{urllib.parse.urlencode(rest, doseq=True)}"
        address = ours.next_page or address
        more = {"Link": f'<{address}>; rel="next"'} if len(found) > start + PAGE else {}
        self.answer(200, found[start : start + PAGE], more)

    def cancel(self, id: str) -> None:
        ours = self.server.jobs
        job = next((each for each in ours.jobs if each.id == id), None)
        if job is None:
            self.answer(404, {"error": "Job not found"})
            return
        job.cancels += 1
        if job.cancels <= ours.refused_cancels:
            self.answer(409, {"error": "the job is ending"})
            return
        if job.cancels > ours.stays:
            ours.end(job, "CANCELED")
        self.answer(200, ours.listed(job))

    def answer(self, status: int, said: Any, headers: dict[str, str] | None = None) -> None:
        if wrong := self.server.jobs.published.check_answer(self.command, self.path, status, said):
            status, said = 500, {"error": wrong}
        odd = self.server.jobs.odd.get(self.path.partition("?")[0])
        odd = odd + said if isinstance(odd, list) and isinstance(said, list) else odd
        data = json.dumps(odd if odd is not None else said).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(NOW() if timestamp is None else timestamp)

    def log_message(self, *_: object) -> None:
        pass


def find_jobs(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the library in this process find these."""
    from huggingface_hub import constants

    for name, value in jobs.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "ENDPOINT", jobs.variables["HF_ENDPOINT"])


def main() -> None:
    """To try it by hand: a shell whose `remoterun` rents here."""
    with tempfile.TemporaryDirectory() as folder, Jobs(Path(folder)) as jobs:
        jobs.trust(Path(folder, "home"))
        subprocess.run(
            [os.environ.get("SHELL", "sh")], env={**os.environ, **jobs.variables, "REMOTERUN_HOME": f"{folder}/home"}
        )
        for job in jobs.jobs:
            print(f"{job.id} {job.type} {job.stage} ${job.bill(NOW()):.4f}", file=sys.stderr)


if __name__ == "__main__":
    main()
