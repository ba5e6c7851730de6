"""What a host may send, and what a client may: whatever it is, nothing lands where it should not, nothing grows without
an end, and the answer is an error or what was asked for."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import math
import os
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.agent.serve import Server
from remoterun.agent.shared import api
from remoterun.agent.shared.frames import OPEN, PIECE, encode
from remoterun.agent.shared.packs import pack
from remoterun.agent.shared.protocol import Cancelled, LinkClosed, RemoteError, Stream
from remoterun.agent.shared.tree import HEADER, Entry, Manifest
from remoterun.agent.store.home import Home
from remoterun.cli.commands.logs import by_lines
from remoterun.cli.render import file_views, run_views
from remoterun.client import Client
from remoterun.client.runs.following import LogBytes, Note, StateChange
from remoterun.errors import RemoterunError, TransferError, UnsafePath
from remoterun.host_store import HostStore
from remoterun.model import MachineType
from remoterun.session import Session, understood
from remoterun.transfer import Progress, lanes, refuse
from tests.homes import send, sound
from tests.hostile import UPLOAD, FakeHost, Frames, client_of, lying
from tests.workshop import call, fetch, linked, read_files, sha256, tree_of, write_files

_folders = itertools.count()


@functools.cache
def zeros() -> bytes:
    """64 MiB of them, compressed."""
    return zlib.compress(bytes(64 << 20))


def test_points_that_end_within_one() -> None:
    def handler(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
        with contextlib.suppress(Exception):
            stream.send(bytes(32), metrics=0)
            stream.finish(60)
            stream.end(metrics=13, usage=0, names=0, status={"key": "k", "state": "running", "attempt": 0})

    with (
        contextlib.closing(Session(MachineType("evil"), FakeHost(handler))) as session,
        pytest.raises(RemoterunError, match="a part of one"),
    ):
        HostStore(session).run("k").measured(api.Measured("k"), lambda kind, points: None)


def fetched(root: Path, session: Session) -> str:
    """Fetch into root/target; the error's text, or the warnings, or "". Nothing may appear beside it."""
    target = root / "target"
    root.mkdir(exist_ok=True)
    (root / "beside").mkdir(exist_ok=True)
    error = ""
    try:
        error = "".join(fetch(session, UPLOAD, target, refuse, Progress()).warnings)
    except RemoterunError as caught:
        error = str(caught)
        assert error
    assert {path.name for path in root.iterdir()} <= {"target", "beside"} and not list((root / "beside").iterdir())
    for path in target.rglob("*"):
        assert root / "target" in path.resolve().parents or path.is_symlink()
    return error


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    return lambda: tmp_path_factory.getbasetemp() / f"hostile{next(_folders)}"


EVIL_PART = st.sampled_from(
    ["..", ".", "", "a", "A", "b", "beside", "target", "é", "e\u0301", "\udcff", "a\0", "c" * 256]
)
EVIL_PATH = st.lists(EVIL_PART, min_size=1, max_size=4).map("/".join) | st.sampled_from(["/etc/passwd", "../beside/x"])
EVIL_ROW = st.one_of(
    st.tuples(st.just("f"), EVIL_PATH, st.just(3), st.just(sha256(b"abc")), st.integers(0, 1)),
    st.tuples(st.just("l"), EVIL_PATH, EVIL_PATH),
    st.tuples(st.just("d"), EVIL_PATH),
    st.tuples(st.just("f"), EVIL_PATH, st.integers(-1, 1 << 65), st.text(max_size=5) | st.just("ab" * 32), st.just(0)),
)
GOOD = (bytes.fromhex(sha256(b"abc")), b"abc")


