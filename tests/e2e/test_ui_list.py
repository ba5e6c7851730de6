"""The list of runs as a person steers it, in a real Chromium: 200 runs of the registry, and a few real ones."""

from __future__ import annotations

import contextlib
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from remoterun.agent.shared.facts import RunStatus
from remoterun.agent.shared.measured import Progress, Series
from remoterun.agent.shared.states import RunState
from remoterun.model import MachineType, new_key
from remoterun.registry import Registry
from tests.browser import Browser, Tab
from tests.e2e.ui import Ui, page_of, project
from tests.workshop import until

MANY = 200
LR = ("0.1", "0.01", "0.001", "3e-4")
DEEP = "layer0/encoder/attention/query_norm"
NUMBERS = "all => all.map(each => Number(each.dataset.number))"
MARKS = "".join(map(chr, (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))))
LOG = """
from remoterun_log import log
from pathlib import Path
log(step=1, **{"loss": 0.5, "m\\u202egnol": 2})
Path("gpj\\u202e.exe").write_text("no\\u2066thing")
print("line \\u202egpj.exe", flush=True)
"""


@pytest.fixture(scope="module")
def facts() -> list[dict[str, Any]]:
    """What is known of the 200: `number`, `lr`, `loss` (the best), `took`, `failed`. Each tenth has no metrics."""
    draw = random.Random(7)
    return [
        {
            "number": number,
            "lr": draw.choice(LR),
            "loss": None if number % 10 == 0 else round(draw.random() * 2, 4),
            "took": round(draw.random() * 9000, 2),
            "failed": draw.random() < 0.2,
        }
        for number in range(1, MANY + 1)
    ]


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory, environment: Path, facts: list[dict[str, Any]]) -> Iterator[Ui]:
    place = project(tmp_path_factory.mktemp("list"), environment)
    with contextlib.closing(Registry(Path(place.env["REMOTERUN_HOME"]) / "registry.db")) as registry:
        for each in facts:
            _add(registry, each)
    with page_of(place) as address:
        ui = Ui(place, address)
        ui.finish(ui.start("python say.py 0 newest"))
        yield ui
        for number in ui.started:
            place.run("kill", str(number), status=None)


def _add(registry: Registry, about: dict[str, Any], machine: MachineType = MachineType("box")) -> int:  # noqa: B008
    now = time.time() - 86400 * 3 + 600 * about["number"]
    command = f"python train.py --lr {about['lr']} --data images/faces --seed {about['number']}"
    run = registry.add_run(new_key(now), machine, command, now, "", ())
    best = {} if about["loss"] is None else {"loss": about["loss"], DEEP: 1.0}
    series = [Series(name, 9, 3.0, 2.5, 9, value, 3.0, value, 4, [3.0, 2.5]) for name, value in best.items()]
    state = RunState.FAILED if about["failed"] else RunState.COMPLETE
    progress = Progress(9, 9, 1.0, now, series) if series else None
    times = {"started": now, "ended": now + about["took"]}
    registry.update(run, RunStatus(run.key, state, now, **times, code=int(about["failed"]), progress=progress), now)
    return int(run.number)


@pytest.fixture
def page(tab: Tab) -> Iterator[Page]:
    expect.set_options(timeout=30_000)
    yield tab.page
    tab.page.goto("about:blank")
    tab.complaints[:] = [text for text in tab.complaints if "ERR_ABORTED" not in text]


def listed(page: Page) -> list[int]:
    """The numbers of the rows that are in the page, from the top."""
    found: list[int] = page.locator("#list a").evaluate_all(NUMBERS)
    return found


def begins(page: Page, wanted: list[int]) -> None:
    until(lambda: listed(page)[: len(wanted)] == wanted, what=lambda: f"{listed(page)[:12]}, not {wanted}")


def foot(page: Page, count: int) -> None:
    expect(page.locator("#foot")).to_contain_text(re.compile(rf"^{count} of \d+ runs"))


def ordered(facts: list[dict[str, Any]], key: Callable[[dict[str, Any]], Any], up: bool = True) -> list[int]:
    newest = sorted(facts, key=lambda each: -each["number"])
    return [each["number"] for each in sorted(newest, key=key, reverse=not up)]


