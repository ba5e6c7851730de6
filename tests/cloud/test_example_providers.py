"""The providers in examples/providers: each is run, over a stand-in of its service whose hosts are containers."""

from __future__ import annotations

import json
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

from remoterun.clouds.base import Intent, NoCapacity, ProviderError
from remoterun.clouds.command.provider import ProgramProvider
from remoterun.config import Config
from remoterun.model import MachineType, Rental, new_key
from tests.workshop import until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

HERE = Path(__file__).parents[1]
CONTAINERS = HERE / "rented_containers.py"
EXAMPLES = HERE.parent / "examples" / "providers"


class Api(BaseHTTPRequestHandler):
    """An HTTP API, as far as an example uses it. `key`: what its user has to send."""

    root: Path
    key = "Bearer secret"

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
        status, said = self.asked(method, self.path, asked) if self.is_known(method) else (401, "who are you?")
        self.send_response(status)
        self.end_headers()
        self.wfile.write(said.encode() if isinstance(said, str) else json.dumps(said).encode())

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
    def asked(self, method: str, path: str, asked: Any) -> tuple[int, Any]:
        if path == "/graphql":
            about = {"displayName": "4090", "memoryInGb": 24, "lowestPrice": {"uninterruptablePrice": 0.69}}
            return 200, {"data": {"gpuTypes": [{"id": each, **about} for each in ("RTX 3090", "RTX 4090")]}}
        if method == "POST":
            assert asked["ports"] == ["22/tcp"] and asked["dockerStartCmd"][:2] == ["sh", "-c"]
            order = {"name": asked["name"], "offer": {"type": asked["gpuTypeIds"][0]}}
            made = self.containers("create", **order, start=asked["dockerStartCmd"][2], seconds=60)
            return (500, "There are no instances currently available") if "error" in made else (200, {"id": "made"})
        if method == "DELETE":
            id = path.rpartition("/")[2]
            return (200, self.containers("delete", id=id)) if self.is_there(id) else (404, "pod not found")
        return 200, [self.pod(each) for each in self.hosts()]

    def pod(self, host: dict[str, Any]) -> dict[str, Any]:
        began = f"{datetime.fromtimestamp(host['began'], UTC):%Y-%m-%d %H:%M:%S}.144 +0000 UTC"
        pod = {"id": host["id"], "name": host["name"], "desiredStatus": "RUNNING", "lastStartedAt": began}
        pod |= {"costPerHr": "0.69", "machine": {"gpuTypeId": host["type"]}}
        return pod | {"publicIp": host["address"], "portMappings": {"22": host["port"]}}


class Vast(Api):
    """Of each GPU it has one machine, whose number says which it is."""

    def is_known(self, method: str) -> bool:
        inside = method == "DELETE" and self.headers["Authorization"] == f"Bearer key of {self.path.split('/')[4]}"
        return inside or super().is_known(method)

    def asked(self, method: str, path: str, asked: Any) -> tuple[int, Any]:
        if path == "/api/v0/users/current/":
            return 200, {"email": "me@vast"}
        if path == "/api/v0/bundles/":
            name = asked["gpu_name"]["eq"]
            assert asked["type"] == "on-demand" and asked["order"] == [["dph_total", "asc"]]
            ask = {"gpu_name": name, "gpu_ram": 24576, "dph_total": 0.69}
            return 200, {"success": True, "offers": [{"id": int(name[4:]), **ask}] if name[:4] == "RTX " else []}
        if method == "PUT":
            assert asked["runtype"] == "args" and asked["args"][:2] == ["sh", "-c"] and "-p 22:22" in asked["env"]
            order = {"name": asked["label"], "offer": {"type": f"RTX {path.split('/')[4]}"}, "start": asked["args"][2]}
            made = self.containers("create", **order, seconds=60)
            return (410, '{"error": "no_such_ask"}') if "error" in made else (200, {"new_contract": 1})
        if method == "DELETE":
            id = path.split("/")[4]
            return (200, self.containers("delete", id=id)) if self.is_there(id) else (404, "no_such_instance")
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

    def is_known(self, method: str) -> bool:
        return self.path.startswith("/about/") or super().is_known(method)

    def asked(self, method: str, path: str, asked: Any) -> tuple[int, Any]:
        path, _, _ = path.partition("?")
        if path.startswith("/about/"):
            return 200, path.split("/")[2]
        if path == "/pricing":
            return 200, {"pricing": {"currency": "EUR"}}
        if path == "/server_types":
            gross = {"sin": "9", "fsn1": "0.5"}
            prices = [{"location": each, "price_hourly": {"gross": gross[each]}} for each in gross]
            kinds = [{"name": each, "cores": 4, "memory": 8.0, "prices": prices} for each in ("RTX 3090", "RTX 4090")]
            return 200, self.page("server_types", kinds)
        if method == "POST":
            order = {"name": asked["name"], "offer": {"type": asked["server_type"]}, "start": asked["user_data"]}
            assert asked["location"] == "fsn1" and len(asked["user_data"]) < 32768
            made = self.containers("create", **order, seconds=60)
            refused = {"error": {"code": "resource_unavailable", "message": "not now"}}
            return (422, refused) if "error" in made else (201, {"server": {}})
        if method == "DELETE":
            id = path.rpartition("/")[2]
            refused = {"error": {"code": "not_found"}}
            return (200, self.containers("delete", id=id)) if self.is_there(id) else (404, refused)
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
[ "$*" = "remove pod $RUNPOD_POD_ID" ] && echo ended >"$TOLD"
"""


@pytest.mark.parametrize("api", (RunPod, Vast, Hetzner))
def test_hosts_begin_and_end(api: type[Api], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api.root, name = root, api.__name__.lower()
    (root / "runpodctl").write_text(RUNPODCTL)
    (root / "refuses RTX 3090").touch()
    with ThreadingHTTPServer(("127.0.0.1", 0), api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        own = {"API": address, "PRICES": f"{address}/graphql", "API_KEY": "wrong", "TOKEN": "wrong", "DOLLARS": "1.38"}
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
