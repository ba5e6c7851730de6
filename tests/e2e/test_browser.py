"""The page of examples/lstm-browser with the real ml5.js in a real Chromium, and `remoterun open`, which serves it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pexpect
import pytest

from tests import commands
from tests.browser import PAGE, Browser, Ml5, Tab, serve
from tests.commands import REMOTERUN
from tests.e2e.conftest import opened
from tests.e2e.pages import CHARACTERS, CONTRAST, environment, expected, visit, write, write_model
from tests.e2e.said import ended
from tests.models import lend_libraries
from tests.recorder import Recorded, checked
from tests.workshop import User, until
from trainer import export
from trainer.generate import Reader

TEXT = "the rain 7 is\nin Eden 🙂 é"
BOTH = ("cpu", "webgl")
README = (PAGE / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "models")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, node_modules: Path) -> Path:
    """The page's folder as a reader of its README has it: with what `npm ci` brings."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(PAGE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules", "models"))
    (folder / "node_modules").symlink_to(node_modules)
    return folder


@pytest.fixture(scope="module")
def served(folder: Path, model: Path) -> Iterator[tuple[str, dict[str, Path]]]:
    """The address of the page, and the folders that are served there."""
    folders: dict[str, Path] = {}
    with serve(folders) as address:
        yield address, folders


@pytest.fixture
def folders(served: tuple[str, dict[str, Path]], folder: Path, model: Path) -> dict[str, Path]:
    """What is served at `address`: a test may put other models there for itself."""
    served[1].clear()
    served[1].update({"": folder, "models": model})
    return served[1]


@pytest.fixture
def address(served: tuple[str, dict[str, Path]], folders: dict[str, Path]) -> str:
    """The page, served by any static server, with a model beside it."""
    return served[0]


# -- numbers


