"""What is handed on as plain files, in a real Chromium from disk: `publish`, `report`."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from playwright.sync_api import expect

from remoterun.agent.shared.facts import RunStatus
from remoterun.agent.shared.states import RunState
from remoterun.cli.schema import schema
from remoterun.client.exports.publishing import publish
from remoterun.errors import AlreadyExists, NotFound
from remoterun.model import MachineType, RunRequest, by_our_clock, new_key
from remoterun.model_page import local_model
from remoterun.stamps import own_files
from tests import commands
from tests.browser import Tab, serve
from tests.e2e.conftest import Place
from tests.e2e.pages import CONTRAST, environment, expected, png, visit, write, write_model
from tests.e2e.said import talk
from tests.models import lend_libraries
from tests.recorder import Recorded, checked
from tests.workshop import User, until

HOSTILE = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"


WAV = b"RIFF" + struct.pack("<I", 36 + 800) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8)
WAV += b"data" + struct.pack("<I", 800) + b"\x80" * 800


def finished(user: User, files: dict[str, bytes], description: str | None = None) -> int:
    """The number of a run that has made these files."""
    source = user.source({f"made/{path}": data for path, data in files.items()})
    run = user.client.runs.submit(RunRequest("cp -r made/. .", description=description), source)
    user.place("one").until_final(run.key)
    return run.number


def remoterun(user: User, *words: str, status: int = 0) -> Any:
    done = commands.run(list(words), user.root, environment(user), 60)
    assert done.returncode == status, done.stderr
    if "--json" in words:
        jsonschema.validate(json.loads(done.stdout), schema(words[0]))
    return done


def reported(user: User, *words: str) -> tuple[Path, list[str]]:
    """(a report in a file, what was said meanwhile)."""
    done = remoterun(user, "report", *words)
    file = user.root / "report.html"
    file.write_text(done.stdout)
    return file, done.stderr.splitlines()


class TestReportWithFiles:
    def test_it_shows_each_step_from_disk(self, user: User, tab: Tab) -> None:
        files = {f"samples/step-{step:06}.txt": f"text of {step}".encode() for step in (100, 200, 300)}
        files |= {f"epoch{step}/fake.png": png(step // 2) for step in (200, 300)}
        files |= {f"step{step}.wav": WAV for step in (100, 300)}
        files |= {"notes.txt": b"no step"}
        finished(user, files, "night song")
        file, lines = reported(user, "1", "--fps", "50")
        assert re.search(r"3 steps, [\d.]+ KB$", lines[0]), lines
        assert lines[1:4] == ["  epoch*/fake.png: 2 images", "  samples/step-*.txt: 3 texts", "  step*.wav: 2 sounds"]
        page = tab.page
        page.goto(file.as_uri())
        assert page.title() == page.locator("h1").inner_text() == "Run 1"
        captions = page.locator("#files figcaption").all_inner_texts()
        assert captions == ["epoch*/fake.png", "samples/step-*.txt", "step*.wav"]
        assert page.locator("output").all_inner_texts() == ["epoch 300", "step 300"], "they do not count the same"
        assert page.locator("pre").inner_text() == "text of 300"
        until(lambda: page.evaluate("document.querySelector('img').naturalWidth === 8"))
        until(lambda: page.evaluate("document.querySelector('audio').duration === 0.1"))
        page.keyboard.press("ArrowLeft")
        assert page.locator("pre").inner_text() == "text of 200"
        assert page.locator("output").all_inner_texts() == ["epoch 200", "step 200"]
        page.get_by_label("Step").press("Home")
        assert page.locator("output").all_inner_texts() == ["epoch 200", "step 100"]
        page.get_by_role("button", name="Play").last.click()
        until(lambda: page.evaluate("document.querySelectorAll('output')[1].textContent === 'step 300'"))
        page.get_by_text("Pause").wait_for(state="detached")
        page.get_by_label("Step").fill("1")
        assert page.locator("pre").inner_text() == "text of 200"

    def test_nothing_of_a_run_is_markup(self, user: User, tab: Tab) -> None:
        name = "<img src=x onerror=alert(1)>&quot;"
        svg = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(1)</script></svg>'
        files = {f"{name} step{step}.txt": HOSTILE.encode() + b"\xff<!--" for step in (1, 2)}
        finished(user, {**files, "step1.svg": svg, "step1.png": b"no picture"}, f"{HOSTILE}$ITEMS")
        tab.page.goto(reported(user, "1")[0].as_uri())
        assert tab.page.title() == "Run 1"
        assert tab.page.locator("pre").text_content() == HOSTILE + "\ufffd<!--"
        captions = tab.page.locator("figcaption").all_text_contents()
        assert captions == [f"{name} step*.txt", "step*.png", "step*.svg"]
        assert tab.page.locator("script").count() == 6, "four items, their list, and ours"
        # and its policy lets no other script in
        add = "document.body.append(Object.assign(document.createElement('script'), { text: 'document.title = 1' }))"
        tab.page.evaluate(add)
        assert tab.page.title() == "Run 1"
        tab.expect("Content Security Policy")

    def test_some_files_of_several_runs_and_none(self, user: User, tab: Tab) -> None:
        finished(user, {"a/step1.txt": b"x", "b/step1.txt": b"y", "b/step2.txt": b"z"})
        finished(user, {"b/step3.txt": b"w"})
        finished(user, {"notes.txt": b"x"})
        file, lines = reported(user, "1", "last", "2", "--name", "b/")
        assert lines[1:] == ["  run 1: b/step*.txt: 2 texts", "  run 2: b/step*.txt: 1 text"]
        tab.page.goto(file.as_uri())
        assert tab.page.locator("pre").all_text_contents() == ["z", "w"]
        for words in (["3"], ["1", "--no-files"]):
            text = reported(user, *words)[0].read_text()
            assert "</script>" not in text and "<footer" not in text and text.endswith("</html>\n")
        for words, text in (
            (["1", "--name", "nothing"], "no group of run 1 has `nothing` in its name"),
            (["3", "--name", "b/"], "run 3 has no picture, sound or text with a step in its name"),
        ):
            refused = remoterun(user, "report", *words, status=NotFound.exit_status)
            assert text in refused.stderr and refused.stdout == ""


@pytest.fixture(scope="module")
def artist(new_user: Callable[[], User], libraries_home: Path) -> User:
    """A user whose run 1 has written `models`, and a file beside it."""
    user = new_user()
    lend_libraries(libraries_home, user.config.home)
    model = write_model(user.root / "made" / "models")
    files = {f"models/{path.name}": path.read_bytes() for path in model.iterdir()}
    params = {"rnn_size": 24, "init_from": None, "text": "dc5aade46a55b0ef" * 4, "token": "abc"}
    files |= {"params.json": json.dumps(params).encode(), "metrics.jsonl": b'{"step": 1, "loss": 2.5}\n'}
    finished(user, {**files, "notes": b"x"}, HOSTILE)
    return user


class TestPublish:
    def test_it_writes_from_disk_and_from_any_server(self, artist: User, tab: Tab) -> None:
        done = remoterun(artist, "publish", "runs/1", "site/song", "-y")
        folder = artist.root / "site" / "song"
        assert done.stdout == "" and "  Steps: 300\n" in done.stderr, done.stderr
        assert "  Open site/song/index.html in a browser, or put site/song on any web host\n" in done.stderr
        assert sorted(path.name for path in (artist.root / "site").iterdir()) == ["song"]
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755
        for name in ("ml5/LICENSE.md", "p5/license.txt", "@fontsource/im-fell-english/LICENSE"):
            assert (folder / "libraries" / name).is_file()
        with serve({"": folder}) as address:
            for place in ((folder / "index.html").as_uri(), address):
                page = visit(tab, place)
                assert page.locator("#about").inner_text().startswith("2 layers of 24 · 20 characters · step 300")
                assert write(page, "the rain", 60).startswith("the rain")
                assert not page.get_by_label("Model").is_visible()
                assert page.evaluate(
                    "document.fonts.ready.then(() => [...document.fonts].some((each) => each.status === 'loaded'))"
                )
                card = dict(
                    zip(page.locator("dt").all_inner_texts(), page.locator("dd").all_inner_texts(), strict=True)
                )
                assert (card["Command"], card["Machine"], card["Steps"]) == ("cp -r made/. .", "one", "300")
                assert card["Parameters"] == "rnn_size 24, token abc", "no digest, and nothing that is null"
                assert re.fullmatch(r"\d{4}-\d\d-\d\d", card["Date"]) and card["Duration"]
        numbers = page.evaluate("(model.reset(), model.read('t')).then((row) => Array.from(row))")
        assert np.abs(np.array(numbers) - expected(artist.root / "made" / "models", "t")).max() < 1e-5

    def test_a_command_with_values_is_shown_only_if_somebody_agrees(self, artist: User) -> None:
        done = remoterun(artist, "publish", "1", "page", "--json")
        assert not {"Command", "Parameters"} & json.loads(done.stdout)["card"].keys()
        assert "leaves out the command, which has values, and its parameters: -y publishes them" in done.stderr
        page = artist.root / "page" / "index.html"
        env = {**environment(artist), "NO_COLOR": "1"}
        for answer, shown in (("y", True), ("", False)):
            terminal = Place(artist.root, env, seconds=60).spawn("publish", "runs/1", "page")
            talk(terminal, "`cp -r made/. .`", None, "[y/N] ", answer)
            assert ("token abc" in page.read_text()) is shown

    def test_parameters_are_asked_about_also_where_the_command_is_plain(self, artist: User) -> None:
        model = {f"made/models/{path.name}": path.read_bytes() for path in (artist.root / "made" / "models").iterdir()}
        files = {**model, "made/params.json": b'{"token": "abc"}', "go.sh": b"cp -r made/. ."}
        files["made/metrics.jsonl"] = b'{"step": 1, "loss": 2.5}\n'
        run = artist.client.runs.submit(RunRequest("sh go.sh"), artist.source(files))
        artist.place("one").until_final(run.key)
        done = remoterun(artist, "publish", "last", "page", "--json")
        assert not {"Command", "Parameters"} & json.loads(done.stdout)["card"].keys()
        assert json.loads(remoterun(artist, "publish", "last", "page", "-y", "--json").stdout)["card"]["Parameters"]

    def test_it_takes_the_place_of_a_former_one_as_it_was_made(self, artist: User) -> None:
        folder = artist.root / "former"
        folder.mkdir()
        remoterun(artist, "publish", "runs/1", "former")
        made = [path.name for path in folder.iterdir() if path.is_file()]
        assert own_files(artist.config.home, str(folder), made) == set(made), "no later run is sent it unasked"
        (folder / "models.js").write_text("mine")
        refused = remoterun(artist, "publish", "runs/1/models", "former", status=AlreadyExists.exit_status)
        assert "was changed since `publish` made it" in refused.stderr
        shutil.rmtree(folder)
        remoterun(artist, "publish", "runs/1/models", "former")
        made = json.loads(remoterun(artist, "publish", "made/models", "former", "--json").stdout)
        assert made["card"] == {"Steps": "300", "Made with": "remoterun, ml5.js, p5.js"}
        assert made["files"] == sum(path.is_file() for path in folder.rglob("*"))
        artist.client.uploads.upload(artist.root / "made", "song", "one")
        made = json.loads(remoterun(artist, "publish", "uploads/song", "former", "--json").stdout)
        assert made["card"] == {"Steps": "300", "Made with": "remoterun, ml5.js, p5.js"}
        (folder / "CNAME").write_text("song.example.org")
        assert "was changed since" in remoterun(artist, "publish", "made", "former", status=2).stderr
        assert (folder / "CNAME").read_text() == "song.example.org"

    def test_what_can_t_be_published_leaves_nothing(self, artist: User, recorded: Recorded) -> None:
        (artist.root / "full").mkdir()
        (artist.root / "full" / "a").write_text("mine")
        (artist.root / "away").symlink_to("full")
        broken = write_model(artist.root / "broken")
        (broken / json.loads((broken / "manifest.json").read_text())["embedding"]["filename"]).unlink()

        def files() -> list[Path]:
            """The user's files, without the homes beside them, in which agents come and go."""
            found = artist.root.rglob("*")
            return sorted(path for path in found if path.relative_to(artist.root).parts[0] not in artist.places)

        before = files()
        recorded.play(lambda *words, status: checked(commands.run(words, artist.root, environment(artist), 60)))
        assert files() == before

    def test_nothing_of_a_run_or_a_model_is_markup(self, artist: User, tab: Tab) -> None:
        model = write_model(artist.root / "odd" / "models")
        manifest = json.loads((model / "manifest.json").read_text())
        name = "<script>alert(1)<!--%23?#&'\"\u2028__proto__"
        (model / manifest["embedding"]["filename"]).rename(model / name)
        manifest["embedding"]["filename"] = name
        (model / "manifest.json").write_text(json.dumps(manifest))
        card = {"Command": HOSTILE + "\udcff", HOSTILE: "<!--"}
        libraries_folder = next((artist.config.home / "page").glob("libraries-*"))
        publish(local_model(model), card, libraries_folder, artist.root / "odd" / "page")
        page = visit(tab, (artist.root / "odd" / "page" / "index.html").as_uri())
        assert page.locator("dt").all_text_contents() == ["Command", HOSTILE]
        assert page.locator("dd").all_text_contents() == [HOSTILE + "?", "<!--"]
        assert write(page, "the", 20).startswith("the")
        assert page.title() == "…and so on: models"


