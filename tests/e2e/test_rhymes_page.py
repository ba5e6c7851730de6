"""The rhymes example as its README tells it, on a host with Docker; then its page in a real Chromium."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import browser
from tests.commands import REMOTERUN
from tests.conftest import require
from tests.e2e.conftest import Place, make_place
from tests.lab import BASE_IMAGE, Lab, LabHost

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE = EXAMPLES / "rhymes"
README = (EXAMPLE / "README.md").read_text()
TRAINED = "python rhymes.py train --data data --out models"
QUICKLY = " -- --rnn_size 64 --num_layers 2 --batch_size 32 --seq_length 40 --learning_rate 0.01 --steps 500"

pytestmark = [pytest.mark.lab, pytest.mark.tensorflow]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, lab: Lab, prepared_host: LabHost) -> Place:
    """A reader who has the example in a git folder, beside that of the corpus, and a box with Docker as the default."""
    place = make_place(tmp_path_factory.mktemp("rhymes"), lab.ssh_config())
    place.run("machines", "add", "box", prepared_host.name, "--base-image", BASE_IMAGE, "--default")
    for name in ("corpus", "rhymes"):
        leave = shutil.ignore_patterns("node_modules", "models", "data", "checkpoints", "logs", "__pycache__")
        shutil.copytree(EXAMPLES / name, place.folder.parent / "examples" / name, ignore=leave)
    place.folder = place.folder.parent / "examples" / "rhymes"
    subprocess.run(["git", "init", "-q"], cwd=place.folder, env=place.env, check=True)
    place.commit("Rhymes")
    return place


def test_both_pages_have_the_same_libraries() -> None:
    ours, theirs = (
        json.loads((EXAMPLES / name / "package-lock.json").read_text())["packages"]
        for name in ("rhymes", "lstm-browser")
    )
    assert set(ours) == {"", "node_modules/ml5", "node_modules/@fontsource/im-fell-english"}
    assert all(theirs[name] == package for name, package in ours.items() if name)


@pytest.fixture(scope="module")
def said(reader: Place) -> Iterator[dict[str, str]]:
    """What each command of the README printed, and `address`: where the last one serves the page.

    They run in their order; the training alone is made a short one.
    """
    require(browser.missing_npm())
    blocks = re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    commands = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    assert len(commands) == 8
    said = {}
    for command in commands[:-1]:
        words = [word + QUICKLY if word == TRAINED else word for word in shlex.split(command)]
        words[0] = {"remoterun": REMOTERUN, "python": sys.executable}.get(words[0], words[0])
        done = subprocess.run(
            words,
            cwd=reader.folder,
            env=reader.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
        said[command] = done.stdout
    assert sum(QUICKLY[4:] in json.dumps(run) for run in reader.json("ps")) == 1
    words = shlex.split(commands[-1])
    assert words[:3] == ["python", "-m", "http.server"] and words[-1] == "8000"
    serve = [sys.executable, "-u", *words[1:-1], "0"]
    with subprocess.Popen(
        serve, cwd=reader.folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            address = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
            assert address
            yield {**said, "address": address[0]}
        finally:
            server.terminate()


def test_the_models_came_home(reader: Place, said: dict[str, str]) -> None:
    log = next(text for command, text in said.items() if TRAINED in command)
    assert "models/markov.json: a Markov chain of" in log
    assert re.search(r"^500/500 ", log, re.MULTILINE)
    models = reader.folder / "models"
    assert {"rhymes.json", "markov.json", "manifest.json", "vocab.json"} <= {path.name for path in models.iterdir()}
    assert json.loads((models / "settings.json").read_text())["reverse"] is True


@pytest.mark.parametrize("model", ["markov", "lstm"])
def test_what_was_written_rhymes(reader: Place, said: dict[str, str], model: str) -> None:
    text = next(text for command, text in said.items() if f"--model {model}" in command)
    couplets = [couplet.splitlines() for couplet in text.strip().split("\n\n")]
    assert [len(lines) for lines in couplets] == [2, 2, 2, 2]
    for first, second in couplets:
        check_couplet(reader.folder, [first, second])


WRITTEN = "n => document.body.dataset.state === 'ready' && document.querySelectorAll('article').length === n"


def test_the_button_writes_a_couplet_of_each_model(reader: Place, said: dict[str, str], tab: browser.Tab) -> None:
    page = tab.page
    page.goto(said["address"])
    page.wait_for_selector("body[data-state=ready]")
    tensors = []
    for number in range(1, 4):
        page.get_by_role("button", name="Rhyme").click()
        page.wait_for_function(WRITTEN, arg=number)
        newest = page.locator("article").first
        words = newest.locator("h2").inner_text().lower().split(" · ")
        for model in ("markov", "lstm"):
            lines = newest.locator(f"[data-model={model}] .line").all_inner_texts()
            assert check_couplet(reader.folder, lines) == words
            assert newest.locator(f"[data-model={model}] b").all_inner_texts() == [
                re.search(word + r"\W*$", line, re.IGNORECASE)[0].rstrip("""'.,;:!?-""")  # type: ignore[index]
                for word, line in zip(words, lines, strict=True)
            ]
        tensors.append(page.evaluate("ml5.tf.memory().numTensors"))
    assert len(set(tensors)) == 1  # ml5.js would leave 13 for each letter
    assert tab.sideways() == 0