class TestNumbers:
    def test_ml5_computes_what_numpy_computes(self, ml5: Ml5, model: Path) -> None:
        for backend in BOTH:
            found = ml5.probabilities(model, TEXT, backend)
            assert found.shape == (len(TEXT), len(CHARACTERS))
            assert np.abs(found - expected(model, TEXT)).max() < 1e-5, backend

    def test_one_layer_goes_with_a_first_cell_that_does_nothing(self, ml5: Ml5, tmp_path: Path) -> None:
        model = write_model(tmp_path, layers=1)
        for backend in BOTH:
            found = ml5.probabilities(model, TEXT, backend)
            assert np.abs(found - expected(model, TEXT)).max() < 1e-5, backend

    def test_what_ml5_draws_is_seen_step_by_step(self, ml5: Ml5, model: Path) -> None:
        written = ml5.generate(model, "the", 40, 0.5, "cpu")
        text = ml5.text(model, "the", 40, 0.5, "cpu")
        assert len(written.characters) == 40 and len(list(text)) == 40
        assert set(written.characters) | set(text) <= set(CHARACTERS)
        read = "the" + "".join(each or "" for each in written.characters[:-1])
        assert np.abs(written.probabilities - expected(model, read, 0.5)[2:]).max() < 1e-5

    def test_a_cold_text_of_a_model_that_is_out_of_range_is_seen(self, ml5: Ml5, tmp_path: Path) -> None:
        """ml5.js loses characters where exp() of its logits is too large: the export moves them to the middle."""
        model = write_model(tmp_path)
        weights, characters = export.read_model(model)
        reader = Reader(weights)
        largest = [reader.read(characters.index(each)).max() for each in TEXT * 9]
        good = write_model(tmp_path / "good", largest=(min(largest), max(largest)))
        for backend in BOTH:
            written = ml5.generate(good, "the", 100, 0.1, backend)
            assert None not in written.characters and not np.isnan(written.probabilities).any()
            assert len(list(ml5.text(good, "the", 100, 0.1, backend))) == 100
        place = tmp_path / json.loads((model / "manifest.json").read_text())[export.SOFTMAX_B]["filename"]
        place.write_bytes((np.frombuffer(place.read_bytes(), "<f4") + 20).tobytes())
        written = ml5.generate(model, "the", 5, 0.1, "cpu")
        assert len(ml5.text(model, "the", 5, 0.1, "cpu")) < 5
        assert written.characters == [None] * 5 and np.isnan(written.probabilities).any()

    @pytest.mark.parametrize("backend", BOTH)
    def test_the_page_reads_as_numpy_does_each_time_anew(
        self, address: str, tab: Tab, model: Path, backend: str
    ) -> None:
        page = visit(tab, f"{address}?backend={backend}")
        assert f"on {backend}" in page.locator("#about").inner_text()
        again = """async (text) => {
            const rows = [];
            model.reset();
            for (const character of text) rows.push(Array.from(await model.read(character)));
            return rows;
        }"""
        for text in (TEXT, TEXT[:1], TEXT):  # after one character ml5.js would remember what it read before
            assert np.abs(np.array(page.evaluate(again, text)) - expected(model, text)).max() < 1e-5

    def test_a_higher_temperature_is_more_random(self, address: str, tab: Tab, model: Path) -> None:
        page = visit(tab, address)
        entropies = []
        for temperature in (0.1, 0.5, 1, 2):
            row = expected(model, TEXT)[-1]
            found = np.array(page.evaluate("([row, t]) => Array.from(temper(row, t))", [row.tolist(), temperature]))
            assert np.abs(found - expected(model, TEXT, temperature)[-1]).max() < 1e-9
            entropies.append(-(found * np.log(np.maximum(found, 1e-300))).sum())
        assert entropies == sorted(entropies)
        picked = page.evaluate("Array.from({ length: 4000 }, () => pick([0.5, 0, 0.25, 0.25, 0]))")
        assert np.allclose(np.bincount(picked, minlength=5) / 4000, [0.5, 0, 0.25, 0.25, 0], atol=0.05)

    def test_a_large_model_runs_where_it_is_faster(self, address: str, tab: Tab) -> None:
        page = visit(tab, address)
        page.evaluate("model.shape.weights = 1e7")
        page.evaluate("model.useFaster()")
        assert page.evaluate("model.backend") in BOTH
        assert np.isclose(sum(page.evaluate("model.read('e').then((row) => Array.from(row))")), 1, atol=1e-5)


# -- the page


