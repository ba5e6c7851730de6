"""What is wrong with a run by its numbers, said once, and once more when it is well again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.measuring import alerts
from remoterun.agent.measuring.alerts import Alerts
from remoterun.agent.measuring.points import Stored
from remoterun.agent.running.webhooks import alert_notification, message
from remoterun.agent.shared.webhooks import Webhooks
from remoterun.agent.store.run_folder import RunFolder
from tests.recorder import Recorded
from tests.webhook_server import DISCORD, SLACK, WebhookServer, webhook_server
from tests.workshop import spec_of, until

NAN, INF = float("nan"), float("inf")


class Watched:
    """A run whose numbers come as a test says, at the minute that it says."""

    def __init__(self, folder: Path, *rules: str, url: str = "") -> None:
        self.run = RunFolder(str(folder))
        self.spec = spec_of(alerts=rules, notify=("HOOK",) if url else (), number=16, machine="box")
        self.run.save_webhooks(Webhooks({"HOOK": url} if url else {}))
        self.state: dict[str, Any] = {}
        self.steps = 0
        self.again()

    def again(self) -> None:
        """Another process goes on from what this one saved."""
        self.state = json.loads(json.dumps(self.state))
        self.alerts = Alerts(self.run, self.spec, self.state)

    def at(self, minute: float, gpu: float | None = None, ended: bool = False, **values: float) -> list[str]:
        now = 1000.0 + 60 * minute
        self.steps += bool(values)
        points = [Stored(name, self.steps, now, value) for name, value in values.items()]
        usage = [] if gpu is None else [Stored("cpu", 60 * minute, now, 0.0), Stored("gpu", 60 * minute, now, gpu)]
        return self.alerts.check(points, usage, now, ended)


@pytest.fixture
def server() -> Iterator[WebhookServer]:
    with webhook_server() as server:
        yield server


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_loss_that_is_no_number(tmp_path: Path, value: float) -> None:
    run = Watched(tmp_path)
    assert run.at(0, loss=1.0, grad=value) == []
    assert run.at(1, loss=value) == run.at(2, loss=value) == [f"loss is {value:g} at step 2"]
    run.again()
    assert run.at(3, acc=0.5) == [f"loss is {value:g} at step 2"] and run.at(4, loss=2.0) == []


def test_no_new_step_for_long(tmp_path: Path) -> None:
    """Ten minutes, or twenty times what a step takes: here that is an hour."""
    quick, slow, none = (Watched(tmp_path) for _ in range(3))
    for step in range(4):
        assert quick.at(step / 10, loss=1) == slow.at(3 * step, loss=1) == []
    assert quick.at(10.2) == [] and quick.at(10.4) == ["no new step for 10 min; the last one was 4"]
    quick.again()
    assert quick.at(12) == ["no new step for 10 min; the last one was 4"] and quick.at(13, loss=1) == []
    assert slow.at(68) == [] and slow.at(70) == ["no new step for 60 min; the last one was 4"]
    none.at(0, loss=1)
    assert none.at(1, loss=1) == none.at(9999) == [], "two steps are not yet a training"


def test_a_gpu_that_is_not_used(tmp_path: Path) -> None:
    run = Watched(tmp_path)
    assert not run.at(0, gpu=0) and not run.at(14, gpu=4) and not run.at(99)
    assert run.at(15, gpu=4.9) == ["the GPU is idle for 15 min"]
    run.again()
    assert run.at(16, gpu=NAN) == ["the GPU is idle for 15 min"] and run.at(17, gpu=80) == []
    assert run.at(31, gpu=1) == [] and run.at(33, gpu=1) == ["the GPU is idle for 15 min"]


def test_rules(tmp_path: Path) -> None:
    run = Watched(tmp_path, "val/loss > 4", "loss >= 2 for 10m", "acc < -1e-3")
    assert run.at(0, loss=2, acc=0) == [] and run.at(9, **{"val/loss": 4}) == []
    assert run.at(10) == ["loss >= 2 for 10m: 2 at step 1"]
    assert run.at(11, loss=NAN) == ["loss >= 2 for 10m: 2 at step 1", "loss is nan at step 3"]
    assert run.at(12, loss=1.9, acc=-1) == ["acc < -1e-3: -1 at step 4"]
    assert run.at(13, loss=2, acc=0) == [] and run.at(22) == [], "it begins anew"
    assert run.at(23, **{"val/loss": INF}) == [
        "val/loss is inf at step 6",
        "val/loss > 4: inf at step 6",
        "loss >= 2 for 10m: 2 at step 5",
    ]


def test_a_rule_takes_the_place_of_ours(tmp_path: Path) -> None:
    run = Watched(tmp_path, "no step for 1h", "gpu idle for 30s")
    assert run.at(0, gpu=0) == [] and run.at(0.5, gpu=0) == ["the GPU is idle for 30 s"]
    for minute in (1, 2, 3, 4):
        run.at(minute, loss=1, gpu=99)
    assert run.at(63) == [] and run.at(64) == ["no new step for 60 min; the last one was 4"]
    never = Watched(tmp_path, "no step for 1h")
    assert never.at(0) == [] and never.at(60) == ["no new step for 60 min"]


def test_another_attempt_begins_anew(tmp_path: Path) -> None:
    run = Watched(tmp_path, "no step for 1h")
    run.at(0, loss=NAN)
    assert len(run.at(70)) == 2
    run.run.note("attempt 2", attempt=2)
    run.again()
    assert run.at(300) == [] and run.at(301, loss=1) == []


def test_a_loss_that_crosses_a_bound_at_each_step(tmp_path: Path) -> None:
    run = Watched(tmp_path, "loss > 4", url="http://127.0.0.1:9/x")
    for second in range(0, 600, 2):
        assert run.at(second / 60, loss=5) == ["loss > 4: 5 at step 1"]
        assert run.at((second + 1) / 60, loss=3) == ["loss > 4: 5 at step 1"]
    run.again()
    assert run.at(10.95, loss=3) == ["loss > 4: 5 at step 1"] and run.state["messages"] == 1
    assert run.at(11, loss=3) == [] and run.state["messages"] == 2 and run.at(12, loss=5)


def test_a_message_each_once(tmp_path: Path, server: WebhookServer) -> None:
    run = Watched(tmp_path, url=server.url + "/s3cr3t")
    run.at(0, loss=NAN)
    until(lambda: server.posts)
    run.at(1, loss=NAN)
    run.alerts.close()
    assert run.state["unsent"] == []
    run.again()
    run.at(2, loss=1)
    until(lambda: len(server.posts) == 2)
    run.at(3, loss=1)
    run.alerts.close()
    (path, wrong), (_, well) = server.posts
    assert path == "/s3cr3t" and wrong.pop("id") != well.pop("id")
    assert wrong.pop("time") == "1970-01-01T00:16:40Z" and well.pop("time") == "1970-01-01T00:18:40Z"
    expected = {
        "event": "run_alert", "run": 16, "key": run.spec.key, "alert": "loss is nan at step 1", "machine": "box",
        "command": "true", "description": run.spec.description, "labels": [],
    }  # fmt: skip
    assert wrong == {**expected, "well": False, "text": "run 16 on box: loss is nan at step 1\ntrue"}
    said = "run 16 on box is well again, after: loss is nan at step 1\ntrue"
    assert well == {**expected, "well": True, "text": said}
    assert run.run.webhooks().addresses, "word of its end goes there, too"


def test_a_server_that_is_silent_holds_up_nothing(
    tmp_path: Path, server: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not sent is sent by the next process, with the same id."""
    monkeypatch.setattr(alerts, "CLOSING", 0.1)
    server.silent.set()
    run = Watched(tmp_path, url=server.url)
    assert run.at(0, loss=NAN)
    until(lambda: server.posts)
    assert run.at(1, loss=1) == []
    run.alerts.close()
    server.silent.clear()
    run.again()
    run.at(2)
    until(lambda: len(server.posts) == 3)
    run.alerts.close()
    first, again, well = (body["id"] for _, body in server.posts)
    assert first == again != well and run.state["unsent"] == []


