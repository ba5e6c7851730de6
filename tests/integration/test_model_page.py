"""What `remoterun open` stands on: the page's server, npm, and the model that is copied for it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoterun.agent.shared.states import RunState
from remoterun.errors import NotFound, RemoterunError, UsageError
from remoterun.model import RunRequest
from remoterun.model_page import libraries, local_model
from remoterun.model_page.libraries import FILES, _npm, page_file
from remoterun.ui.models import Page
from tests.browser import missing_npm
from tests.conftest import require
from tests.models import lend_libraries, write_model
from tests.workshop import User, until

PRIVATE = "nobody's business"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the libraries."""
    require(missing_npm())
    home = tmp_path_factory.mktemp("page")
    said: list[str] = []
    libraries(home, said.append)
    assert said == ["Getting ml5.js and p5 from npm: once, about 8 MB"]
    return home


@pytest.fixture
def page(home: Path, tmp_path: Path) -> Iterator[Page]:
    model = write_model(tmp_path / "my models", "w")
    (model / "notes.txt").write_text(PRIVATE)
    (tmp_path / "secret").write_text(PRIVATE)
    page = Page(local_model(model), libraries(home))
    thread = threading.Thread(target=page.serve)
    thread.start()
    yield page
    page.close()
    thread.join(60)
    assert not thread.is_alive()


def test_an_interrupt_before_the_first_request_leaves_nothing_to_wait_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("uvicorn.Server.main_loop", interrupted)
    with Page(local_model(write_model(tmp_path / "models", "w")), tmp_path) as page, pytest.raises(KeyboardInterrupt):
        page.serve()


def token(page: Page) -> str:
    """The random word that all addresses of the page begin with."""
    return page.address.split("/")[3]


