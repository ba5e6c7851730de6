"""The page's views of media, files, comparisons, machines and uploads, in a real Chromium.

First on what hostile runs leave: what a server answers lies here as files, under the addresses that the page asks. Then
the whole page with real runs.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Tab, serve
from tests.e2e.pages import png
from tests.e2e.ui import STATIC, Ui, packed, training, write_run

TITLE = "views"
PAGE = f"""<!doctype html><html lang="en"><title>{TITLE}</title><link rel="stylesheet" href="/static/style.css">
<link rel="stylesheet" href="/static/charts.css"><body><aside id="side"></aside>
<main id="pane"></main><div id="notices"></div>"""
EVIL = "<img src=x onerror=\"document.title='broken into'\"><script>document.title='broken into'<!--"
STEPS = (100, 200, 300, 400)


def row(number: int, **more: Any) -> dict[str, Any]:
    plain = {"number": number, "state": "complete", "stopping": False, "command": EVIL, "description": None}
    times = {
        "created": 1e9,
        "started": 1e9,
        "ended": 1e9 + 60,
        "progress": None,
        "why": None,
        "note": None,
        "figures": [],
        "labels": [EVIL],
    }
    return {**plain, **times, "figures": [], "machine": EVIL, **more}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs 3 and 4 with media, and run 3 with other files, whose names and contents are hostile."""
    folder = tmp_path_factory.mktemp("views")
    (folder / "index.html").write_text(PAGE)
    for number in (3, 4):
        write_run(folder, number, ["loss", EVIL], packed(training()))
        place = folder / "api" / "runs" / str(number)
        diary = [
            {"name": f"{EVIL}*.png", "kind": "image", "steps": [{"step": at, "path": f"s/{at}.png"} for at in STEPS]},
            {"name": "s/*.txt", "kind": "text", "steps": [{"step": at, "path": f"s/{at}.txt"} for at in STEPS[1:]]},
        ]
        contents = {f"s/{at}.png": png(at // 2 + number, 4) for at in STEPS}
        contents |= {f"s/{at}.txt": f"{EVIL} of run {number} at {at}".encode() for at in STEPS}
        cells = [
            {"cell_type": "markdown", "source": [EVIL, "\n# Title"]},
            {
                "cell_type": "code",
                "source": "draw()",
                "outputs": [{"data": {"image/png": _text(png(9, 4))}}, {"text": EVIL}],
            },
        ]
        contents |= {
            "train.py": b"print('hello')\n",
            "big.txt": b"0123456789abcdef" * 40_000,
            "weights.bin": b"\0\1\2" * 99,
            "table.csv": b'step,"a ""name"""\r\n' + b'1,"two\nlines, and a comma"\n' * 700 + EVIL.encode(),
            "notes.ipynb": json.dumps({"cells": cells}).encode(),
            "broken.ipynb": EVIL.encode(),
            EVIL.replace("/", "|"): EVIL.encode(),
            "a/b/c/deep é.txt": b"deep",
        }
        for path, data in contents.items():
            (place / "file" / path).parent.mkdir(parents=True, exist_ok=True)
            (place / "file" / path).write_bytes(data)
        files = [{"path": path, "size": len(data), "mode": 420} for path, data in contents.items()]
        (place / "files").write_text(json.dumps({"live": False, "files": files, "more": False, "diary": diary}))
    hosts = [{"id": EVIL, "type": "g5", "region": "r", "state": "running", "cost": 1.5, "ends": 9e9, "run": 3}]
    busy = {"name": EVIL, "kind": "ssh", "runs": [{"number": 3, "state": "running", "command": EVIL}], "line": EVIL}
    busy |= {"gpus": [EVIL], "disk": {"free": 25e9, "total": 1e11}, "load": 0.5, "unreached": None}
    lost = {"name": "far", "kind": EVIL, "runs": [], "line": None, "gpus": [], "disk": None, "load": None}
    machines = {"machines": [busy, {**lost, "unreached": EVIL}], "hosts": hosts, "notes": []}
    compared = {
        "rows": [row(3), row(4, description=EVIL)],
        "params": {"lr": ["0.1", EVIL], EVIL: [None, "1"], "units": ["64", "64"]},
        "differs": ["lr", EVIL],
        "best": {"loss": [0.2, 0.1], "accuracy": [0.9, None], EVIL: [1, 2]},
        "diff": f"--- a\n+++ b\n-{EVIL}\n+{EVIL}",
    }
    for name, answer in (("machines", machines), ("compare", compared)):
        (folder / "api" / name).write_text(json.dumps(answer))
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with serve({"": folder, "static": STATIC}) as address:
        yield address


@pytest.fixture
def page(tab: Tab, address: str) -> Iterator[Any]:
    """A page in which at the end no script of a run ran, and no element of one was made."""
    tab.page.goto(address)
    yield tab.page
    assert tab.page.title() == TITLE
    assert tab.page.locator("main script, main [onerror], main img[src='x']").count() == 0


def show(page: Any, module: str, make: str, *arguments: Any) -> None:
    page.evaluate(
        """async ([module, make, values]) => {
            const found = await import(`/static/${module}.js`);
            globalThis.view = found[make](document.querySelector("main"), ...values); }""",
        [module, make, list(arguments)],
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


# -- media.js


def drawn(page: Any) -> list[str]:
    """Which pictures the tiles show."""
    found: list[str] = page.locator(".tile img").evaluate_all("(all) => all.map((each) => each.getAttribute('src'))")
    return found


def test_one_slider_moves_the_pictures_and_texts_of_a_run(page: Any) -> None:
    show(page, "media", "media", 3)
    page.get_by_text("of run 3 at 400").wait_for()
    slider = page.get_by_role("slider", name="step")
    assert slider.get_attribute("aria-valuetext") == "step 400" and drawn(page) == ["api/runs/3/file/s/400.png?"]
    slider.press("Home")
    page.get_by_text("nothing yet").wait_for()
    assert drawn(page) == ["api/runs/3/file/s/100.png?"]
    page.get_by_role("button", name="The next step").click()
    page.get_by_text("of run 3 at 200").wait_for()
    page.get_by_role("button", name="step 300").click()
    page.get_by_text("of run 3 at 300").wait_for()
    assert drawn(page) == ["api/runs/3/file/s/300.png?"]
    page.wait_for_function(
        "(each => each.naturalWidth === 4 && !each.style.opacity)(document.querySelector('.tile img'))"
    )


def test_a_text_of_blanks_alone_is_said_to_be_that(page: Any, folder: Path) -> None:
    place = folder / "api" / "runs" / "3" / "file" / "s"
    for step, text in ((300, 300 * " " + "\n"), (200, " \n" + 297 * " " + "\n\n")):
        before = (place / f"{step}.txt").read_text()
        (place / f"{step}.txt").write_text(text)
        show(page, "media", "media", 3)
        page.get_by_role("button", name=f"step {step}").click()
        said = {300: "(300 spaces)", 200: "(298 spaces, 2 line ends)"}[step]
        page.locator(".tile pre", has_text=said).wait_for()
        (place / f"{step}.txt").write_text(before)


def test_media_play_to_their_end_and_stop_there(page: Any) -> None:
    show(page, "media", "media", 3)
    page.get_by_text("of run 3 at 400").wait_for()
    start = page.get_by_role("button", name="Play or pause")
    clicked = "(start) => (start.click(), [document.querySelector('[type=range]').value, start.innerText])"
    assert start.evaluate(clicked) == ["0", "❚❚"]  # at once: it goes on by itself
    page.get_by_text("of run 3 at 400").wait_for()
    page.wait_for_function("document.querySelector('.media-bar').innerText.includes('▶')")


def test_media_that_come_later_are_shown_and_one_who_looks_back_is_left_there(page: Any, folder: Path) -> None:
    show(page, "media", "media", 4)
    page.get_by_text("of run 4 at 400").wait_for()
    page.get_by_role("slider").press("ArrowLeft")
    files = folder / "api" / "runs" / "4" / "files"
    said = files.read_text()
    files.write_text(said.replace('{"step": 400, "path": "s/400.txt"}', '{"step": 500, "path": "s/400.txt"}'))
    page.evaluate("view.update({ number: 4, state: 'complete' })")
    page.wait_for_function("document.querySelector('main [type=range]').max === '4'")
    assert page.get_by_role("slider").get_attribute("aria-valuetext") == "step 300"
    files.write_text(said)


def test_one_at_the_end_follows_it_also_on_the_whole_screen(page: Any, folder: Path) -> None:
    place = folder / "api" / "runs" / "4"
    said = json.loads((place / "files").read_text())
    show(page, "media", "media", 4)
    page.get_by_text("of run 4 at 400").wait_for()
    for step, large in ((500, False), (600, True)):
        if large:
            page.get_by_role("button", name="As large as the screen").click()
            page.wait_for_function("document.fullscreenElement?.localName === 'main'")
        for kind, data in (("png", png(step // 3, 4)), ("txt", f"of run 4 at {step}".encode())):
            (place / "file" / f"s/{step}.{kind}").write_bytes(data)
            group = next(each for each in said["diary"] if each["name"].endswith(kind))
            group["steps"].append({"step": step, "path": f"s/{step}.{kind}"})
        before = (place / "files").read_text()
        (place / "files").write_text(json.dumps(said))
        page.evaluate("(state) => view.update({ number: 4, state })", f"state {step}")
        page.get_by_text(f"of run 4 at {step}").wait_for()
        assert drawn(page) == [f"api/runs/4/file/s/{step}.png?"]
        assert page.locator("output").inner_text() == f"step {step}"
        if step == 500:
            first = before
    page.keyboard.press("Escape")
    page.evaluate("document.fullscreenElement && document.exitFullscreen()")
    (place / "files").write_text(first)


def test_media_fill_the_screen_and_come_back(page: Any) -> None:
    show(page, "media", "media", 3)
    page.get_by_text("of run 3 at 400").wait_for()
    page.get_by_role("button", name="As large as the screen").click()
    page.wait_for_function("document.fullscreenElement?.localName === 'main'")
    page.keyboard.press("ArrowLeft")
    page.get_by_text("of run 3 at 300").wait_for()
    page.get_by_role("button", name="As large as the screen").click()
    page.wait_for_function("document.fullscreenElement === null")


# -- files.js


def choose(page: Any, name: str) -> Any:
    """Click a file; its preview."""
    page.get_by_role("button", name=name, exact=True).click()
    page.locator(".preview h2", has_text=name.rsplit("/", 1)[-1]).wait_for()
    return page.locator(".preview")


def test_files_are_a_tree_with_sizes_and_links(page: Any) -> None:
    show(page, "files", "files", 3)
    page.get_by_text("16 files, ").wait_for()
    assert page.locator(".tree summary").all_inner_texts() == [
        "a/\n4 B",
        "s/\n" + page.locator(".tree summary .size").last.inner_text(),
    ]
    for name in ("a/", "b/", "c/"):
        page.locator("summary", has_text=name).click()
    assert choose(page, "deep é.txt").locator("pre").inner_text() == "deep"
    link = page.get_by_role("link", name="Download deep é.txt")
    assert link.get_attribute("href") == "api/runs/3/file/a/b/c/deep%20%C3%A9.txt?&download=1"
    assert page.locator(".preview h2").inner_text() == "a/b/c/deep é.txt"


def test_files_are_shown_by_what_they_are(page: Any) -> None:
    show(page, "files", "files", 3)
    assert choose(page, "train.py").locator("pre").inner_text() == "print('hello')\n"
    assert "not text" in choose(page, "weights.bin").inner_text()
    big = choose(page, "big.txt")
    assert "The first 262 kB of 640 kB." in big.inner_text() and len(big.locator("pre").inner_text()) == 256 << 10
    assert choose(page, EVIL.replace("/", "|")).locator("pre").inner_text() == EVIL
    page.locator("summary", has_text="s/").click()
    picture = choose(page, "100.png").locator("img")
    assert picture.evaluate("async (each) => (await each.decode(), each.naturalWidth)") == 4


def test_a_table_shows_500_rows_with_quotes_and_line_ends_in_its_cells(page: Any) -> None:
    show(page, "files", "files", 3)
    preview = choose(page, "table.csv")
    assert preview.locator("th").all_inner_texts() == ["step", 'a "name"']
    assert preview.locator("tbody tr").count() == 500 and "The first 500 rows." in preview.inner_text()
    assert preview.locator("td").nth(1).evaluate("(cell) => cell.textContent") == "two\nlines, and a comma"


def test_a_notebook_shows_its_cells_and_what_is_none_its_text(page: Any) -> None:
    show(page, "files", "files", 3)
    preview = choose(page, "notes.ipynb")
    assert preview.locator(".cell").first.inner_text().startswith(EVIL)
    assert preview.locator("img").evaluate("async (each) => (await each.decode(), each.naturalWidth)") == 4
    assert preview.locator(".output").inner_text() == EVIL
    assert choose(page, "broken.ipynb").locator("pre").inner_text() == EVIL


# -- compare.js and machines.js


def test_runs_beside_each_other(page: Any) -> None:
    show(page, "compare", "view", [3, 4])
    page.get_by_role("img", name="Chart of loss").scroll_into_view_if_needed()
    page.get_by_role("img", name="Chart of loss. run 3: 300 points").wait_for()
    page.get_by_text("of run 4 at 400").wait_for()
    lines = [line.split("\t") for line in page.locator("table").first.inner_text().splitlines()]
    assert ["loss", "0.2", "0.1"] in lines and ["accuracy", "0.9", "–"] in lines
    assert [EVIL, "–", "1"] in lines and lines[-1][0] == EVIL, "what is the same is left out"
    assert page.locator("table b").all_inner_texts() == ["0.1", "0.9", "1"], "the best ones"
    assert page.locator(".chart-values button").first.inner_text().startswith("3 ")
    assert drawn(page) == ["api/runs/3/file/s/400.png?", "api/runs/4/file/s/400.png?"]
    assert page.locator(".patch .added, .patch .gone").all_inner_texts() == [f"-{EVIL}", f"+{EVIL}"]
    page.evaluate("view.close()")


def test_machines_say_who_runs_what_and_a_host_is_ended_by_two_clicks(page: Any, tab: Tab) -> None:
    show(page, "machines", "view")
    page.get_by_role("heading", name="Rented hosts").wait_for()
    words = page.locator("main").inner_text()
    assert f"run 3 {EVIL}" in words and "25 GB free of 100 GB" in words and "$1.50 so far" in words
    asked: list[str] = []
    page.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
    page.get_by_role("button", name="End", exact=True).click()
    page.get_by_role("button", name="End this host, and its run?").click()
    page.locator(".notice").wait_for()  # files answer no POST
    tab.expect("501")
    assert any(line.startswith("POST ") and "/api/hosts/%3Cimg" in line and line.endswith("/end") for line in asked)
    page.evaluate("view.close()")


# -- real runs

STUDY = """
import os, struct, sys, time, zlib
from remoterun_log import log
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
rate = float(sys.argv[2])
os.makedirs("samples")
for step in (10, 20, 30):
    log(step=step, loss=rate * 10 / step)
    rows = (bytes(1) + bytes((step * 8, 99, 0)) * 8) * 8
    head = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    with open(f"samples/step-{step}.png", "wb") as picture:
        picture.write(bytes((137, 80, 78, 71, 13, 10, 26, 10)))
        picture.write(chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    with open(f"samples/step-{step}.txt", "w") as text:
        text.write(f"<b>what was written at {step}</b>")
for name in ("a #1 %41 ?.txt", "<img src=x onerror=alert(1)>.svg", "empty.txt"):
    with open(name, "w") as file:
        file.write("" if "empty" in name else "<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
print("all written", flush=True)
time.sleep(float(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def studies(ui: Ui) -> list[int]:
    """Two ended runs with a diary, of which the second had another program and another rate."""
    found = []
    for rate, text in (("0.1", STUDY), ("0.2", STUDY + "# another end\n")):
        (ui.place.folder / "study.py").write_text(text)
        ui.place.commit(f"A study of {rate}")
        found.append(ui.start(f"python study.py --lr {rate} 0"))
    for number in found:
        ui.finish(number)
    return found


@pytest.fixture
def whole(ui: Ui, tab: Tab) -> Iterator[Any]:
    """The whole page; what it no longer asks for when it is left is no fault."""
    tab.page.on("dialog", lambda dialog: (tab.complaints.append(f"a dialog: {dialog.message}"), dialog.dismiss()))
    yield tab.page
    tab.page.goto("about:blank")
    tab.complaints[:] = [text for text in tab.complaints if "ERR_ABORTED" not in text]


def natural(page: Any, selector: str) -> int:
    width: int = page.locator(selector).first.evaluate("async (each) => (await each.decode(), each.naturalWidth)")
    return width


def test_the_diary_and_the_files_of_a_real_run(ui: Ui, whole: Any, tab: Tab, studies: list[int]) -> None:
    ui.open(whole, f"runs/{studies[0]}")
    whole.get_by_text("<b>what was written at 30</b>").wait_for()
    whole.get_by_role("slider", name="step").press("ArrowLeft")
    whole.get_by_text("<b>what was written at 20</b>").wait_for()
    assert natural(whole, ".tile img") == 8
    whole.get_by_role("link", name="Files").click()
    name = "a #1 %41 ?.txt"
    assert "<svg" in choose(whole, name).locator("pre").inner_text()
    with whole.expect_download() as download:
        whole.get_by_role("link", name=f"Download {name}", exact=True).click()
    assert Path(download.value.path()).read_text().startswith("<svg")
    assert choose(whole, "empty.txt").locator("pre").inner_text() == ""
    tab.expect("416")  # it has no first byte
    choose(whole, "<img src=x onerror=alert(1)>.svg").locator("img").wait_for()
    whole.locator("summary", has_text="samples/").click()
    choose(whole, "step-10.png")
    assert natural(whole, ".preview img") == 8


def test_two_real_runs_are_compared_by_a_link(ui: Ui, whole: Any, studies: list[int]) -> None:
    ui.open(whole, f"compare/{studies[0]},{studies[1]}")
    whole.get_by_role("img", name=re.compile("Chart of loss. .*3 points.*3 points")).wait_for()
    lines = [line.split("\t") for line in whole.locator("main table").first.inner_text().splitlines()]
    assert ["lr", "0.1", "0.2"] in lines and ["loss", "0.03333", "0.06667"] in lines
    whole.get_by_text("# another end").wait_for()
    whole.get_by_text("<b>what was written at 30</b>").first.wait_for()
    assert whole.locator(".tile img").count() == 2
    whole.get_by_role("main").get_by_role("link", name=f"run {studies[1]}").click()
    whole.get_by_role("heading", name=f"{studies[1]} ").first.wait_for()


def test_files_of_a_run_that_goes_on_come_by_themselves(ui: Ui, whole: Any) -> None:
    number = ui.start("printf 'first words' >new; mv new one.txt; sleep 600")
    ui.open(whole, f"runs/{number}#files")
    whole.get_by_role("button", name="one.txt").wait_for()
    assert choose(whole, "one.txt").locator("pre").inner_text() == "first words"
    ui.place.run("kill", str(number))


def test_machines_and_uploads_of_a_real_place(ui: Ui, whole: Any) -> None:
    ui.place.run("upload", "say.py", "--name", "words")
    number = ui.start("--mount", "uploads/words:words", "python say.py 600")
    ui.open(whole, "machines")
    whole.get_by_role("main").get_by_role("link", name=f"run {number}").wait_for()
    assert "free of" in whole.get_by_role("main").inner_text()
    whole.get_by_role("link", name="Uploads").click()
    whole.get_by_role("main").get_by_role("link", name="words", exact=True).click()
    whole.get_by_role("button", name="version 1").wait_for()
    assert whole.get_by_role("main").get_by_role("link", name=f"run {number}").count() == 1
    assert "time.sleep" in choose(whole, "say.py").locator("pre").inner_text()
    ui.place.run("kill", str(number))