class TestWriting:
    def test_it_goes_on_with_the_text(self, address: str, tab: Tab) -> None:
        page = visit(tab, address)
        about = "2 layers of 24 · 20 characters · step 300 · 2.48 bits a character on text it never saw · on cpu"
        assert page.locator("#about").inner_text() == about
        text = write(page, "the rain", 60, 1)
        assert text.startswith("the rain") and len(list(text)) == 68 and set(text) <= set(CHARACTERS)
        assert page.locator("#plain").text_content() == text, "for who can't see it"
        page.get_by_role("button", name="Go on").click()
        page.wait_for_function("document.querySelector('#letters').children.length === 128")
        page.wait_for_selector("body[data-state=ready]")
        assert page.locator("#letters").text_content().startswith(text)

    def test_the_same_letters_are_likely_each_time(self, address: str, tab: Tab) -> None:
        """Nothing is left of the text before: at a low temperature the first letter is the same again."""
        page = visit(tab, address)
        first = {write(page, "ea", 3, 0.1)[2] for _ in range(3)}
        assert len(first) == 1

    def test_nothing_is_left_behind(self, address: str, tab: Tab) -> None:
        page = visit(tab, address)
        write(page, "the", 5)
        before = page.evaluate("ml5.tf.memory().numTensors")
        write(page, "the rain in", 100)
        assert page.evaluate("ml5.tf.memory().numTensors") == before
        page.get_by_role("button", name="Open").click()
        page.wait_for_selector("body[data-state=ready].empty")
        assert page.evaluate("ml5.tf.memory().numTensors") <= before + 1

    def test_what_it_has_never_seen_is_named_and_left_out(self, address: str, tab: Tab) -> None:
        page = visit(tab, address)
        text = write(page, "thX\te🙂 ß", 10)
        assert text.startswith("the🙂 ") and len(list(text)) == 15
        said = page.locator("#unknown").inner_text()
        assert said == "Left out, as the model has never seen them: “X”, a tab, “ß”"
        assert write(page, "", 10)[:1] in CHARACTERS and page.locator("#unknown").inner_text() == ""

    def test_it_begins_with_the_models_seed_and_says_so_where_nothing_can_be_seen(
        self, address: str, folders: dict[str, Path], tab: Tab, tmp_path: Path
    ) -> None:
        folders["blank"] = blank = write_model(tmp_path / "blank", seed="the rain in")
        place = blank / json.loads((blank / "manifest.json").read_text())[export.SOFTMAX_B]["filename"]
        biases = np.frombuffer(place.read_bytes(), "<f4").copy()
        biases[CHARACTERS.index(" ")] += 40  # so it writes spaces alone
        place.write_bytes(biases.tobytes())
        page = visit(tab, f"{address}?model=blank")
        seed = page.get_by_label("It begins with")
        assert seed.input_value() == "the rain in"
        page.get_by_role("button", name="Write").click()
        page.wait_for_selector("body[data-state=ready]:not(.empty)")
        assert page.locator("#letters").text_content() == "the rain in" + 400 * " "
        said = r"Wrote 400 letters in [\d.]+ s: nothing but blanks \(400 spaces\)\. Another beginning, .* bring words\."
        assert re.fullmatch(said, page.locator("#status").inner_text())
        for typed, name, value in (("", "models", ""), ("", "blank", "the rain in"), ("mine", "models", "mine")):
            page.get_by_label("Model").fill(name)
            if typed:
                seed.fill(typed)
            page.get_by_role("button", name="Open").click()
            page.wait_for_function("(name) => model?.name === name", arg=name)
            page.wait_for_selector("body[data-state=ready]")
            assert seed.input_value() == value, "an older model has no seed, and what was typed stays"

    def test_it_can_be_stopped(self, address: str, tab: Tab) -> None:
        page = visit(tab, address)
        page.get_by_label("Letters").fill("20000")
        page.get_by_role("button", name="Write").click()
        page.wait_for_function("document.querySelector('#letters').children.length > 20")
        assert page.locator("body").get_attribute("data-state") == "writing"
        page.get_by_role("button", name="Stop").click()
        page.wait_for_selector("body[data-state=ready]")
        count = page.locator("#letters span").count()
        assert page.locator("#status").inner_text().startswith(f"Stopped after {count} letters")
        assert 20 < count < 20000

    def test_the_temperature_turns_what_is_shown(self, address: str, tab: Tab) -> None:
        page = visit(tab, address)
        write(page, "the", 30, 0.1)
        said = []
        for degrees, words in (("0.1", "0.1, the likeliest letters only"), ("2", "2.0, almost anything")):
            page.get_by_label("Temperature").fill(degrees)
            assert page.get_by_label("Temperature").get_attribute("aria-valuetext") == words
            said.append(page.locator("#choice").inner_text())
        cold, warm = (float(re.search(r"a chance of ([\d.]+)", text)[1]) for text in said)  # type: ignore[index]
        assert cold > warm

    def test_with_the_keyboard_alone(self, address: str, tab: Tab) -> None:
        page = visit(tab, address)
        order = []
        for _ in range(9):
            page.keyboard.press("Tab")
            order.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        assert order[:6] == ["name", "Open", "seed", "temperature", "length", "write"]
        page.focus("#seed")
        page.keyboard.type("the")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("body[data-state=ready]:not(.empty)")
        page.focus("#paper")
        page.keyboard.press("Home")
        first = page.locator("#choice").inner_text()
        assert re.fullmatch(r"First came .*, a chance of [\d.<]+\s%.*\.", first)
        page.keyboard.press("ArrowRight")
        assert page.locator("#letters .chosen").inner_text() == page.evaluate("text.letters[1].character")
        assert page.locator("#choice").inner_text().startswith("After “")

    def test_a_letter_that_is_touched_tells_what_else_there_was(self, address: str, tab: Tab, model: Path) -> None:
        page = visit(tab, address)
        write(page, "the rain", 12, 1)
        page.locator("#letters span:not(.seed)", has_text=re.compile(r"\S")).first.click()
        read = "the rain" + page.evaluate("text.letters.slice(0, chosen.place).map((each) => each.character).join('')")
        row = expected(model, read)[-1]
        chance = 100 * row[CHARACTERS.index(page.evaluate("text.letters[chosen.place].character"))]
        said = page.locator("#choice").inner_text()
        found = re.search(r"a chance of (<?[\d.]+)", said)
        assert found and float(found[1].strip("<")) == pytest.approx(chance, abs=0.6), said

    def test_a_model_that_was_trained_backwards(
        self, address: str, folders: dict[str, Path], tab: Tab, tmp_path: Path
    ) -> None:
        folders["models"] = model = write_model(tmp_path / "models", reverse=True)
        page = visit(tab, address)
        assert page.get_by_label("It ends with").is_visible()
        text = write(page, "in Eden", 30, 0.1)
        assert text.endswith("in Eden") and len(text) == 37
        read = text[::-1]
        best = expected(model, read)[6:-1].argmax(axis=1)
        likeliest = [CHARACTERS[each] for each in best]
        assert sum(one == other for one, other in zip(likeliest, read[7:], strict=True)) >= 25


