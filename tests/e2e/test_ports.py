"""`jupyter`, `tensorboard` and `forward` as a person uses them, with the real servers."""

from __future__ import annotations

import contextlib
import json
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.browser import Tab
from tests.e2e.conftest import Place
from tests.e2e.said import talk
from tests.workshop import command_line, pids, until

pytestmark = pytest.mark.timeout(600)

PACKAGES = ("--framework", "python", "--pip", "tensorboard")
"""Those that `tensorboard` asks for: one environment for all of this file's runs of it."""
COOKIES = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Set-Cookie", "a=b")
        self.end_headers()
        self.wfile.write(str(self.headers["Cookie"]).encode())

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
print("listens at", server.server_port, flush=True)
server.serve_forever()
"""
EVENTS = """
import sys, time
from tensorboard.summary import Writer
writer = Writer("logs")
for step in range(1000 if len(sys.argv) > 1 else 5):
    writer.add_scalar("loss", 1 / (step + 1), step)
    if step >= 4:
        writer.flush()
        print("written", flush=True)
        time.sleep(0.5)
writer.close()
"""


def get(address: str, path: str, token: str | None = None, body: Any = None) -> Any:
    headers = {"Authorization": f"token {token}"} if token else {}
    data = None if body is None else json.dumps(body).encode()
    headers["Host"] = urlsplit(address).netloc  # as a browser says it, which finds this machine under that name
    here = re.sub("run-[0-9]+.localhost", "127.0.0.1", address + path)
    request = urllib.request.Request(here, data, headers, method="GET" if data is None else "PUT")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def address_of(terminal: Any) -> str:
    terminal.expect(r"http://run-\d+\.localhost:\d+[^ \r\n]*(?= |\r)")
    return str(terminal.match.group(0))


def interrupted(terminal: Any, status: int) -> str:
    """What it says after ^C."""
    terminal.sendintr()
    return talk(terminal, status=status)


def test_the_page_of_a_run_gets_no_cookies_of_this_machine(plain: Place, tab: Tab) -> None:
    (plain.folder / "page.py").write_text(COOKIES)
    plain.run("run", "-b", "-y", "python3 page.py")
    plain.follow_until("1", "listens at")
    port = plain.run("logs", "1", "-n", "1", "--no-follow").stdout.split()[-1]
    terminal = plain.spawn("forward", "1", port)
    here, there = f"http://127.0.0.1:{port}", address_of(terminal)  # its network is that of this machine
    for address, cookies in [(here, "None"), (here, "a=b"), (there, "None"), (there, "a=b"), (here, "a=b")]:
        tab.page.goto(address)
        assert tab.page.inner_text("body") == cookies, address
    interrupted(terminal, 0)
    plain.run("kill", "1")


def holding(folder: Path, text: str) -> list[Path]:
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and "envs" not in path.parts:
            with contextlib.suppress(FileNotFoundError):  # it was written beside another one, and took its place
                if text.encode() in path.read_bytes():
                    found.append(path.relative_to(folder))
    return found


def test_notebooks(plain: Place) -> None:
    terminal = plain.spawn("jupyter", "-y", "--no-browser")
    shown = address_of(terminal)
    address, token = re.fullmatch(r"(http://run-1\.localhost:\d+)/lab\?token=(\S+)", shown).groups()  # type: ignore[union-attr]
    with pytest.raises(urllib.error.HTTPError, match="403") as caught:
        get(address, "/api/contents")
    caught.value.close()
    assert [item["path"] for item in get(address, "/api/contents", token)["content"]] == ["notes.txt"]
    with pytest.raises(urllib.error.HTTPError, match="403") as caught:
        get(address.replace("run-1", "run-2"), "/api/contents", token)
    caught.value.close()
    notebook = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    get(address, "/api/contents/try.ipynb", token, {"type": "notebook", "content": notebook})
    home = Path(plain.env["REMOTERUN_HOME"])
    (file,) = holding(home, token)
    assert file.parent == Path("tokens") and (home / file).stat().st_mode & 0o777 == 0o600
    assert not any(token.encode() in word for pid in pids() for word in command_line(pid))
    said = interrupted(terminal, 130)
    assert "goes on" in said and "remoterun forward 1 " in said
    terminal = plain.spawn("forward", "1")
    assert address_of(terminal) == shown
    get(address, "/api/status", token)
    interrupted(terminal, 0)
    plain.run("stop", "1")
    plain.run("wait", "1", status=None)
    assert "try.ipynb" in plain.run("ls", "-r", "runs/1").stdout
    plain.run("rm", "runs/1")
    assert holding(home, token) == []


def test_tensorboard(plain: Place) -> None:
    (plain.folder / "events.py").write_text(EVENTS)
    for number in ("1", "2"):
        plain.run("run", "-b", "-y", *PACKAGES, f"python events.py live {number}")
        plain.follow_until(number, "written")
    terminal = plain.spawn("tensorboard", "1", "--no-browser")  # inside the run
    address = address_of(terminal)
    assert until(lambda: get(address, "/data/runs")) == ["logs"]
    interrupted(terminal, 0)
    assert [run["number"] for run in plain.json("ps")] == [1, 2]
    terminal = plain.spawn("tensorboard", "1", "last", "--no-browser")  # beside both of them, which have all slots
    address = address_of(terminal)
    both = ["runs/1/logs", "runs/2/logs"]
    until(lambda: get(address, "/data/runs") == both)
    before = [len(points(address, name)) for name in both]
    until(lambda: all(len(points(address, name)) > count for name, count in zip(both, before, strict=True)))
    plain.run("stop", "1")  # what has ended is still shown
    plain.run("wait", "1", status=None)
    plain.run("cp", "runs/1/logs", "saved")
    until(lambda: len(points(address, both[0])) == scalars(plain.folder / "saved"))
    interrupted(terminal, 0)
    assert [run["number"] for run in plain.json("ps", "-a")] == [1, 2]  # nothing is left
    (plain.folder / "plain").mkdir()
    (plain.folder / "plain" / "notes").write_text("none")
    plain.run("upload", "plain")
    assert "holds no logs" in plain.run("tensorboard", "uploads/plain", "2", status=2).stderr
    assert "there is no" in plain.run("tensorboard", "runs/1/logz", status=None).stderr
    assert [run["number"] for run in plain.json("ps", "-a")] == [1, 2]
    terminal = plain.spawn("tensorboard", "1", "runs/last/logs", "--no-browser")  # one that has ended, one that goes on
    address = address_of(terminal)
    until(lambda: get(address, "/data/runs") == both)
    before_now = len(points(address, both[1]))
    until(lambda: len(points(address, both[1])) > before_now)
    interrupted(terminal, 0)
    plain.run("stop", "2")


def points(address: str, run: str) -> list[Any]:
    """The steps of a run that TensorBoard shows."""
    try:
        return list(get(address, f"/data/plugin/scalars/scalars?tag=loss&run={quote(run, safe='')}"))
    except urllib.error.HTTPError as error:  # it has not read any yet
        error.close()
        return []


def scalars(folder: Path) -> int:
    """How many values the events in a folder hold."""
    return sum(path.read_bytes().count(b"loss") for path in folder.glob("*tfevents*"))