def test_it_is_sorted_by_any_column_and_a_reload_keeps_it(ui: Ui, page: Page, facts: list[dict[str, Any]]) -> None:
    ui.open(page)
    begins(page, [MANY + 1, MANY])
    page.get_by_label("Sort", exact=True).select_option("best loss")
    best = ordered([each for each in facts if each["loss"] is not None], lambda each: each["loss"])
    begins(page, best[:9])
    page.get_by_role("button", name="Turn the order round").click()
    begins(page, ordered([each for each in facts if each["loss"]], lambda each: -each["loss"])[:9])
    page.reload()
    begins(page, ordered([each for each in facts if each["loss"]], lambda each: -each["loss"])[:9])
    expect(page.get_by_label("Sort", exact=True)).to_have_value("best:loss")
    page.get_by_label("Sort", exact=True).select_option("duration")
    begins(page, ordered(facts, lambda each: -each["took"])[:9])
    page.get_by_label("Sort", exact=True).select_option("lr")  # as numbers: 3e-4 is the least
    begins(page, ordered(facts, lambda each: float(each["lr"]))[:9])
    expect(page.locator("#list a").first).to_contain_text("lr 3e-4")
    page.locator("#list").evaluate("list => { list.scrollTop = list.scrollHeight; }")
    until(lambda: listed(page)[-1:] == [MANY + 1], what="a run without the parameter stands last")
    page.get_by_label("Sort", exact=True).select_option("live first")
    begins(page, [MANY + 1, MANY])
    assert "sort" not in page.url


def test_it_is_filtered_by_parameters_and_metrics(ui: Ui, page: Page, facts: list[dict[str, Any]]) -> None:
    def count(fits: Callable[[dict[str, Any]], bool]) -> int:
        return sum(map(fits, facts))

    ui.open(page, "?q=lr=0.001")
    foot(page, count(lambda each: each["lr"] == "0.001"))
    page.reload()
    for text, wanted in (
        ("lr=1e-3", count(lambda each: each["lr"] == "0.001")),
        ("LR<0.01", count(lambda each: float(each["lr"]) < 0.01)),
        ("lr>=0.01 -lr=0.1", count(lambda each: each["lr"] == "0.01")),
        ("data=images/faces loss<3", count(lambda each: each["loss"] is not None)),
        ("data=images", 0),
        ("seed=17", 1),
        ("constructor=1", 0),
        ("train.py", MANY),
    ):
        page.get_by_label("Filter the runs").fill(text)
        foot(page, wanted)