class TestModels:
    def test_the_model_is_chosen_by_name(
        self, address: str, folders: dict[str, Path], tab: Tab, tmp_path: Path
    ) -> None:
        folders["songs/my other"] = write_model(tmp_path / "my other", layers=2, step=77)
        page = visit(tab, address + "?model=songs/my%20other")
        assert page.get_by_label("Model").input_value() == "songs/my other"
        assert "step 77" in page.locator("#about").inner_text()
        page.get_by_label("Model").fill("models")
        page.get_by_role("button", name="Open").click()
        page.wait_for_function("document.querySelector('#about').textContent.includes('step 300')")
        assert page.url == address + "?model=models"
        page.go_back()
        page.wait_for_function("document.querySelector('#about').textContent.includes('step 77')")
        page.wait_for_selector("body[data-state=ready]")
        write(page, "the", 5)

    def test_what_is_wrong_is_said(self, address: str, folders: dict[str, Path], tab: Tab, tmp_path: Path) -> None:
        page = visit(tab, address)
        for change, said, complaint in (
            ("nothing there", "There is no model in “broken”: no manifest.json.", "404"),
            ("no words", "vocab.json is missing in “broken”.", "404.*vocab"),
            ("cut", "manifest.json in “broken” can't be read as JSON.", None),
            ("an app", "“broken” is not a model for ml5's charRNN: its manifest.json lists other things.", None),
            ("lost", "“broken” is not whole: Error loading variable embedding from URL", "404.*embedding"),
            ("short", "“broken” is not whole: ", None),
            ("two", "“broken” is of two models: 3 characters in vocab.json, 20 in the network.", None),
            ("words", "This model writes word by word, and ml5.js reads single characters only.", None),
            ("rnn", "This is a network of rnn cells, and ml5.js knows lstm alone.", None),
            ("three", "This network has 3 layers, and ml5.js always takes the word of the second.", None),
            ("told", "ml5.js can't use this model: it is no good there.", None),
        ):
            folders["broken"] = self.broken(tmp_path / change, change)
            page.get_by_label("Model").fill("broken")
            page.get_by_role("button", name="Open").click()
            page.wait_for_function("document.body.dataset.state !== 'loading'")
            assert page.locator("#trouble p").first.inner_text().startswith(said)
            assert page.locator("#trouble p").nth(1).inner_text()
            assert page.get_by_role("button", name="Write").is_disabled()
            assert not page.locator("#sketch").is_visible()
            if complaint:
                tab.expect(complaint)
                tab.complaints[:] = [text for text in tab.complaints if "404" not in text]
            assert tab.complaints == [], change

    def broken(self, folder: Path, change: str) -> Path:
        if change == "nothing there":
            return folder
        if change == "rnn":
            return write_model(folder, cell="rnn")
        settings: dict[str, Any] = {"ml5": False, "ml5_why_not": "it is no good there"} if change == "told" else {}
        model = write_model(folder, layers=3 if change == "three" else 2, **settings)
        embedding = folder / json.loads((model / "manifest.json").read_text())["embedding"]["filename"]
        if change == "no words":
            (model / "vocab.json").unlink()
        elif change == "cut":
            (model / "manifest.json").write_text((model / "manifest.json").read_text()[:50])
        elif change == "an app":
            (model / "manifest.json").write_text('{"name": "an app", "icons": []}')
        elif change == "lost":
            embedding.unlink()
        elif change == "short":
            embedding.write_bytes(embedding.read_bytes()[:-8])
        elif change in ("two", "words"):
            vocab = {"a": 0, "b": 1, "word" if change == "words" else "c": 2}
            (model / "vocab.json").write_text(json.dumps(vocab))
        return model

    def test_only_folders_of_the_same_server(self, address: str, tab: Tab) -> None:
        for name in ("https://elsewhere.example/models", "data:text/plain,x", " "):
            page = visit(tab, address)
            page.get_by_label("Model").fill(name)
            page.get_by_role("button", name="Open").click()
            page.wait_for_function("document.body.dataset.state !== 'loading'")
            opened = page.locator("#trouble p").first.inner_text() if name.strip() else "it is not a folder"
            assert "is not a folder" in opened

    def test_a_model_of_somebody_else(self, address: str, folders: dict[str, Path], tab: Tab, tmp_path: Path) -> None:
        """Files as ml5's own training script names them, without settings.json."""
        folders["models"] = model = write_model(tmp_path)
        (model / "settings.json").unlink()
        page = visit(tab, address)
        assert page.locator("#about").inner_text() == "2 layers of 24 · 20 characters · on cpu"
        write(page, "the", 10)
        tab.expect("404.*settings.json")
        tab.complaints[:] = [text for text in tab.complaints if "status of 404" not in text]

    def test_without_the_libraries(self, tab: Tab, model: Path, tmp_path: Path) -> None:
        bare = tmp_path / "page"
        shutil.copytree(PAGE, bare, ignore=shutil.ignore_patterns("node_modules", "models"))
        with serve({"": bare, "models": model}) as address:
            page = visit(tab, address)
            assert page.locator("#trouble").inner_text().split("\n")[0] == "ml5.js and p5 are not here."
            assert page.locator("#trouble code").inner_text() == "npm ci"
        tab.expect("404.*ml5.min.js")
        tab.complaints.clear()


