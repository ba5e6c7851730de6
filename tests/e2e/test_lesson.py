"""The lesson's first word, and its second half: a training that is stopped in the middle and goes on in another run,
its model in a page.

With engine `process` on this machine and with Docker on a host, through the installed command; the page in a real
Chromium, with the model of `process`.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from tests import browser
from tests.e2e.conftest import Place, opened
from tests.e2e.said import ended
from tests.lab import BASE_IMAGE, LabHost
from tests.models import probabilities
from trainer import export

ROOT = Path(__file__).parents[2]
SHOWN = "python -m trainer.train --data_dir=./data"
TRAIN = (
    f"{SHOWN} --rnn_size 32 --batch_size 16 --seq_length 32 --learning_rate 0.01"
    " --steps 600 --save_every 50 --print_every 10 --val_fraction 0.1"
)
GO_ON = next(line for line in (ROOT / "trainer" / "README.md").read_text().splitlines() if "--resume before" in line)
"""How a training that was stopped goes on, as the trainer's page shows it for run 16."""
SEED = "ROMEO:\nThat I did love"
MIDDLE = r"\b([6-9]\d|[1-5]\d\d)/600 \(epoch"
"""What a line says from step 60 on: after the first checkpoint, and long before the end."""

Engine = tuple[Place, str]


@pytest.fixture(scope="module")
def process_engine(shared: Place) -> Engine:
    shared.run("machines", "add", "plain", "local", "--engine", "process", "-y")
    return shared, "plain"


@pytest.fixture(scope="module")
def docker_engine(shared: Place, prepared_host: LabHost) -> Engine:
    shared.run("machines", "add", "boxed", prepared_host.name, "--base-image", BASE_IMAGE, "-y")
    return shared, "boxed"


@pytest.mark.tensorflow
@pytest.mark.timeout(600)
def test_on_this_machine(process_engine: Engine, tmp_path: Path, ml5: browser.Ml5, tab: browser.Tab) -> None:
    place, _ = process_engine
    resumed, model = stopped_and_resumed(process_engine, tmp_path)
    in_the_page(place, resumed, model, ml5, tab)


@pytest.mark.lab
@pytest.mark.tensorflow
@pytest.mark.timeout(600)
def test_in_docker(docker_engine: Engine, tmp_path: Path) -> None:
    """The page knows nothing of engines: one model in it is enough."""
    stopped_and_resumed(docker_engine, tmp_path)


def stopped_and_resumed(engine: Engine, folder: Path) -> tuple[int, Path]:
    """(number, model) of the run that went on."""
    place, machine = engine
    facts = dict(line.split(maxsplit=1) for line in place.run("whoami").stdout.splitlines())
    assert facts["home"] == place.env["REMOTERUN_HOME"] and {"user", "machine", "settings", "default"} <= set(facts)
    place.run("upload", "data/input.txt", "--name", "doom")
    run = ("run", "-y", "--machine-type", machine.upper(), "--mount", "uploads/doom:data")  # as K80 for k80

    place.run(*run, TRAIN)
    whole = place.newest()["number"]

    begun = place.run(*run, "-b", TRAIN).stdout.strip()
    terminal = place.spawn("logs", begun)
    terminal.expect(MIDDLE)
    place.run("stop", "--grace", "60s", begun)
    ended(terminal)  # at its end
    ours, *again = shlex.split(place.run("logs", begun, status=143).stdout.splitlines()[-1])
    stopped = place.json("info", begun)
    assert (stopped["state"], stopped["exit_status"]) == ("stopped", 143) and stopped["ended"]
    shown = shlex.split(GO_ON.replace("runs/16", f"runs/{begun}").replace(SHOWN, TRAIN))
    assert [ours, *(word for word in again if word not in ("-t", machine.upper(), "-y"))] == shown
    done = place.run(*again)  # as the last line says
    resumed = place.newest()["number"]
    assert "resuming at step " in done.stdout

    # The losses, and the model, are those of the training that was never stopped.
    for number in (whole, begun, resumed):
        place.run("cp", f"runs/{number}", str(folder / str(number)))
    expected = losses_of(folder / str(whole))
    found = {**losses_of(folder / str(begun)), **losses_of(folder / str(resumed))}
    assert len(expected) >= 60 and set(expected) <= set(found)
    assert {step: found[step] for step in expected} == expected
    model = folder / str(resumed) / "models"
    expected_weights = export.read_model(folder / str(whole) / "models")[0]
    weights = export.read_model(model)[0]
    assert all(np.array_equal(weights[name], array) for name, array in expected_weights.items())
    return resumed, model


def in_the_page(place: Place, run: int, model: Path, ml5: browser.Ml5, tab: browser.Tab) -> None:
    # The real ml5.js computes what was trained.
    weights, characters = export.read_model(model)
    expected = probabilities(weights, [characters.index(character) for character in SEED])
    for backend in ("cpu", "webgl"):
        assert np.max(np.abs(ml5.probabilities(model, SEED, backend) - expected)) < 1e-5

    # The page writes with it.
    with opened([f"runs/{run}", "--no-browser"], place.folder, place.env) as (address, _):
        assert address.startswith("http://127.0.0.1:")
        page = tab.page
        page.goto(address)
        page.wait_for_selector("body[data-state=ready]")
        page.fill("#seed", SEED)
        page.fill("#length", "150")
        page.click("#write")
        page.wait_for_selector("body[data-state=ready]")
        text = page.text_content("#plain")
        assert text is not None and text.startswith(SEED)
        assert len(text) == len(SEED) + 150
        assert "undefined" not in text
        assert tab.colours(tab.screenshot(model / "page.png")) > 50


def losses_of(run: Path) -> dict[int, float]:
    records = [json.loads(line) for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record["value"] for record in records if record["name"] == "train_loss"}