def test_the_page_sees_lines_as_the_program_does(
    reader: Place, said: dict[str, str], tab: browser.Tab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLE)
    program = importlib.import_module("rhymes")
    chain = json.loads((reader.folder / "models" / "markov.json").read_text())
    text = [" ".join(reversed(words)) for words in chain["parsed_sentences"]]
    lines = [*text[::5], "Étés, l'amour fou--", "no 3", "he was runnin'", "", "a--b", "either/or"]
    tab.page.goto(said["address"])
    tab.page.wait_for_selector("body[data-state=ready]")
    seen = tab.page.evaluate("lines => lines.map((line) => [lastWord(line), syllables(line), neighbours(line)])", lines)
    expected = [
        [program.last_word(line), program.syllables(line), [" ".join(pair) for pair in program.neighbours(line)]]
        for line in lines
    ]
    assert seen == expected
    assert tab.page.evaluate("[known.length, known.lines.size]") == [
        program.Known.of(text).length,
        len(set(text)),
    ]
    pairs = tab.page.evaluate("Array.from({ length: 300 }, () => rhymingPair(groups))")
    groups = json.loads((reader.folder / "models" / "rhymes.json").read_text())["groups"].values()
    assert len({one["word"] for one, _ in pairs}) > 100
    assert all(any(one in group and other in program.partners(one, group) for group in groups) for one, other in pairs)


def test_on_a_phone_and_without_motion(said: dict[str, str], browser: browser.Browser) -> None:
    phone = browser.tab(390, 844, reduced_motion="reduce", has_touch=True, is_mobile=True)
    phone.page.goto(said["address"])
    phone.page.wait_for_selector("body[data-state=ready]")
    phone.page.get_by_role("button", name="Rhyme").tap()
    phone.page.wait_for_selector("[data-model=lstm] .line:not(:empty)")
    phone.page.wait_for_selector("body[data-state=ready]")
    assert phone.sideways() == 0
    assert phone.complaints == []
    phone.page.context.close()


def test_without_the_network_the_chain_writes_alone(reader: Place, said: dict[str, str], tab: browser.Tab) -> None:
    chain = reader.folder / "chain"
    chain.mkdir()
    for name in ("rhymes.json", "markov.json"):
        shutil.copy(reader.folder / "models" / name, chain)
    tab.page.goto(said["address"] + "?model=chain")
    tab.page.wait_for_selector("body[data-state=ready]")
    tab.expect(r"404.*chain/manifest\.json")
    assert "the Markov chain writes alone" in tab.page.locator("#about").inner_text()
    tab.page.get_by_role("button", name="Rhyme").click()
    tab.page.wait_for_selector("[data-model=markov] .line:not(:empty)")
    assert tab.page.locator("[data-model=lstm]").count() == 0
    tab.complaints[:] = [text for text in tab.complaints if "404" not in text]


def test_what_is_wrong_is_said(reader: Place, said: dict[str, str], tab: browser.Tab) -> None:
    settings = json.loads((reader.folder / "models" / "settings.json").read_text()) | {"reverse": False}
    chain = (reader.folder / "models" / "markov.json").read_text()
    for place, name, text, said_there in (
        ("one", "rhymes.json", None, "In “one” there is no rhymes.json."),
        ("two", "settings.json", json.dumps(settings), "The LSTM in “two” was not trained backwards."),
        ("three", "markov.json", chain[:1000], "markov.json in “three” can't be read as JSON."),
        ("four", "rhymes.json", '{"format": 2}', "rhymes.json in “four” is of another version."),
    ):
        broken = Path(shutil.copytree(reader.folder / "models", reader.folder / place))
        (broken / name).unlink()
        if text is not None:
            (broken / name).write_text(text)
        tab.page.goto(f"{said['address']}?model={place}")
        tab.page.wait_for_selector("#trouble:not([hidden])")
        assert tab.page.locator("#trouble p").first.inner_text() == said_there
        # What it was still fetching as the next address was opened is no fault.
        tab.complaints[:] = [complaint for complaint in tab.complaints if not re.search("404|ERR_ABORTED", complaint)]


def check_couplet(folder: Path, lines: list[str]) -> list[str]:
    """The two words in which the lines end; they have to rhyme, and the lines to be new."""
    groups = json.loads((folder / "models" / "rhymes.json").read_text())["groups"]
    words = [re.findall(r"[^\W\d_]+(?:['-][^\W\d_]+)*", line.split()[-1])[-1].lower() for line in lines]
    group = next(group for group in groups.values() if words[0] in {entry["word"] for entry in group})
    first, second = (next(entry for entry in group if entry["word"] == word) for word in words)
    assert words[0] != words[1] and not set(first["after"]) & set(second["after"])
    text = {" ".join(line.split()) for line in (folder / "data" / "input.txt").read_text().splitlines()}
    for line in lines:
        assert line not in text
        assert 4 <= len(line.split()) <= 12
    return words
