"""What is told of a run's end, in the words of each service, and which addresses can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.running.webhooks import Notification, end_notification, message, sample_notification
from remoterun.agent.shared.facts import RunStatus
from remoterun.agent.shared.spec import RunSpec, SpecError
from remoterun.agent.shared.states import Reason, RunState
from remoterun.agent.shared.submission import Submission
from remoterun.agent.shared.webhooks import BadAddress, Webhooks, check_address, kind_of, place_of
from remoterun.client import Client
from remoterun.client.webhooks import addresses
from remoterun.config import Config, parse
from remoterun.errors import NotFound, UsageError
from tests.recorder import Recorded
from tests.webhook_server import DISCORD, SLACK
from tests.workshop import spec_of

ENDED = RunStatus("k", RunState.FAILED, reason=Reason.EXIT_NONZERO, code=3, started=1000.0, ended=1083.4, message=None)


def news(log: str = "last line", webhooks: Webhooks = Webhooks(), **changed: Any) -> Notification:  # noqa: B008
    spec = spec_of("cat a && rm b", number=16, machine="box", description="a <b> & *c*", labels=("x",))
    return end_notification(spec, ENDED._replace(**changed), log, webhooks)


def test_facts(recorded: Recorded) -> None:
    told = message("https://example.org/hook", news(webhooks=Webhooks({}, 3.6, 83.4, 0.5)))[1]
    assert told.pop("id").endswith("/1") and told.pop("key") and told.pop("created")
    recorded.same(json.dumps(told, indent=2))
    assert news(started=None).facts["duration"] is None
    good = news(state=RunState.COMPLETE, reason=Reason.EXITED, code=0)
    assert good.good and good.title == "run 16 on box: complete" and "failed" not in good.text


def test_slack(recorded: Recorded) -> None:
    """Nobody is called by what a log says."""
    url, body = message(SLACK, news("<!channel> ``` a & b"))
    assert url == SLACK
    recorded.same(body["text"])


def test_discord() -> None:
    url, body = message(DISCORD, news("@everyone\n" * 400, message="x" * 3000))
    assert url == DISCORD and len(body["content"]) <= 2000
    assert body["allowed_mentions"] == {"parse": []}


def test_ntfy(recorded: Recorded) -> None:
    recorded.cases(lambda address: "\n".join(map(str, message(check_address(address), news()))))


def test_kinds(recorded: Recorded) -> None:
    recorded.cases(lambda address: kind_of(check_address(address)))


@pytest.mark.parametrize(
    "address",
    ["", "s3cr3t", "ftp://h/s3cr3t", "https:///s3cr3t", "https://h/s3cr3t x", "https://h/s3cr3t\n", "http://h:x/s3cr3t",
     "ntfy://h/s3cr3t/b", "ntfy://h", "http://[/s3cr3t", "https://h/" + "s3cr3t" * 500],
)  # fmt: skip
def test_what_is_not_an_address(address: str) -> None:
    with pytest.raises(BadAddress) as error:
        check_address(address)
    assert "s3cr3t" not in str(error.value)


def test_a_test_message() -> None:
    for address in (SLACK, DISCORD, "ntfy://a/b", "https://example.org"):
        assert "a test from box" in json.dumps(message(address, sample_notification("box"))[1])


def test_a_submission_has_the_addresses_beside_the_spec() -> None:
    spec = spec_of(notify=("HOOK", "hooks.slack.com"))
    asked = Submission(spec, {}, b"source", webhooks=Webhooks({"HOOK": "https://h/s3cr3t"}, 1.5, 2.0, 3.0))
    assert Submission.decode(asked.encode()) == asked
    assert "s3cr3t" not in str(RunSpec.decode(spec.encode()))
    for bad in (Webhooks({"OTHER": "https://h/s3cr3t"}), Webhooks({"HOOK": "s3cr3t"})):
        with pytest.raises(SpecError) as error:
            asked._replace(webhooks=bad).encode()
        assert "s3cr3t" not in str(error.value)


def test_addresses_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    with Client(Config(tmp_path)) as client:
        client.secrets.set("HOOK", SLACK + "\n")
        client.secrets.set("TOKEN", "s3cr3t")
        found = addresses(tmp_path, ["HOOK", DISCORD, "https://h:8/1", "https://h:8/2", "https://h:8/1"])
        assert found == {
            "HOOK": SLACK, "discord.com": DISCORD, "h:8": "https://h:8/1", "h:8 2": "https://h:8/2",
        }  # fmt: skip
        assert place_of("https://me:pw@h:8/x") == "h:8"
        for words in (["TOKEN"], ["s3cr3t/x"]):
            with pytest.raises(UsageError) as error:
                addresses(tmp_path, words)
            assert "s3cr3t" not in error.value.message
        with pytest.raises(NotFound):
            addresses(tmp_path, ["NOPE"])


def test_settings(tmp_path: Path) -> None:
    config = parse('notify = ["HOOK", "https://h/1"]\nnotice = false\n', Config(tmp_path))
    assert config.notify == ("HOOK", "https://h/1") and not config.notice
