"""The log of a run on the page, in a real Chromium: stored, with times, by an address of a line, stderr apart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser import Tab
from tests.e2e.ui import Ui
from tests.workshop import until


@pytest.fixture(autouse=True)
def patience() -> None:
    expect.set_options(timeout=60_000)


@pytest.fixture
def page(ui: Ui, tab: Tab) -> Page:
    return tab.page


def shown(page: Page) -> str:
    found: str = page.evaluate("location.href.slice(document.baseURI.length)")
    return found


def test_it_is_stored_as_a_whole_and_a_line_has_an_address(ui: Ui, page: Page, tab: Tab, tmp_path: Path) -> None:
    program = "for i in range(200_000): print(f'line {i} of many, é' + ' and more' * (i % 5))\n"
    (ui.place.folder / "much.py").write_text(program)
    number = ui.start("python much.py")
    ui.finish(number)
    ui.open(page, f"runs/{number}#log")
    expect(page.locator(".lines > div > div").last).to_contain_text("line 199999 of")
    with page.expect_download() as stored:
        page.get_by_role("link", name="Download").click()
    stored.value.save_as(tmp_path / "log")
    assert stored.value.suggested_filename == f"run-{number}.log"
    text = (tmp_path / "log").read_text()
    assert text == "".join(f"line {i} of many, é{' and more' * (i % 5)}\n" for i in range(200_000))

    line = page.locator(".lines > div > div", has_text="line 199990 of")
    line.click(position={"x": 8, "y": 8})
    expect(page.locator(".lines .hit")).to_contain_text("line 199990 of")
    offset = len(text[: text.index("line 199990 of")].encode())
    assert shown(page) == f"runs/{number}#log:{offset}"
    line.click(position={"x": 60, "y": 8})
    assert shown(page) == f"runs/{number}#log:{offset}", "to mark its words changes nothing"
    middle = len(text[: text.index("line 77777 of")].encode())
    ui.open(page, f"runs/{number}?times=1#log:{middle}")
    expect(page.locator(".lines .hit")).to_contain_text("line 77777 of")
    expect(page.locator(".lines .hit")).to_be_in_viewport()
    expect(page.locator(".lines .hit")).to_have_attribute("data-time", re.compile(r"^\d\d-\d\d \d\d:\d\d:\d\d$"))
    page.locator(".log .scroller").press("Enter")
    expect(page.locator(".log .bar [role=status]")).to_contain_text(re.compile("is copied|names this line"))
    assert shown(page) != f"runs/{number}?times=1#log:{middle}"
    page.get_by_label("Search the log").fill("line 150000 of")
    page.keyboard.press("Enter")
    expect(page.locator(".lines .hit")).to_contain_text("line 150000 of")
    page.set_viewport_size({"width": 390, "height": 800})
    page.reload()
    expect(page.locator(".lines .hit")).to_be_in_viewport()
    page.get_by_role("button", name="Jump to the end").click()
    at_end = "s => s.clientHeight < 800 && s.scrollHeight - s.scrollTop - s.clientHeight < 8"
    until(lambda: page.locator(".log .scroller").evaluate(at_end), what="also on a phone a part of it is seen")
    page.set_viewport_size({"width": 1280, "height": 800})
    page.get_by_label("Search the log").fill("line 150000 of")
    page.keyboard.press("Enter")
    expect(page.locator(".lines .hit")).to_contain_text("line 150000 of")
    page.reload()
    expect(page.locator(".lines .hit")).to_contain_text("line 150000 of")
    page.get_by_role("button", name="Times").click()
    assert "times" not in shown(page) and "line 150000" in page.locator(".lines .hit").inner_text()
    page.keyboard.press("j")
    assert ":" not in shown(page), "of another run it names nothing"
    page.goto("about:blank")
    tab.complaints.clear()


def test_stderr_is_apart_and_lines_have_their_times(ui: Ui, page: Page, tab: Tab) -> None:
    program = "import sys, time\nfor i in range(9999):\n  print('out', i, flush=True)\n"
    program += "  print('err', i, file=sys.stderr, flush=True)\n  time.sleep(0.2)\n"
    (ui.place.folder / "both.py").write_text(program)
    number = ui.start("--split", "python both.py")
    ui.open(page, f"runs/{number}#log")
    lines = page.locator(".lines > div > div")
    expect(lines.nth(3)).to_have_text("out 3")
    page.get_by_role("button", name="Times").click()
    expect(lines.nth(9)).to_have_attribute("data-time", re.compile(r"^\d\d-\d\d \d\d:\d\d:\d\d$"))
    page.get_by_role("button", name="stderr").click()
    expect(lines.first).to_have_text("err 0")
    before = lines.count()
    until(lambda: lines.count() > before + 10)
    found = page.locator(".lines").inner_text().split("\n")
    assert [line for line in found if line] == [f"err {at}" for at in range(len(found) - found.count(""))]
    lines.nth(2).click(position={"x": 8, "y": 8})
    until(lambda: shown(page) == f"runs/{number}?times=1&err=1#log:12")
    page.reload()
    expect(lines.first).to_have_text("err 0")
    expect(page.get_by_role("button", name="stderr")).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".lines .hit")).to_have_text("err 2")
    page.get_by_role("button", name="stderr").click()
    expect(lines.first).to_have_text("out 0")
    assert shown(page) == f"runs/{number}?times=1#log"
    ui.place.run("kill", str(number))
    other = ui.start("python say.py 0 whole")
    ui.finish(other)
    ui.open(page, f"runs/{other}?err=1#log")
    expect(lines.first).to_have_text("whole")
    expect(page.get_by_role("button", name="stderr")).to_be_hidden()
    page.goto("about:blank")
    tab.complaints.clear()


def test_what_is_read_from_the_log_is_corrected(ui: Ui, page: Page, tab: Tab, tmp_path: Path) -> None:
    """Of a run that goes on and of one that has ended; numbers that are not understood are said."""
    rows = "".join(f"print('(epoch: 1, iters: {i}) G: {i}.5 mix: 7')\n" for i in (100, 200, 300))
    (ui.place.folder / "prints.py").write_text(rows)
    (ui.place.folder / "bare.py").write_text("for i in range(9): print(i, 0.5, 0.25)\n")
    number = ui.start(f"python prints.py; until [ -e {tmp_path}/go ]; do sleep 0.1; done")
    bare = ui.start("python bare.py; sleep 1")
    ui.finish(bare)
    ui.open(page, f"runs/{number}#charts")
    charts = page.get_by_label("Charts", exact=True).locator("figure")
    expect(charts.filter(has_text="G")).to_have_count(1)
    page.get_by_role("button", name="Menu of mix").click()
    page.get_by_role("button", name="Not a metric…").click()
    dialog = page.get_by_role("dialog", name=f"How the log of run {number} is read")
    expect(dialog.get_by_label("What is no metric")).to_have_value("mix")
    dialog.get_by_role("button", name="Read it again").click()
    expect(charts.filter(has_text="mix")).to_have_count(0)
    expect(charts.filter(has_text="G")).to_have_count(1)
    page.get_by_role("button", name="How the log is read…").click()
    dialog.get_by_label("Regular expressions").fill("(")
    dialog.get_by_role("button", name="Read it again").click()
    expect(page.locator("#notices")).to_contain_text("is not a regular expression with a named group")

    ui.open(page, f"runs/{bare}")
    expect(page.get_by_text("3 numbers a line, in which no metric was found.")).to_be_visible()
    page.get_by_role("button", name="Name them…").click()
    page.get_by_label("Regular expressions").fill(r"^(?P<step>\d+) (?P<loss>\S+)")
    page.get_by_role("button", name="Read it again").click()
    expect(page.get_by_text("in which no metric was found")).to_have_count(0)
    ui.open(page, f"runs/{bare}#charts")
    expect(charts.filter(has_text="loss")).to_have_count(1)
    unnumbered = ui.start("for part in 1 2 3 4 5 6 7; do echo loss: 0.$part; sleep 0.3; done")
    ui.finish(unnumbered)
    ui.open(page, f"runs/{unnumbered}#charts")
    canvas = charts.filter(has_text="loss").locator("canvas")
    expect(canvas).to_have_attribute("aria-label", re.compile(r"7 points, first 0\.1, last 0\.7 at .* m?s\."))

    tab.expect("400")  # of the expression that is none
    tab.expect("failed: .*/events.*ERR_ABORTED")  # another run was opened meanwhile
    (tmp_path / "go").touch()
    ui.finish(number)
