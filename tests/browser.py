"""A real Chromium, headless, for the tests of pages; and the real ml5.js in it, for those of models.

    missing() -> str | None                      why this machine has no browser, for `tests.conftest.require`
    libraries(folder) -> Path                    ml5.js and p5 from npm: folder/node_modules; `missing_npm()` as above
    with Browser() as browser:                   a Chromium; starts in about a second
        tab = browser.tab(width, height)         a page that notes what goes wrong in it
        tab.page                                 Playwright's `Page`
        tab.complaints                           console errors, exceptions, failed requests, requests to elsewhere
    with serve({"": page, "models": model}) as address:      any static server: URL prefixes → folders

    with Ml5(browser, libraries) as ml5:         the real ml5.js 0.12.2; `backend` is "cpu" or "webgl"
        ml5.probabilities(model, text, backend)  float32 [len(text), vocab]: after each character, of the next one
        ml5.generate(model, seed, count, temperature, backend)
                                                 Written: what ml5.js draws, character by character
        ml5.text(model, seed, count, temperature, backend)
                                                 str: what its own `generate()` answers, in one call

As fixtures: `node_modules` (the libraries), `browser` and `ml5` (one for each module), and `tab` (fails the test that
leaves complaints in it).
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.opening import Opening
from tests.quiet_network import QuietNetwork

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from playwright.sync_api import ConsoleMessage, Page, Request, Response

PAGE = Path(__file__).parents[1] / "examples" / "lstm-browser"
HERE = "127.0.0.1"


def chromium() -> str | None:
    """The path of this machine's Chromium or Chrome."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


def missing() -> str | None:
    """Why there can be no browser here; None where there can."""
    return None if chromium() else "chromium is not installed"


def missing_npm() -> str | None:
    """Why ml5.js can't be had here; None where it can."""
    return None if shutil.which("npm") else "npm is not installed"