class TestLooks:
    def test_everything_can_be_read(self, address: str, tab: Tab) -> None:
        page = visit(tab, address)
        write(page, "thX", 300, 1.5)
        page.locator("#letters span:not(.seed)", has_text=re.compile(r"\S")).first.click()
        found = []
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            found.append(page.evaluate(CONTRAST))
            assert {"span#.s0", "span#.s3", "span#.seed", "p#unknown.note", "button#write.first"} <= set(found[-1])
            assert {name: ratio for name, ratio in found[-1].items() if ratio < 4.5} == {}
        assert found[0] != found[1]

    @pytest.mark.parametrize(("width", "height"), [(320, 568), (1280, 800)])
    def test_it_fits(self, address: str, browser: Browser, tmp_path: Path, width: int, height: int) -> None:
        phone = {"device_scale_factor": 2, "has_touch": True, "is_mobile": True} if width < 800 else {}
        tab = browser.tab(width, height, **phone)
        page = visit(tab, address)
        assert tab.sideways() == 0
        page.get_by_label("Letters").fill("20000")
        page.get_by_role("button", name="Write").click()
        page.wait_for_function("document.querySelector('#letters').children.length > 100")
        page.locator("#stop" if width < 800 else "#write").click()
        page.wait_for_selector("body[data-state=ready]")
        page.wait_for_function("sketch._p5.isLooping() === false")  # until the letters stand
        assert tab.sideways() == 0
        assert tab.colours(tab.screenshot(tmp_path / "written.png")) > 100
        assert page.evaluate(PAINTED) > 500
        page.mouse.wheel(0, 5000)
        page.wait_for_function("scrollY > 0 || document.documentElement.scrollHeight <= innerHeight")
        assert page.locator("#sketch").bounding_box()["y"] >= 0, "the drawing stays in sight"
        small = page.evaluate(
            "[...document.querySelectorAll('button, input, textarea')].filter((each) => each.checkVisibility()"
            " && each.getBoundingClientRect().height < 32).map((each) => each.id)"
        )
        assert small == [], "too small for a finger"
        visit(tab, address + "?model=" + "a-name-without-end" * 20)
        assert tab.sideways() == 0
        page.context.close()

    def test_without_motion(self, address: str, tab: Tab) -> None:
        tab.page.emulate_media(reduced_motion="reduce")
        page = visit(tab, address)
        page.evaluate(WATCH)
        write(page, "the", 100)
        assert set(page.evaluate("shown")) == {0}, "the letters stand still while it writes"
        page.wait_for_function("sketch._p5.isLooping() === false")
        assert page.evaluate(PAINTED) > 500