def test_a_table_has_the_columns_that_one_chooses(ui: Ui, page: Page, facts: list[dict[str, Any]]) -> None:
    page.set_viewport_size({"width": 1440, "height": 900})
    ui.open(page, "?q=train.py")
    page.get_by_role("button", name="Table").click()
    foot(page, MANY)
    heads = page.locator("#heads button")
    usual = ["run", "state", "when", "duration", "best loss", f"last {DEEP}", "lr", "seed"]
    assert set(usual) - {f"last {DEEP}"} <= set(heads.evaluate_all("all => all.map(each => each.title)"))
    expect(page.locator("#pane")).to_be_hidden()
    first = page.locator("#list a").first
    assert first.bounding_box()["height"] == 32  # type: ignore[index]
    best = ordered([each for each in facts if each["loss"] is not None], lambda each: each["loss"])
    head = page.locator("#heads [data-key='best:loss']")
    head.click()
    begins(page, best[:20])
    expect(head).to_be_focused()
    page.keyboard.press("Enter")
    begins(page, ordered([each for each in facts if each["loss"]], lambda each: -each["loss"])[:20])
    page.keyboard.press("Enter")
    begins(page, [MANY, MANY - 1])
    head.press("Enter")
    begins(page, best[:20])
    expect(page.locator("#list a").first).to_have_attribute("tabindex", "0")
    page.locator("#list a").first.focus()
    page.keyboard.press("x")
    expect(page.get_by_role("button", name="Remove 1")).to_be_visible()
    page.get_by_role("button", name="Unmark").click()
    page.get_by_role("button", name="Columns").click()
    for key in ("state", "when", "lr"):
        page.locator(f"#chooser [data-key='{key}']").uncheck()
    page.locator("#chooser [data-key='machine']").check()
    page.keyboard.press("Escape")
    for _ in range(2):
        begins(page, best[:20])
        names = heads.evaluate_all("all => all.map(each => each.title)")
        assert names[-1] == "machine" and not {"state", "when", "lr"} & {*names}
        page.reload()
    about = facts[best[0] - 1]
    expect(page.locator(f"#list a[data-number='{about['number']}']")).to_contain_text(f"{about['loss']}")
    page.set_viewport_size({"width": 390, "height": 844})
    expect(page.locator("#heads button")).to_have_count(2)
    begins(page, best[:9])
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("#list").evaluate("list => list.scrollWidth <= list.clientWidth")
    page.set_viewport_size({"width": 1440, "height": 900})
    page.get_by_label("Filter the runs").fill("newest")
    page.locator("#list a").click()
    expect(page.locator("h1")).to_contain_text("newest")
    expect(page.locator("#list")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#pane")).to_be_hidden()
    page.get_by_role("button", name="Table").click()
    expect(page.locator("h1")).to_contain_text("newest")


def test_a_name_is_cut_in_its_middle(ui: Ui, page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    ui.open(page, "?q=seed=101&dense=1")
    command = page.locator("#list a .command .middle")
    expect(command).to_have_attribute(
        "title", re.compile(r"^python train\.py --lr \S+ --data images/faces --seed 101$")
    )
    start, end = command.locator("span").all()
    assert start.evaluate("each => each.scrollWidth > each.clientWidth"), "it is cut"
    assert end.inner_text() == " --seed 101" and end.evaluate("each => each.scrollWidth <= each.clientWidth")


def test_runs_are_marked_by_touch_compared_and_removed(ui: Ui, browser: Browser) -> None:
    three = [ui.start(f"python say.py {seconds} removed") for seconds in (0, 0, 600)]
    for number in three[:2]:
        ui.finish(number)
    context = browser.tab().page.context.browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    ui.open(page, "?q=removed")
    marks = page.locator("#list .mark")
    expect(marks).to_have_count(3)
    for mark in marks.all():
        mark.tap()
    large = "each => each.offsetWidth >= 24 && each.offsetHeight >= 24"
    until(lambda: marks.first.evaluate(large))  # a row that is drawn anew at this moment has no size
    page.get_by_role("button", name="Compare 3").tap()
    expect(page.locator("h1")).to_have_text(f"Runs {', '.join(map(str, three))}")
    page.go_back()
    page.get_by_role("button", name="Remove 3").tap()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Remove these 2 runs?")
    expect(dialog).to_contain_text(f"What has not ended stays: {three[2]}.")
    dialog.get_by_role("button", name="Cancel").tap()
    page.get_by_role("button", name="Remove 3").tap()
    dialog.get_by_role("button", name="Remove").tap()
    expect(marks).to_have_count(1)
    assert {*three[:2]}.isdisjoint(each["number"] for each in ui.place.json("ps", "-a", "-n", "5"))
    ui.place.run("kill", str(three[2]))
    ui.open(page, f"runs/{three[2]}?q=removed")
    page.get_by_role("button", name="Remove", exact=True).tap()
    expect(dialog).to_contain_text(f"Remove run {three[2]}?")
    dialog.get_by_role("button", name="Remove").tap()
    expect(page.locator("#list")).to_contain_text("No run fits this filter.")
    ui.open(page, f"compare/{','.join(map(str, range(1, 26)))}")
    expect(page.locator("main")).to_contain_text("These are the first 20 of 25")
    context.close()


def test_what_can_not_be_removed_says_why(ui: Ui, page: Page, facts: list[dict[str, Any]]) -> None:
    with contextlib.closing(Registry(Path(ui.place.env["REMOTERUN_HOME"]) / "registry.db")) as registry:
        number = _add(registry, {**facts[0], "number": 9999}, MachineType("gone", host="gone.invalid"))
    ui.open(page, "?q=seed=9999&dense=1")
    page.locator("#list .mark").click()
    page.get_by_role("button", name="Remove 1").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.locator("#notices")).to_contain_text(f"run {number}: the name `gone.invalid`")
    expect(page.locator("#notices")).to_contain_text(f"remoterun rm --forget {number}")
    expect(page.locator("#list .mark")).to_have_count(1)
    ui.place.run("rm", "-y", "--forget", str(number))
    expect(page.locator("#list .mark")).to_have_count(0)


def test_marks_of_direction_are_shown_and_not_obeyed(ui: Ui, page: Page) -> None:
    (ui.place.folder / "turns.py").write_text(LOG)
    number = ui.start("-d", "about \u202egpj.exe", "python turns.py # \u202egpj.exe")
    ui.place.run("info", str(number), "+l\u202egnol", status=None)
    ui.finish(number)
    views = {
        "log": "line ⟨U+202E⟩gpj.exe",
        "charts": "m⟨U+202E⟩gnol",
        "files": "gpj⟨U+202E⟩.exe",
        "details": "# ⟨U+202E⟩gpj.exe",
    }
    for tab, text in views.items():
        ui.open(page, f"runs/{number}?q=turns.py#{tab}")
        expect(page.locator(f"section.{tab}")).to_contain_text(text)
        expect(page.locator("#list")).to_contain_text("# ⟨U+202E⟩gpj.exe")
        expect(page.locator("#list")).to_contain_text("l⟨U+202E⟩gnol")
        titles = "[...document.querySelectorAll('[title]')].map(each => each.title)"
        assert not {*MARKS} & {*page.evaluate(f"document.body.innerText + {titles}")}


CHANGE = """async (number) => {
    const { store } = await import(new URL("static/state.js", document.baseURI));
    store.put([{ ...store.rows.get(number), command: "another" }]);
    await new Promise((then) => requestAnimationFrame(() => requestAnimationFrame(then)));
}"""


def test_a_click_counts_though_its_row_changes_meanwhile(ui: Ui, page: Page) -> None:
    number = ui.start("python say.py 0 pressed")
    ui.finish(number)
    page.set_viewport_size({"width": 1280, "height": 800})
    ui.open(page, "machines")
    link = page.locator(f"#list a[data-number='{number}']")
    link.hover()
    page.mouse.down()
    page.evaluate(CHANGE, number)
    page.mouse.up()
    page.wait_for_url(f"**/runs/{number}")
    expect(link).to_contain_text("another")
