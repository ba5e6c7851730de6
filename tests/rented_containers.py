"""A provider that is a program (`remoterun/clouds/command`): its hosts are containers of this machine, each with
processes, a root's home and a port of its own, whose first process is the start script.

    rented_containers.py FOLDER     a request on stdin, an answer on stdout

`FOLDER/ledger` says what was asked and what became of hosts, a JSON object a line. What a test puts there: `ends`
(server, host or client); `refuses TYPE` ("no capacity"); `hides` (seconds for which a new host is not listed); `stays`
(how many times a delete does nothing); `busy` (how many times a create, and each list, is refused for the moment);
`unlimited` (the limit is not kept); `bucket`, a folder (all hosts have it at /mnt); `says` (printed before the answer);
`odd` (more that are listed, in JSON); `now` (what its clock says, in JSON); `machine` (hosts are virtual machines: the
start script is a child of their first process, which nobody ends, and the password of their root is locked).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PRICE = 0.4
CONTAINER = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "sh", "-c"]
INSIDE = """mount --bind {0}/root /root; cp -a /etc/. {0}/etc; mount --bind {0}/etc /etc
[ ! -d /var/lib/cloud ] || mount --bind {0}/cloud /var/lib/cloud
[ ! -d {0}/../../bucket ] || mount --bind {0}/../../bucket /mnt
if [ -e {0}/../../machine ]; then
    sed -i 's/^root:[^:]*/root:!/' /etc/shadow; sh {0}/start & exec sleep 1000000
fi
exec sh {0}/start"""


class Containers:
    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "hosts").mkdir(parents=True, exist_ok=True)

    def said(self, name: str, usual: str = "") -> str:
        file = self.root / name
        return file.read_text().strip() if file.exists() else usual

    def note(self, **what: Any) -> None:
        with (self.root / "ledger").open("a") as ledger:
            ledger.write(json.dumps({"t": time.time(), **what}) + "\n")

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.note(asked=asked["do"], id=asked.get("id"), name=asked.get("name"))
        if asked["do"] in ("create", "hosts") and (left := int(self.said("busy", "0"))):
            (self.root / "busy").write_text(str(left - 1))
            return {"error": "429: try again later", "kind": "busy"}
        answers = {"hello": self.hello, "offers": self.offers, "create": self.create, "hosts": self.hosts}
        answers |= {"delete": self.delete, "identity": lambda _: {"name": "me@containers", "account": "me"}}
        answered = answers[asked["do"]](asked) if asked["do"] in answers else {"error": "what is that?"}
        return {**answered, "now": json.loads(self.said("now", repr(time.time())))}

    def hello(self, _: dict[str, Any]) -> dict[str, Any]:
        ends, folder = self.said("ends", "host"), {"folder": "/mnt"} if (self.root / "bucket").exists() else {}
        return {"version": 1, "ends": ends, "end": 'echo ended >"$TOLD"' if ends == "host" else "", **folder}

    def offers(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {
            "offers": [
                {"type": each, "region": "here", "price": PRICE} for each in asked["types"] if "no-such" not in each
            ]
        }

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        type = asked["offer"]["type"]
        if (self.root / f"refuses {type}").exists():
            return {"error": f"503: no {type} is free", "kind": "capacity"}
        folder = self.root / "hosts" / f"{time.time_ns() // 1000}"
        for name in ("root", "etc", "cloud"):
            (folder / name).mkdir(parents=True, mode=0o700)
        (folder / "start").write_text(asked["start"])
        if (ctl := self.root / "runpodctl").exists():
            (folder / "bin").mkdir()
            shutil.copy(ctl, folder / "bin")
            (folder / "bin" / "runpodctl").chmod(0o755)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        environment = {
            "PATH": f"{folder}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "RUNPOD_POD_ID": folder.name,
            "CONTAINER_ID": folder.name,
            "CONTAINER_API_KEY": f"key of {folder.name}",
            "HOME": "/root",
            "SSHD_PORT": str(port),
            "TOLD": f"{folder}/told",
        }
        command = [*CONTAINER, INSIDE.format(folder)]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        ends = time.time() + asked["seconds"] if self.said("ends") == "server" and not self.said("unlimited") else None
        about = {
            "id": folder.name,
            "name": asked["name"],
            "type": type,
            "region": "here",
            "price": PRICE,
            "began": time.time(),
        }
        about |= {"address": "127.0.0.1", "port": port, "ends": ends}
        (folder / "about.json").write_text(json.dumps({**about, "process": process.pid}))
        server = [sys.executable, __file__, "--server", str(folder)]
        subprocess.Popen(server, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
        self.note(made=folder.name, name=asked["name"])
        return {}

    def hosts(self, _: dict[str, Any]) -> dict[str, Any]:
        found = []
        for file in sorted((self.root / "hosts").glob("*/about.json")):
            about = json.loads(file.read_text())
            process = about.pop("process")
            if time.time() < about["began"] + float(self.said("hides", "0")):
                continue
            found.append({**about, "state": "running" if is_alive(process) else "gone"})
        return {"hosts": json.loads(self.said("odd", "[]")) + found}

    def delete(self, asked: dict[str, Any]) -> dict[str, Any]:
        left = int(self.said("stays", "0"))
        (self.root / "stays").write_text(str(max(left - 1, 0)))
        file = self.root / "hosts" / asked["id"] / "about.json"
        if not left and file.exists():
            end(json.loads(file.read_text())["process"])
            self.note(deleted=asked["id"])
        return {}


def end(process: int) -> None:
    if is_alive(process):
        os.killpg(process, signal.SIGKILL)


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" and b"start" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def serve(folder: Path) -> None:
    """What the provider itself does, whoever is there: it ends a host at its limit, or when that has asked for it."""
    about = json.loads((folder / "about.json").read_text())
    while is_alive(about["process"]):
        if (folder / "told").exists() or (about["ends"] is not None and time.time() > about["ends"]):
            end(about["process"])
        time.sleep(0.1)


def main() -> None:
    if sys.argv[1] == "--server":
        serve(Path(sys.argv[2]))
        return
    containers = Containers(Path(sys.argv[1]))
    print(containers.said("says"), end="")
    print(json.dumps(containers.answer(json.load(sys.stdin))))


if __name__ == "__main__":
    main()
