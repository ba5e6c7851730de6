"""Word of what is wrong with a run, by a real process that measures a real run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoterun.agent.measuring.alerts import CALM
from remoterun.agent.shared import api
from remoterun.agent.shared.files import locked
from remoterun.agent.shared.states import RunState
from tests.measured import measurer
from tests.webhook_server import PATH, WebhookServer, all_told, submit, webhook_server
from tests.workshop import Place, holding, kill9, until

TRAINS = """
from remoterun_log import log
import os, time
for step, loss in enumerate([1.0, float("nan"), 0.5]):
    while not os.path.exists(str(step)):
        time.sleep(0.02)
    log(step=step, loss=loss)
"""
LINE = '{"step": 1, "loss": 9.5}'


@pytest.fixture
def server() -> Iterator[WebhookServer]:
    with webhook_server() as server:
        yield server


def test_a_loss_that_is_nan_and_recovers(place: Place, server: WebhookServer) -> None:
    """The address is in its one file, also for the process that measures, and that dies in between, for a minute."""
    key = submit(place, f"python3 -c '{TRAINS}'; until [ -e end ]; do sleep 0.02; done", server.url + PATH)
    work = Path(place.run(key).work)

    def wrong() -> list[str]:
        progress = place.run(key).status().progress
        return [] if progress is None else progress.alerts

    until(work.is_dir)
    (work / "0").touch()
    (work / "1").touch()
    until(lambda: wrong() == ["loss is nan at step 1"], what=lambda: str(place.log(key)))
    until(lambda: server.posts)
    assert holding(place.home, b"s3cr3t") == {place.run(key).webhooks_file}
    saved = Path(place.run(key).measuring_file)
    until(lambda: not json.loads(saved.read_text())["alerts"]["unsent"], what="it is known that the message was sent")
    kill9(place.supervisor(key))
    kill9(measurer(key))
    until(place.unsupervised(key))
    (work / "2").touch()
    until(lambda: len(Path(place.run(key).io, "metrics.jsonl").read_text().splitlines()) == 3)
    state = json.loads(saved.read_text())
    state["alerts"]["found"] = {name: at - CALM for name, at in state["alerts"]["found"].items()}
    saved.write_text(json.dumps(state))
    place.session.ask(api.runs, api.RunKeys([key]))  # this contact starts the next ones
    until(lambda: len(server.posts) == 2 and wrong() == [])
    (work / "end").touch()
    all_told(place, key)
    assert place.until_final(key)["state"] == "complete"
    events = [(body["event"], body.get("alert"), body.get("well")) for _, body in server.posts]
    assert events == [
        ("run_alert", "loss is nan at step 1", False),
        ("run_alert", "loss is nan at step 1", True),
        ("run_ended", None, None),
    ]
    assert holding(place.home, b"s3cr3t") == set()


def test_a_run_that_is_wrong_at_its_end(place: Place, server: WebhookServer) -> None:
    """Also a short one: its message comes with that of its end."""
    key = submit(place, f"echo '{LINE}' >metrics.jsonl", server.url + PATH, alerts=("loss > 9",))
    all_told(place, key)
    assert {body["event"] for _, body in server.posts} == {"run_alert", "run_ended"} and len(server.posts) == 2
    assert place.run(key).status().progress.alerts == ["loss > 9: 9.5 at step 1"]


def test_a_pattern_that_never_ends(place: Place, tmp_path: Path) -> None:
    """It hurts the process that measures alone: the run ends in its time, with what else it reports."""
    write = f"echo {'x' * 60}!; echo '{LINE}' >metrics.jsonl"
    key = place.submit(f"until [ -e {tmp_path}/go ]; do sleep 0.02; done; {write}", metrics=("(?P<a>(x+)+)$",))
    place.until_state(key, RunState.RUNNING)
    with locked(place.home.lock("blobs")):  # while outputs are saved, it has more than its 8 s for a second of work
        (tmp_path / "go").touch()
        until(lambda: given_up(place, key), 240)
        until(lambda: measurer(key) is None)
    assert place.until_final(key)["state"] == "complete"
    found = place.run(key).status().progress
    assert found is not None and [series.name for series in found.series] == ["loss"]


def given_up(place: Place, key: str) -> bool:
    """After seconds of the processor, which it leaves to others."""
    return "it takes too long to read" in Path(place.run(key).supervisor_log).read_text()


def test_a_pattern_that_never_ends_in_a_run_that_goes_on(place: Place) -> None:
    """Its log is read no further; the files of the run are, by the same process."""
    write = f"echo '{LINE}' >>metrics.jsonl"
    command = f"echo {'x' * 60}!; {write}; until [ -e end ]; do sleep 0.02; done; {write.replace('1', '2')}"
    key = place.submit(command, metrics=("(?P<a>(x+)+)$",))
    until(lambda: given_up(place, key), 240)
    (Path(place.run(key).work) / "end").touch()
    assert place.until_final(key)["state"] == "complete"
    (series,) = place.run(key).status().progress.series
    assert (series.name, series.points) == ("loss", 2)
