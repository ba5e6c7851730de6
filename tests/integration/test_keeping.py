"""A run whose bucket gets all of it before it is final: its grant, and the time at which its command is ended."""

from __future__ import annotations

import time
from typing import Any

import pytest

from remoterun.agent.shared import api
from remoterun.agent.shared.bucket import Grant, run_prefix
from remoterun.agent.shared.spec import Submission
from remoterun.agent.shared.tree import Manifest
from remoterun.errors import RemoterunError
from tests.workshop import Place, holding, tree_of

SECRET = b"f00df00d" * 4
NO_FILES = Manifest([]).encode()


def grant_of(key: str) -> Grant:
    return Grant("http://127.0.0.1:9/mine", {"x-amz-signature": SECRET.decode()}, run_prefix(key), time.time() + 60)


def refused(place: Place, request: api.Request[Any, Any], arguments: Any) -> str:
    with pytest.raises(RemoterunError) as caught:
        place.session.ask(request, arguments)
    return caught.value.message


class TestItsGrant:
    def test_it_lies_in_one_file_until_the_run_has_ended(self, place: Place) -> None:
        spec = place.spec("echo up; exec sleep 1000", bucket="s3://mine")
        grant = grant_of(spec.key)
        assert "there is no run" in refused(place, api.renew, api.Renewal(spec.key, grant))
        place.session.ask(api.submit, api.Nothing(), Submission(spec, {}, NO_FILES, grant).encode())
        place.until_says(spec.key, b"up")
        assert holding(place.home, SECRET) == {place.run(spec.key).grant_file}
        place.session.ask(api.renew, api.Renewal(spec.key, grant._replace(expires=2e9)))
        place.session.ask(api.submit, api.Nothing(), Submission(spec, {}, NO_FILES, grant).encode())
        assert place.run(spec.key).grant() == grant
        place.end(spec.key, "kill")
        place.until_final(spec.key)
        place.session.ask(api.renew, api.Renewal(spec.key, grant))
        assert holding(place.home, SECRET) == set()

    def test_a_run_without_a_bucket_takes_none(self, place: Place) -> None:
        key = place.submit("exec sleep 1000")
        assert "has no bucket" in refused(place, api.renew, api.Renewal(key, grant_of(key)))


class TestItsTime:
    def test_the_command_is_ended_in_time(self, place: Place) -> None:
        key = place.submit("echo x >out; exec sleep 1000", timeout=1000.0, until=time.time() + 5)
        status = place.until_final(key)
        assert (status["state"], status["reason"], status["code"]) == ("stopped", "timeout", 143)
        assert place.outputs(key) == {"out": b"x\n"}

    def test_it_is_up_before_the_command_has_started(self, place: Place) -> None:
        status = place.until_final(place.submit("echo never", until=time.time() - 1))
        assert (status["state"], status["reason"], status["started"]) == ("stopped", "timeout", None)
        assert "before the command had started" in status["message"]


class TestALaterAttempt:
    def test_what_earlier_ones_left_lies_over_the_source(self, place: Place) -> None:
        source = place.put({"train.py": b"old", "data/a": b"1"})
        left = place.put({"checkpoint": b"epoch 3", "train.py": b"changed", "log/m": b"x"})
        spec = place.spec("cat checkpoint train.py data/a; echo epoch 4 >checkpoint", source, attempt=2, log_before=9)
        place.session.ask(
            api.submit, api.Nothing(), Submission(spec, {}, source.encode(), None, left.encode()).encode()
        )
        assert place.until_final(spec.key)["state"] == "complete"
        assert place.log(spec.key) == b"epoch 3changed1"
        assert place.outputs(spec.key) == {"checkpoint": b"epoch 4\n", "train.py": b"changed", "log/m": b"x"}

    def test_what_was_left_must_be_here(self, place: Place) -> None:
        source, missing = place.put({}), tree_of({"checkpoint": b"not sent"})[0]
        spec = place.spec("true", source, attempt=2)
        body = Submission(spec, {}, source.encode(), None, missing.encode()).encode()
        with pytest.raises(RemoterunError, match="are missing here"):
            place.session.ask(api.submit, api.Nothing(), body)