def test_a_server_that_refuses(tmp_path: Path, server: WebhookServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "PAUSES", (0.01,))
    server.answers[:] = [503, 200, 403]
    run = Watched(tmp_path, url=server.url + "/s3cr3t")
    assert len(run.at(0, loss=NAN)) == 1
    until(lambda: len(server.posts) == 2)
    until(lambda: run.at(1, loss=NAN) and not run.state["unsent"])
    run.at(2, loss=1)
    until(lambda: len(server.posts) == 3)
    fault = "could not notify HOOK: 127.0.0.1 answers 403 (there is no … here)"
    until(lambda: run.at(3) == [fault])


def test_bounds(tmp_path: Path, server: WebhookServer) -> None:
    """A run that logs a thousand losses, each of which comes and goes."""
    run = Watched(tmp_path, url=server.url)
    for minute in range(0, 20, 2):
        assert len(run.at(minute, **{f"{number}/loss": NAN for number in range(1000)})) == alerts.MOST_WRONG
        assert run.at(minute + 1, **{f"{number}/loss": 1 for number in range(1000)}) == []
    assert run.state["messages"] == alerts.MOST_MESSAGES and len(json.dumps(run.state)) < 10_000
    run.alerts.close()


def test_at_the_end_nothing_is_well_again(tmp_path: Path) -> None:
    run = Watched(tmp_path, "no step for 5m")
    run.at(0, loss=1)
    assert run.at(6) and run.at(7, ended=True, loss=1) == ["no new step for 5 min; the last one was 1"]


def test_the_words_of_each_service(recorded: Recorded) -> None:
    spec = spec_of("a <b>", number=16, machine="box")
    wrong = alert_notification(spec, 1, 2, "loss is nan\x1b[31m\n*bold*", False, 0.0)
    well = alert_notification(spec, 1, 3, "loss is nan", True, 0.0)
    for address in (SLACK, DISCORD, "ntfy://h/t"):
        for notification in (wrong, well):
            recorded.same(json.dumps(message(address, notification)[1], indent=2, ensure_ascii=False))
