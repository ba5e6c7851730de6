"""`examples/corpus/fetch.py` and `gutenberg.py` as commands, with a site made here that is as awkward as sites are."""

from __future__ import annotations

import fcntl
import importlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.recorder import Recorded
from tests.workshop import until

CORPUS = Path(__file__).parents[2] / "examples" / "corpus"
TIMEOUT = 60
SELECT = "div.lyrics"

Headers = dict[str, str]
Reply = tuple[int, Headers, bytes]


def html(body: str, title: str = "A song", charset: str = "utf-8") -> bytes:
    page = f'<!doctype html><html><head><meta charset="{charset}"><title>{title} | Songs</title></head><body>{body}'
    return page.encode(charset)


def song(title: str, words: str, charset: str = "utf-8") -> bytes:
    return html(
        f"<nav><a href='/'>Home</a></nav><h1>{title}</h1><script>var ad = 'buy';</script>"
        f"<div class='lyrics'>{words}</div><footer>All rights reserved</footer>",
        title,
        charset,
    )


def index(*addresses: str) -> bytes:
    return html("".join(f'<li><a href="{address}">a song</a>' for address in addresses), "Index")


@dataclass
class Site:
    """Pages by path, and every request for them. A list gives its replies in turn, and then the last one."""

    pages: dict[str, bytes | Reply | list[bytes | Reply]] = field(default_factory=dict)
    asked: list[tuple[float, str, Headers]] = field(default_factory=list)
    port: int = 0
    gate: dict[str, threading.Event] = field(default_factory=dict)
    """A path's answer waits for its event."""

    def address(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def paths(self) -> list[str]:
        return [path for _, path, _ in self.asked]

    def reply(self, path: str, headers: Headers) -> Reply:
        self.asked.append((time.monotonic(), path, headers))
        if path in self.gate:
            assert self.gate[path].wait(TIMEOUT)
        found = self.pages.get(path, (404, {}, html("There is no such page")))
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        return found if isinstance(found, tuple) else (200, {"Content-Type": "text/html"}, found)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = site.reply(self.path, dict(self.headers))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:  # who asked has read enough
                self.close_connection = True

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield site
    for event in site.gate.values():
        event.set()
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class User:
    """Someone in an empty folder, who types our commands."""

    folder: Path

    def words(self, script: str, *words: str) -> list[str]:
        return [sys.executable, "-W", "error", str(CORPUS / script), *words]

    def fetch(self, *words: str, status: int = 0, delay: str = "0.01") -> subprocess.CompletedProcess[str]:
        return self.type("fetch.py", *words, "--delay", delay, status=status)

    def type(self, script: str, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.words(script, *words), cwd=self.folder, capture_output=True, text=True, timeout=TIMEOUT
        )
        assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.words("fetch.py", *words, "--delay", "0.01"),
            cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def read(self, name: str) -> str:
        return (self.folder / name).read_text("utf-8")

    def results(self, out: str = "corpus") -> dict[str, bytes]:
        """Every file that was made, but for the cache."""
        top = self.folder / out
        files = [path for path in top.rglob("*") if path.is_file() and "cache" not in path.relative_to(top).parts]
        return {path.relative_to(top).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


def awkward(site: Site) -> None:
    site.pages |= {
        "/robots.txt": b"User-agent: *\nDisallow: /songs/secret*\nCrawl-delay: 0.15\n\nUser-agent: other\nDisallow: /",
        "/songs/": index(
            "one.html", "/songs/two.html#top", "one.html?", "secret-song.html", "busy.html", "again.html", "faint.html",
            "away.html", "moved.html", "huge.html", "gone.html", "copy.html", "picture.html", "plain.html",
            "mailto:me@example.org", "javascript:play()", site.address("/songs/elsewhere.html", "localhost"), "page-2",
        ),
        "/songs/page-2": index("/songs/last.html", "/about.html", "/songs/"),
        "/songs/one.html": song(
            "One", "[Chorus]<br>First&nbsp;line,<br>sec\N{SOFT HYPHEN}ond line<br><br>Cafe\u0301 &amp; tea"
        ),
        "/songs/two.html": song("Two: a/b", "<p>Only line</p>"),
        "/songs/busy.html": [(429, {"Retry-After": "1"}, b""), song("Busy", "Busy line")],
        "/songs/again.html": [(500, {}, b""), song("Again", "Again line")],
        "/songs/faint.html": song("Ça va", "Où l'été naît", "latin-1"),
        "/songs/away.html": (302, {"Location": site.address("/songs/one.html", "localhost")}, b""),
        "/songs/moved.html": (301, {"Location": "/songs/new-place"}, b""),
        "/songs/new-place": song("Moved", "Moved line"),
        "/songs/huge.html": song("Huge", "x" * 300_000),
        "/songs/copy.html": song("Busy", "Busy <b>line</b>"),
        "/songs/picture.html": (200, {"Content-Type": "image/png"}, b"\x89PNG"),
        "/songs/plain.html": (200, {"Content-Type": "text/plain"}, b"Plain\r\nlines\r\n\r\n\r\nhere"),
        "/songs/last.html": song("busy", "Last line"),
    }  # fmt: skip


def test_a_site_becomes_a_text(site: Site, user: User) -> None:
    awkward(site)
    words = [
        site.address("/songs/"), "--follow", "*.html", "--through", "/songs/page-*", "--select", SELECT,
        "--largest", "200000", "--contact", "me@example.org",
    ]  # fmt: skip
    done = user.fetch(*words)
    assert user.read("corpus/input.txt") == (
        "[Chorus]\nFirst line,\nsecond line\n\nCafé & tea\n\n"
        "Only line\n\n"
        "Busy line\n\n"
        "Again line\n\n"
        "Où l'été naît\n\n"
        "Moved line\n\n"
        "Plain\nlines\n\nhere\n\n"
        "Last line\n"
    )
    names = ["one", "two-a-b", "busy", "again", "ça-va", "moved", "plain", "busy-2"]
    assert [row.split("\t")[0] for row in user.read("corpus/pieces.tsv").splitlines()] == [
        f"{name}.txt" for name in names
    ]
    assert user.read("corpus/pieces.tsv").splitlines()[1] == f"two-a-b.txt\tTwo: a/b\t{site.address('/songs/two.html')}"
    assert sorted(os.listdir(user.folder / "corpus/pieces")) == sorted(f"{name}.txt" for name in names)
    assert user.read("corpus/pieces/ça-va.txt") == "Où l'été naît\n"
    assert user.read("corpus/.gitignore") == "*\n"

    talk = done.stderr
    assert "robots.txt of http://127.0.0.1" in talk and "asks for 0.15 s between requests" in talk
    assert re.search(r"14 pages found by 2 index pages", talk)
    for path, why in {
        "secret-song.html": "robots.txt of the site asks to leave it alone",
        "busy.html": "it answers 429 Too Many Requests; again in 1 s",
        "again.html": "it answers 500 Internal Server Error; again",
        "away.html": f"it leads to another site, {site.address('/songs/one.html', 'localhost')}",
        "huge.html": "it is larger than 200,000 bytes (--largest N takes larger pages)",
        "gone.html": "there is no such page (404)",
        "picture.html": "it is not text but image/png",
    }.items():
        assert re.search(rf"/songs/{re.escape(path)}: {re.escape(why)}", talk), f"{path}\n{talk}"
    copy, busy = (site.address(f"/songs/{name}.html") for name in ("copy", "busy"))
    assert f"{copy}: left out, as its words are those of {busy}\n" in talk
    assert "corpus/input.txt is made; next: remoterun upload corpus/input.txt --name NAME" in talk

    text = user.read("corpus/input.txt")
    assert re.search(r"^pieces +8$", done.stdout, re.MULTILINE)
    assert re.search(rf"^characters +{len(text)} +\({len(text.encode())} bytes\)$", done.stdout, re.MULTILINE)
    assert re.search(rf"^distinct characters +{len(set(text))}$", done.stdout, re.MULTILINE)
    assert re.search(
        r"î   U\+00EE LATIN SMALL LETTER I WITH CIRCUMFLEX +1 ×  corpus/pieces/ça-va.txt, line 1", done.stdout
    )
    assert len(done.stdout.split("the rarest:\n")[1].splitlines()) == 10

    counts = Counter(site.paths())
    assert counts.pop("/songs/busy.html") == counts.pop("/songs/again.html") == 2
    assert set(counts.values()) == {1}
    assert not counts.keys() & {"/songs/secret-song.html", "/songs/elsewhere.html", "/about.html"}
    assert site.paths()[0] == "/robots.txt"
    times = [moment for moment, _, _ in site.asked]
    assert min(after - before for before, after in zip(times[1:], times[2:], strict=False)) >= 0.15
    moments = [moment for moment, path, _ in site.asked if path == "/songs/busy.html"]
    assert moments[1] - moments[0] >= 1, "Retry-After"
    assert {headers["User-Agent"] for _, _, headers in site.asked} == {"remoterun-corpus/1.0 (+me@example.org)"}

    before, count = user.results(), len(site.asked)
    again = user.fetch(*words)
    assert len(site.asked) == count, "everything was here"
    assert user.results() == before
    assert "9 pages had been fetched before" in again.stderr and "to fetch" not in again.stderr
    bare = user.fetch(*words, "--drop-marks", "--out", "corpus")
    assert user.read("corpus/input.txt").startswith("First line,\nsecond line\n") and len(site.asked) == count
    assert bare.stdout != again.stdout


def test_the_first_pages_of_a_range_of_addresses(site: Site, user: User) -> None:
    site.pages["/robots.txt"] = b"User-agent: *\nDisallow: /05"
    site.pages |= {f"/{number:02}.html": song(f"Song {number}", f"Line {number}") for number in range(1, 6)}
    plan = user.fetch(site.address("/{01..05}.html"), "--limit", "3", "--dry-run")
    assert plan.stdout.splitlines() == [site.address(f"/{number:02}.html") for number in (1, 2, 3)]
    assert "3 pages would be fetched" in plan.stderr
    assert site.paths() == ["/robots.txt"]
    user.fetch(site.address("/{01..05}.html"), "--limit", "3")
    assert user.read("corpus/input.txt") == "Line 1\n\nLine 2\n\nLine 3\n"
    assert site.paths() == ["/robots.txt", "/01.html", "/02.html", "/03.html"]
    plan = user.fetch(site.address("/{01..05}.html"), "--dry-run")
    assert plan.stdout.splitlines() == [site.address("/04.html")]
    assert f"left out, as robots.txt asks: {site.address('/05.html')}" in plan.stderr
    assert "1 page would be fetched, 3 are here already" in plan.stderr
    assert len(site.asked) == 4


def test_what_is_here_needs_no_site(site: Site, user: User) -> None:
    site.pages |= {"/1.html": song("One", "[Chorus]<br>Line one"), "/robots.txt": [b"", (503, {}, b"")]}
    user.fetch(site.address("/1.html"))
    for kept in (user.folder / "corpus/cache").iterdir():  # as if it had been the day before yesterday
        kept.write_bytes(re.sub(rb'"fetched": \d+', b'"fetched": 1', kept.read_bytes()))
    user.fetch(site.address("/1.html"), "--drop-marks")
    assert user.read("corpus/input.txt") == "Line one\n"
    assert site.paths() == ["/robots.txt", "/1.html"]


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_goes_on_where_it_was(site: Site, user: User, signal_number: signal.Signals) -> None:
    site.pages |= {f"/{number}.html": song(f"Song {number}", f"Line {number}") for number in range(1, 9)}
    site.gate["/4.html"] = threading.Event()
    words = [site.address("/{1..8}.html"), "--select", SELECT]
    fetch = user.start(*words)
    until(lambda: "/4.html" in site.paths(), TIMEOUT)
    fetch.send_signal(signal_number)
    assert fetch.stderr is not None
    until(lambda: "stopping after this page" in fetch.stderr.readline(), TIMEOUT)  # type: ignore[union-attr]
    site.gate["/4.html"].set()
    _, talk = fetch.communicate(timeout=TIMEOUT)
    assert fetch.returncode == 128 + signal_number
    assert talk.endswith("stopped; the same command goes on from here\n")
    assert not (user.folder / "corpus/input.txt").exists()
    assert site.paths()[-1] == "/4.html"

    done = user.fetch(*words)
    assert "4 pages to fetch" in done.stderr and "4 pages had been fetched before" in done.stderr
    assert Counter(site.paths()) == Counter(["/robots.txt", *(f"/{number}.html" for number in range(1, 9))])
    user.fetch(*words, "--out", "whole")
    assert user.results() == user.results("whole")


def test_killed_it_goes_on_too(site: Site, user: User) -> None:
    site.pages |= {f"/{number}.html": song(f"Song {number}", f"Line {number}") for number in range(1, 5)}
    site.gate["/3.html"] = threading.Event()
    fetch = user.start(site.address("/{1..4}.html"))
    until(lambda: "/3.html" in site.paths(), TIMEOUT)
    fetch.kill()
    fetch.communicate(timeout=TIMEOUT)
    site.gate["/3.html"].set()
    user.fetch(site.address("/{1..4}.html"))
    counts = Counter(site.paths())
    assert counts.pop("/3.html") == 2, "the one that had not come"
    assert set(counts.values()) == {1}
    assert user.read("corpus/input.txt") == "Line 1\n\nLine 2\n\nLine 3\n\nLine 4\n"


def test_a_pause_ends_with_an_interrupt(site: Site, user: User) -> None:
    site.pages |= {"/1.html": (503, {"Retry-After": "120"}, b"")}
    fetch = user.start(site.address("/1.html"))
    assert fetch.stderr is not None
    until(lambda: "again in 120 s" in fetch.stderr.readline(), TIMEOUT)  # type: ignore[union-attr]
    fetch.send_signal(signal.SIGINT)
    fetch.communicate(timeout=TIMEOUT)  # it would have waited for twice as long
    assert fetch.returncode == 130


def test_refresh_asks_whether_it_has_changed(site: Site, user: User) -> None:
    tagged = {"Content-Type": "text/html", "ETag": '"v1"', "Last-Modified": "Mon, 06 Jul 2026 10:00:00 GMT"}
    site.pages |= {
        "/1.html": [(200, tagged, song("One", "Old line")), (304, {"ETag": '"v1"'}, b"")],
        "/2.html": [song("Two", "Old line two"), song("Two", "New line two")],
    }
    user.fetch(site.address("/{1..2}.html"))
    user.fetch(site.address("/{1..2}.html"), "--refresh")
    assert user.read("corpus/input.txt") == "Old line\n\nNew line two\n"
    conditions = [headers for _, path, headers in site.asked if path == "/1.html"][1]
    assert conditions["If-None-Match"] == '"v1"'
    assert conditions["If-Modified-Since"] == tagged["Last-Modified"]
    user.fetch(site.address("/{1..2}.html"))
    assert len(site.asked) == 5, "robots.txt once, each page twice"


def test_pages_that_cannot_be_had_now_are_tried_the_next_time(site: Site, user: User) -> None:
    site.pages |= {"/1.html": song("One", "Line one"), "/2.html": [(503, {}, b"")] * 5 + [song("Two", "Line two")]}
    done = user.fetch(site.address("/{1..2}.html"), status=1)
    assert "/2.html: it answers 503 Service Unavailable, 5 times" in done.stderr
    assert "without 1 page that could not be had; the same command tries again" in done.stderr
    assert user.read("corpus/input.txt") == "Line one\n"
    user.fetch(site.address("/{1..2}.html"))
    assert user.read("corpus/input.txt") == "Line one\n\nLine two\n"
    assert Counter(site.paths()) == {"/robots.txt": 1, "/1.html": 1, "/2.html": 6}


def test_a_site_that_gives_nothing_is_left_alone(site: Site, user: User) -> None:
    site.pages |= {"/": song("One", "One line")} | {f"/{n}.html": (403, {}, b"") for n in range(9)}
    done = user.fetch(site.address("/"), site.address("/{0..8}.html"), status=2)
    assert "gave none of the last 5 pages, and is left alone" in done.stderr
    assert "hint: the same command, later, goes on from here" in done.stderr
    assert site.paths()[-1] == "/4.html"


@pytest.mark.parametrize(
    ("robots", "words", "asked"),
    [
        ((503, {}, b""), "robots.txt can't be read, so the site is left alone", 5),
        ((505, {}, b""), "robots.txt can't be read, so the site is left alone", 1),
        ((200, {}, b"User-agent: remoterun-corpus\nDisallow: /"), "the lines above say why", 1),
        ((200, {}, b"User-agent: *\nAllow: /$\nDisallow: /"), "the lines above say why", 1),
    ],
)
def test_robots_txt_that_allows_nothing(site: Site, user: User, robots: Reply, words: str, asked: int) -> None:
    site.pages |= {"/robots.txt": robots, "/1.html": song("One", "Line one")}
    done = user.fetch(site.address("/1.html"), status=2)
    assert words in done.stderr
    assert site.paths() == ["/robots.txt"] * asked


def test_errors_say_what_and_what_next(
    site: Site, user: User, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], recorded: Recorded
) -> None:
    monkeypatch.chdir(user.folder)
    monkeypatch.syspath_prepend(CORPUS)
    main = importlib.import_module("fetch").main
    site.pages |= {f"/{number}.html": song("One", "Line one") for number in (1, 2, 3)} | {"/index": index("1.html")}

    def said(typed: str) -> str:
        assert main([*shlex.split(typed.replace("SITE", site.address(""))), "--delay", "0"]) == 2
        stdout, stderr = capsys.readouterr()
        assert stdout == ""
        return stderr

    recorded.cases(said)
    assert not (user.folder / "corpus/input.txt").exists()


def test_two_do_not_work_in_one_folder(site: Site, user: User) -> None:
    (user.folder / "corpus").mkdir()
    with (user.folder / "corpus/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = user.fetch(site.address("/1.html"), status=2)
    assert done.stderr == "error: another fetch is at work in corpus\n\nhint: another folder: --out FOLDER\n"
    assert site.asked == []


@pytest.mark.parametrize("script", ["fetch.py", "gutenberg.py"])
def test_without_its_requirements_it_says_how_to_get_them(script: str, tmp_path: Path) -> None:
    shutil.copytree(CORPUS, tmp_path / "corpus")
    done = subprocess.run(
        [sys.executable, "-S", str(tmp_path / "corpus" / script), "x"], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 2
    error, hint = done.stderr.split("\n\n")
    assert error in ("error: requests is not installed", "error: bs4 is not installed")
    assert hint == f"hint: python -m pip install -r {tmp_path}/corpus/requirements.txt\n"


BOOK = """\
\N{BYTE ORDER MARK}The Project Gutenberg EBook of Songs, by Nobody\r
\r
Character set encoding: {encoding}\r
\r
*** START OF THIS PROJECT GUTENBERG EBOOK SONGS ***\r
\r
Produced by Somebody and the Online\r
Distributed Proofreading Team\r
\r
\r
\r
SONGS\r
\r
Où l'été\r
naît\r
\r
End of the Project Gutenberg EBook of Songs, by Nobody\r
\r
*** END OF THIS PROJECT GUTENBERG EBOOK SONGS ***\r
and a licence\r
"""


def test_books_of_project_gutenberg(site: Site, user: User) -> None:
    latin = BOOK.replace("{encoding}", "ISO Latin-1").lstrip("\N{BYTE ORDER MARK}").encode("latin-1")
    (user.folder / "latin.txt").write_bytes(latin)
    site.pages["/files/1.txt"] = (200, {"Content-Type": "text/plain"}, BOOK.replace("{encoding}", "UTF-8").encode())
    done = user.type("gutenberg.py", "latin.txt", site.address("/files/1.txt"), "--as", "prose", "--out", "book.txt")
    assert user.read("book.txt") == "SONGS\n\nOù l'été naît\n\nSONGS\n\nOù l'été naît\n"
    assert re.search(r"^pieces +2$", done.stdout, re.MULTILINE)
    assert "book.txt is made; next: remoterun upload book.txt --name NAME" in done.stderr
    assert site.paths() == ["/robots.txt", "/files/1.txt"]
    user.type("gutenberg.py", "latin.txt", site.address("/files/1.txt"), "--out", "book.txt")
    assert user.read("book.txt") == "SONGS\n\nOù l'été\nnaît\n\nSONGS\n\nOù l'été\nnaît\n"
    assert len(site.asked) == 2


def test_marks_are_of_lyrics(user: User) -> None:
    done = user.type("fetch.py", "https://example.org/{1..3}", "--as", "prose", "--drop-marks", status=2)
    assert "--drop-marks goes with --as lyrics" in done.stderr


def test_no_book_of_project_gutenberg(user: User) -> None:
    (user.folder / "own.txt").write_text("My own words\n")
    done = user.type("gutenberg.py", "own.txt", status=2)
    assert done.stderr.startswith(
        "error: own.txt: Project Gutenberg's mark at the start and the end of the book is not found\n\nhint: "
    )
    assert not (user.folder / "corpus").exists()
    user.type("gutenberg.py", "own.txt", "--unmarked", "--out", "data/input.txt")
    assert user.read("data/input.txt") == "My own words\n"
    (user.folder / "page.txt").write_text("<!DOCTYPE html><html>")
    assert "page.txt is a web page" in user.type("gutenberg.py", "page.txt", status=2).stderr
    assert "absent.txt: No such file" in user.type("gutenberg.py", "absent.txt", status=2).stderr


def test_every_command_of_its_page(site: Site, user: User) -> None:
    """With the site made here in the place of example.org, and without the pauses."""
    awkward(site)
    site.pages |= {f"/songs/{number}.html": song(f"Song {number}", f"Line {number}") for number in range(1, 41)}
    site.pages["/files/1342.txt"] = (200, {"Content-Type": "text/plain"}, BOOK.encode())
    site.pages["/robots.txt"] = b""
    folder = Path(sys.executable).parent
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "REMOTERUN_HOME": str(user.folder / "home")}
    lines = re.findall(r"^(?:\$| {4}(?=python)) *(.*)$", (CORPUS / "README.md").read_text(), re.MULTILINE)
    assert len(lines) == 7
    for line in lines:
        words = line.replace("https://example.org", site.address("")).replace("examples/corpus", str(CORPUS))
        words += " --delay 0" if "fetch.py" in line else ""
        words = words.replace("pip install", "pip install --dry-run")
        done = subprocess.run(
            ["sh", "-c", words], cwd=user.folder, env=env, capture_output=True, text=True, timeout=TIMEOUT
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert user.read("corpus/input.txt").startswith("Line 1\n\nLine 2\n")
    assert user.read("data/austen.txt") == "SONGS\n\nOù l'été naît\n"
    assert "uploads/songs" in done_uploads(user, env)


def done_uploads(user: User, env: dict[str, str]) -> str:
    words = [str(Path(sys.executable).parent / "remoterun"), "ls"]
    return subprocess.run(words, cwd=user.folder, env=env, capture_output=True, text=True, timeout=TIMEOUT).stdout
