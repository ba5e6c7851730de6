"""Hugging Face's Jobs on this machine: its API, and its SSH server.

A job is a container of this machine with processes, a root's home and a `/mnt` of its own, whose first process is the
command that it was made with. `ssh.hf.jobs` is a real sshd, whose users are the jobs; it lets the keys of the account
in. A job's end by its `timeoutSeconds`, and its bill by the minute, are this server's.

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
from tests.sshd import PATH, SSHD, has_penalties, make_key, public
from tests.workshop import own_port, real_environments, until

TOKEN, USER = "hf_test", "lisa"
PAGE = 2
"""Jobs in a page of the list."""
UNIT = 60.0
"""Seconds that are billed as one."""
LABEL = re.compile(r"[A-Za-z0-9_-]{1,100}")
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
    cancels: int = 0

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
    `timeoutSeconds`; `hurries`, its own clock runs so many times as fast for a job's end; `fails`, a status with which
    all calls are answered; `refused_cancels`, so many cancellations of a job are; `buckets`, folders by
    NAMESPACE/NAME; `environment`, a virtual environment that all hosts have, under the names of the real ones."""

    folder: Path
    refuses: set[str] = field(default_factory=set)
    waits: float = 0.0
    hides: float = 0.0
    stays: int = 0
    forgets: bool = False
    hurries: float = 1.0
    fails: int = 0
    refused_cancels: int = 0
    buckets: dict[str, Path] = field(default_factory=dict)
    environment: Path | None = None

    def __enter__(self) -> Jobs:
        self.jobs: list[Job] = []
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

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._api.shutdown()
        for job in self.jobs:
            self.end(job, "CANCELED")
        self._stack.close()

    @property
    def variables(self) -> dict[str, str]:
        return {
            "HF_ENDPOINT": f"http://127.0.0.1:{self._api.server_port}",
            "HF_TOKEN": TOKEN,
            "HOME": str(self.folder / "user"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

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

    def create(self, spec: dict[str, Any]) -> Job:
        with self._lock:
            id = f"{len(self.jobs):04x}{os.urandom(10).hex()}"
            folder = self.folder / "jobs" / id
            (folder / "root").mkdir(parents=True, mode=0o700)
            if self.environment is not None:
                (home := folder / "root" / ".remoterun").mkdir(0o700)
                (home / "envs").mkdir(0o700)
                for name in real_environments():
                    (home / "envs" / name).symlink_to(self.environment)
            job = Job(id, spec, time.time(), folder)
            self.jobs.append(job)
            return job

    def _start(self, job: Job) -> None:
        volume: dict[str, Any] = next(iter(job.spec.get("volumes", ())), {})
        bucket = str(self.buckets[volume["source"]]) if volume else ""
        script = INSIDE.format(job.folder, bucket, volume.get("mountPath", ""))
        words = [*CONTAINER, "sh", "-c", script, "sh", *job.spec["command"], *job.spec["arguments"]]
        local = job.folder / "local"
        (local / "bin").mkdir(parents=True)
        if job.type in GPUS:
            install(local, [GPUS[job.type]], str(local / "share" / "lab-gpus"))
        variables = {"PATH": f"{local}/bin:{PATH}", "HOME": "/root", "JOB_ID": job.id, **job.spec["environment"]}
        with (job.folder / "log").open("wb") as log:
            job.process = subprocess.Popen(
                words, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        children = Path(f"/proc/{job.process.pid}/task/{job.process.pid}/children")
        until(lambda: job.process is None or job.process.poll() is not None or bool(children.read_text().split()), 20)
        with_pid = children.read_text().split() if children.exists() else []
        (job.folder / "inside").write_text("".join(with_pid[:1]))
        self._know(job)
        job.began, job.stage = time.time(), "RUNNING"

    def end(self, job: Job, stage: str, message: str | None = None) -> None:
        with self._lock:
            if job.ended:
                return
            job.ended, job.stage, job.message = time.time(), stage, message
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
                        if time.time() >= job.created + self.waits:
                            self._start(job)
                    elif job.process.poll() is not None:
                        self.end(job, "COMPLETED" if job.process.returncode == 0 else "ERROR")
                    elif time.time() > job.began + job.spec.get("timeoutSeconds", 1800) / self.hurries:
                        self.end(job, "ERROR", "Job timeout")

    def listed(self, job: Job) -> dict[str, Any]:
        kept = ("flavor", "labels", "command", "arguments", "environment", "dockerImage")
        found = {name: job.spec.get(name) for name in (*kept, *(() if self.forgets else ("timeoutSeconds",)))}
        status: dict[str, Any] = {"stage": job.stage, "message": job.message}
        if job.spec.get("ssh", {}).get("enabled"):
            status["sshUrl"] = f"ssh://{job.id}@127.0.0.1:{self.port}"
        moments = {"createdAt": job.created, "startedAt": job.began, "finishedAt": job.ended}
        found |= {name: _written(moment) for name, moment in moments.items()}
        return {"id": job.id, **found, "status": status, "owner": {"id": "1", "name": USER, "type": "user"}}


def _written(moment: float) -> str | None:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds") if moment else None


def hardware() -> list[dict[str, Any]]:
    gpus = {"t4-small": ("T4", "16 GB"), "l4x1": ("L4", "24 GB")}
    return [
        {
            "name": name,
            "prettyName": name,
            "cpu": "4 vCPU",
            "ram": "15 GB",
            "accelerator": {"type": "gpu", "model": gpus[name][0], "quantity": "1", "vram": gpus[name][1]}
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

    def do_GET(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        asked, ours = urllib.parse.parse_qs(query), self.server.jobs
        what = path.removeprefix("/api/").removeprefix(f"jobs/{USER}").strip("/")
        call = f"{self.command} " + (re.sub(r"^[0-9a-f]{24}", "ID", what) or "jobs")
        if ours.fails:
            self.answer(ours.fails, {"error": "try again later"})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid credentials in Authorization header"})
        elif call == "GET whoami-v2":
            self.answer(200, {"type": "user", "name": USER})
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
        ours, labels = self.server.jobs, spec.get("labels", {})
        if spec["flavor"] in ours.refuses:
            self.answer(503, {"error": f"no capacity for {spec['flavor']}"})
        elif not all(LABEL.fullmatch(text) for pair in labels.items() for text in pair):
            self.answer(400, {"error": "labels have letters, digits, - and _"})
        elif any(volume["source"] not in ours.buckets for volume in spec.get("volumes", ())):
            self.answer(404, {"error": "no such bucket"})
        else:
            self.answer(200, ours.listed(ours.create(spec)))

    def list(self, asked: dict[str, list[str]]) -> None:
        ours, now = self.server.jobs, time.time()
        with ours._lock:
            found = [
                ours.listed(job)
                for job in reversed(ours.jobs)
                if now >= job.created + ours.hides
                and ("stage" not in asked or job.stage in asked["stage"])
                and all(
                    f"{k}={job.spec['labels'].get(k)}" == it
                    for it in asked.get("label", ())
                    for k in [it.split("=")[0]]
                )
            ]
        start = int(asked.get("cursor", ["0"])[0])
        rest = {**{name: each for name, each in asked.items() if name != "cursor"}, "cursor": [str(start + PAGE)]}
        address = f"{ours.variables['HF_ENDPOINT']}/api/jobs/{USER}?{urllib.parse.urlencode(rest, doseq=True)}"
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
        data = json.dumps(said).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

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
        subprocess.run(
            [os.environ.get("SHELL", "sh")], env={**os.environ, **jobs.variables, "REMOTERUN_HOME": f"{folder}/home"}
        )
        for job in jobs.jobs:
            print(f"{job.id} {job.type} {job.stage} ${job.bill(time.time()):.4f}", file=sys.stderr)


if __name__ == "__main__":
    main()