class TestHosts:
    @given(rows=st.lists(EVIL_ROW, max_size=5), in_order=st.booleans())
    def test_any_list(self, root: Any, rows: list[tuple[Any, ...]], in_order: bool) -> None:
        if in_order:
            rows = sorted(rows, key=lambda row: str(row[1]).encode(errors="surrogateescape"))
        text = HEADER + b"".join(json.dumps(row, separators=(",", ":")).encode() + b"\n" for row in rows)
        files = sum(row[0] == "f" for row in rows)
        with lying(text, [({"p": files}, pack([GOOD] * files))] if files else []) as session:
            error = fetched(root(), session)
        if any(".." in str(row[1]).split("/") or str(row[1]).startswith("/") for row in rows):
            assert error

    @given(
        frames=st.lists(
            st.tuples(
                st.dictionaries(
                    st.sampled_from(["p", "z", "d", "s", "gone", "h", "n", "x"]),
                    st.sampled_from([0, 1, 2, 3, -1, 1 << 62, 1e308, "3", None, [], {}, True, sha256(b"abc"), "../x"]),
                    max_size=3,
                ),
                st.sampled_from([b"", b"abc", b"abd", pack([GOOD]), pack([GOOD] * 2), zlib.compress(b"abc"), b"x" * 9]),
            ),
            max_size=5,
        )
    )  # fmt: skip
    def test_any_frames(self, root: Any, frames: Frames) -> None:
        """What was asked for, or an error, and nothing in part."""
        manifest, _ = tree_of({"a": b"abc", "b/c": b"abc"})
        folder = root()
        with lying(manifest.encode(), frames) as session:
            error = fetched(folder, session)
        found = read_files(folder / "target") if (folder / "target").exists() else {}
        assert all(content == b"abc" for content in found.values())
        assert set(found) == {"a", "b/c"} or error

    @pytest.mark.parametrize(
        "names",
        [("a", "A"), ("é", "e\u0301"), ("ß", "SS", "ss"), ("K", "\u212a", "k"), ("d/a", "D/a"), ("é/x", "e\u0301/x")],
    )
    def test_names_that_are_the_same_elsewhere(self, root: Any, names: tuple[str, ...]) -> None:
        """Each of them lands, with its own content."""
        files = {name: str(number).encode() for number, name in enumerate(names)}
        manifest, blobs = tree_of(dict(files))
        contents = [(bytes.fromhex(entry.digest), blobs[entry.digest]) for entry in manifest.files]
        folder = root()
        with lying(manifest.encode(), [({"p": len(contents)}, pack(contents))]) as session:
            assert fetched(folder, session) == ""
        assert read_files(folder / "target") == files

    def test_links_that_lead_out_and_files_below_them(self, root: Any) -> None:
        folder = root()
        outside = write_files(folder / "beside2", {"x": b"mine"})
        rows = [
            Entry("l", "a", target=str(outside)), Entry("l", "b", target="../beside2"), Entry("l", "c", target="."),
            Entry("l", "deep/er/d", target="../../.."), Entry("l", "e", target="deep/../../beside2"),
            Entry("l", "f", target="c/../.."), Entry("d", "deep/x"),
        ]  # fmt: skip
        with lying(Manifest(rows).encode(), []) as session:
            fetch(session, UPLOAD, folder / "target", refuse, Progress())
        found = [path for path in (folder / "target").rglob("*") if path.is_symlink()]
        assert [path.name for path in found] == ["c"]
        for link in ("a", "b", "c"):  # now they are there, made by somebody else: nothing goes through them
            with contextlib.suppress(FileExistsError):
                (folder / "target" / link).symlink_to(outside)
            manifest, _ = tree_of({f"{link}/x": b"abc"})
            with lying(manifest.encode(), [({"p": 1}, pack([GOOD]))]) as session, pytest.raises(UnsafePath):
                fetch(session, UPLOAD, folder / "target", lambda path: True, Progress())
        assert read_files(outside) == {"x": b"mine"}

    @pytest.mark.parametrize(
        "frame",
        [({}, b""), ({"p": 0}, b""), ({"p": 1}, pack([GOOD])), ({"gone": "x"}, b""),
         ({"d": sha256(b"abc"), "s": 3}, b""), ({}, bytes(PIECE))],
        ids=["empty", "packs of none", "the same", "gone", "empty beginnings", "more"],
    )  # fmt: skip
    @pytest.mark.parametrize("way", ["tree", "fetch", "get"])
    def test_streams_without_an_end(self, root: Any, frame: tuple[dict[str, Any], bytes], way: str) -> None:
        """They are left at the first frame that makes no sense, or when there are more than were asked for."""
        stopped = threading.Event()

        def handler(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
            try:
                if op == "tree" != way:
                    stream.send(tree_of({"a": b"abc"})[0].encode())
                    stream.end(live=way == "get")
                    return
                while True:
                    stream.send(frame[1], **frame[0])
            except Exception:  # noqa: BLE001 - whatever it is, it is over
                stopped.set()

        if (frame[1] and way != "fetch") or (frame[0].get("gone") and way == "get"):
            return  # bytes of a list without an end: test_transfer.py has it; and what is gone has no more to come
        session = Session(MachineType("evil"), FakeHost(handler))
        with contextlib.closing(session), pytest.raises(RemoterunError):
            fetch(session, UPLOAD, root(), refuse, Progress())
        assert stopped.wait(60)

    @pytest.mark.parametrize("size", [(1 << 63) - 1, 1 << 62, 1 << 45])
    @pytest.mark.parametrize("far", [False, True])
    def test_a_file_without_an_end(self, root: Any, monkeypatch: pytest.MonkeyPatch, size: int, far: bool) -> None:
        """ListedEntry with a size that no disk has; little comes. It takes neither memory nor the disk."""
        monkeypatch.setattr(lanes, "FAR", -1.0 if far else 1.0)
        manifest = Manifest([Entry("f", "a", size, sha256(b"abc"))])
        folder = root()
        tracemalloc.start()
        try:
            with lying(manifest.encode(), [({}, bytes(1000)), ({"d": sha256(b"abc"), "s": size}, b"x")]) as session:
                assert fetched(folder, session)
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()
        assert sum(path.stat().st_blocks * 512 for path in (folder / "target").rglob("*")) < 1 << 20
        assert not (folder / "target" / "a").exists()

    def test_text_for_the_terminal(self, root: Any) -> None:
        manifest, _ = tree_of({"a": b"abc"})
        folder = root()
        with lying(manifest.encode(), [({"gone": "\x1b[2Jboo"}, b"")], live=True) as session:
            result = fetch(session, UPLOAD, folder, refuse, Progress())
        assert result.warnings and "\x1b" not in "".join(result.warnings)


WORD = st.sampled_from(
    ["running", "failed", "complete", "on fire", "exited", "clock", "versions", "uploads", "", "a", None]
)
AMOUNT = st.sampled_from([0, 1, 1.5, -1, 1 << 62, 1 << 70, 1e308, math.inf, math.nan, True, "5", None])
ANYTHING = st.recursive(
    WORD | AMOUNT, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("x"), inner), max_leaves=4
)
FIELDS = {
    **dict.fromkeys(("state", "reason", "message", "note", "engine", "name", "what", "problem", "fix", "ok"), WORD),
    **dict.fromkeys(("code", "started", "ended", "t", "version", "size", "files", "created", "alone", "time"), AMOUNT),
    **dict.fromkeys(("count", "bytes", "number"), AMOUNT),
    **dict.fromkeys(("outputs", "hint", "evidence", "items", "users", "detail", "kind", "digest", "path"), ANYTHING),
}
RECORD = st.fixed_dictionaries({}, optional=FIELDS) | ANYTHING


