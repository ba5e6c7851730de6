"""Word of a run's end, posted by its host: real servers, and everything that may come between."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from remoterun.agent.shared import api
from remoterun.agent.shared.states import FINAL
from remoterun.client import Client
from remoterun.client.webhooks import addresses
from remoterun.errors import HostError
from remoterun.model import RunRequest
from tests.webhook_server import PATH, WebhookServer, all_told, submit, webhook_server
from tests.workshop import Place, User, holding, until


@pytest.fixture
def server() -> Iterator[WebhookServer]:
    with webhook_server() as server:
        yield server


def notes(place: Place, key: str) -> list[str]:
    return [event["note"] for event in place.run(key).events() if "note" in event]


def test_the_address_is_in_one_file(place: Place, server: WebhookServer) -> None:
    key = submit(place, "echo up; sleep 1000", server.url + PATH)
    place.until_says(key, b"up")
    assert holding(place.home, b"s3cr3t") == {place.run(key).webhooks_file}
    assert os.stat(place.run(key).webhooks_file).st_mode & 0o777 == 0o600
    assert "s3cr3t" not in repr(place.session.ask(api.run, api.RunKey(key)))
    place.session.ask(api.end, api.EndRuns([key], None))
    all_told(place, key)
    assert holding(place.home, b"s3cr3t") == set()


def test_a_server_that_is_well_again_late(place: Place) -> None:
    """Two addresses: who has the word does not get it again."""
    with webhook_server() as good, webhook_server() as late:
        late.answers[:] = [503] * 1000
        key = submit(place, "true", late.url + PATH, good.url + PATH)
        until(lambda: late.posts and good.posts)
        late.answers[:] = []
        all_told(place, key)
        assert {body["id"] for _, body in late.posts} == {f"{key}/1"} and len(good.posts) == 1
    assert notes(place, key) == ["could not notify hook0 yet: 127.0.0.1 answers 503 (there is no … here); trying again"]


def test_a_server_that_refuses(place: Place, server: WebhookServer) -> None:
    server.answers[:] = [403]
    key = submit(place, "true", server.url + PATH)
    all_told(place, key)
    assert len(server.posts) == 1
    assert notes(place, key) == ["could not notify hook0: 127.0.0.1 answers 403 (there is no … here)"]
    assert holding(place.home, b"s3cr3t") == set()


def test_a_supervisor_that_dies_before_it_has_told(place: Place, server: WebhookServer) -> None:
    """The next contact tells it, with the same id."""
    server.silent.set()
    key = submit(place, "true", server.url + PATH)
    until(lambda: server.posts)
    assert place.state(key) in FINAL
    place.lose_supervisor(key)
    server.silent.clear()
    place.drop_session()
    assert place.session.alive
    all_told(place, key)
    assert len({body["id"] for _, body in server.posts}) == 1 and len(server.posts) == 2


def test_a_run_that_is_removed_meanwhile(place: Place, server: WebhookServer) -> None:
    server.answers[:] = [503] * 100
    key = submit(place, "true", server.url + PATH)
    until(lambda: server.posts)
    supervisor = place.supervisor(key)
    place.session.ask(api.remove_run, api.RunKey(key))
    until(lambda: place.supervisor(key) is None, what=f"{supervisor} ends")
    assert not os.path.exists(place.run(key).path) and place.home.active_keys() == []


def test_services_by_their_addresses(place: Place, server: WebhookServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are reached through a proxy, which is this test."""
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    urls = ["http://hooks.slack.com/services/T/B/X", "http://discord.com/api/webhooks/1/X", "http://me:pw@ntfy.sh/runs"]
    key = submit(place, "echo done", *urls)
    all_told(place, key)
    posts = dict(server.posts)
    assert set(posts) == {*urls[:2], "http://ntfy.sh/"}
    assert "```\ndone\n```" in posts[urls[0]]["text"] and "```\ndone\n```" in posts[urls[1]]["content"]
    assert posts["http://ntfy.sh/"]["topic"] == "runs"
    assert [headers.get("Authorization") for headers in server.headers].count("Basic bWU6cHc=") == 1


def test_as_a_user_asks_for_it(user: User, server: WebhookServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """By config.toml, by name, and not at all; the registry knows no address."""
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    user.config = replace(user.config, notify=(server.url + "/always",))
    client: Client = user.new_client()
    client.secrets.set("HOOK", server.url + PATH)
    asked: list[tuple[str, ...] | None] = [None, ("HOOK",), ()]
    runs = [client.runs.submit(RunRequest("true", notify=words)) for words in asked]
    place = user.place("one")
    for run in runs:
        place.until_final(run.key)
        all_told(place, run.key)
    assert sorted((path, body["key"]) for path, body in server.posts) == [
        ("/always", runs[0].key), (PATH, runs[1].key),
    ]  # fmt: skip
    named = [client.runs.info(run.number)[1]["spec"]["notify"] for run in runs]
    assert named == [[f"127.0.0.1:{server.port}"], ["HOOK"], []]
    assert b"s3cr3t" not in b"".join(path.read_bytes() for path in (user.root / "laptop").glob("registry*"))
    (url,) = addresses(user.root / "laptop", ["HOOK"]).values()
    assert client.machines.post(url, "two") == "200 ok" and server.posts[-1][1]["event"] == "test"
    server.answers[:] = [403]
    with pytest.raises(HostError, match="answers 403") as error:
        client.machines.post(url)
    assert "s3cr3t" not in error.value.message
