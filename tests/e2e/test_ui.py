"""The page of runs in a real Chromium, with the installed `remoterun ui` and real runs."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Locator, Page, expect

from remoterun.agent.store.home import Home
from tests.browser import Browser, Tab, missing_npm
from tests.conftest import require
from tests.e2e.ui import Ui, page_of, project
from tests.sshd import Server, keys, server  # noqa: F401
from tests.workshop import lend, until

SCRIPT = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
AWAY = r"502: \S+/api/\S+|console: Failed to load resource: the server responded with a status of 502 .*"
ABORTED = r"failed: \S+ net::ERR_ABORTED"
PATIENCE = 60_000


@pytest.fixture(autouse=True)
def patience() -> None:
    expect.set_options(timeout=PATIENCE)


@pytest.fixture
def page(ui: Ui, tab: Tab) -> Iterator[Page]:
    """The tab; a request that ends because another run is chosen, or the page is left, is no fault."""
    yield tab.page
    tab.page.goto("about:blank")
    tab.complaints[:] = [text for text in tab.complaints if not re.fullmatch(ABORTED, text)]


def row(page: Page, number: int) -> Locator:
    return page.locator(f"#list a[data-number='{number}']")


def steps(page: Page) -> list[int]:
    return [int(found) for found in re.findall(r"^step (\d+) of", page.locator(".lines").inner_text(), re.MULTILINE)]


def shown(page: Page) -> str:
    """The address that the page shows, below its token."""
    found: str = page.evaluate("location.href.slice(document.baseURI.length)")
    return found


def points(page: Page) -> int:
    """How many steps the table behind the first chart has."""
    return page.locator("section.charts figure").first.locator("tbody tr").count()


def test_a_training_appears_grows_and_is_stopped(ui: Ui, page: Page) -> None:
    ui.open(page)
    expect(page.locator("#list .empty code")).to_have_text("remoterun run python train.py")
    number = ui.start("--label", "night", "python train.py 100000 0.05")
    expect(row(page, number)).to_contain_text(
        re.compile(r"python train\.py 100000.*running \d+ (s|min).*box.*night", re.S)
    )
    expect(row(page, number)).to_contain_text(re.compile(r"loss0\.\d+.*accuracy0\.9"))
    expect(page.locator("h1")).to_contain_text("python train.py 100000")
    expect(page.locator(".phases")).to_contain_text(re.compile(r"running \d+ (s|min)"))
    expect(page.locator("section.charts figure").first).to_be_visible()
    before = page.locator("section.charts").inner_text()
    until(lambda: page.locator("section.charts").inner_text() != before, what=lambda: before)
    page.get_by_role("button", name="Stop").click()
    expect(row(page, number)).to_contain_text(re.compile(r"stopped \d+ s ago"))
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    assert ui.place.json("info", str(number))["state"] == "stopped"


def test_the_log_streams(ui: Ui, page: Page) -> None:
    """Each line once, in order, with its colours; a bar is one line; it follows the end until one scrolls up."""
    number = ui.start("python train.py 100000 0.02")
    ui.open(page, f"runs/{number}#log")
    until(lambda: len(steps(page)) > 60, what=lambda: page.locator(".lines").inner_text())
    assert page.locator(".lines").inner_text().startswith("red words and plain ones\n")
    assert page.evaluate(
        "getComputedStyle(document.querySelector('.lines span')).color !== getComputedStyle(document.body).color"
    )
    found = steps(page)
    assert found == list(range(1, len(found) + 1))
    assert page.locator(".lines").inner_text().count("bar 11%") == 0, "what a bar showed before is drawn over"
    at_end = "(s => s.scrollHeight - s.scrollTop - s.clientHeight < 8)(document.querySelector('.log .scroller'))"
    assert page.evaluate(at_end)
    page.locator(".log .scroller").evaluate("s => { s.scrollTop = 100; }")
    expect(page.get_by_role("button", name="Jump to the end")).to_be_visible()
    until(lambda: len(steps(page)) > len(found) + 20)
    assert page.locator(".log .scroller").evaluate("s => s.scrollTop") == 100
    page.get_by_role("button", name="Jump to the end").click()
    until(lambda: page.evaluate(at_end))
    page.get_by_role("button", name="Kill").click()
    page.get_by_role("button", name="Kill it now?").click()
    expect(row(page, number)).to_contain_text("killed")


@pytest.fixture(scope="module")
def three(ui: Ui) -> list[int]:
    """Runs that have ended."""
    numbers = [
        ui.start("--label", "first", "-d", "Alpha", "python say.py 0 one"),
        ui.start("--label", "second", "python say.py 0 two"),
        ui.start("--label", "second", "python train.py 50 0"),
    ]
    for number in numbers:
        ui.finish(number)
    return numbers


def listed(page: Page) -> list[int]:
    return [
        int(number) for number in page.locator("#list a").evaluate_all("all => all.map(each => each.dataset.number)")
    ]


def test_filter_keyboard_and_reload(ui: Ui, page: Page, three: list[int]) -> None:
    one, two, last = three
    ui.open(page, "runs/last")
    expect(page.locator("h1")).to_contain_text("python train.py 50 0")
    page.keyboard.press("/")
    for text, wanted in (
        ("label:second", [last, two]),
        ("say.py -label:second", [one]),
        ("alpha", [one]),
        ("loss<0.09 label:second", [last]),
        ("state:complete machine:box", [last, two, one]),
    ):
        page.get_by_label("Filter the runs").fill(text)
        until(lambda wanted=wanted: listed(page)[: len(wanted)] == wanted, what=text)  # type: ignore[misc]
    page.keyboard.press("Enter")
    page.keyboard.press("j")
    expect(page.locator("h1")).to_contain_text("two")
    page.keyboard.press("ArrowDown")
    expect(page.locator("h1")).to_contain_text("one")
    page.keyboard.press("k")
    page.keyboard.press("2")
    expect(page.locator(".lines")).to_have_text("two")
    assert shown(page) == f"runs/{two}?q=state%3Acomplete+machine%3Abox#log"
    page.reload()
    expect(page.locator(".lines")).to_have_text("two")
    expect(page.get_by_label("Filter the runs")).to_have_value("state:complete machine:box")
    row(page, one).click()
    expect(page.locator(".lines")).to_have_text("one")
    page.go_back()
    expect(page.locator(".lines")).to_have_text("two")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("filter the runs")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_label("Filter the runs").fill("no such thing")
    expect(page.locator("#list")).to_contain_text("No run fits this filter.")


def test_what_its_buttons_do(ui: Ui, page: Page, three: list[int]) -> None:
    number = three[0]
    ui.open(page, f"runs/{number}")
    page.get_by_role("button", name="Pin").click()
    expect(row(page, number)).to_contain_text("pinned")
    assert listed(page)[0] == number
    page.get_by_role("button", name="Unpin").click()
    page.get_by_role("button", name="Labels").click()
    page.get_by_label("With spaces between them").fill("first new")
    page.keyboard.press("Enter")
    expect(row(page, number)).to_contain_text("new")
    page.get_by_role("button", name="Note").click()
    page.get_by_label("Note", exact=True).fill("the best so far")
    page.keyboard.press("Control+Enter")
    expect(page.locator("header .remark")).to_have_text("the best so far")
    page.get_by_role("button", name="Archive").click()
    expect(row(page, number)).to_have_count(0)
    page.get_by_label("Filter the runs").fill("is:archived")
    expect(row(page, number)).to_have_count(1)
    page.get_by_role("button", name="Unarchive").click()
    page.get_by_label("Filter the runs").fill("")
    page.get_by_role("button", name="Run again").click()
    page.get_by_label("Command").fill("python say.py 0 once more")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator("h1")).to_contain_text("once more")
    expect(page.locator(".lines")).to_contain_text("oncemore")
    page.keyboard.press("5")
    expect(page.locator("section.details")).to_contain_text(f"It repeats run {number}")


def test_a_run_that_is_not_there(ui: Ui, page: Page, tab: Tab) -> None:
    """It says so: at once, and when the run that is shown is removed elsewhere."""
    for name in ("999", "abc"):
        ui.open(page, f"runs/{name}")
        expect(page.locator("main")).to_have_text(re.compile(r"^There is no run \d+\.$"))
    tab.complaints.clear()
    number = ui.start("python say.py 0 brief")
    ui.finish(number)
    ui.open(page, f"runs/{number}#log")
    expect(page.locator(".lines")).to_have_text("brief")
    ui.place.run("rm", "-y", str(number))
    expect(page.locator("main")).to_have_text(f"There is no run {number}.")
    expect(row(page, number)).to_have_count(0)
    page.goto("about:blank")  # it may have asked more than once
    tab.complaints.clear()


def test_hostile_texts_run_nothing(ui: Ui, page: Page) -> None:
    link = r"printf '\033]8;;javascript:window.hacked=1\033\\link'"
    number = ui.start("-d", f"d{SCRIPT}", f"python say.py 0 {shlex.quote('log' + SCRIPT)}; {link} # {SCRIPT}")
    ui.place.run("label", "add", str(number), "<b>bold</b>", status=None)
    ui.finish(number)
    ui.open(page, f"runs/{number}")
    expect(page.locator("h1")).to_contain_text(f"# {SCRIPT}")
    expect(page.locator("header.run")).to_contain_text(f"d{SCRIPT}")
    expect(page.locator(".lines")).to_contain_text(f"log{SCRIPT}")
    for tab in ("charts", "files", "details"):
        ui.open(page, f"runs/{number}#{tab}")
        expect(page.locator(f"section.{tab}")).to_have_count(1)
    expect(page.locator("section.details")).to_contain_text(SCRIPT)
    ui.open(page, f"runs/{number}?q={SCRIPT}")
    expect(row(page, number)).to_have_count(1)
    assert page.evaluate("[window.hacked, document.querySelectorAll('main img, main script, #list img').length]") == [
        None,
        0,
    ]


def test_a_tab_that_nobody_sees_asks_for_nothing(ui: Ui, page: Page) -> None:
    """It goes on where it was: each line comes once."""
    hide = "on => { Object.defineProperty(document, 'hidden', {value: on, configurable: true});"
    hide += " document.dispatchEvent(new Event('visibilitychange')); }"
    number = ui.start("python train.py 100000 0.02")
    with page.expect_request(lambda request: "/events?" in request.url and "run=" in request.url):
        ui.open(page, f"runs/{number}#log")
    until(lambda: len(steps(page)) > 20)
    with page.expect_event("requestfailed", lambda request: "/events?" in request.url):
        page.evaluate(hide, True)
    before = steps(page)
    ui.place.follow_until(str(number), f"step {before[-1] + 50} ")  # an answer that it awaits may lead to a question
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    ui.place.follow_until(str(number), f"step {before[-1] + 200} ")
    assert not asked and len(steps(page)) < before[-1] + 100, "but what was on its way may still be shown"
    page.evaluate(hide, False)

    def whole() -> bool:
        """Of much that comes at once the end is drawn first, and what is before it after that."""
        found = steps(page)
        return len(found) > len(before) + 100 and found == list(range(1, len(found) + 1))

    until(whole, what=lambda: str(steps(page)))
    ui.place.run("kill", str(number))


def test_two_tabs(ui: Ui, page: Page, browser: Browser) -> None:
    number = ui.start("python train.py 100000 0.05")
    other = browser.tab()
    for each in (page, other.page):
        ui.open(each, f"runs/{number}#log")
    for each in (page, other.page):
        until(lambda each=each: len(steps(each)) > 20)  # type: ignore[misc]
    page.get_by_role("button", name="Pin").click()
    expect(row(other.page, number)).to_contain_text("pinned")
    page.get_by_role("button", name="Stop").click()
    expect(row(other.page, number)).to_contain_text("stopped")
    other.page.context.close()


def above(page: Page) -> list[int]:
    """Scroll to the top of what the page has of a log; the lines that it has."""
    page.locator(".log .scroller").evaluate("s => { s.scrollTop = 0; }")
    return [int(number) for number in re.findall(r"^line (\d+)", page.locator(".lines").inner_text(), re.M)]


def test_a_long_log(ui: Ui, page: Page) -> None:
    """It is opened at its end, and read upwards; a search finds a line in its middle."""
    program = "import sys\nfor i in range(100_000): print(f'line {i} of many, with words to make it long enough')\n"
    (ui.place.folder / "long.py").write_text(program)
    number = ui.start("python long.py")
    ui.finish(number)
    ui.open(page, f"runs/{number}#log")
    lines = page.locator(".lines > div > div")
    expect(lines.last).to_have_text("line 99999 of many, with words to make it long enough")
    until(lambda: above(page)[-1] < 99_999)
    found = above(page)
    assert found == list(range(found[0], found[-1] + 1)) and len(found) < 20_000
    page.keyboard.press(";")
    page.keyboard.type("line 50000 of")
    page.keyboard.press("Enter")
    expect(page.locator(".lines .hit")).to_have_text("line 50000 of many, with words to make it long enough")
    expect(page.locator(".lines .hit")).to_be_in_viewport()
    page.get_by_role("button", name="Jump to the end").click()
    expect(lines.last).to_be_in_viewport()


def test_a_log_that_is_faster_than_the_page(ui: Ui, page: Page) -> None:
    """It is followed all the same, and read upwards from its end without a gap."""
    program = "import time\ntime.sleep(3)\nfor i in range(500_000): print(f'line {i} of many more than can be drawn')\n"
    (ui.place.folder / "fast.py").write_text(program)
    number = ui.start("python -u fast.py | cat")
    ui.open(page, f"runs/{number}#log")
    lines = page.locator(".lines > div > div")
    expect(lines.last).to_contain_text("line 499999 of")
    expect(page.get_by_role("button", name="Jump to the end")).to_be_hidden()
    until(lambda: len(above(page)) > 5000)
    found = above(page)
    assert found == list(range(found[0], found[-1] + 1))


def test_a_machine_is_cut_off_and_comes_back(
    tmp_path: Path,
    environment: Path,
    server: Server,  # noqa: F811
    tab: Tab,
) -> None:
    place = project(tmp_path, environment)
    place.env["REMOTERUN_SSH_CONFIG"] = str(server.config())
    lend(environment, Home.open(str(server.home / ".remoterun")))
    place.run("machines", "add", "far", "box", "--engine", "process", "--default")
    with page_of(place) as address:
        ui = Ui(place, address)
        number = ui.start("python train.py 100000 0.05")
        ui.open(tab.page, f"runs/{number}#log")
        until(lambda: len(steps(tab.page)) > 20)
        server.stall()
        expect(tab.page.locator("header .lost")).to_contain_text(re.compile(r"this is as it was \d+ s ago"))
        server.cut()
        expect(tab.page.locator("header .lost")).to_be_empty()
        before = len(steps(tab.page))
        until(lambda: len(steps(tab.page)) > before + 20)
        found = steps(tab.page)
        assert found == list(range(1, len(found) + 1))
        place.run("kill", str(number))
        tab.page.goto("about:blank")
        # What was asked of the machine while it was away has the status 502.
        tab.complaints[:] = [text for text in tab.complaints if not re.fullmatch(rf"{ABORTED}|{AWAY}", text)]


def test_the_server_ends(tmp_path: Path, environment: Path, tab: Tab) -> None:
    place = project(tmp_path, environment)
    with page_of(place) as address:
        tab.page.goto(address)
        expect(tab.page.locator("#list .empty")).to_be_visible()
    expect(tab.page.locator("#link")).to_contain_text(
        re.compile(r"remoterun ui does not answer; this is as it was \d+ s ago")
    )
    tab.page.goto("about:blank")
    tab.complaints.clear()


# -- axe-core

LOOKS: list[tuple[int, Literal["light", "dark"]]] = [(1280, "light"), (1280, "dark"), (420, "light")]
ALSO = ("landmark-unique", "empty-table-header", "role-img-alt", "heading-order")
"""What is less than serious and was mended."""


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core."""
    require(missing_npm())
    folder = tmp_path_factory.mktemp("axe")
    words = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder)]
    words.append("axe-core@4.10.3")
    subprocess.run(words, check=True, capture_output=True, timeout=120, stdin=subprocess.DEVNULL)
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


