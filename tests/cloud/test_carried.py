"""What this machine carries to the archive: over a slow line, to a full disk, and from a host that means ill."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Never

import pytest

from remoterun.agent.shared.frames import PIECE
from remoterun.agent.shared.protocol import Cancelled, LinkClosed, Stream
from remoterun.client import Client
from remoterun.clouds.ledger import carrying
from remoterun.errors import AgentError
from remoterun.model import Renting
from remoterun.ui.hub import Hub
from tests.cloud.renters import own_program
from tests.e2e.conftest import Place, make_place
from tests.hostile import client_of
from tests.lab.relay import Relay
from tests.workshop import until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

WAITS = "until [ -e go ]; do sleep 0.1; done; "


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Without a bucket, and with `pod`."""
    made = make_place(tmp_path)
    own_program(made, tmp_path / "cloud")
    return made


def begun(place: Place, root: Path, command: str) -> Path:
    """The folder of a run on its host, whose command has begun and waits for a file `go` in `work`."""
    place.run("run", "-t", "pod", "-y", "--no-git", "-b", WAITS + command)
    until(lambda: place.newest()["state"] == "running")
    (folder,) = (root / "cloud" / "hosts").glob("*/root/.remoterun/runs/*")
    return folder


def ended(place: Place) -> None:
    until(lambda: place.newest()["state"] == "complete", 60)
    until(lambda: place.json("machines", "rented") == [], 60)


def test_a_slow_line_with_a_cut_loses_nothing(place: Place, tmp_path: Path) -> None:
    """2 Mbit/s and 300 ms: the outputs need longer than a host waits for a client that is gone."""
    folder = begun(place, tmp_path, "head -c 3000000 /dev/urandom >big; sha256sum big")
    (about,) = (tmp_path / "cloud" / "hosts").glob("*/about.json")
    known = json.loads(about.read_text())
    packs = tmp_path / "home" / "archive" / "runs" / folder.name / "packs"
    with Relay("127.0.0.1", known["port"], rtt=0.3, rate=2e6) as relay:
        about.write_text(json.dumps({**known, "port": relay.port}))
        place.run("machines", "rented")
        (folder / "work" / "go").touch()
        terminal = place.spawn("logs", "1")
        (pack,) = until(lambda: [*(folder / "outgoing").glob("runs/*/packs/*[!p]")], 60)
        until(lambda: (folder / "outgoing").stat().st_mtime > pack.stat().st_mtime, 30, "a client has begun to take it")
        relay.sever()
        until(lambda: [*packs.glob("*")], 120)
        terminal.expect("big")
        terminal.wait()
    about.write_text(json.dumps(known))
    ended(place)
    events = place.json("info", "1")["events"]
    assert not [event for event in events if "not fetched" in event.get("message", "")]
    place.run("cp", "runs/1/big", "big")
    assert hashlib.sha256((place.folder / "big").read_bytes()).hexdigest() in place.run("logs", "1").stdout


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m,mode=700", "small", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def broken(*_: object) -> Never:
    raise ValueError("embedded null byte")


def test_a_full_disk_is_said_and_loses_nothing(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "nas") as disk:
        with (tmp_path / "home" / "config.toml").open("a") as settings:
            settings.write(f'\n[archive]\nbucket = "file://{disk}"\n')
        words = ("run", "-t", "pod", "-y", "--no-git", "head -c 20000000 /dev/urandom >big; sha256sum big")
        terminal = place.spawn(*words)
        terminal.expect("can't be fetched: the disk that holds", timeout=60)
        with place.spawn("logs", "1") as other:
            other.expect(r"make\s+room\s+there", timeout=60)
        assert "make room there" in place.newest()["note"]
        monkeypatch.setenv("REMOTERUN_HOME", str(tmp_path / "home"))
        with Client() as client:
            hub = Hub(client)

            def shown(name: str) -> str:
                hub.changes(hub.version, 1.0)
                return str(json.loads(hub.rows(1)[0][0])[name])

            until(lambda: "make room there" in shown("note"), 60)
            monkeypatch.setattr(type(client.runs), "again", broken)
            until(lambda: "embedded null byte" in shown("unreached"))
            monkeypatch.undo()
            until(lambda: shown("unreached") == "None" and "make room there" in shown("note"), 60)
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        terminal.expect("complete")
        terminal.wait()
        ended(place)
        place.run("cp", "runs/1/big", "big")
        assert hashlib.sha256((place.folder / "big").read_bytes()).hexdigest() in place.run("logs", "1").stdout
    for again in (("run", "-t", "pod", "-y", "--no-git", "true"), ("ls", "runs/1"), ("machines", "gc", "archive")):
        assert "is not there: `remoterun.json` is missing" in place.run(*again, status=None).stderr
    assert not [*disk.iterdir()]


LEFT = (("a\udcff", 5), ("spec.json", 5), ("log/1", 5), (f"packs/{'0' * 64}", 34_000_000))
"""What no host leaves of a run: the key of an object, and its size."""


@pytest.mark.parametrize(("name", "size"), LEFT)
def test_what_a_host_may_not_leave_is_refused(tmp_path: Path, name: str, size: int) -> None:
    def take(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
        with contextlib.suppress(LinkClosed, Cancelled):
            for at in range(0, size, PIECE):
                stream.send(bytes(min(size - at, PIECE)), object=f"runs/{'a' * 26}/{name}", file="x.1")
            stream.send(object=f"runs/{'a' * 26}/{name}", file="x.1")
            stream.end()

    with client_of(tmp_path, take) as client:
        registry, (session,) = client.connections.registry, client.connections._sessions.values()
        registry.save_renting(registry.run(1), Renting(time.time() + 600, bucket=f"file://{tmp_path}/archive"))
        run = registry.run(1)
        (tmp_path / "home" / "hosts").mkdir()
        with pytest.raises(AgentError, match="which is no object of run 1"):
            carrying.carry(client.connections, run, session, lambda: False)
        assert "which is no object of run 1" in carrying.why_not(client.connections, run)
    assert not [*(tmp_path / "archive").glob("runs/*")]


def test_what_a_command_puts_beside_its_objects_is_left_there(place: Place, tmp_path: Path) -> None:
    folder = begun(place, tmp_path, "echo made >result")
    left = folder / "outgoing" / "runs" / folder.name
    for name, size in LEFT:
        file = left / f"{name}.1"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        os.truncate(file, size)
    (left / "outputs.1").symlink_to("/etc/passwd")
    os.mkfifo(left / "status.json.1")
    assert place.json("ps")[0]["note"] is None
    (folder / "work" / "go").touch()
    place.run("wait", "1")
    place.run("cp", "runs/1/result", "result")
