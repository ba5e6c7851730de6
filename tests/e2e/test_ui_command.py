"""`remoterun ui`: one page for all terminals, its end, and what it says to those who sit elsewhere."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest

from remoterun.ui.stream import ALIVE
from tests.commands import REMOTERUN
from tests.e2e.conftest import opened
from tests.workshop import until

SEES = """#!/bin/sh
printf %s "$1" >{folder}/door
curl --silent --location --output /dev/null --write-out %{{url_effective}} "$1" >{folder}/saw.new
mv {folder}/saw.new {folder}/saw
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    without = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION")
    kept = {name: value for name, value in os.environ.items() if name not in without}
    return {**kept, "REMOTERUN_HOME": str(tmp_path / "home")}


@contextmanager
def ui(env: dict[str, str], *words: str, end: int = signal.SIGINT) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`remoterun ui` at work: its address, and the process."""
    with opened(words, Path.cwd(), env, "ui", end) as found:
        yield found


def test_a_second_one_finds_the_first(env: dict[str, str], tmp_path: Path) -> None:
    record = tmp_path / "home" / "ui.json"
    browser = tmp_path / "browser"
    browser.write_text(SEES.format(folder=tmp_path))
    browser.chmod(0o755)
    with ui(env, "--no-browser") as (address, process):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{22}/", address)
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert answer.read().startswith(b"<!doctype html>")
        assert stat.S_IMODE(record.stat().st_mode) == 0o600
        known = json.loads(record.read_text())
        assert (known["address"], known["pid"]) == (address, process.pid)
        done = subprocess.run(
            [REMOTERUN, "ui"], env={**env, "BROWSER": str(browser)}, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout.strip()) == (0, address), done.stderr
        assert "your browser shows it; ^C in its terminal ends it" in done.stderr
        until((tmp_path / "saw").exists)
        assert (tmp_path / "saw").read_text() == address != (tmp_path / "door").read_text()
        words = ["run", "-y", "--no-git", "--framework", "none", "true"]
        shown = f"Casting run 1…\r\n  {address}runs/1\r\n"
        add = ["machines", "add", "plain", "local", "--engine", "process", "--default"]
        subprocess.run([REMOTERUN, *add], env=env, check=True, timeout=60)
        terminal = pexpect.spawn(REMOTERUN, words, cwd=str(tmp_path), env=env, timeout=60, encoding="utf-8")
        terminal.expect_exact(shown)
        terminal.expect(pexpect.EOF)
        done = subprocess.run([REMOTERUN, *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
        assert "Casting run 2…" in done.stderr and address not in done.stderr, "it has a token: for nobody's log"
    assert json.loads(record.read_text()) == {"port": known["port"]}, "the next one takes it"
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address, timeout=60)


def test_one_that_was_killed_is_in_nobody_s_way(env: dict[str, str], tmp_path: Path) -> None:
    with ui(env, "--no-browser") as (before, process):
        process.kill()
        process.wait()
        with ui(env, "--no-browser", end=signal.SIGTERM) as (after, _):
            assert after != before and json.loads((tmp_path / "home" / "ui.json").read_text())["address"] == after


def test_an_open_stream_holds_up_no_end(env: dict[str, str]) -> None:
    with ui(env, "--no-browser") as (address, process):
        streams = [urllib.request.urlopen(f"{address}events", timeout=60) for _ in range(4)]
        assert all(stream.readline() for stream in streams)
        process.send_signal(signal.SIGINT)
        assert process.wait(ALIVE - 1) == 0  # who waits for such a stream waits for that long
        for stream in streams:
            stream.close()


def test_from_far_away(env: dict[str, str]) -> None:
    with ui({**env, "SSH_CONNECTION": "a 1 b 2"}) as (address, process):
        assert process.stderr is not None
        said = [process.stderr.readline() for _ in range(2)]
        port = address.split(":")[2].partition("/")[0]
        assert said[1] == f"  ssh -N -L {port}:127.0.0.1:{port} THIS_MACHINE   from the machine you sit at\n"


def test_a_port_that_is_taken(env: dict[str, str], tmp_path: Path) -> None:
    with ui(env, "--no-browser") as (address, _):
        port = address.split(":")[2].partition("/")[0]
        other = {**env, "REMOTERUN_HOME": str(tmp_path / "other")}
        done = subprocess.run([REMOTERUN, "ui", "--port", port], env=other, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and f"port {port} can't be used: Address already in use" in done.stderr


def test_a_restart_takes_the_same_port_with_another_token(env: dict[str, str]) -> None:
    with ui(env, "--no-browser") as (first, _):
        port = int(first.split(":")[2].partition("/")[0])
    with ui(env, "--no-browser") as (second, _):
        assert second.startswith(f"http://127.0.0.1:{port}/") and second != first
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(first, timeout=60)
        assert refused.value.code == 403 and b"no longer good" in refused.value.read()
    with socket.create_server(("127.0.0.1", port)) as foreign, ui(env, "--no-browser") as (third, _):
        assert f":{port}/" not in third
        with urllib.request.urlopen(third, timeout=60) as answer:
            assert answer.status == 200
        foreign.setblocking(False)
        with pytest.raises(BlockingIOError):
            foreign.accept()  # whoever has the port now was not even asked


def test_it_opens_a_run(env: dict[str, str], tmp_path: Path) -> None:
    def remoterun(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([REMOTERUN, *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)

    remoterun("machines", "add", "plain", "local", "--engine", "process", "--default")
    assert remoterun("run", "-y", "--no-git", "--framework", "none", "true").returncode == 0
    with ui(env, "--no-browser", "runs/1") as (address, _):
        assert address.endswith("/runs/1")
        assert remoterun("ui", "--no-browser", "last").stdout.strip() == address
        assert not remoterun("ui", "--no-browser").stdout.strip().endswith("1")
    for typed in ("runs/16", "x"):
        done = remoterun("ui", "--no-browser", typed)
        assert done.returncode == 2 and "hint: remoterun ps" in done.stderr, done.stderr


def test_no_other_command_pays_for_it() -> None:
    seen = subprocess.run(
        [sys.executable, "-X", "importtime", REMOTERUN, "ps", "--help"], capture_output=True, text=True, timeout=60
    ).stderr
    assert "typer" in seen and not re.search(r"starlette|uvicorn|anyio|h11", seen)