def test_a_set_is_one_line_that_opens(ui: Ui, page: Page) -> None:
    words = ["--param", "steps=30,20,40", "--param", "pause=0", "python train.py :steps: :pause:"]
    first, last = map(int, ui.place.run("run", "-b", "-y", "-q", *words).stdout.split("-"))
    ui.place.run("wait", f"{first}-{last}", status=None)
    ui.open(page)
    line = page.locator("#list .set button")
    expect(line).to_contain_text(f"{first}–{last}steps × pause3 of 3 done")
    expect(line).to_contain_text(f"best loss 0.1 (run {last})")
    expect(row(page, last)).to_be_hidden()
    line.press("Enter")
    expect(line).to_have_attribute("aria-expanded", "true")
    row(page, first).click()
    expect(page.locator("h1")).to_contain_text("python train.py 30 0")
    page.keyboard.press("k")
    page.keyboard.press("k")
    until(lambda: shown(page).startswith(f"runs/{last}"), what=lambda: shown(page))
    line.click()
    expect(row(page, last)).to_be_hidden()
    expect(page.locator("#list .set")).to_have_class("set chosen")
    page.locator("#filter").fill("train.py 20")
    expect(row(page, first + 1)).to_be_visible()
    page.locator("#filter").fill("")


def test_axe_finds_nothing_serious(ui: Ui, page: Page, three: list[int], axe: str) -> None:
    """In every view, with a run that goes on and prints, and one that has ended."""
    live = ui.start("python train.py 100000 0.2")
    ui.place.run("upload", "data")
    of_live = [f"runs/{live}{tab}" for tab in ("", "?times=1#log", "#charts", "#files", "#details")]
    views = [*of_live, f"runs/{three[2]}", f"compare/{three[2]},{live}", "machines", "uploads"]
    for path in ("", "?dense=1&sort=-best:loss", f"runs/{three[2]}?chart=loss#charts", *views):
        ui.open(page, path)
        large = page.get_by_role("button", name="All charts of")
        shown = large if "chart=" in path else page.locator("main h1" if path in views else "#list a").first
        expect(shown).to_be_visible()
        if "dense" in path:
            page.get_by_role("button", name="Columns").click()
        page.evaluate(axe)
        for width, scheme in LOOKS:
            page.set_viewport_size({"width": width, "height": 850})
            page.emulate_media(color_scheme=scheme)
            found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
            bad = [each for each in found if each["id"] in ALSO or each["impact"] in ("serious", "critical")]
            assert [(each["id"], each["nodes"][0]["html"]) for each in bad] == [], (path, width, scheme)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.set_viewport_size({"width": 1280, "height": 800})
    ui.place.run("kill", str(live))