WATCH = """() => {
    shown = [];
    const before = show;
    show = (...all) => {
        shown.push(sketch._sorts.size);
        before(...all);
    };
}"""
PAINTED = """() => {
    const canvas = document.querySelector("canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return data.filter((value, place) => place % 4 === 3 && value > 0).length;
}"""


def test_the_readmes_program(address: str, tab: Tab, model: Path) -> None:
    """What a page of one's own needs of model.js."""
    code = re.search(r"^```js\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert code is not None
    page = visit(tab, address)
    with page.expect_console_message() as said:
        page.evaluate(f"async () => {{ {code[1].replace('The sea', 'the sea')} }}")
    assert said.value.text in CHARACTERS


def test_with_pythons_own_server(folder: Path, model: Path, tab: Tab, tmp_path: Path) -> None:
    """By the lines of the example's README, which a reader types in a copy of its folder."""
    *lines, last = re.findall(r"^ {4}(.*)$", README, re.MULTILINE)
    assert (len(lines), last) == (2, "python -m http.server")
    folder = Path(shutil.copytree(PAGE, tmp_path / "page", ignore=shutil.ignore_patterns("node_modules", "models")))
    shutil.copytree(model, tmp_path / "song" / "models")
    for line in lines:
        done = subprocess.run(["sh", "-c", line], cwd=folder, env={**os.environ, "HOME": str(tmp_path)}, timeout=120)
        assert done.returncode == 0, line
    words = [sys.executable, "-u", *last.split()[1:], "--bind", "127.0.0.1", "0"]
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
            assert found
            write(visit(tab, found[0]), "the", 20)
        finally:
            server.kill()


# -- remoterun open


@pytest.fixture(scope="module")
def artist(new_user: Callable[[], User], libraries_home: Path, model: Path) -> User:
    """A user who has trained: run 1, on this machine, has written `models`, and `notes`."""
    user = new_user()
    lend_libraries(libraries_home, user.config.home)
    machine = user.config.machines["one"]
    user.config.file.write_text(f'default = "one"\n[machines.one]\nengine = "process"\nhome = "{machine.home}"\n')
    source = user.source({f"made/{path.name}": path.read_bytes() for path in model.iterdir()})
    from remoterun.model import RunRequest

    run = user.client.runs.submit(RunRequest("cp -r made models; date > notes"), source)
    user.place("one").until_final(run.key)
    return user


def fetch(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return bytes(answer.read())


class TestOpen:
    def test_the_model_of_a_run_writes_in_the_browser(self, artist: User, model: Path, tab: Tab) -> None:
        (line,) = re.findall(r"^\$ remoterun open (.*)$", README, re.MULTILINE)
        with opened([line.replace("runs/15", "runs/1")], artist.root, environment(artist)) as (address, process):
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{22}/\?model=runs/1/models", address)
            assert process.stderr is not None
            assert process.stderr.readline() == "The model in runs/1/models: 11 files, 43 KB, step 300\n"
            assert process.stderr.readline() == "  open it in a browser; ^C ends it\n"
            root = address.partition("?")[0]
            assert fetch(root + "runs/1/models/vocab.json") == (model / "vocab.json").read_bytes()
            page = visit(tab, address)
            assert page.get_by_label("Model").input_value() == "runs/1/models"
            assert write(page, "the", 30).startswith("the")
        with pytest.raises(urllib.error.URLError):
            fetch(root)

    def test_for_programs(self, artist: User, model: Path) -> None:
        with opened([str(model), "--json"], artist.root, environment(artist)) as (line, process):
            assert line == "{" and process.stdout is not None
            rest = [process.stdout.readline() for _ in range(7)]
            found = json.loads("{" + "".join(rest))
            assert fetch(found["address"]).startswith(b"<!doctype html>")
            assert (found["folder"], found["model"], found["step"], found["live"]) == (str(model), "models", 300, False)

    def test_a_browser_is_opened_that_gets_no_terminal(self, artist: User, model: Path, tmp_path: Path) -> None:
        program = tmp_path / "browser"
        program.write_text(
            '#!/bin/sh\necho "$2" > "$1.new"\n(: < /dev/tty) && echo terminal >> "$1.new"\nmv "$1.new" "$1"\n'
        )
        program.chmod(0o755)
        env = environment(artist, BROWSER=f"{program} {tmp_path}/said", SSH_CONNECTION="a 1 b 2")
        for option, shown in (("--no-browser", False), ("--port=0", True)):
            terminal = pexpect.spawn(REMOTERUN, ["open", str(model), option], env=env, encoding="utf-8", timeout=60)
            terminal.expect(r"(http://127\.0\.0\.1:\d+/[\w-]{22}/\?model=models)\r\n")
            address = terminal.match[1]
            terminal.expect(f"{'your browser shows it' if shown else 'open it in a browser'}; \\^C ends it")
            if shown:
                until((tmp_path / "said").exists)
                said = (tmp_path / "said").read_text()  # the page's address has a token: another one leads there
                assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\n", said) and said.strip() not in address
            terminal.sendintr()
            assert ended(terminal) == 0 and (tmp_path / "said").exists() is shown

    def test_what_can_t_be_opened(self, artist: User, recorded: Recorded) -> None:
        recorded.play(lambda *words, status: checked(commands.run(words, artist.root, environment(artist), 60)))

    def test_without_npm(self, artist: User, model: Path, tmp_path: Path) -> None:
        env = environment(artist, REMOTERUN_HOME=str(tmp_path / "new"), PATH=str(tmp_path))
        done = commands.run(["open", str(model)], artist.root, env, 60)
        assert done.returncode == 125 and "error: npm is not installed" in done.stderr
        assert "hint: `sudo apt install npm`" in done.stderr