def libraries(folder: Path) -> Path:
    """Have npm put ml5.js and p5, at the versions and with the hashes of the page's own lock file, below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PAGE / name, folder)
    words = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"npm ci: {done.stderr}"
    return folder / "node_modules"


# -- the browser


@dataclass
class Tab:
    """A page, and all that went wrong in it."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def expect(self, pattern: str) -> None:
        """Forget the complaints that match, of which there has to be one."""
        rest = [text for text in self.complaints if not re.search(pattern, text)]
        assert len(rest) < len(self.complaints), f"nobody complained of {pattern}: {self.complaints}"
        self.complaints[:] = rest

    def screenshot(self, path: Path) -> Path:
        """A PNG of what is seen."""
        self.page.screenshot(path=path)
        return path

    def colours(self, png: Path) -> int:
        """How many different colours a picture has."""
        import base64

        address = "data:image/png;base64," + base64.b64encode(png.read_bytes()).decode()
        found: int = self.page.evaluate(_COLOURS, address)
        return found

    def sideways(self) -> int:
        """By how many pixels the page is wider than its window."""
        width: int = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return width

    def _listen(self) -> None:
        page = self.page
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        page.on("requestfailed", lambda request: self._failed(request))
        page.on("request", self._asked)
        page.on("response", self._answered)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error" and "favicon.ico" not in str(message.location):
            self.complaints.append(f"console: {message.text}")

    def _failed(self, request: Request) -> None:
        self.complaints.append(f"failed: {request.url}: {request.failure}")

    def _asked(self, request: Request) -> None:
        address = urlsplit(request.url)
        of_disk = address.scheme == "file" and (request.is_navigation_request() or self.page.url.startswith("file:"))
        is_here = address.hostname == HERE or (address.hostname or "").endswith(".localhost")
        if address.scheme not in ("data", "blob", "about") and not is_here and not of_disk:
            self.complaints.append(f"a request that leaves this machine: {request.url}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400 and not response.url.endswith("/favicon.ico"):
            self.complaints.append(f"{response.status}: {response.url}")


_COLOURS = """async (address) => {
    const image = new Image();
    image.src = address;
    await image.decode();
    const { width, height } = image;
    const pencil = new OffscreenCanvas(width, height).getContext("2d");
    pencil.drawImage(image, 0, 0);
    return new Set(new Uint32Array(pencil.getImageData(0, 0, width, height).data.buffer)).size;
}"""


class Browser(Opening):
    """This machine's Chromium without a window, as a context manager: one at a time. It resolves no name: nothing
    leaves here."""

    def open(self, stack: contextlib.ExitStack) -> None:
        from playwright.sync_api import sync_playwright

        words = [f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {HERE}, EXCLUDE *.localhost"]
        program = chromium()
        if os.geteuid() == 0 and program is not None:
            network = stack.enter_context(QuietNetwork())
            program = network.program(program)
            words += ["--no-sandbox", *network.options]
        playwright = stack.enter_context(sync_playwright())
        self._browser = playwright.chromium.launch(executable_path=program, args=words)
        stack.callback(self._browser.close)

    def tab(self, width: int = 1280, height: int = 800, **options: Any) -> Tab:
        """A new page with a profile of its own. `options` are those of Playwright's `new_context`."""
        context = self._browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(90_000)
        tab = Tab(context.new_page())
        tab._listen()
        return tab


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium for the tests of a module."""
    from tests.conftest import require

    require(missing())
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def kept_tab(browser: Browser) -> Tab:
    return browser.tab()


@pytest.fixture
def tab(kept_tab: Tab) -> Iterator[Tab]:
    """A page; the test fails if something went wrong in it that it did not `expect`. The tests of a module use the
    same one, as each new one takes two seconds of processor time to read ml5.js; it is blank at the start of a test."""
    kept_tab.complaints.clear()
    yield kept_tab
    complaints = list(kept_tab.complaints)
    kept_tab.page.goto("about:blank")
    kept_tab.page.emulate_media(color_scheme="null", reduced_motion="null")
    assert complaints == []


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what npm brings for the page."""
    from tests.conftest import require

    require(missing_npm())
    return libraries(tmp_path_factory.mktemp("npm"))


@pytest.fixture(scope="module")
def ml5(browser: Browser, node_modules: Path) -> Iterator[Ml5]:
    with Ml5(browser, node_modules) as ml5:
        yield ml5


# -- a static server


@contextlib.contextmanager
def serve(folders: Mapping[str, Path]) -> Iterator[str]:
    """Serve folders, each below its prefix ("": the rest), on a free port; yields `http://127.0.0.1:PORT/`. They may be
    changed meanwhile: the browser keeps nothing of them but the libraries."""
    with ThreadingHTTPServer((HERE, 0), functools.partial(_Static, folders)) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://{HERE}:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


class _Static(SimpleHTTPRequestHandler):
    """`python -m http.server` over several folders, without its log."""

    def __init__(self, folders: Mapping[str, Path], *arguments: Any) -> None:
        self._folders = folders
        super().__init__(*arguments)

    def translate_path(self, path: str) -> str:
        place = unquote(urlsplit(path).path).lstrip("/")
        for prefix in sorted(self._folders, key=len, reverse=True):
            if not prefix or place == prefix or place.startswith(prefix + "/"):
                self.directory = str(self._folders[prefix])
                return super().translate_path("/" + place[len(prefix) :].lstrip("/"))
        return os.devnull

    def end_headers(self) -> None:
        if "/node_modules/" not in self.path:
            self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *words: Any) -> None:
        pass


# -- the real ml5.js


@dataclass(frozen=True)
class Written:
    """What ml5.js drew after a seed. A character is None where its numbers left it without one; `probabilities`
    [count, vocab] are those it drew from, at the temperature, in the order of vocab.json's ids: NaN and all."""

    characters: list[str | None]
    probabilities: NDArray[np.float32]


class Ml5(Opening):
    """The real ml5.js in a real browser, as a context manager. Every call loads the model anew."""

    def __init__(self, browser: Browser, node_modules: Path) -> None:
        self._browser, self._node_modules = browser, node_modules

    def open(self, stack: contextlib.ExitStack) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ml5-")))
        (folder / "node_modules").symlink_to(self._node_modules)
        (folder / "index.html").write_text(
            '<!doctype html><title>ml5</title><script src="node_modules/ml5/dist/ml5.min.js"></script>'
        )
        self._folders = {"": folder}
        self._address = stack.enter_context(serve(self._folders))
        self._tab = self._browser.tab()
        stack.callback(self._tab.page.context.close)

    def probabilities(self, model: Path, text: str, backend: str) -> NDArray[np.float32]:
        """After each character of `text`, the probability of each next one: float32 [len(text), vocab]."""
        return _rows(self._ask(model, _PROBABILITIES, backend, list(text)))

    def generate(self, model: Path, seed: str, count: int, temperature: float, backend: str) -> Written:
        """Let ml5.js `predict` and `feed` `count` times after `seed`, which has at least one character."""
        found = self._ask(model, _GENERATE, backend, [list(seed), count, temperature])
        return Written(found["characters"], _rows(found["rows"]))

    def text(self, model: Path, seed: str, count: int, temperature: float, backend: str) -> str:
        """The answer of one call of ml5.js' own `generate()`: shorter than `count` where it lost characters."""
        found: str = self._ask(model, _TEXT, backend, [seed, count, temperature])
        return found

    def _ask(self, model: Path, code: str, backend: str, argument: object) -> Any:
        self._folders["model"] = model
        page = self._tab.page
        page.goto(self._address)
        # The last file that ml5.js asks for. A page has all of it before Chromium reports the end of the request, and
        # a page that is left before that is said to have aborted it.
        with page.expect_request_finished(lambda request: request.url.endswith("/vocab.json")):
            found = page.evaluate(_LOADED % code, [backend, argument])
        assert self._tab.complaints == [], self._tab.complaints
        return found


# Rows travel as strings of base 64: JSON has no NaN, and a row of numbers as text takes seconds.
_LOADED = """async ([backend, argument]) => {
    const tf = ml5.tf;
    if (!(await tf.setBackend(backend))) throw new Error(`no backend ${backend}`);
    const rnn = await ml5.charRNN("model").ready;
    if (tf.getBackend() !== backend) throw new Error(`backend ${tf.getBackend()}`);
    const row = (probabilities) => {
        const numbers = new Float32Array(rnn.vocabSize);
        for (const { char, probability } of probabilities) numbers[rnn.vocab[char]] = probability;
        return btoa(String.fromCharCode(...new Uint8Array(numbers.buffer)));
    };
    // In a scope of its own, or ml5.js leaves 13 tensors behind for each character.
    const step = async (character, temperature) => {
        tf.engine().startScope();
        await rnn.feed([character]);
        [...rnn.state.c, ...rnn.state.h].forEach((tensor) => tf.keep(tensor));
        const found = await rnn.predict(temperature);
        tf.engine().endScope();
        return found;
    };
    %s
}"""
_PROBABILITIES = """
    const rows = [];
    for (const character of argument) rows.push(row((await step(character, 1)).probabilities));
    return rows;
"""
_GENERATE = """
    const [seed, count, temperature] = argument;
    const characters = [], rows = [];
    let found;
    for (const character of seed) found = await step(character, temperature);
    while (characters.length < count) {
        characters.push(found.sample === undefined ? null : found.sample);
        rows.push(row(found.probabilities));
        found = await step(found.sample, temperature);
    }
    return { characters, rows };
"""
_TEXT = """
    const [seed, length, temperature] = argument;
    return (await rnn.generate({ seed, length, temperature })).sample;
"""


def _rows(encoded: list[str]) -> NDArray[np.float32]:
    import base64

    import numpy as np

    return np.array([np.frombuffer(base64.b64decode(row), "<f4") for row in encoded], np.float32)
