"""The providers in examples/providers: each is run, over a stand-in of its service whose hosts are containers."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from remoterun.clouds.base import Busy, Intent, NoCapacity, ProviderError
from remoterun.clouds.command.provider import ProgramProvider
from remoterun.config import Config
from remoterun.model import MachineType, Rental, new_key
from tests.published import Published
from tests.workshop import until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

HERE = Path(__file__).parents[1]
CONTAINERS = HERE / "rented_containers.py"
EXAMPLES = HERE.parent / "examples" / "providers"


class Api(BaseHTTPRequestHandler):
    """An HTTP API, as far as an example uses it, held against `published`. `key`: what its user has to send; `base`:
    the path before those of its endpoints; `ahead`: seconds that its clock is ahead of ours; `busy`: its status where
    it answers nothing else."""

    published: Published
    root: Path
    key, base, description = "Bearer secret", "", ""
    ahead, busy = 0.0, 0

    def do_GET(self) -> None:
        self.reply("GET")

    def do_POST(self) -> None:
        self.reply("POST")

    def do_PUT(self) -> None:
        self.reply("PUT")

    def do_DELETE(self) -> None:
        self.reply("DELETE")

    def reply(self, method: str) -> None:
        length = int(self.headers["Content-Length"] or 0)
        asked = json.loads(self.rfile.read(length)) if length else None
        if self.path.startswith("/about/"):  # on each host: no part of the API
            status, said = 200, self.path.split("/")[2]
        else:
            status, said = self.published.exchange(method, self.path, asked, lambda: self.answered(method, asked))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"" if said is None else said.encode() if isinstance(said, str) else json.dumps(said).encode())

    def answered(self, method: str, asked: Any) -> tuple[int, Any]:
        if self.busy:
            status, said = self.busy, self.refused("too_many_requests", "later", self.busy)
        elif not self.is_known(method):
            status, said = 401, self.refused("unauthorized", "who are you?", 401)
        else:
            status, said = self.asked(method, self.path.removeprefix(self.base), asked)
        return status, self.published.filled(method, self.path, status, said)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() + self.ahead)

    def refused(self, code: str, words: str, status: int) -> dict[str, Any]:
        raise NotImplementedError

    def is_known(self, method: str) -> bool:
        return self.headers["Authorization"] == self.key

    def asked(self, method: str, path: str, asked: Any) -> tuple[int, Any]:
        raise NotImplementedError

    def containers(self, do: str, **more: Any) -> Any:
        return containers(self.root, do, **more)

    def hosts(self) -> list[dict[str, Any]]:
        return [each for each in self.containers("hosts")["hosts"] if each["state"] != "gone"]

    def is_there(self, id: str) -> bool:
        return any(each["id"] == id for each in self.hosts())

    def log_message(self, *_: object) -> None:
        pass


def containers(root: Path, do: str, **more: Any) -> Any:
    words, asked = [sys.executable, str(CONTAINERS), str(root)], json.dumps({"do": do, **more})
    return json.loads(subprocess.run(words, input=asked, check=True, stdout=subprocess.PIPE, text=True).stdout)


class RunPod(Api):
    base, description = "/v2", "runpod-v2"

    def refused(self, code: str, words: str, status: int) -> dict[str, Any]:
        return {"title": code, "status": status, "detail": words}

    def asked(self, method: str, path: str, asked: Any) -> tuple[int, Any]:
        if path.startswith("/catalog/gpus"):
            about = {"name": "4090", "memory": 24, "secure": True, "price": {"secure": 0.69, "community": 0.3}}
            kinds = {"RTX 3090": "LOW", "RTX 4090": "HIGH", "none": "NONE"}
            return 200, {"gpus": [{"id": each, "availability": kinds[each], **about} for each in kinds]}
        if method == "POST":
            assert asked["ports"] == ["22/tcp"] and asked["image"] and asked["disk"] == 40
            start = f"export REMOTERUN_START={shlex.quote(asked['env']['REMOTERUN_START'])}\nexec {asked['args']}"
            order = {"name": asked["name"], "offer": {"type": asked["gpu"]["id"]}, "start": start}
            made = self.containers("create", **order, seconds=60)
            refused = self.refused("Bad Request", "create pod: no instances currently available", 400)
            return (400, refused) if "error" in made else (201, {"id": "made", "name": asked["name"]})
        if method == "DELETE":
            id = path.rpartition("/")[2]
            if not self.is_there(id):
                return 404, self.refused("Not Found", "The requested Pod does not exist.", 404)
            self.containers("delete", id=id)
            return 204, None
        return 200, {"pods": [self.pod(each) for each in self.hosts()]}

    def pod(self, host: dict[str, Any]) -> dict[str, Any]:
        began = f"{datetime.fromtimestamp(host['began'], UTC):%Y-%m-%dT%H:%M:%S}.144Z"
        pod = {"id": host["id"], "name": host["name"], "status": "RUNNING", "startedAt": began, "cost": 0.69}
        pod |= {"gpu": {"id": host["type"], "count": 1}}
        place = {"host": host["address"], "port": host["port"], "username": "root", "command": "ssh"}
        return pod | {"ssh": {"direct": place, "proxy": None}}


class Vast(Api):
    """Of each GPU it has one machine, whose number says which it is."""

    description = "vast"

    def refused(self, code: str, words: str, status: int) -> dict[str, Any]:
        return {"detail": words} if status == 429 else {"success": False, "error": code, "msg": words}

    def is_known(self, method: str) -> bool:
        inside = method == "DELETE" and self.headers["Authorization"] == f"Bearer key of {self.path.split('/')[4]}"
        return inside or super().is_known(method)

    def asked(self, method: str, path: str, asked: Any) -> tuple[int, Any]:
        if path == "/api/v0/users/current/":
            return 200, {"email": "me@vast"}
        if path == "/api/v0/bundles/":
            [name] = asked["gpu_name"]["in"]
            assert asked["order"][0] == ["dph_total", "asc"]
            ask = {"gpu_name": name, "gpu_ram": 24576, "dph_total": 0.69}
            return 200, {"offers": [{"id": int(name[4:]), **ask}] if name[:4] == "RTX " else []}
        if method == "PUT":
            assert len("".join(asked["args"])) <= 4096, "the longest that Vast takes, by its create_instance.yaml"
            assert asked["runtype"] == "args" and asked["args"][:2] == ["sh", "-c"] and asked["env"] == "-p 22:22"
            order = {"name": asked["label"], "offer": {"type": f"RTX {path.split('/')[4]}"}, "start": asked["args"][2]}
            made = self.containers("create", **order, seconds=60)
            refused = self.refused("no_such_ask", "error 410/3907: it is no longer available", 410)
            return (410, refused) if "error" in made else (200, {"success": True, "new_contract": 1})
        if method == "DELETE":
            id = path.split("/")[4]
            if not self.is_there(id):
                return 404, self.refused("not_found", "Instance not found", 404)
            self.containers("delete", id=id)
            return 200, {"success": True, "msg": "destroyed"}
        found = [self.instance(each) for each in self.hosts()]
        if "after_token" not in path:  # a page of none, and a second one
            return 200, {"instances": [], "next_token": "more"}
        return 200, {"instances": found, "next_token": None}

    def instance(self, host: dict[str, Any]) -> dict[str, Any]:
        box = {"id": int(host["id"]), "label": host["name"], "actual_status": "running", "gpu_name": host["type"]}
        ports = {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(host["port"])}]}
        return box | {"dph_total": 0.69, "start_date": host["began"], "ports": ports, "public_ipaddr": "127.0.0.1"}


class Hetzner(Api):
    """Its hosts are virtual machines, and know their number from the metadata."""

    base, description = "/v1", "hetzner"

    def refused(self, code: str, words: str, status: int) -> dict[str, Any]:
        return {"error": {"code": code, "message": words}}

    def asked(self, method: str, path: str, asked: Any) -> tuple[int, Any]:
        path, _, _ = path.partition("?")
        if path == "/pricing":
            return 200, {"pricing": {"currency": "EUR"}}
        if path == "/server_types":
            gross = {"sin": "9", "fsn1": "0.5"}
            prices = [{"location": each, "price_hourly": {"gross": gross[each], "net": "0"}} for each in gross]
            kinds = [{"name": each, "cores": 4, "memory": 8.0, "prices": prices} for each in ("RTX 3090", "RTX 4090")]
            return 200, self.page("server_types", kinds)
        if method == "POST":
            order = {"name": asked["name"], "offer": {"type": asked["server_type"]}, "start": asked["user_data"]}
            assert asked["location"] == "fsn1" and len(asked["user_data"]) < 32768
            made = self.containers("create", **order, seconds=60)
            refused = self.refused("resource_unavailable", "not now", 412)
            return (412, refused) if "error" in made else (201, {"server": {"name": asked["name"]}})
        if method == "DELETE":
            id = path.rpartition("/")[2]
            if not self.is_there(id):
                return 404, self.refused("not_found", "server with that ID not found", 404)
            self.containers("delete", id=id)
            return 200, {"action": {"command": "delete_server"}}
        return 200, self.page("servers", [self.server_of(each) for each in self.hosts()])

    def page(self, name: str, found: list[Any]) -> dict[str, Any]:
        return {name: found, "meta": {"pagination": {"next_page": None}}}

    def server_of(self, host: dict[str, Any]) -> dict[str, Any]:
        made = {"id": int(host["id"]), "name": host["name"], "status": "running", "server_type": {"name": host["type"]}}
        began = f"{datetime.fromtimestamp(host['began'], UTC):%Y-%m-%dT%H:%M:%SZ}"
        return made | {"created": began, "public_net": {"ipv4": {"ip": "127.0.0.1"}}}


def rent(tmp_path: Path, example: str, *types: str, **more: Any) -> tuple[ProgramProvider, MachineType]:
    rental = Rental("command", types, program=(str(EXAMPLES / f"{example}.py"),), **more)
    machine = MachineType("pod", rental=rental)
    return ProgramProvider(Config(tmp_path / "home", machines={"pod": machine})), machine


def intent(machine: MachineType, seconds: float) -> Intent:
    key = new_key()
    return Intent(f"rr-{key}-1", key, 7, 1, machine, time.time() + seconds, 600.0)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "cloud"
    root.mkdir()
    yield root
    for host in containers(root, "hosts")["hosts"]:
        containers(root, "delete", id=host["id"])


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])


RUNPODCTL = """#!/bin/sh
case "$*" in
"pod delete $RUNPOD_POD_ID") touch "$TOLD.first"; exit 1;;
"remove pod $RUNPOD_POD_ID") [ -e "$TOLD.first" ] && echo ended >"$TOLD";;
esac
"""
"""As that of July 2026 whose API v1 is switched off: `pod delete` asks that one, `remove pod` does not."""


@pytest.mark.parametrize("api", (RunPod, Vast, Hetzner))
def test_hosts_begin_and_end(api: type[Api], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api.root, name = root, api.__name__.lower()
    (root / "runpodctl").write_text(RUNPODCTL)
    (root / "refuses RTX 3090").touch()
    published = Published(api.description)
    monkeypatch.setattr(api, "published", published, raising=False)
    with published, ThreadingHTTPServer(("127.0.0.1", 0), api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        own = {"API": address + api.base, "API_KEY": "wrong", "TOKEN": "wrong", "DOLLARS": "1.38"}
        if api is Hetzner:
            (root / "machine").touch()
            own |= {"HOST_TOKEN": "secret", "METADATA": f"{address}/about/$CONTAINER_ID", "SSHD_PORT": free_port()}
        for variable, value in own.items():
            monkeypatch.setenv(f"{name.upper()}_{variable}", value)
        more = {"region": "fsn1"} if api is Hetzner else {}
        provider, machine = rent(tmp_path, name, "RTX 3090", "RTX 4090", "none", **more)
        with pytest.raises(ProviderError, match="401"):
            provider.identity()
        for variable in ("API_KEY", "TOKEN"):
            monkeypatch.setenv(f"{name.upper()}_{variable}", "secret")
        assert [(each.name, each.detail) for each in provider.checks(machine) if each.ok is False] == []
        offers = provider.offers(machine, True)
        assert [(each.type, each.price) for each in offers] == [("RTX 3090", 0.69), ("RTX 4090", 0.69)]
        assert machine.rental is not None
        vendor = provider.vendor_of(machine.rental)
        for busy in (429, 503):
            monkeypatch.setattr(api, "busy", busy)
            with pytest.raises(Busy, match=f"{busy}: .*later"):
                vendor.hosts()
        monkeypatch.setattr(api, "busy", 0)
        for ahead in (1200.0, -1200.0, 0.0):
            monkeypatch.setattr(api, "ahead", ahead)
            vendor.hosts()
            assert vendor.skew == pytest.approx(ahead, abs=5)
        vendor.delete("404")
        with pytest.raises(NoCapacity, match="RTX 3090"):
            provider.acquire(intent(machine, 60), offers[:1], lambda _: None)
        wanted = intent(machine, 10)
        host = provider.acquire(wanted, offers, lambda _: None)
        assert (host.offer.type, host.offer.price, host.alive, host.guarded) == ("RTX 4090", 0.69, True, False)
        until(lambda: not provider.hosts(), 60)
        assert time.time() >= wanted.deadline, "the host has had itself ended"
        again = provider.acquire(intent(machine, 600), offers, lambda _: None)
        provider.release(again)
        assert provider.hosts() == []
        server.shutdown()


COLAB = """#!{python}
import json, os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tests.cloud.test_example_providers import containers
root, words = Path({root!r}), sys.argv[1:]
name = words[words.index("-s") + 1] if "-s" in words else ""
made = root / "sessions" / name
if words[0] == "new":
    kind = words[4] if "--gpu" in words else "CPU"
    if (root / f"refuses {{kind}}").exists():
        sys.exit("[colab] Backend rejected accelerator")
    made.parent.mkdir(exist_ok=True)
    made.write_text(kind)
