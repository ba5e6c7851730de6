"""The server of the page of runs: who gets anything, what of a run reaches a browser and how, and its stream."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import eq
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from remoterun.agent.shared.states import RunState
from remoterun.client import Client
from remoterun.model import MachineType, RunRequest, new_key
from remoterun.registry import Registry
from remoterun.ui import hub
from remoterun.ui.hub import EVERY
from remoterun.ui.page import RunsPage
from remoterun.ui.stream import MOST_BEHIND
from tests.models import write_model
from tests.webhook_server import WebhookServer
from tests.workshop import NOBODY, User, command_line, pids, until

PRIVATE = "nobody's business"
WAITS = "echo up; until [ -e {go} ]; do sleep 0.02; done"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@contextmanager
def serving(page: RunsPage) -> Iterator[RunsPage]:
    thread = threading.Thread(target=page.serve)
    thread.start()
    try:
        yield page
    finally:
        page.close()
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def page(user: User, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunsPage]:
    """It has a client of its own, as `remoterun ui` has. Machines have the time that they need to answer, here, where
    each begins with a new agent."""
    monkeypatch.setattr("remoterun.ui.page.WAIT", 60.0)
    with Client(user.config) as client, serving(RunsPage(client)) as page:
        yield page


def request(page: RunsPage, path: str, method: str = "GET", body: Any = None, **headers: str) -> Answer:
    """`path`: all of it."""
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=60)
    try:
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): text for name, text in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def get(page: RunsPage, path: str, **headers: str) -> Answer:
    return request(page, f"/{page.token}/{path}", **headers)


def post(page: RunsPage, path: str, body: Any, **changed: str) -> Answer:
    headers = {"X_Remoterun": "1", "Origin": f"http://127.0.0.1:{page.port}", **changed}
    given = {name: text for name, text in headers.items() if text}
    return request(page, f"/{page.token}/api/{path}", "POST", body, **given)


def started(user: User, command: str, files: dict[str, Any] | None = None) -> int:
    return user.client.runs.submit(RunRequest(command), user.source(files or {"notes": b"x"})).number


def ended(user: User, command: str, files: dict[str, Any] | None = None) -> int:
    number = started(user, command, files)
    until(lambda: user.client.runs.get(number).final)
    return number


class Events:
    """One stream of events, read on a thread."""

    def __init__(self, page: RunsPage, query: str = "", last: str = "", paused: bool = False) -> None:
        headers = {"Last-Event-ID": last} if last else {}
        self._connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=120)
        self._connection.request("GET", f"/{page.token}/events?{query}", headers=headers)
        self.answer = self._connection.getresponse()
        self.came: list[tuple[str, Any, str, float]] = []
        """(kind, data, id, when)."""
        self.ended = False
        self.text = ""
        if not paused:
            self.read()

    def read(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        fields: dict[str, str] = {}
        try:
            while line := self.answer.readline():
                text = line.decode().rstrip("\n")
                self.text += text + "\n"
                if text:
                    name, _, value = text.partition(": ")
                    fields[name] = value
                elif "event" in fields:
                    self.came.append((fields["event"], json.loads(fields["data"]), fields.get("id", ""), time.time()))
                    fields = {}
        except (OSError, ValueError, AttributeError):
            pass
        self.ended = True

    def of(self, kind: str) -> list[Any]:
        return [data for each, data, _, _ in self.came if each == kind]

    @property
    def last(self) -> str:
        return self.came[-1][2]

    @property
    def log(self) -> str:
        return "".join(data.get("text", "") for data in self.of("log"))

    def close(self) -> None:
        if self.answer.fp is not None and self._connection.sock is not None:
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        until(lambda: self.ended)
        self._connection.close()


@pytest.fixture
def events(page: RunsPage) -> Iterator[Callable[..., Events]]:
    opened: list[Events] = []

    def begin(query: str = "", last: str = "", paused: bool = False) -> Events:
        opened.append(Events(page, query, last, paused))
        return opened[-1]

    yield begin
    for each in opened:
        each.close()


class TestWhoGetsAnything:
    def test_nobody_without_the_token(self, page: RunsPage) -> None:
        word, needed = (
            page.token,
            b"the whole address is needed that `remoterun ui` printed; one that ended is no longer good\n",
        )
        assert len(word) >= 22
        for path in ("", "api/runs", "static/main.js", "events", "api/machines", "model/index.html"):
            for wrong in ("", f"{word[:-1]}/", f"{word}x/", f"x/../{word}x/", "%FF/", f"{'x' * len(word)}/"):
                answer = request(page, f"/{wrong}{path}")
                assert (answer.status, answer.body) == (403, needed), wrong + path

    def test_a_name_that_its_owner_points_here_gets_nothing(self, page: RunsPage) -> None:
        port = page.port
        evil = (f"evil.example:{port}", "evil.example", f"127.0.0.1.evil.example:{port}", f"run-1.localhost:{port}")
        for host in (*evil, f"127.0.0.1:{port}, evil.example"):
            assert get(page, "api/runs", Host=host).status == 421, host
        for host in (f"localhost:{port}", "localhost:1", "127.0.0.1", f"[::1]:{port}"):
            assert get(page, "api/runs", Host=host).status == 200, host

    def test_only_the_page_itself_changes_anything(self, user: User, page: RunsPage) -> None:
        number = user.client.connections.registry.add_run(new_key(), MachineType("one"), "true", 1.0).number
        for changed in (
            *({"Origin": origin} for origin in ("http://evil.example", "http://127.0.0.1:1", "null", "")),
            *({"X_Remoterun": word} for word in ("", "0")),
        ):
            answer = post(page, f"runs/{number}/remark", {"text": "x"}, **changed)
            assert (answer.status, answer.body) == (403, b"only the page itself may do that\n"), changed
            assert user.client.connections.registry.run(number).remark == ""
        assert post(page, f"runs/{number}/remark", {"text": "x"}).json["row"]["remark"] == "x"

    def test_other_requests(self, page: RunsPage) -> None:
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
            assert request(page, f"/{page.token}/api/runs", method).status == 405
        assert get(page, "api/runs/1/stop").status in (404, 405)
        assert post(page, "runs/1/stop", {"grace": "x" * 200_000}).status == 413
        assert post(page, "runs/1/nonsense", {}).status == 404

    def test_what_every_answer_has(self, user: User, page: RunsPage) -> None:
        user.client.connections.registry.add_run(new_key(), MachineType("one"), "true", 1.0)
        for path in ("", "runs/1", "static/index.html", "api/runs", "api/runs/7", "nothing", "static/nothing"):
            headers = get(page, path).headers
            assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
            assert headers["cache-control"] == ("no-cache" if path == "static/index.html" else "no-store"), path
        again = get(page, "static/index.html", If_None_Match=get(page, "static/index.html").headers["etag"])
        assert again.status == 304 and again.body == b""

    def test_each_view_is_the_page_below_its_token(self, page: RunsPage) -> None:
        for view in ("", "runs/16", "runs/last", "compare/3,4", "machines", "uploads", "uploads/a%20b"):
            answer = get(page, view)
            assert answer.headers["content-type"] == "text/html; charset=utf-8", view
            assert f'<base href="/{page.token}/" />'.encode() in answer.body, view

    def test_no_way_out_of_the_files_of_the_page(self, page: RunsPage) -> None:
        for path in ("../page.py", "%2e%2e/page.py", "..%2fpage.py", "/etc/passwd", "%00"):
            answer = get(page, f"static/{path}")
            assert answer.status == 404 and b"RunsPage" not in answer.body, path

    def test_a_bad_request_is_refused_quietly(self, page: RunsPage, capfd: pytest.CaptureFixture[str]) -> None:
        lines = (b"GET", b"\0\0\0", b"GET / HTTP/9.9", b"GET http://[ HTTP/1.1", b"GET //[/page.js HTTP/1.1")
        for line in (*lines, b"GET /%5B HTTP/1.1"):
            with socket.create_connection(("127.0.0.1", page.port), timeout=60) as connection:
                connection.sendall(line + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                assert b"".join(iter(lambda: connection.recv(4096), b"")).split()[1] in (b"400", b"403", b"505")
        for body in ([], "x", None, {"on": {}}, {"grace": []}):
            assert post(page, "runs/1/pin", body).status in (400, 404)
        deep = "[" * 90_000
        headers = {"X-Remoterun": "1", "Origin": f"http://127.0.0.1:{page.port}"}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", page.port, timeout=60)) as sent:
            sent.request("POST", f"/{page.token}/api/runs/1/pin", deep, headers)
            assert sent.getresponse().status == 400
        assert capfd.readouterr() == ("", "")


class TestFilesOfRuns:
    HOSTILE = {
        "page.html": b"<script>alert(1)</script>",
        "shape.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        "shot.PNG": b"\x89PNG",
        "notes.txt": b"<script>alert(1)</script>",
        "doc.xhtml": b"<html/>",
        "a b/é?#%.js": b"alert(1)",
        "sound.wav": b"RIFF",
        "two\nlines\n": b"alert(1)",
    }

    def test_nothing_of_them_runs_in_the_browser(self, user: User, page: RunsPage) -> None:
        number = ended(user, "mkdir out; cp -r in/. out", {f"in/{name}": text for name, text in self.HOSTILE.items()})
        listed = get(page, f"api/runs/{number}/files").json
        assert {file["path"] for file in listed["files"]} == {f"out/{name}" for name in self.HOSTILE}
        assert not listed["live"] and not listed["more"]
        shown = {}
        for name, text in self.HOSTILE.items():
            path = quote(f"out/{name}")
            answer = get(page, f"api/runs/{number}/file/{path}")
            assert (answer.status, answer.body) == (200, text), name
            assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
            assert answer.headers["x-content-type-options"] == "nosniff"
            shown[name] = (answer.headers["content-type"], answer.headers["content-disposition"].partition(";")[0])
            assert (
                get(page, f"api/runs/{number}/file/{path}?download=1").headers["content-disposition"].startswith("att")
            )
        assert shown == {
            "page.html": ("application/octet-stream", "attachment"),
            "shape.svg": ("image/svg+xml", "inline"),
            "shot.PNG": ("image/png", "inline"),
            "notes.txt": ("text/plain; charset=utf-8", "inline"),
            "doc.xhtml": ("application/octet-stream", "attachment"),
            "a b/é?#%.js": ("application/octet-stream", "attachment"),
            "sound.wav": ("audio/wav", "inline"),
            "two\nlines\n": ("application/octet-stream", "attachment"),
        }
        part = get(page, f"api/runs/{number}/file/out/sound.wav", Range="bytes=1-2")
        assert (part.status, part.body) == (206, b"IF")

    def test_no_way_out(self, user: User, page: RunsPage, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text(PRIVATE)
        go = tmp_path / "go"
        number = started(user, f"mkdir out; echo 1 >out/notes; ln -s {tmp_path}/secret out/link; {WAITS.format(go=go)}")
        until(lambda: get(page, f"api/runs/{number}/file/out/notes").status == 200)
        out = ["../notes", "%2e%2e/%2e%2e/secret", "..%2f..%2fsecret", "out/../../secret", "/etc/passwd", "out/link"]
        for path in (*out, "out//notes", "out/%00", "out", "", "*", "out/*"):
            answer = get(page, f"api/runs/{number}/file/{path}")
            assert answer.status in (400, 404, 502) and PRIVATE.encode() not in answer.body, path
        go.touch()

    def test_files_of_a_run_that_goes_on_and_its_diary(self, user: User, page: RunsPage, tmp_path: Path) -> None:
        go = tmp_path / "go"
        number = started(user, f"for n in 1 2; do echo $n >sample-step-$n.txt; done; {WAITS.format(go=go)}")
        until(lambda: b"sample-step-2" in get(page, f"api/runs/{number}/files").body)
        listed = get(page, f"api/runs/{number}/files").json
        assert listed["live"] and listed["diary"] == [
            {
                "name": "sample-step-*.txt",
                "kind": "text",
                "unit": "step",
                "steps": [{"step": n, "path": f"sample-step-{n}.txt"} for n in (1, 2)],
            }
        ]
        work = Path(user.place("one").run(user.client.connections.registry.run(number).key).work)
        assert get(page, f"api/runs/{number}/file/sample-step-1.txt").body == b"1\n"
        (work / "sample-step-1.txt").write_text("other")
        assert get(page, f"api/runs/{number}/file/sample-step-1.txt").body == b"other"
        go.touch()

    def test_few_copies_of_files_are_kept(
        self, user: User, page: RunsPage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Of a run that goes on each answer is a new copy."""
        monkeypatch.setattr("remoterun.ui.page.MOST_KEPT", 30)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with Client(user.config) as client, serving(RunsPage(client)) as page:
            go = tmp_path / "go"
            number = started(user, f"printf 1234567890 >note.txt; echo up; {WAITS.format(go=go)}")
            until(lambda: b"up" in get(page, f"api/runs/{number}/log").body)
            for _ in range(8):
                assert get(page, f"api/runs/{number}/file/note.txt").body == b"1234567890"
            copies = [each for folder in tmp_path.glob("remoterun-*") for each in folder.iterdir()]
            assert 1 <= len(copies) <= 3
            go.touch()

    def test_many_files_are_listed_in_part(self, user: User, page: RunsPage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("remoterun.ui.page.MOST_FILES", 3)
        number = ended(user, "touch 1 2 3 4 5")
        listed = get(page, f"api/runs/{number}/files").json
        assert [file["path"] for file in listed["files"]] == ["1", "2", "3"] and listed["more"]

    def test_an_upload(self, user: User, page: RunsPage, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        for text in ("one", "other"):
            (tmp_path / "data" / "words.txt").write_text(text)
            user.client.uploads.upload(tmp_path / "data", "doom")
        (upload,) = get(page, "api/uploads").json["uploads"]
        assert (upload["name"], [each["number"] for each in upload["versions"]]) == ("doom", [1, 2])
        assert upload["versions"][0]["size"] == 3 and upload["where"] == ["one"]
        for version, text in ((1, b"one"), (2, b"other")):
            files = get(page, f"api/uploads/doom/files?version={version}").json["files"]
            assert [(file["path"], file["size"]) for file in files] == [("words.txt", len(text))]
            assert get(page, f"api/uploads/doom/file/words.txt?version={version}").body == text
        assert get(page, "api/uploads/sing/files").status == 404
        assert get(page, "api/elsewhere/doom/files").status == 400

    def test_a_model_is_opened(
        self, user: User, page: RunsPage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("remoterun.ui.page.libraries", lambda _: tmp_path)  # what npm brings
        model = write_model(tmp_path / "models", "w")
        files = {f"models/{file.name}": file.read_bytes() for file in model.iterdir()}
        number = ended(user, "mkdir out; mv models out", files)
        assert get(page, "model/index.html").status == 404
        address = post(page, f"runs/{number}/open", {}).json["address"]
        assert address == f"model/?model=runs/{number}/out/models"
        assert get(page, "model/").headers["content-type"] == "text/html; charset=utf-8"
        assert get(page, f"model/runs/{number}/out/models/w").body == b"1234"
        assert get(page, f"model/runs/{number}/out/models/../w").status == 404
        assert post(page, f"runs/{ended(user, 'true')}/open", {}).status == 404


class TestWhatIsRead:
    def test_a_run(self, user: User, page: RunsPage) -> None:
        number = ended(user, "echo one; echo two >&2; exit 3")
        (row,) = get(page, "api/runs").json["runs"]
        assert (row["number"], row["state"], row["exit_status"], row["machine"]) == (number, "failed", 3, "one")
        about = get(page, f"api/runs/{number}").json
        assert about["row"] == row and about["spec"]["command"] == row["command"]
        assert [phase["state"] for phase in about["phases"]][-2:] == ["running", "saving"]
        part = get(page, f"api/runs/{number}/log?start=-4&size=3")
        assert (part.body, part.headers["x-start"], part.headers["x-total"]) == (b"two", "4", "8")
        assert get(page, f"api/runs/{number}/log?start=99").body == b""
        assert get(page, f"api/runs/{number}/search?q=TWO").json["hits"] == [{"offset": 4, "line": "two"}]
        assert get(page, f"api/runs/{number}/log?start=x").status == 400
        assert get(page, "api/runs/last").json["row"] == row

    def test_what_it_measured(self, user: User, page: RunsPage, events: Callable[..., Events]) -> None:
        lines = " ".join(f"""'{{"step": {n}, "loss": {9 - n}.5}}'""" for n in range(3))
        number = ended(user, f"printf '%s\\n' {lines} >metrics.jsonl; true --lr 0.1")
        names = until(lambda: (found := get(page, f"api/runs/{number}/names").json)["metrics"] >= 96 and found)
        assert names["names"] == ["loss"] and names["metrics"] == 96
        whole = get(page, f"api/runs/{number}/points").body
        assert len(whole) == 96 and get(page, f"api/runs/{number}/points?from=32").body == whole[32:]
        assert get(page, f"api/runs/{number}/points?most=1").body == whole[:96]
        stream = events(f"run={number}")
        until(lambda: stream.of("points"))
        assert stream.of("points")[0]["metrics"] == 96 and stream.of("points")[0]["names"] == 1
        series = until(lambda: get(page, "api/runs").json["runs"][0]["progress"])["series"]
        assert (series[0]["name"], series[0]["best"]) == ("loss", 7.5)
        other = ended(user, "true --lr 0.2")
        compared = get(page, f"api/compare?runs={number},{other}").json
        assert compared["params"] == {"lr": ["0.1", "0.2"]} and compared["differs"] == ["lr"]
        assert compared["best"] == {"loss": [7.5, None]}
        assert get(page, "api/compare?runs=99").status == 404

    def test_text_that_is_not_text(self, user: User, page: RunsPage) -> None:
        registry = user.client.connections.registry
        run = registry.add_run(new_key(), MachineType("one"), "\udcff\0<script>" + "x" * 5000, 1.0)
        row = get(page, "api/runs").json["runs"][0]
        assert row["command"].startswith("?\0<script>") and len(row["command"]) == 1000
        assert row["number"] == run.number

    def test_machines(self, user: User, page: RunsPage, tmp_path: Path) -> None:
        number = started(user, WAITS.format(go=tmp_path / "go"))
        until(lambda: user.client.runs.get(number).state is RunState.RUNNING)
        found = {machine["name"]: machine for machine in get(page, "api/machines").json["machines"]}
        assert [run["number"] for run in found["one"]["runs"]] == [number] and found["two"]["runs"] == []
        assert found["one"]["disk"]["total"] > found["one"]["disk"]["free"] > 0
        (tmp_path / "go").touch()

    def test_a_thousand_rows(self, user: User, page: RunsPage) -> None:
        registry = user.client.connections.registry
        for number in range(1000):
            registry.add_run(new_key(), MachineType("one"), f"python train.py --seed {number}", 1.0)
        found = get(page, "api/runs?limit=600").json
        assert [row["number"] for row in found["runs"]] == [*range(1000, 400, -1)] and found["more"]
        again = time.process_time()  # of this process, which has the page: other tests may keep the machine busy
        assert len(get(page, "api/runs").json["runs"]) == 1000
        assert time.process_time() - again < 1


class TestWhatIsDone:
    def test_actions(self, user: User, page: RunsPage, tmp_path: Path) -> None:
        number = started(user, WAITS.format(go=tmp_path / "go"))
        until(lambda: user.client.runs.get(number).state is RunState.RUNNING)
        for action, body, changed in (
            ("pin", {"on": True}, {"pinned": True}),
            ("hide", {"on": True}, {"hidden": True}),
            ("remark", {"text": "<b>"}, {"remark": "<b>"}),
            ("label", {"add": ["a", "b"]}, {"labels": ["a", "b"]}),
            ("label", {"remove": ["a"]}, {"labels": ["b"]}),
            ("stop", {"grace": 0}, {"stopping": True}),
        ):
            row = post(page, f"runs/{number}/{action}", body).json["row"]
            assert {name: row[name] for name in changed} == changed
        until(lambda: get(page, f"api/runs/{number}").json["row"]["state"] == "stopped")
        again = post(page, f"runs/{number}/rerun", {"command": "echo again"}).json["row"]
        assert (again["number"], again["command"]) == (number + 1, "echo again")
        until(lambda: get(page, f"api/runs/{number + 1}").json["row"]["state"] == "complete")
        assert get(page, f"api/runs/{number + 1}").json["again_of"] == number
        killed = started(user, "sleep 60")
        post(page, f"runs/{killed}/kill", {})
        until(lambda: get(page, f"api/runs/{killed}").json["row"]["state"] == "killed")
        assert post(page, "runs/99/kill", {}).status == 404
        assert post(page, "hosts/i-0123/end", {}).status in (400, 404, 502)

    def test_word_of_a_run_that_goes_on(self, user: User, page: RunsPage, tmp_path: Path) -> None:
        server = WebhookServer()
        number = started(user, WAITS.format(go=tmp_path / "go"))
        until(lambda: user.client.runs.get(number).state is RunState.RUNNING)
        assert post(page, f"runs/{number}/notify", {}).json["error"] == "no address is set up"
        assert post(page, f"runs/{number}/notify", {"secret": "NONE"}).status == 404
        user.client.secrets.set("HOOK", server.url)
        assert post(page, f"runs/{number}/notify", {"secret": "HOOK"}).json["row"]["number"] == number
        (tmp_path / "go").touch()
        ((_, told),) = until(lambda: server.posts)
        assert told["run"] == number
        until(lambda: user.client.runs.get(number).final)
        assert "has ended" in post(page, f"runs/{number}/notify", {"secret": "HOOK"}).json["error"]
        server.close()


class TestStream:
    def test_a_run_from_its_start_to_its_end(
        self, user: User, page: RunsPage, events: Callable[..., Events], tmp_path: Path
    ) -> None:
        go = tmp_path / "go"
        stream = events()
        number = started(user, f"printf 'caf\\303'; until [ -e {go} ]; do sleep 0.02; done; printf '\\251 end'")
        until(lambda: any(row["number"] == number for each in stream.of("runs") for row in each["runs"]))
        own = events(f"run={number}&log=0")
        until(lambda: own.log == "caf")
        assert own.came[-1][2].split(".")[1] == "3"  # the first half of a character does not count
        go.touch()
        until(lambda: any(each["event"].get("state") == "complete" for each in own.of("run")))
        until(lambda: own.log.endswith(" end"))
        assert own.log == "café end"
        rows = until(lambda: [row for each in stream.of("runs") for row in each["runs"] if row["state"] == "complete"])
        assert rows[-1]["number"] == number

    def test_no_byte_is_lost_or_doubled_by_a_stream_that_is_cut(
        self, user: User, page: RunsPage, events: Callable[..., Events]
    ) -> None:
        number = started(user, "for i in $(seq 1 1500); do echo line $i; [ $((i % 100)) = 0 ] && sleep 0.02; done")
        got, last, place = "", "", 0
        whole = "".join(f"line {n}\n" for n in range(1, 1501))
        for _ in range(400):
            stream = events(f"run={number}&log=0", last)
            until(lambda s=stream: s.of("log") or s.ended)
            stream.close()
            for data in stream.of("log"):
                assert data["start"] == place
                place = data["end"]
            got += stream.log
            last = stream.last if stream.came else last
            if len(got) >= len(whole):
                break
        assert got == whole

    def test_a_fifth_page_takes_the_place_of_the_first_which_polls(
        self, user: User, page: RunsPage, events: Callable[..., Events], tmp_path: Path
    ) -> None:
        number = started(user, WAITS.format(go=tmp_path / "go"))
        streams = [events(f"run={number}&log=0&version=0") for _ in range(4)]

        def poll() -> Events:
            polled = events(f"run={number}", streams[0].last)
            until(lambda: polled.ended)
            return polled

        until(lambda: all(each.log == "up\n" for each in streams))
        fifth = events(f"run={number}&log=0&version=0")
        until(lambda: fifth.log == "up\n" and streams[0].ended)
        assert "retry: 1000" in streams[0].text and not any(each.ended for each in streams[1:])
        user.client.connections.registry.annotate(user.client.connections.registry.run(number), pinned=True)
        post(page, f"runs/{number}/pin", {"on": True})
        polled = until(lambda: (it := poll()).of("runs") and it)  # within two seconds, or the next time
        rows = [row for each in polled.of("runs") for row in each["runs"]]
        assert {row["pinned"] for row in rows} == {True} and not any(map(eq, rows, rows[1:])), "only what has changed"
        assert polled.log == "" and "retry: 1000" in polled.text and not any(each.ended for each in streams[1:])
        streams[1].close()
        # The server has seen that, too: of three threads each, those of three streams are left.
        until(lambda: [each.name for each in threading.enumerate()].count("remoterun stream") == 9)
        back = events(f"run={number}", polled.last)  # there is room again
        (tmp_path / "go").touch()
        until(lambda: any(each["event"].get("state") == "complete" for each in back.of("run")))

    def test_a_page_that_is_far_behind_goes_on_at_the_end(
        self, user: User, page: RunsPage, events: Callable[..., Events], tmp_path: Path
    ) -> None:
        go, size = tmp_path / "go", 3 * MOST_BEHIND
        number = started(user, f"yes | head -c {size}; until [ -e {go} ]; do sleep 0.02; done; printf end")
        until(lambda: int(get(page, f"api/runs/{number}/log").headers["x-total"]) == size)
        stream = events(f"run={number}&log=100")
        until(lambda: stream.of("log"))
        assert stream.of("log") == [{"start": size, "skipped": size - 100}]
        near = events(f"run={number}&log={size - 1000}")
        until(lambda: len(near.log) == 1000)
        go.touch()
        until(lambda: stream.log == "end" and len(near.log) == 1003)

    def test_a_page_that_is_slow_goes_on_at_the_end(
        self, user: User, page: RunsPage, events: Callable[..., Events], tmp_path: Path
    ) -> None:
        go, end, size, begun = tmp_path / "go", tmp_path / "end", 40 * MOST_BEHIND, time.monotonic()
        first, last = (f"until [ -e {each} ]; do sleep 0.02; done" for each in (go, end))
        number = started(user, f"{first}; yes | head -c {size}; {last}; printf the_end")
        stream = events(f"run={number}&log=0", paused=True)
        go.touch()
        until(lambda: int(get(page, f"api/runs/{number}/log").headers["x-total"]) == size)
        until(lambda: time.monotonic() > begun + 2 * EVERY)
        stream.read()
        until(lambda: stream.of("log") and size in (stream.of("log")[-1]["start"], stream.of("log")[-1].get("end")))
        assert any("skipped" in each for each in stream.of("log"))
        end.touch()
        until(lambda: stream.log.endswith("the_end"))
        assert len(stream.log) < size / 2

    def test_who_does_not_read_holds_little(
        self, user: User, page: RunsPage, events: Callable[..., Events], tmp_path: Path
    ) -> None:
        """A run that prints without end fills neither this process nor the stream of another page."""
        number = started(user, "yes")
        with socket.create_connection(("127.0.0.1", page.port)) as deaf:
            deaf.sendall(f"GET /{page.token}/events?run={number}&log=0 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            until(lambda: int(get(page, f"api/runs/{number}/log").headers["x-total"]) > 32 << 20)
            before = resident()
            until(lambda: int(get(page, f"api/runs/{number}/log").headers["x-total"]) > 192 << 20)
            assert resident() - before < 64 << 20
            post(page, f"runs/{number}/kill", {})
            until(lambda: user.client.runs.get(number).final)

    def test_a_machine_that_can_t_be_reached_holds_up_no_other(
        self, user: User, page: RunsPage, events: Callable[..., Events], tmp_path: Path
    ) -> None:
        number = started(user, WAITS.format(go=tmp_path / "go"))
        run = until(lambda: (run := user.client.runs.get(number)).state is RunState.RUNNING and run)
        user.client.connections.registry.set_host(run, NOBODY, run.home_id)
        stream = events(f"run={number}&log=0&version=0")
        until(lambda: stream.of("lost"))
        assert "refused the connection" in stream.of("lost")[0]["message"] and stream.log == ""
        other = started(user, "sleep 0.5")
        states = until(lambda: [row["state"] for row in rows(stream, other) if row["state"] == "complete"])
        assert states
        until(lambda: "refused" in (rows(stream, number)[-1]["unreached"] or ""))
        about = get(page, f"api/runs/{number}").json
        assert about["row"]["unreached"] and about["spec"] is None
        assert get(page, f"api/runs/{number}/log").status == 502
        user.client.connections.registry.set_host(run, run.host, run.home_id)
        until(lambda: stream.of("back") and stream.log == "up\n")
        until(lambda: rows(stream, number)[-1]["unreached"] is None)
        (tmp_path / "go").touch()
        until(lambda: rows(stream, number)[-1]["state"] == "complete")

    def test_a_machine_that_was_silent_for_a_while_answers_again_for_a_run_that_nobody_opens(
        self, user: User, page: RunsPage, events: Callable[..., Events], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hub, "WAIT", 1.0)
        monkeypatch.setattr(hub, "LATER", 1.0)
        number, stream = started(user, "sleep 1000"), events()
        until(lambda: any(row["state"] == "running" for row in rows(stream, number)))
        home = str(user.place("one").folder).encode()
        agents = [pid for pid in pids() if b"serve" in command_line(pid) and home in command_line(pid)]
        for pid in agents:
            os.kill(pid, signal.SIGSTOP)
        until(lambda: rows(stream, number)[-1]["unreached"] == "one does not answer within 1 s")
        for pid in agents:
            os.kill(pid, signal.SIGCONT)
        until(lambda: rows(stream, number)[-1]["unreached"] is None)
        assert agents and user.client.runs.kill(number)[1]

    def test_a_run_that_is_not_there(self, page: RunsPage, events: Callable[..., Events]) -> None:
        assert events("run=99").answer.status == 404

    def test_runs_of_another_process_come_and_go(
        self, user: User, page: RunsPage, events: Callable[..., Events]
    ) -> None:
        stream = events()
        other = Registry(user.config.home / "registry.db")
        run = other.add_run(new_key(), MachineType("one"), "true", 1.0)
        until(lambda: any(row["number"] == run.number for each in stream.of("runs") for row in each["runs"]))
        other.remove_run(run)
        until(lambda: any(run.number in each["gone"] for each in stream.of("runs")))
        other.close()


def rows(stream: Events, number: int) -> list[Any]:
    """What a stream has sent of a run, in order."""
    return [row for each in stream.of("runs") for row in each["runs"] if row["number"] == number]


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


INTERRUPTED = """
import os, signal
from starlette.responses import Response
from starlette.routing import Route
from remoterun.cli.interrupt import terminate_as_interrupt
from remoterun.ui.server import PageServer

async def answer(request):
    os.kill(os.getpid(), signal.SIGINT)
    return Response("answered")

terminate_as_interrupt()
with PageServer([Route("/", answer)], 0, "it", "default-src 'none'") as server:
    print(server.address, flush=True)
    try:
        server.serve()
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_an_interrupt_as_it_begins_ends_it() -> None:
    """Raised in the middle of asyncio's own work, it would leave that half-done, and a traceback."""
    early = "real = asyncio.BaseEventLoop.__init__\n"
    early += "asyncio.BaseEventLoop.__init__ = lambda self: [os.kill(os.getpid(), signal.SIGINT), real(self)][1]"
    code = INTERRUPTED.replace("import os, signal\n", f"import asyncio, os, signal\n{early}\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.splitlines()[-1], done.stderr, done.returncode) == ("interrupted", "", 0)


def test_an_interrupt_in_the_middle_of_an_answer_ends_it() -> None:
    """uvicorn takes what is raised there for a fault of the answer, and goes on."""
    with subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            with contextlib.suppress(OSError), urlopen(process.stdout.readline().strip(), timeout=60) as answer:
                answer.read()
            assert process.communicate(timeout=60)[0] == "interrupted\n" and process.returncode == 0
        finally:
            process.kill()
