"""Where a secret is kept, and what of it is shown."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoterun.client import Client
from remoterun.config import Config
from remoterun.errors import ConfigError, NotFound, RemoterunError, UsageError
from remoterun.model import RunRequest
from remoterun.parsing import parse_secret
from tests.workshop import write_files

VALUE = "hunter2 'q\n\u00e9"

SECRET_TOOL = """#!%s
# What `secret-tool` does, as its manual has it: attributes in pairs, the secret on stdin and stdout.
import json, os, sys
folder = os.environ["KEPT"]
words = [word for word in sys.argv[2:] if not word.startswith("--label=")]
with open(os.path.join(folder, "words"), "a") as file:
    file.write(json.dumps(sys.argv) + "\\n")
if os.path.exists(os.path.join(folder, "locked")):
    sys.exit("secret-tool: Cannot create an item in a locked collection")
path = os.path.join(folder, " ".join(words).replace("/", "_"))
if sys.argv[1] == "store":
    open(path, "w").write(sys.stdin.read())
elif sys.argv[1] == "lookup":
    if not os.path.exists(path):
        sys.exit(1)
    sys.stdout.write(open(path).read())
elif os.path.exists(path):
    os.unlink(path)
"""


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    with Client(Config(tmp_path / "home")) as client:
        yield client


@pytest.fixture
def keyring(tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a program that stands for the one of the desktop's keyring."""
    folder = write_files(tmp_path / "keyring", {"secret-tool*": SECRET_TOOL % sys.executable})
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere")
    monkeypatch.setenv("KEPT", str(folder))
    return folder


def home_holds(tmp_path: Path, text: str) -> list[str]:
    return [path.name for path in (tmp_path / "home").rglob("*") if path.is_file() and text in path.read_text()]


def test_in_a_file_that_only_the_user_may_read(client: Client, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        secret = client.secrets.set("TOKEN", VALUE)
    finally:
        os.umask(old)
    file = tmp_path / "home" / "secrets" / "secrets.json"
    assert (secret.kept, secret.where) == ("file", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert client.secrets.values(["TOKEN"]) == {"TOKEN": VALUE}
    assert client.secrets.list() == [secret] and "hunter2" not in repr(secret) + json.dumps(secret.record())
    client.secrets.remove("TOKEN")
    assert client.secrets.list() == [] and home_holds(tmp_path, "hunter2") == []
    with pytest.raises(NotFound, match="no secret `TOKEN`"):
        client.secrets.remove("TOKEN")


def test_in_the_keyring_of_the_system(client: Client, tmp_path: Path, keyring: Path) -> None:
    secret = client.secrets.set("TOKEN", VALUE)
    assert (secret.kept, secret.where) == ("libsecret", "the keyring of this desktop")
    assert client.secrets.values(["TOKEN"]) == {"TOKEN": VALUE}
    client.secrets.set("TOKEN", "hunter3")
    assert client.secrets.values(["TOKEN"]) == {"TOKEN": "hunter3"}
    assert home_holds(tmp_path, "hunter") == [] and home_holds(tmp_path, "TOKEN") == ["secrets.json"]
    client.secrets.remove("TOKEN")
    assert sorted(path.name for path in keyring.iterdir()) == ["secret-tool", "words"]
    assert "hunter" not in (keyring / "words").read_text()


def test_a_locked_keyring(client: Client, tmp_path: Path, keyring: Path) -> None:
    """It takes no value, which a file takes then; and what it has it does not give."""
    client.secrets.set("OLD", "hunter2")
    (keyring / "locked").touch()
    assert client.secrets.set("TOKEN", VALUE).kept == "file"
    assert client.secrets.values(["TOKEN"]) == {"TOKEN": VALUE}
    with pytest.raises(RemoterunError, match="the keyring of this desktop does not give the secret `OLD`"):
        client.secrets.values(["OLD"])
    assert [secret.name for secret in client.secrets.list()] == ["OLD", "TOKEN"]


def test_from_one_place_to_the_other(
    client: Client, tmp_path: Path, keyring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.secrets.set("TOKEN", "hunter2")
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS")
    assert client.secrets.set("TOKEN", "hunter3").kept == "file"
    assert len(list(keyring.iterdir())) == 2, "the keyring has the old value still"
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere")
    assert client.secrets.set("TOKEN", "hunter4").kept == "libsecret"
    assert home_holds(tmp_path, "hunter") == []


@pytest.mark.parametrize("name", ["A=hunter2", "a-b", "", "1A", "hunter 2=x"])
def test_a_name_that_can_not_be(client: Client, name: str) -> None:
    with pytest.raises(UsageError) as error:
        client.secrets.set(name, "value")
    assert "=" not in error.value.message and "hunter2" not in error.value.message + str(error.value.hint)


@pytest.mark.parametrize("value", ["", "hunter2\0", "hunter2" * 30_000], ids=["empty", "zero byte", "too long"])
def test_a_value_that_can_not_be(client: Client, value: str) -> None:
    with pytest.raises(UsageError) as error:
        client.secrets.set("TOKEN", value)
    assert "hunter2" not in error.value.message
    assert client.secrets.list() == []


@pytest.mark.parametrize("text", ["hunter2", '{"format": 1, "secrets": {"A": {}}}', '{"format": 9, "secrets": {}}'])
def test_a_file_that_makes_no_sense(client: Client, tmp_path: Path, text: str) -> None:
    (tmp_path / "home" / "secrets").mkdir(parents=True)
    (tmp_path / "home" / "secrets" / "secrets.json").write_text(text)
    for action in (client.secrets.list, lambda: client.secrets.set("TOKEN", "x")):
        with pytest.raises(ConfigError) as error:
            action()
        assert "hunter2" not in str(error.value.message)


def test_the_secrets_of_a_run() -> None:
    assert parse_secret("TOKEN") == ("TOKEN", "TOKEN")
    assert parse_secret("TOKEN=HF_TOKEN") == ("HF_TOKEN", "TOKEN")
    for text in ("", "=A", "A=", "hunter-2", "A=b=c"):
        with pytest.raises(UsageError) as error:
            parse_secret(text)
        assert "hunter" not in error.value.message


def test_a_run_that_can_not_have_its_secrets(client: Client) -> None:
    """Nothing is begun."""
    with pytest.raises(NotFound, match="no secret `TOKEN`"):
        client.runs.prepare(RunRequest("true", secrets=(("TOKEN", "TOKEN"),)))
    client.secrets.set("TOKEN", "x")
    for request in (
        RunRequest("true", env=(("A", "1"),), secrets=(("A", "TOKEN"),)),
        RunRequest("true", secrets=(("A", "TOKEN"), ("A", "TOKEN"))),
    ):
        with pytest.raises(UsageError, match="`A` is asked for twice"):
            client.runs.prepare(request)
    assert client.runs.list() == []


def test_no_value_is_shown_with_a_request() -> None:
    assert "hunter2" not in repr(RunRequest("true", env=(("A", "hunter2"),), notify=("https://h/hunter2",)))
