"""Secrets, as they are typed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.commands import REMOTERUN
from tests.e2e.conftest import Place
from tests.e2e.said import talk
from tests.webhook_server import webhook_server


def test_the_commands(place: Place) -> None:
    """The value is asked for, and not shown; what a run would get is shown by its name."""
    said = talk(place.spawn("secret", "set", "HF_TOKEN"), "Value of HF_TOKEN: ", "hunter2")
    assert re.search("HF_TOKEN is kept in .*secrets.json", said) and "hunter2" not in said
    words = [REMOTERUN, "secret", "set", "WANDB_KEY"]
    subprocess.run(words, env=place.env, input=b"hunter3\n", check=True, capture_output=True)
    assert [secret["name"] for secret in place.json("secret")] == ["HF_TOKEN", "WANDB_KEY"]
    assert "HF_TOKEN" in place.run("secret").stdout
    done = place.run("run", "--dry-run", "-y", "--secret", "HF_TOKEN", "--secret", "WANDB_KEY=KEY", "-e", "A=x", "true")
    assert "secrets    HF_TOKEN, WANDB_KEY=KEY\n" in done.stdout and "env        A\n" in done.stdout
    place.run("secret", "rm", "HF_TOKEN")
    done = place.run("run", "--secret", "HF_TOKEN", "true", status=2)
    assert done.stderr == "error: there is no secret `HF_TOKEN`\n\nhint: remoterun secret set HF_TOKEN   keeps one\n"
    place.run("secret", "set", "HF_TOKEN", status=2)  # nothing comes on stdin
    done = place.run("secret", "set", "HF_TOKEN", "hunter4", status=2)
    assert "is not typed into a command" in done.stderr and "hunter4" not in done.stderr
    said = "".join(place.transcript).replace("secret set HF_TOKEN hunter4", "")
    assert "hunter" not in said
    holding = [
        path
        for path in Path(place.env["REMOTERUN_HOME"]).rglob("*")
        if path.is_file() and b"hunter" in path.read_bytes()
    ]
    assert [path.name for path in holding] == ["secrets.json"]


def test_a_secret_that_is_typed(place: Place) -> None:
    """It is said how it need not be."""
    said = talk(place.spawn("run", "--dry-run", "-e", "API_KEY=hunter2", "-e", "KEYS=1", "true"))
    assert said.count("`remoterun secret set API_KEY`, then `--secret API_KEY`") == 1, said
    assert "hunter2" not in said and "set KEYS" not in said


def test_who_gets_word(place: Place) -> None:
    """By an address, by a secret, by the settings; no address is shown."""
    with webhook_server() as server:
        done = place.run("secret", "test", f"{server.url}/hunter2")
        assert done.stderr == f"✓ 127.0.0.1:{server.port} answered 200 ok\n" and done.stdout == ""
        words = [REMOTERUN, "secret", "set", "HOOK"]
        subprocess.run(words, env=place.env, input=f"{server.url}/hunter3".encode(), check=True, capture_output=True)
        place.run("secret", "test", status=2)
        Path(place.env["REMOTERUN_HOME"], "config.toml").write_text('notify = ["HOOK"]\n')
        server.answers[:] = [200, 403]
        place.run("secret", "test")
        done = place.run("secret", "test", "-t", "local", status=125)
        assert done.stderr == "✗ HOOK did not get it: 127.0.0.1 answers 403 (there is no … here)\n"
        assert [path for path, _ in server.posts] == ["/hunter2", "/hunter3", "/hunter3"]
    for asked, shown in (
        ([], "notify     HOOK\n"),
        (["--notify", "none"], ""),
        (["--notify", "https://h/x"], "notify     h\n"),
    ):
        done = place.run("run", "--dry-run", "-y", *asked, "true")
        assert shown in done.stdout and (shown or "notify" not in done.stdout)
    done = place.run("run", "--notify", "hunter-2", "true", status=2)
    assert "not the address of a webhook" in done.stderr and "hunter" not in done.stderr