TRAIN = """
import json, sys
with open("metrics.jsonl", "w") as file:
    for step in range(2000):
        loss = 1000 if step == 77 else float("nan") if step == 5 else float(sys.argv[2]) / (1 + step)
        file.write(json.dumps({"step": step, "train_loss": loss, sys.argv[3]: 1}) + "\\n")
"""


@pytest.fixture(scope="module")
def trained(new_user: Callable[[], User]) -> User:
    """Run 1 and 2 differ in their --lr; the name of a metric of theirs, and all else that a run may say, is hostile."""
    user = new_user()
    source = user.source({"train.py": TRAIN.encode()})
    for number, lr in ((1, "0.1"), (2, "0.5")):
        command = f"python3 train.py --lr {lr} {shlex.quote(HOSTILE)}"
        run = user.client.runs.submit(RunRequest(command, description=HOSTILE), source)
        user.place("one").until_final(run.key)
        user.client.connections.registry.annotate(user.client.runs.label(number, [HOSTILE]), remark=HOSTILE)
    return user


class TestReport:
    def test_two_runs_side_by_side(self, trained: User, tab: Tab) -> None:
        done = remoterun(trained, "report", "1", "runs/2", "1")
        (trained.root / "report.html").write_text(done.stdout)
        page = tab.page
        page.goto((trained.root / "report.html").as_uri())
        assert page.title() == page.locator("h1").inner_text() == "Runs 1 and 2"
        rows = {row[0]: row[1:] for row in page.evaluate(ROWS)}
        assert rows["State"] == ["complete", "complete"] and rows["Machine"] == ["one", "one"]
        assert rows["lr ≠"] == ["0.1", "0.5"]
        assert page.locator("tr.differs th").all_inner_texts() == ["lr ≠"]
        assert rows["train_loss"] == ["5e-05 (best, step 1,999)", "0.00025 (best, step 1,999)"]
        for line in page.locator("figure", has_text="train_loss").locator("polyline").all():
            points = [tuple(map(float, point.split(","))) for point in str(line.get_attribute("points")).split()]
            assert 300 < len(points) <= 600 and len({y for _, y in points}) > 1
            assert min(y for _, y in points) < 20, "the peak of one step is seen"

    def test_a_run_that_went_back_and_has_many_metrics(self, user: User, tab: Tab) -> None:
        """The newest value of a step counts, as on the page; how many metrics are left out is said."""
        steps = [*((step, 1) for step in range(10)), *((step, 0.5) for step in range(5, 12))]
        lines = [json.dumps({"step": step, "loss": y, **{f"m{n}": n for n in range(40)}}) for step, y in steps]
        number = finished(user, {"metrics.jsonl": "\n".join([*lines, ""]).encode()})
        (user.root / "report.html").write_text(remoterun(user, "report", str(number)).stdout)
        tab.page.goto((user.root / "report.html").as_uri())
        line = tab.page.locator("figure", has_text="loss").locator("polyline").get_attribute("points")
        across = [float(pair.split(",")[0]) for pair in str(line).split()]
        assert len(across) == 12 and across == sorted(across)
        expect(tab.page.locator("figure")).to_have_count(24)
        expect(tab.page.locator("main")).to_contain_text(f"The first 24 of 41; remoterun metrics {number} has all.")

    def test_nothing_of_a_run_is_markup_and_there_is_no_script(self, trained: User, tab: Tab) -> None:
        text = remoterun(trained, "report", "last").stdout
        (trained.root / "report.html").write_text(text)
        page = tab.page
        page.goto((trained.root / "report.html").as_uri())
        assert page.title() == "Run 2"
        assert page.locator("script, img").count() == 0
        rows = {row[0]: row[1:] for row in page.evaluate(ROWS)}
        assert rows["Description"] == rows["Labels"] == rows["Remark"] == [HOSTILE]
        assert rows[HOSTILE] == ["1 (best, step 0)"]
        assert HOSTILE in page.locator("figcaption").all_text_contents()

    def test_everything_can_be_read(self, trained: User, tab: Tab) -> None:
        (trained.root / "report.html").write_text(remoterun(trained, "report", "1", "2").stdout)
        tab.page.set_viewport_size({"width": 360, "height": 700})
        tab.page.goto((trained.root / "report.html").as_uri())
        assert tab.sideways() == 0
        found = []
        for scheme in ("light", "dark"):
            tab.page.emulate_media(color_scheme=scheme)
            found.append(tab.page.evaluate(CONTRAST.replace('"h1, p, ', '"h1, h2, p, th, td, ')))
            assert {name: ratio for name, ratio in found[-1].items() if ratio < 4.5} == {}
        assert found[0] != found[1]
        tab.page.set_viewport_size({"width": 1280, "height": 800})

    def test_a_run_that_never_ran_and_one_that_is_not_there(self, user: User) -> None:
        finished(user, {"notes": b"x"})
        assert "<h1>Run 1</h1>" in remoterun(user, "report", "1").stdout
        registry, gone = user.client.connections.registry, MachineType("me@127.0.0.1:1", host="me@127.0.0.1:1")
        run = registry.set_host(registry.add_run(new_key(), gone, "true", 1.0), gone, "home")
        registry.update(run, by_our_clock(RunStatus(run.key, RunState.RUNNING)), 1.0)
        text = remoterun(user, "report", "2").stdout
        assert "does not give them" in text and "127.0.0.1" not in text, "who gets it need not know where it ran"
        assert "there is no run 7" in remoterun(user, "report", "7", status=2).stderr
        refused = remoterun(user, "report", *(["1"] * 3), "x", status=2)
        assert "`x` is not a run number" in refused.stderr

    def test_no_html_on_a_terminal(self, user: User) -> None:
        terminal = Place(user.root, {**environment(user), "NO_COLOR": "1"}).spawn("report", "3", "4")
        refused = "error: a report is HTML, which a terminal does not show\r\n"
        talk(terminal, refused, None, "hint: remoterun report 3 4 > report.html\r\n", status=2)


ROWS = "[...document.querySelectorAll('tr')].map((row) => [...row.cells].map((cell) => cell.textContent))"