elif words[0] == "exec":
    (code := root / f"{{name}}.py").write_text(sys.stdin.read())
    start = f"python3 {{code}}; exec sleep 1000000"
    containers(root, "create", name=name, offer={{"type": made.read_text()}}, start=start, seconds=60)
elif words[0] == "sessions":
    for host in containers(root, "hosts")["hosts"]:
        if host["state"] == "running":
            print(f"[{{host['name']}}] gpu-s-1 | Hardware: {{host['type']}} | Variant: GPU")
elif words[0] == "stop":
    [containers(root, "delete", id=each["id"]) for each in containers(root, "hosts")["hosts"] if each["name"] == name]
elif words[0] == "whoami":
    print("Auth provider: adc\\nEmail:         me@colab")
elif words[:2] == ["ssh", "--proxy-mode"]:
    key = words[words.index("-i") + 1]
    own = [f"-oHostKey={{root}}/key", f"-oAuthorizedKeysFile={{key}}.pub", "-oUsePAM=no", "-oStrictModes=no"]
    os.execv("/usr/sbin/sshd", ["/usr/sbin/sshd", "-i", "-f", "/dev/null", *own])
"""


def test_a_session_of_colab(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("key", "mine"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / name)], check=True)
    (tmp_path / "bin").mkdir()
    colab = tmp_path / "bin" / "colab"
    colab.write_text(COLAB.format(python=sys.executable, tests=str(HERE.parent), root=str(root)))
    colab.chmod(0o755)
    monkeypatch.setenv("PATH", f"{colab.parent}:/usr/sbin:/usr/bin:/bin")
    monkeypatch.setenv("COLAB_KEY", str(root / "mine"))
    monkeypatch.setenv("COLAB_SSHD_PORT", free_port())
    (root / "refuses L4").touch()
    provider, machine = rent(tmp_path, "colab", "L4", "T4", "none", it_may_run_on=True)
    assert provider.identity().name == "me@colab"
    assert [each.detail for each in provider.checks(machine) if each.ok is False] == []
    offers = provider.offers(machine, True)
    assert [(each.type, each.price, each.unpriced) for each in offers] == [
        ("L4", None, "Colab bills compute units"),
        ("T4", None, "Colab bills compute units"),
    ]
    host = provider.acquire(intent(machine, 600), offers, lambda _: None)
    assert (host.offer.type, host.alive, host.guarded) == ("T4", True, False)
    provider.release(host)
    assert provider.hosts() == []
