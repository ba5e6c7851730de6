"""What the page of runs says of itself in a real Chromium: a server that is stuck, or has ended; a machine that is
silent."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from playwright.sync_api import expect

from remoterun.agent.store.home import Home
from tests.browser import Tab
from tests.e2e.ui import Ui, page_of, project
from tests.sshd import Server, keys, server  # noqa: F401
from tests.workshop import lend, until


@pytest.fixture(autouse=True)
def patience() -> None:
    expect.set_options(timeout=60_000)


def test_a_server_that_is_stuck_is_said_and_comes_back(tmp_path: Path, environment: Path, tab: Tab) -> None:
    place = project(tmp_path, environment)
    with page_of(place) as address:
        ui = Ui(place, address)
        number = ui.start("python train.py 100000 0.05")
        ui.open(tab.page, f"runs/{number}#log")
        expect(tab.page.locator(".lines")).to_contain_text("step 20 of")
        process = json.loads((Path(place.env["REMOTERUN_HOME"]) / "ui.json").read_text())["pid"]
        os.kill(process, signal.SIGSTOP)
        try:
            expect(tab.page.locator("#link")).to_contain_text(
                re.compile(r"does not answer; this is as it was \d+ s ago")
            )
        finally:
            os.kill(process, signal.SIGCONT)
        expect(tab.page.locator("#link")).to_be_hidden()
        before = tab.page.locator(".lines > div > div").count()
        until(lambda: tab.page.locator(".lines > div > div").count() > before + 20)
        found = [int(step) for step in re.findall(r"^step (\d+) ", tab.page.locator(".lines").inner_text(), re.M)]
        assert found == list(range(1, len(found) + 1))
        place.run("kill", str(number))
        tab.page.goto("about:blank")
        tab.complaints.clear()  # its streams were given up


def test_a_page_whose_server_has_ended_says_how_to_go_on(tmp_path: Path, environment: Path, tab: Tab) -> None:
    place = project(tmp_path, environment)
    with page_of(place) as address:
        tab.page.goto(address)
        expect(tab.page.locator("#list .empty")).to_be_visible()
    with page_of(place) as other:
        assert other.rsplit("/", 2)[0] == address.rsplit("/", 2)[0] and other != address
        expect(tab.page.locator("#link")).to_have_text(
            "This page belongs to a remoterun ui that has ended; remoterun ui opens a new one"
        )
        tab.page.goto("about:blank")
        tab.complaints.clear()


def test_a_button_says_what_it_waits_for(
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
        ui, page = Ui(place, address), tab.page
        number = ui.start("python train.py 100000 0.05")
        ui.open(page, f"runs/{number}#log")
        expect(page.locator(".lines")).to_contain_text("step 5 of")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
        server.stall()
        stop = page.locator("[data-action=stop]")
        stop.click()
        expect(stop).to_have_text(re.compile("^Stopping…"))
        expect(stop).to_be_disabled()
        expect(stop).to_have_text("Stopping… far does not answer")
        stop.click(force=True)
        server.resume()
        expect(page.locator("header .whole")).to_contain_text(re.compile("^stopped"))
        assert len(asked) == 1
        page.goto("about:blank")
        tab.complaints.clear()  # what was asked meanwhile has the status 502


def test_a_diary_has_a_slider_for_each_of_what_it_counts(ui: Ui, tab: Tab) -> None:
    names = [*(f"audio/epoch_{n}.txt" for n in (1, 2, 3)), *(f"fakes{n:06}.txt" for n in (100, 200, 300))]
    program = "import os\nos.makedirs('audio')\n"
    program += "".join(f"open('{name}', 'w').write('{name} text')\n" for name in names)
    (ui.place.folder / "diary.py").write_text(program)
    number = ui.start("python diary.py")
    ui.finish(number)
    ui.open(tab.page, f"runs/{number}")
    media = tab.page.locator("section.media")
    expect(media.locator("output")).to_have_text(["epoch 3", "step 300"])
    tab.page.get_by_role("slider", name="epoch").press("ArrowLeft")
    expect(media.locator("output")).to_have_text(["epoch 2", "step 300"])
    expect(media.locator("pre")).to_have_text(["audio/epoch_2.txt text", "fakes000300.txt text"])
    tab.page.get_by_role("button", name="The step before").click()
    expect(media.locator("output")).to_have_text(["epoch 2", "step 200"])
    expect(media.locator("pre")).to_have_text(["audio/epoch_2.txt text", "fakes000200.txt text"])
    tab.page.goto("about:blank")
    tab.complaints.clear()


def test_of_a_run_whose_points_are_gone_the_values_stay(ui: Ui, tab: Tab) -> None:
    number = ui.start("python train.py 40 0")
    ui.finish(number)
    ui.open(tab.page)
    expect(tab.page.locator(f"#list a[data-number='{number}']")).to_contain_text("accuracy")
    shutil.rmtree(ui.place.json("info", str(number))["folder"])
    ui.open(tab.page, f"runs/{number}")
    remains = tab.page.locator("section.charts .remains")
    expect(remains).to_contain_text("The points of these curves are gone; their values were")
    expect(remains.locator("tbody tr").first).to_contain_text("loss40.10.1")
    tab.page.goto("about:blank")
    tab.complaints.clear()