@st.composite
def answers(draw: st.DrawFn, key: str) -> tuple[Frames, dict[str, Any]]:
    """(frames, result) of a request about anything: most of what they hold is of a shape that could be."""
    frame = st.fixed_dictionaries(
        {}, optional={"event": RECORD, "log": AMOUNT, "err": AMOUNT, "starts": RECORD, "build": WORD,
                      "part": RECORD, "kept": RECORD, "row": RECORD,
                      "finding": RECORD, "at": RECORD, "past": AMOUNT},
    )  # fmt: skip
    record = draw(RECORD)
    about = dict(record, key=key) if isinstance(record, dict) else record
    several = [about] if draw(st.booleans()) else draw(ANYTHING)
    result = dict.fromkeys(("runs", "uploads", "versions", "checks"), several)
    result.update(
        {name: draw(AMOUNT) for name in ("freed", "free", "total", "disk", "blobs", "bytes", "more", "asked")}
    )
    return [(header, b"x") for header in draw(st.lists(frame, max_size=3))], dict(
        result, status=about, blobs=draw(ANYTHING)
    )


REQUESTS = ("list", "get", "info", "follow", "stop", "uploads", "upload", "doctor", "gc", "df", "check")


class TestWhatIsNotData:
    """States, versions, sizes: whatever a host says of them, a client ends with one of its own errors, or believes it
    and can show it."""

    @given(data=st.data(), op=st.sampled_from(REQUESTS))
    def test_any_answer(self, root: Any, data: st.DataObject, op: str) -> None:
        folder = write_files(root(), {"data": b"abc"})
        frames, result = data.draw(answers("k" * 26))

        def handler(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
            with contextlib.suppress(LinkClosed, Cancelled):
                for header, body in frames:
                    stream.send(body, **header)
                stream.finish(60)
                stream.end(**result)

        with client_of(folder, handler, "k") as client:
            try:
                self.ask(client, op, folder / "data")
            except RemoterunError as error:
                assert error.message
            for known in client.connections.registry.runs():
                json.dumps(known.record(), allow_nan=False)
                run_views.state_text(known)

    def ask(self, client: Client, op: str, path: Path) -> None:
        match op:
            case "list" | "uploads":
                found: Any = client.runs.list() if op == "list" else client.uploads.list()
                json.dumps([each.record() for each in found], allow_nan=False)
            case "get" | "info" | "stop":
                getattr(client.runs, op)(1)
            case "follow":
                for item in client.runs.follow(1):
                    if isinstance(item, Note) and item.kind == "lost":
                        break
                    if isinstance(item, StateChange):
                        run_views.state_text(item.run)
                    elif isinstance(item, LogBytes):
                        list(by_lines([item], None, True))
            case "upload":
                client.uploads.upload(path, "doom")
            case "doctor":
                client.machines.doctor(client.machines.get("evil"))
            case "gc":
                shown(client.machines.gc(), lambda found: file_views.collected(found, False))
            case "df":
                shown(client.machines.df(), lambda found: file_views.usage_table(found, False))
            case "check":
                shown(client.machines.check(), lambda found: file_views.checked(found, False))


class TestAnotherClock:
    """Its host's clock is two days behind; the person's own counts."""

    def test_times_are_shown_by_ours(self, root: Any) -> None:
        now = time.time()
        skew = -2 * 86400.0
        states = [("queued", 30.0), ("running", 20.0), ("complete", 10.0)]
        status = {"state": "complete", "started": now - 20 + skew, "ended": now - 10 + skew, "code": 0}
        version = {"version": 1, "digest": "ab" * 32, "size": 1, "files": 1, "created": now - 50 + skew}

        def handler(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
            if op == "follow":
                for state, before in states:
                    stream.send(b"", event={"state": state, "t": now - before + skew})
                stream.send(b"x", log=0, t=now - 15 + skew)
            stream.finish(60)
            told = {"key": "k" * 26, **status}
            stream.end(status=told, offset=1, events=3, runs=[told], uploads=[{"name": "doom", "newest": version}])

        with client_of(root(), handler, "k", now - 40, now + skew) as client:
            (session,) = client.connections._sessions.values()
            assert abs(session.clock_skew - skew) < 60
            for seen in (*client.runs.list(), client.runs.get(1), client.connections.registry.run(1)):
                assert seen.started and seen.ended and seen.created < seen.started < seen.ended < time.time() + 60
                assert seen.ended - seen.started == pytest.approx(10, abs=0.01)
            (upload,) = client.uploads.list()
            assert abs(upload.created - (now - 50)) < 60
            moments = [item.event.t for item in client.runs.follow(1) if isinstance(item, StateChange)]
            assert [abs(moment - (now - before)) < 60 for moment, (_, before) in zip(moments, states, strict=True)]
            (log,) = (item for item in client.runs.follow(1) if isinstance(item, LogBytes))
            assert log.time is not None and abs(log.time - (now - 15)) < 60


def shown(found: Any, show: Callable[[Any], None]) -> None:
    """As its command does."""
    json.dumps(found.record())
    with understood(found.machine):
        show(found)


KEY, BLOB = sha256(b"key"), b"some content" * 50
NUMBER = st.sampled_from(
    [0, 1, 5, len(BLOB), len(BLOB) + 1, -1, 1 << 20, 1 << 40, 1 << 62, 1 << 63, 1 << 70, 1e308, "5", "x"]
)
NAME = st.sampled_from(
    [KEY, sha256(BLOB), "", "..", "../../x", "/etc/passwd", KEY + "x", KEY.upper(), 5, None, [], "a\0b"]
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "p": NUMBER, "z": NUMBER, "s": NUMBER, "d": NAME, "n": NUMBER | st.lists(NUMBER, max_size=3),
    },
)  # fmt: skip
BODY = st.sampled_from([
    b"", b"x", BLOB, BLOB[:5], BLOB + b"!", pack([(hashlib.sha256(BLOB).digest(), BLOB)]), pack([(bytes(32), BLOB)]),
    zlib.compress(BLOB), zlib.compress(bytes(50 << 20)), bytes(16 * 20), bytes(31), hashlib.sha256(BLOB).digest(),
    HEADER, HEADER + b'["f","../x",1,"' + b"ab" * 32 + b'",0]\n', HEADER + b'["d","a"]\n',
    HEADER + b'["l","a","/etc"]\n["f","a/x",600,"' + sha256(BLOB).encode() + b'",0]\n',
    HEADER + b'["f","a",5,"' + sha256(BLOB).encode() + b'",0]\n',
])  # fmt: skip
REQUEST = st.one_of(
    st.tuples(st.sampled_from(["put", "missing", "fetch", "put", "seal", "nothing"]), st.just({})),
    st.tuples(st.just("missing_pieces"), st.fixed_dictionaries(
        {"digest": NAME, "size": NUMBER}, optional={"first": NUMBER, "name": NAME, "path": NAME})),
    st.tuples(st.just("seal"), st.fixed_dictionaries({"digest": NAME, "size": NUMBER})),
    st.tuples(st.just("fetch_pieces"), st.fixed_dictionaries({"digest": NAME}, optional={"round_trip": NUMBER})),
    st.tuples(st.just("piece_hashes"), st.fixed_dictionaries({"digest": NAME, "first": NUMBER, "end": NUMBER})),
    st.tuples(st.sampled_from(["commit_upload", "upload", "remove_upload"]), st.fixed_dictionaries({
        "name": st.sampled_from(["doom", "", "..", "../x", "a/b", 5, None])})),
)  # fmt: skip


class TestClients:
    @given(
        requests=st.lists(st.tuples(REQUEST, st.lists(st.tuples(HEADERS, BODY), max_size=4)), min_size=1, max_size=5)
    )
    def test_any_requests(self, root: Any, requests: list[tuple[tuple[str, dict[str, Any]], Frames]]) -> None:
        """Each is answered; afterwards the home is sound, works, and nothing lies beside it."""
        folder = root()
        home = Home.open(str(folder / "home"))
        here = {path.name for path in Path(home.path).iterdir()}
        with linked(Server(home).handle) as (link, _):
            for (op, arguments), frames in requests:
                try:
                    call(link, op, *((body, header) for header, body in frames), **arguments)
                except RemoteError as error:
                    assert error.code and error.message
            send(link, b"fine")
        sound(home)
        assert {path.name for path in folder.iterdir()} == {"home"}
        assert {path.name for path in Path(home.path).iterdir()} <= here | {"leases", "damaged"}
        for name in os.listdir(home.partial):
            assert len(name) == 64
            assert os.stat(os.path.join(home.partial, name)).st_blocks * 512 <= 2 << 20
        assert os.listdir(home.tmp) == []

    @pytest.mark.parametrize("said", [1 << 20, (1 << 20) + 1, 1 << 40])
    def test_bombs(self, tmp_path: Path, said: int) -> None:
        home = Home.open(str(tmp_path / "home"))
        bomb = zeros()
        tracemalloc.start()
        try:
            with linked(Server(home).handle) as (link, _):
                with pytest.raises(RemoteError) as caught:
                    call(link, "put", *[(bomb, {"z": said, "d": KEY, "s": 1 << 40, "n": [0]})] * 5)
                assert caught.value.code == "bad_stream"
            assert tracemalloc.get_traced_memory()[1] < 24 << 20
        finally:
            tracemalloc.stop()
        assert home.blobs.partial_size(KEY) == 0

    @given(data=st.binary(max_size=200), first=st.sampled_from([b"", encode(1, OPEN, {"op": "put", "args": {}})]))
    def test_any_bytes(self, root: Any, data: bytes, first: bytes) -> None:
        """On the wire itself: the link ends, and the home stays as it was."""
        home = Home.open(str(root() / "home"))
        with linked(Server(home).handle) as (link, _), contextlib.suppress(LinkClosed):
            link.write(first + data)
        assert not any(path.is_file() for path in Path(home.blobs.folder).rglob("*")) and os.listdir(home.partial) == []


def test_an_error_names_what_was_wrong(tmp_path: Path) -> None:
    manifest, _ = tree_of({"the/file": b"abc"})
    for frames, word in (
        ([({"p": 1}, pack([(GOOD[0], b"abd")]))], "the/file"),
        ([({"p": 1}, pack([(GOOD[0], b"abcd")]))], "the/file"),
        ([({"p": 5}, b"")], "evil"),
        ([], "evil"),
    ):
        with lying(manifest.encode(), frames) as session, pytest.raises(TransferError, match=word):
            fetch(session, UPLOAD, tmp_path / "t", refuse, Progress())