def ask(page: Page, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """What the page answers; `path`: below its token."""
    return request(page, f"/{token(page)}{path}", method, **headers)


def request(page: Page, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=60)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_what_is_served(page: Page) -> None:
    for path, type_ in {
        "/": "text/html; charset=utf-8",
        "/?model=anything": "text/html; charset=utf-8",
        "/page.js": "text/javascript; charset=utf-8",
        "/style.css": "text/css; charset=utf-8",
        "/node_modules/p5/lib/p5.min.js": "text/javascript; charset=utf-8",
        f"/node_modules/{FILES[4]}": "font/woff2",
        "/my%20models/manifest.json": "application/octet-stream",
        "/my%20models/w": "application/octet-stream",
    }.items():
        status, headers, body = ask(page, path)
        assert (status, headers["content-type"], int(headers["content-length"])) == (200, type_, len(body))
        assert body and headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == ("max-age=3600" if path.startswith("/node_modules/") else "no-store")
        assert "default-src 'self'" in headers["content-security-policy"]
        again, same, nothing = ask(page, path, "HEAD")
        assert (again, same["content-length"], nothing) == (200, headers["content-length"], b"")


def test_the_address_names_the_model(page: Page) -> None:
    assert page.address == f"http://127.0.0.1:{page.port}/{token(page)}/?model=my%20models"


def test_nobody_gets_anything_without_the_token(page: Page, home: Path) -> None:
    """Any user of this machine reaches the port; the word is in the address that its owner was shown."""
    with Page(page.model, libraries(home)) as other:
        assert token(other) != token(page)
    for path in ("/my%20models/w", f"/{token(page)[:-1]}/page.js", "/favicon.ico"):
        status, _, body = request(page, path)
        assert (status, body) == (
            403,
            b"the whole address is needed that `remoterun open` printed; one that ended is no longer good\n",
        ), path
        assert request(page, path, "HEAD")[0] == 403


def test_nothing_else_is(page: Page) -> None:
    for path in (
        *("/my%20models/notes.txt", "/my%20models/", "/my%20models", "/my%20models/../secret", "/../secret"),
        *("/my%20models/%2e%2e/secret", "/my%20models/..%2fsecret", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd"),
        *("/node_modules/", "/node_modules/ml5/", "/node_modules/../page.js", "/package.json", "/README.md"),
        *("/my%20models/w/", "/my%20models/./w", "/my%20models/w%00", "/etc/passwd", "/%FF%FE", "/index.html/"),
    ):
        status, _, body = ask(page, path)
        assert status == 404 and body.startswith(b"there is no ") and PRIVATE.encode() not in body, path


def test_links_out_of_the_folder_are_not_followed(page: Page) -> None:
    """Whatever the manifest names: neither a link to a file of somebody else's, nor a pipe that nobody writes."""
    folder = page.model.folder
    (folder / "w").unlink()
    (folder / "w").symlink_to("../secret")
    assert ask(page, "/my%20models/w")[0] == 404
    (folder / "w").unlink()
    os.mkfifo(folder / "w")
    assert ask(page, "/my%20models/w")[0] == 404


def test_requests_of_other_kinds_are_refused(page: Page) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        status, headers, _ = ask(page, "/page.js", method)
        assert (status, headers["allow"]) == (405, "GET, HEAD"), method


def test_one_connection_serves_many_requests_and_a_reader_may_go(page: Page, capfd: pytest.CaptureFixture[str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=60)
    for path in ("/page.js", "/nothing", "/model.js"):
        connection.request("GET", f"/{token(page)}{path}")
        connection.getresponse().read()
    connection.close()
    with socket.create_connection(("127.0.0.1", page.port)) as gone:
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # it closes with a reset
        gone.sendall(f"GET /{token(page)}/node_modules/ml5/dist/ml5.min.js HTTP/1.1\r\n\r\n".encode())
        gone.recv(1000)
    assert ask(page, "/")[0] == 200
    assert capfd.readouterr() == ("", ""), "its log is quiet"


def test_a_model_that_is_replaced_or_removed_meanwhile(page: Page) -> None:
    (page.model.folder / "w").write_bytes(b"12345678")
    assert ask(page, "/my%20models/w")[2] == b"12345678"
    (page.model.folder / "manifest.json").write_text("{")
    assert ask(page, "/my%20models/w")[0] == 404
    shutil.rmtree(page.model.folder)
    assert ask(page, "/my%20models/manifest.json")[0] == 404


def test_no_file_of_a_model_is_a_page_or_a_script(page: Page) -> None:
    """The page of runs has the same origin as the models that it opens."""
    write_model(page.model.folder, "a.html", "b.js", "c.css", "d.svg", "e.txt")
    for name in ("a.html", "b.js", "c.css", "d.svg", "e.txt", "vocab.json"):
        status, headers, _ = ask(page, f"/my%20models/{name}")
        assert (status, headers["content-type"]) == (200, "application/octet-stream")


def test_a_port_that_is_taken(page: Page, home: Path) -> None:
    for port in (page.port, 70000):
        with pytest.raises(UsageError, match=f"port {port} can't be used: ") as caught:
            Page(page.model, libraries(home), port)
        assert caught.value.hint == "leave --port out, and a free one is taken"


def test_a_model_with_the_name_of_something_of_the_page(home: Path, tmp_path: Path) -> None:
    for name in ("node_modules", "index.html"):
        with Page(local_model(write_model(tmp_path / name, "w")), libraries(home)) as page:
            assert page.address.endswith("/?model=model")
            with page.open("model/w") as file:
                assert file.read() == b"1234"


# -- npm


def test_the_libraries_are_kept(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Once there, they need neither npm nor a network; of the packages only what is served is kept."""
    monkeypatch.setenv("PATH", "")
    folder = libraries(home, lambda text: pytest.fail(text))
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == set(FILES)
    assert [path.name for path in (home / "page").iterdir() if path.name.startswith("npm-")] == []
    with pytest.raises(RemoterunError, match="npm is not installed") as caught:
        libraries(tmp_path)
    assert caught.value.hint and "sudo apt install npm" in caught.value.hint
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["lock"]


def test_libraries_that_are_not_whole_are_fetched_again(home: Path, tmp_path: Path) -> None:
    whole = libraries(home)
    (tmp_path / "page").mkdir()
    broken = tmp_path / "page" / whole.name
    shutil.copytree(whole, broken)
    (broken / FILES[0]).unlink()
    said: list[str] = []
    assert libraries(tmp_path, said.append) == broken
    assert said and (broken / FILES[0]).read_bytes() == (whole / FILES[0]).read_bytes()


def test_a_package_with_another_hash_is_refused(home: Path, tmp_path: Path) -> None:
    lock = json.loads(page_file("package-lock.json").read_text())
    entry = lock["packages"]["node_modules/p5"]
    entry["integrity"] = entry["integrity"].replace("gfGo", "gfGp")
    (tmp_path / "package-lock.json").write_text(json.dumps(lock))
    shutil.copy(page_file("package.json"), tmp_path)
    with pytest.raises(RemoterunError, match="npm could not bring ml5.js and p5") as caught:
        _npm(str(tmp_path))
    assert "EINTEGRITY" in (caught.value.evidence or "") and not (tmp_path / "node_modules" / "p5").exists()


# -- the model of a run, and of an upload


@pytest.fixture
def artist(user: User, home: Path) -> User:
    """A user who has the libraries already."""
    lend_libraries(home, user.config.home)
    return user


def opened(user: User, source: str) -> Page:
    return Page(user.client.files.model(source), libraries(user.config.home))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_model_of_a_run_in_the_middle_and_at_its_end(artist: User) -> None:
    client, place = artist.client, artist.place("one")
    source = artist.source({"notes": b"x"})
    run = client.runs.submit(RunRequest("mkdir out; echo ready; while [ ! -e halt ]; do sleep 0.05; done"), source)
    place.until_says(run.key, b"ready")
    work = Path(place.run(run.key).work)
    with pytest.raises(NotFound, match="`runs/1` holds no model") as caught:
        client.files.model("runs/1")
    assert caught.value.hint == "run 1 goes on and may write one yet: `remoterun logs 1`"

    write_model(work / "out" / "models", "step-1-w", settings={"step": 1})
    (work / "out" / "models" / "large").write_bytes(bytes(1_000_000))
    with opened(artist, "runs/last") as page:
        assert page.address.endswith("/?model=runs/1/out/models")
        assert (page.model.live, page.model.step, page.model.files) == (True, 1, 4)
        kept = page.model.folder
    assert kept.is_relative_to(artist.config.home) and "large" not in names(kept)

    (work / "out" / "models" / "step-1-w").unlink()
    write_model(work / "out" / "models", "step-2-w", settings={"step": 2})
    with opened(artist, "runs/1/out") as page:
        assert (page.model.folder, page.model.step) == (kept, 2)
    assert names(kept) == ["manifest.json", "settings.json", "step-2-w", "vocab.json"]

    (work / "halt").touch()
    until(lambda: client.runs.get(1).state is RunState.COMPLETE)
    with opened(artist, "runs/1/out/models") as page:
        assert (page.model.folder, page.model.live, page.model.step) == (kept, False, 2)
        with page.open("runs/1/out/models/step-2-w") as file:
            assert file.read() == b"1234"


def test_the_model_of_an_upload(artist: User, tmp_path: Path) -> None:
    artist.client.uploads.upload(write_model(tmp_path / "model", "w"), "song")
    with opened(artist, "uploads/song") as page:
        assert page.model.name == "uploads/song" and names(page.model.folder) == ["manifest.json", "vocab.json", "w"]
    with pytest.raises(NotFound, match="there is no upload `sing`"):
        artist.client.files.model("uploads/sing")
