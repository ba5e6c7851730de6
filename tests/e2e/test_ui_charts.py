"""The page's charts and its log's colours in a real Chromium, on points that are made here and served as files."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from remoterun.agent.shared.measured import USAGE, direction, rank
from tests.browser import Tab, serve
from tests.e2e.ui import STATIC, Quadruple, packed, training, write_run
from tests.recorder import Recorded
from tests.workshop import until

if TYPE_CHECKING:
    from playwright.sync_api import Route

PAGE = """<!doctype html><html lang="en"><title>charts</title>
<link rel="stylesheet" href="/static/charts.css"><main></main>"""
NAN = math.nan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("charts")
    (folder / "index.html").write_text(PAGE)
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with serve({"": folder, "static": STATIC}) as address:
        yield address


@pytest.fixture
def code(tab: Tab, address: str) -> Tab:
    tab.page.goto(address)
    return tab


# -- curve.js

POINTS = """async ([chunks, weight]) => {
    const { Points } = await import("/static/curve.js");
    const points = new Points();
    for (const chunk of chunks) points.add(Uint8Array.from(chunk).buffer);
    const words = (array) => [...array].map(String);
    const known = (line, array) => words(array.subarray(0, line.count));
    const of = (line) => [known(line.settle(), line.x), known(line, line.smoothed(weight))];
    return Object.entries(points.series).map(([index, { step, time }]) => [index, ...of(step), ...of(time)]);
}"""


def read(code: Tab, points: Sequence[Quadruple], cut: int = 2**20, weight: float = 0) -> dict[int, Any]:
    """What curve.js makes of points that come in parts of `cut` bytes: series → [steps, values, times, values]."""
    data = packed(points)
    chunks = [list(data[at : at + cut]) for at in range(0, len(data), cut)]
    found = code.page.evaluate(POINTS, [chunks, weight])
    return {int(index): [[float(text) for text in part] for part in parts] for index, *parts in found}


def test_points_come_in_parts_of_any_size(code: Tab) -> None:
    points = [(index % 3, float(index), 1e9 + index, index / 7) for index in range(300)]
    whole = read(code, points)
    assert whole[1][0] == [float(index) for index in range(1, 300, 3)]
    assert whole[1][2] == whole[1][0], "times count from the first point of the run"
    for cut in (1000, 33):
        assert read(code, points, cut) == whole


def test_after_a_restart_the_newest_value_of_a_step_counts_and_times_hold_all(code: Tab) -> None:
    before = [(0, float(step), 100.0 + step, 1.0) for step in range(10)]
    after = [(0, float(step), 200.0 + step, 2.0) for step in range(5, 8)]
    steps, values, times, all_values = read(code, before + after)[0]
    assert steps == [float(step) for step in range(10)]
    assert values == [1.0] * 5 + [2.0] * 3 + [1.0] * 2
    assert len(times) == 13 and times == sorted(times) and all_values == [1.0] * 10 + [2.0] * 3


def test_points_that_no_run_should_have_are_left_out(code: Tab) -> None:
    bad = [
        (-1.0, 1, 1, 1),
        (0.5, 1, 1, 1),
        (NAN, 1, 1, 1),
        (1e300, 1, 1, 1),
        (1000.0, 1, 1, 1),
        (0, NAN, NAN, 1),
        (0, math.inf, 3, 1),
    ]
    found = read(code, [*bad, (0, 5, 7, NAN)])
    assert set(found) == {0}
    assert found[0][0] == [5.0] and math.isnan(found[0][1][0]) and found[0][2] == [0.0, 4.0]


def test_smoothing_is_an_average_without_the_bias_of_its_start(code: Tab) -> None:
    draw = random.Random(7)
    values = [draw.random() if step % 9 else NAN for step in range(50)]
    smooth = read(code, [(0, float(step), float(step), value) for step, value in enumerate(values)], weight=0.9)[0][1]
    total, known = 0.0, 0
    for value, found in zip(values, smooth, strict=True):
        if math.isnan(value):
            assert math.isnan(found)
            continue
        total, known = total * 0.9 + 0.1 * value, known + 1
        assert found == pytest.approx(total / (1 - 0.9**known))


CHOSEN = """async ([values, from, to, width, floor]) => {
    const { Line, chosen } = await import("/static/curve.js");
    const line = new Line();
    values.forEach((value, index) => line.push(index, value ?? NaN));
    const { points, marks, low, high } = chosen(line.settle(), line.y, from, to, width, floor ?? -Infinity);
    return { points, marks, low: String(low), high: String(high) };
}"""


def test_of_each_column_of_pixels_the_least_and_the_largest_are_drawn(code: Tab) -> None:
    draw = random.Random(3)
    values = [draw.random() for _ in range(10_000)]
    found = code.page.evaluate(CHOSEN, [values, 2000, 4000, 100, None])
    expected = {1999, 4000, *found["points"][-1:]}
    for column in range(100):
        inside = range(2000 + column * 20, 2020 + column * 20)
        expected |= {min(inside, key=lambda at: values[at]), max(inside, key=lambda at: values[at])}
    assert sorted(found["points"]) == found["points"], "from left to right"
    assert set(found["points"]) == expected
    assert float(found["low"]) == min(values[2000:4001])


def test_a_curve_is_broken_where_it_has_no_value_and_each_such_place_is_marked(code: Tab) -> None:
    found = code.page.evaluate(CHOSEN, [[1, None, 3, -2, 5], 0, 4, 400, None])
    assert found == {"points": [0, -1, 2, 3, 4], "marks": [1], "low": "-2", "high": "5"}
    found = code.page.evaluate(CHOSEN, [[1, None, 3, -2, 5], 0, 4, 400, 0])
    assert found == {"points": [0, -1, 2, -1, 4], "marks": [1, 3], "low": "1", "high": "5"}


def test_axes_have_few_round_marks(code: Tab, recorded: Recorded) -> None:
    def marks(title: str) -> str:
        kind, low, high = title.split()
        found = code.page.evaluate(
            """async ([kind, low, high]) => {
                const { ticks, logTicks } = await import("/static/curve.js");
                return (kind === "log" ? logTicks : ticks)(low, high, 5); }""",
            [kind, float(low), float(high)],
        )
        return " ".join(f"{mark:.6g}" for mark in found)

    recorded.cases(marks)


def test_what_is_better_and_the_order_of_names_are_those_of_the_agent(code: Tab) -> None:
    names = [
        "loss",
        "val_loss",
        "lr",
        "accuracy",
        "train/acc",
        "time per step",
        "reward",
        "eval/perplexity",
        "F1",
        "map",
        "<b>",
        "roadmap to",
    ]
    found = code.page.evaluate(
        """async (names) => {
            const { direction, ranked } = await import("/static/curve.js");
            return [names.map(direction), ranked(names)]; }""",
        names,
    )
    assert found == [[direction(name) for name in names], sorted(names, key=rank)]


# -- ansi.js

PAINT = """async (lines) => {
    const { PLAIN, paint } = await import("/static/ansi.js");
    let style = PLAIN;
    return lines.map((line) => {
        const place = document.createElement("pre");
        const painted = paint(line, style);
        style = painted.style;
        place.append(...painted.nodes);
        const parts = [...place.childNodes];
        const spans = parts.map((node) => [node.className ?? "", node.style?.cssText ?? "", node.textContent]);
        const elements = place.querySelectorAll(":not(span)").length;
        return { text: place.textContent, spans, elements };
    });
}"""


def paint(code: Tab, *lines: str) -> list[Any]:
    found: list[Any] = code.page.evaluate(PAINT, list(lines))
    return found


def test_a_line_is_shown_as_a_terminal_leaves_it(code: Tab, recorded: Recorded) -> None:
    def shown(line: str) -> str:
        (found,) = paint(code, line)
        assert found["elements"] == 0
        return json.dumps(found["text"].replace(" ", "·"), ensure_ascii=False)  # so that each space counts

    recorded.cases(shown)


def test_colours_become_classes_or_a_style_and_go_on_in_the_next_line(code: Tab) -> None:
    first, second, third = paint(
        code,
        "\x1b[1;31mred\x1b[22m thin\x1b[0m plain \x1b[38;5;208morange \x1b[48;2;1;2;3mground",
        "still\x1b[39;49m off \x1b[92;44mbright",
        "\x1b[mend",
    )
    assert first["spans"] == [
        ["ansi-bold ansi-color-1", "", "red"],
        ["ansi-color-1", "", " thin"],
        ["", "", " plain "],
        ["", "color: rgb(255, 135, 0);", "orange "],
        ["", "color: rgb(255, 135, 0); background: rgb(1, 2, 3);", "ground"],
    ]
    assert second["spans"][0][2] == "still" and "255, 135, 0" in second["spans"][0][1]
    assert second["spans"][1:] == [["", "", " off "], ["ansi-color-2 ansi-background-4", "", "bright"]]
    assert third["spans"] == [["", "", "end"]]


def test_a_hostile_line_becomes_text_and_takes_no_time(code: Tab) -> None:
    hostile = "<img src=x onerror=\"document.title='broken into'\"><script>document.title = 'broken into'</script>"
    colours = "\x1b[38;2;999;0;0mA\x1b[38;5;300mB\x1b[38;2mC\x1b[38mD\x1b[999;;;mE\x1b[48;5mF"
    moves = "\x1b[999999999C\x1b[999999999G!" + "\x1b[5D" * 1000 + "\r" * 10_000
    found = paint(code, f"\x1b[31m{hostile}", colours, moves, "\x1b[" * 50_000, "\x1b]" * 50_000, "x\r" * 100_000)
    assert found[0]["spans"] == [["ansi-color-1", "", hostile]]
    assert found[1]["text"] == "ABCDEF" and all(span[1] == "" for span in found[1]["spans"])
    assert len(found[2]["text"]) <= 2001
    assert len(found[3]["text"]) <= 50_000 and found[5]["text"] == "x"
    assert all(each["elements"] == 0 for each in found)
    assert code.page.title() == "charts"


# -- charts.js

SHOW = """async (runs) => {
    const { Charts } = await import("/static/charts.js");
    globalThis.charts = new Charts(document.querySelector("main"), runs);
}"""


def show(code: Tab, runs: Any, name: str) -> Any:
    code.page.evaluate(SHOW, runs)
    picture = code.page.get_by_role("img", name=f"Chart of {name}.")
    picture.wait_for()
    return picture


def test_charts_of_a_run_are_figures_with_words(code: Tab, folder: Path) -> None:
    points = [*training(), (1, 0.0, 1e9, NAN), (1, 1.0, 1e9 + 1, math.inf)]
    hostile = "<img src=x onerror=\"document.title='broken into'\">"
    use = [(index, 3.0 * at, 1e9 + 3 * at, 50.0 + index) for index in range(len(USAGE)) for at in range(100)]
    write_run(folder, 3, ["loss", hostile], packed(points), packed(use))
    picture = show(code, 3, "loss")
    assert "300 points, first 3, last 0.1881 at step 2,990, best 0.1881" in picture.get_attribute("aria-label")
    figure = code.page.locator("figure").filter(has=picture)
    assert figure.locator("figcaption").inner_text().replace("\n", " ") == "loss 0.1881 best 0.1881"
    assert code.page.locator("figure").count() == 2 + len(USAGE)
    assert code.page.get_by_title(hostile).text_content() == hostile
    assert code.page.locator("img").count() == 0 and code.page.title() == "charts"
    code.page.evaluate("charts.close()")
    assert code.page.locator("main").inner_text() == ""


def test_several_runs_are_first_drawn_of_few_points_each(code: Tab, folder: Path) -> None:
    points = training()
    for number in (31, 32):
        write_run(folder, number, ["loss"], packed(points))
    held: list[Route] = []

    def answer(route: Route) -> None:
        if "most=" in route.request.url:
            route.fulfill(body=packed(points[::100]), content_type="application/octet-stream")
        else:
            held.append(route)

    code.page.route("**/points?*", answer)
    picture = show(code, [31, 32], "loss")
    few = picture.get_attribute("aria-label")
    assert few is not None and "run 31: 3 points" in few and "run 32: 3 points" in few
    until(lambda: code.page.evaluate("1") and len(held) == 2)
    for route in held:
        route.continue_()
    code.page.get_by_role("img", name="run 31: 300 points").and_(
        code.page.get_by_role("img", name="run 32: 300")
    ).wait_for()
    code.page.unroute("**/points?*")


def test_a_cursor_goes_by_keys_and_says_what_is_there(code: Tab, folder: Path) -> None:
    write_run(folder, 3, ["loss"], packed(training()))
    write_run(folder, 4, ["loss"], packed(training(bias=1)))
    picture = show(code, [3, 4], "loss")
    code.page.wait_for_function("document.querySelectorAll('.chart-values button').length === 2")
    picture.focus()
    status = code.page.get_by_role("status")
    for key, words in (
        ("Home", "step 0: run 3 3, run 4 4"),
        ("Shift+ArrowRight", "step 100: run 3 2, run 4 3"),
        ("ArrowRight", "step 110: "),
        ("End", "step 2,990: "),
        ("ArrowRight", "step 2,990: "),
    ):
        code.page.keyboard.press(key)
        assert f"loss, {words}" in status.inner_text()
    code.page.keyboard.press("Home")
    code.page.wait_for_function("document.querySelector('.chart-values').innerText.includes('4 4')")
    code.page.keyboard.press("Escape")
    code.page.wait_for_function("document.querySelector('.chart-values').innerText.includes('1.188')")


def test_dragging_zooms_all_charts_and_the_table_has_what_is_seen(code: Tab, folder: Path) -> None:
    write_run(folder, 3, ["loss", "accuracy"], packed(training() + [(1, *point[1:]) for point in training()]))
    picture = show(code, 3, "accuracy")
    box = picture.bounding_box()
    left, right = box["x"] + 46, box["x"] + box["width"] - 10
    code.page.mouse.move(left + (right - left) / 4, box["y"] + 50)
    code.page.mouse.down()
    code.page.mouse.move(left + (right - left) / 2, box["y"] + 60, steps=4)
    code.page.mouse.up()
    figure = code.page.locator("figure").first
    figure.locator("summary").click()
    figure.locator("tbody tr").first.wait_for()
    rows = figure.locator("tbody th").all_inner_texts()
    assert figure.locator("figcaption").inner_text().startswith("loss")
    first, last = (int(text.replace(",", "")) for text in (rows[0], rows[-1]))
    assert 740 <= first <= 760 and 1480 <= last <= 1500 and 70 <= len(rows) <= 80
    picture.dblclick()
    code.page.wait_for_function("document.querySelectorAll('figure tbody tr').length === 200")


def test_a_thousand_series_keep_pictures_of_what_is_in_view_only(code: Tab, folder: Path) -> None:
    names = [f"metric {index}" for index in range(1000)]
    write_run(
        folder, 5, names, packed([(index, float(step), 1e9 + step, step) for step in range(3) for index in range(1000)])
    )
    show(code, 5, "metric 0")
    drawn = "() => [...document.querySelectorAll('canvas')].filter((e) => e.getAttribute('width') > 0).length"
    assert code.page.locator("figure").count() == 1000
    assert 0 < code.page.evaluate(drawn) < 60
    code.page.locator("figure").last.scroll_into_view_if_needed()
    code.page.get_by_role("img", name="Chart of metric 999.").wait_for()
    assert 0 < code.page.evaluate(drawn) < 100


# -- what a person sets of charts

PARTS = ["layer0/query", "layer0/key", "layer0/value", "layer1/query", "layer1/key", "layer1/value"]


def asked(code: Tab, query: str, runs: Any, name: str) -> Any:
    """Charts at an address with settings; waits for one of them."""
    code.page.goto(code.page.url.partition("?")[0] + "?" + query)
    return show(code, runs, name)


def titles(code: Tab) -> list[str]:
    seen: list[str] = code.page.evaluate(
        "[...document.querySelectorAll('figure:not([hidden]) .chart-name')].map((each) => each.title)"
    )
    return seen


def write_many(folder: Path, number: int = 6) -> None:
    names = ["train/loss", "val/loss", "epoch", *PARTS]
    points = [
        (index, 10.0 * at, 1.7e9 + 60 * at, at // 50 if name == "epoch" else 3 / (1 + at) + index)
        for at in range(200)
        for index, name in enumerate(names)
    ]
    write_run(folder, number, names, packed(points))


def test_charts_are_found_grouped_pinned_hidden_and_all_that_survives_a_reload(code: Tab, folder: Path) -> None:
    write_many(folder)
    page = code.page
    show(code, 6, "loss")
    assert titles(code) == ["train/loss, val/loss", "epoch", *sorted(PARTS[:3]), *sorted(PARTS[3:])]
    assert page.get_by_text("layer1/query", exact=True).count() == 0, "the head of its group says a part of its name"
    page.get_by_role("button", name="layer0 3").click()
    page.get_by_role("button", name="Menu of layer1/key").click()
    page.get_by_role("button", name="Pin").click()
    page.get_by_role("button", name="Menu of epoch").click()
    for key in ("ArrowDown", "ArrowDown", "End", "ArrowUp", "Home", "ArrowUp", "Home", "Tab", "Tab", "Tab"):
        page.keyboard.press(key)
    assert page.locator(":focus").inner_text() == "Hide"
    page.keyboard.press("Enter")
    steered = ["layer1/key", "train/loss, val/loss", "layer1/query", "layer1/value"]
    assert titles(code) == steered
    page.wait_for_url("**/*fold=layer0*")
    page.wait_for_url("**/*hide=epoch*")
    page.reload()
    show(code, 6, "loss")
    assert titles(code) == steered
    page.get_by_role("searchbox").fill("LAYER query")
    assert titles(code) == ["layer0/query", "layer1/query"], "what is folded is found, too"
    assert page.get_by_text("2 of 8").is_visible()
    page.get_by_role("searchbox").fill("")
    page.get_by_role("button", name="1 hidden: show").click()
    page.get_by_role("button", name="layer0 3").click()
    assert len(titles(code)) == 8


def test_a_chart_is_enlarged_takes_series_in_and_its_legend_takes_lines_out(code: Tab, folder: Path) -> None:
    write_many(folder)
    page = code.page
    show(code, 6, "layer1/key")
    page.get_by_role("button", name="Enlarge loss").click()
    assert titles(code) == ["train/loss, val/loss"] and page.locator(":focus").get_attribute("role") == "img"
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Menu of loss").click()
    page.get_by_role("button", name="Put another metric in…").click()
    page.keyboard.type("layer0/key")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="layer0/key").wait_for()
    assert page.locator(":focus").get_attribute("placeholder") == "Put another metric in"
    page.get_by_role("button", name="val").click()
    page.wait_for_url("**/*off=val%2Floss*")
    page.reload()
    picture = show(code, 6, "loss")
    assert picture.bounding_box()["height"] > 240
    legend = page.locator(".chart-values button")
    assert [each.get_attribute("aria-pressed") for each in legend.all()] == ["true", "false", None]
    page.get_by_role("combobox", name="x", exact=True).select_option("epoch")
    page.wait_for_function("document.querySelector('canvas').ariaLabel.includes('at epoch 3.98')")
    page.keyboard.press("Escape")
    assert len(titles(code)) == 8 and page.locator(":focus").get_attribute("aria-label") == "Enlarge loss"
    added = page.locator("[data-added='layer0/key']")
    added.click()
    added.wait_for(state="hidden")
    page.wait_for_url(lambda url: "with=" not in url and "chart=" not in url)


def test_wheel_and_fingers_zoom_and_a_button_leads_back(code: Tab, folder: Path) -> None:
    write_run(folder, 3, ["loss"], packed(training()))
    page = code.page
    picture = asked(code, "chart=loss", 3, "loss")
    box = picture.bounding_box()
    page.mouse.move(box["x"] + 46 + (box["width"] - 56) / 2, box["y"] + 50)
    page.mouse.wheel(0, -400)
    page.wait_for_url("**/*zoom=step*")
    kind, first, last = page.evaluate("new URLSearchParams(location.search).get('zoom').split(':')")
    assert kind == "step" and 0 < float(first) < 1495 < float(last) < 2990
    page.get_by_role("button", name="Show the whole").click()
    page.wait_for_url(lambda url: "zoom=" not in url)
    page.evaluate(TOUCH)
    page.wait_for_url("**/*zoom=step*")
    kind, first, last = page.evaluate("new URLSearchParams(location.search).get('zoom').split(':')")
    width = box["width"] - 56
    assert float(last) - float(first) == pytest.approx(2990 / 2, rel=0.02), "the fingers are twice as far apart"
    assert float(first) == pytest.approx(2990 * 100 / width - 50 / width * 2990 / 2, rel=0.05), "and where they were"
    picture.press("0")
    page.get_by_role("button", name="Show the whole").wait_for(state="hidden")


TOUCH = """() => {
    const canvas = document.querySelector("canvas");
    const { left, top } = canvas.getBoundingClientRect();
    canvas.setPointerCapture = () => {};
    const touch = (kind, pointerId, x) => canvas.dispatchEvent(new PointerEvent(
        `pointer${kind}`, { pointerId, pointerType: "touch", clientX: left + 46 + x, clientY: top + 50 }));
    for (const [id, x] of [[1, 100], [2, 200]]) touch("down", id, x);
    for (const [id, x] of [[1, 50], [2, 250]]) touch("move", id, x);
    for (const [id, x] of [[1, 50], [2, 250]]) touch("up", id, x);
}"""


@pytest.mark.parametrize("form", ["png", "svg", "csv"])
def test_a_chart_is_saved(code: Tab, folder: Path, form: str, tmp_path: Path) -> None:
    hostile = 'a<b>&"/\x00loss'
    write_run(folder, 3, ["loss", hostile], packed(training() + [(1, *point[1:]) for point in training()]))
    code.page.add_style_tag(url="/static/style.css")
    show(code, 3, hostile)
    with code.page.expect_download() as found:
        code.page.get_by_role("button", name=f"Menu of {hostile}").click()
        code.page.get_by_role("button", name=f"Save as {form.upper()}").click()
    assert found.value.suggested_filename == f"run-3-a_b_loss.{form}"
    data = Path(found.value.path()).read_bytes()
    if form == "csv":
        head, first, *_, last = data.decode().splitlines()
        assert (
            head == "run,series,step,value,deviation" and first == '3,"a<b>&""/\x00loss",0,3,' and ",2990,0.188" in last
        )
    elif form == "png":
        (tmp_path / "chart.png").write_bytes(data)
        assert code.colours(tmp_path / "chart.png") > 20
    else:
        tree = ElementTree.fromstring(data)
        tags = [element.tag.partition("}")[2] for element in tree.iter()]
        assert tags.count("path") > 2 and set(tags) == {"svg", "rect", "text", "path", "clipPath"}
        assert 'a<b>&"/�loss, run 3' in [element.text for element in tree.iter()]


def test_many_lines_are_told_apart_by_dashes_and_by_labels_that_do_not_overlap(code: Tab, folder: Path) -> None:
    runs = [*range(21, 33)]
    for number in runs:
        write_run(folder, number, ["loss"], packed(training()))
    show(code, runs, "loss")
    code.page.get_by_role("img", name="run 32: 300 points").wait_for()
    with code.page.expect_download() as found:
        code.page.get_by_role("button", name="Menu of loss").click()
        code.page.get_by_role("button", name="Save as SVG").click()
    elements = [*ElementTree.parse(found.value.path()).iter()]
    ends = sorted(
        (float(each.attrib["y"]), each.text) for each in elements if each.text and re.fullmatch(r"[23]\d", each.text)
    )
    assert len(ends) == 12 and all(next_[0] - one[0] >= 10.5 for one, next_ in itertools.pairwise(ends))
    assert sum("stroke-dasharray" in each.attrib for each in elements) == 4, "from the ninth on"
    runs_of = code.page.locator(".chart-values button")
    assert runs_of.count() == 12 and "dashed" in str(runs_of.last.locator("i").get_attribute("style"))


def test_of_runs_that_differ_in_a_seed_there_is_the_mean_and_its_deviation(code: Tab, folder: Path) -> None:
    for number, bias in ((11, 0.0), (12, 2.0), (13, 5.0)):
        write_run(folder, number, ["loss"], packed(training(bias=bias)))
    show(code, [11, 12, 13], "loss")
    code.page.get_by_role("img", name="run 13: 300").wait_for()
    code.page.evaluate("charts.compared({lr: ['1', '1', '2'], seed: ['1', '2', '3']})")
    code.page.get_by_role("button", name="mean of seeds").click()
    code.page.get_by_role("img", name="mean of 11, 12 loss: 300 points, first 4, ").wait_for()
    legend = code.page.locator(".chart-values button").all_inner_texts()
    assert legend == ["mean 1.188 ± 1.4", "13 5.188"]


def test_outliers_do_not_widen_the_axis_and_are_counted(code: Tab, folder: Path) -> None:
    points = training()
    points[100] = (0, 1000.0, 1e9 + 100, 1e308)
    points[200] = (0, 2000.0, 1e9 + 200, 1e10)
    write_run(folder, 3, ["loss"], packed(points))
    show(code, 3, "loss")
    code.page.get_by_role("button", name="ignore outliers").click()
    code.page.get_by_role("img", name="beyond the axis").wait_for()
    assert code.page.locator("figcaption").inner_text().startswith("loss")
    code.page.wait_for_url("**/*out=1*")


def test_names_of_one_chart_and_moments_of_an_axis(code: Tab) -> None:
    names = [
        "loss",
        "val_loss",
        "train/acc",
        "val/acc",
        "Loss_train",
        "Loss_test",
        "eval_time",
        "lr",
        "test",
        "validation",
    ]
    found = code.page.evaluate(
        """async (names) => {
            const { clockTicks, paired } = await import("/static/curve.js");
            return [paired(names), clockTicks(1.7e9 + 1, 1.7e9 + 3600, 4)]; }""",
        names,
    )
    pairs = [["loss", ["loss", "val_loss"]], ["acc", ["train/acc", "val/acc"]], ["Loss", ["Loss_train", "Loss_test"]]]
    lonely = [["time", ["eval_time"]], ["lr", ["lr"]], ["test", ["test"]], ["validation", ["validation"]]]
    assert found[0] == pairs + lonely
    assert all(moment % 900 == 0 for moment in found[1]) and 3 <= len(found[1]) <= 4
