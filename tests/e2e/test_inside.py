"""Looking inside a run with the installed command: on this machine without a container, and over SSH with Docker."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pexpect
import pytest

from remoterun.agent.store.home import Home
from tests.commands import REMOTERUN
from tests.e2e.conftest import Place
from tests.e2e.said import ended
from tests.lab import BASE_IMAGE, Lab, LabHost
from tests.workshop import lend, running, until

SECONDS = f"1007.{os.getpid():07}"
"""How long programs of this file sleep; a digit more tells them from each other."""
PROMPT = r"\(run \d+\) \w+ [$#] "


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.lab)])
def host(request: pytest.FixtureRequest, place: Place, environment: Path) -> LabHost | None:
    """The place's default machine: without a container here, or the host whose runs are containers."""
    if request.param == "process":
        place.run("machines", "add", "box", "local", "--engine", "process", "--default")
        lend(environment, Home.open(place.env["REMOTERUN_HOME"]))
        return None
    lab: Lab = request.getfixturevalue("lab")
    host: LabHost = request.getfixturevalue("host_a")
    place.env["REMOTERUN_SSH_CONFIG"] = str(lab.ssh_config())
    place.run("machines", "add", "box", "host-a", "--engine", "docker", "--default")
    return host


def start(place: Place, host: LabHost | None, seconds: str) -> str:
    """The number of a run that sleeps, and has a secret."""
    image = ["--image", BASE_IMAGE] if host is not None else []
    words = ["-b", "-y", *image, "-e", "TOKEN=s3cret of exec", f"echo up; sleep {seconds}"]
    number = str(place.run("run", *words).stdout.strip())
    place.follow_until(number, "up")
    return number


def test_a_look_inside(place: Place, host: LabHost | None, tmp_path: Path) -> None:
    place.seconds = 120  # so that a step that hangs is named before the whole test is given up
    number = start(place, host, SECONDS + "1")
    # without a terminal: stdin and its end, stdout and stderr apart, the exit status
    line = 'cat; echo "$TOKEN|$REMOTERUN_RUN_ID"; [ -t 0 ] || echo none >&2; pwd >&2; exit 7'
    data = os.urandom(3_000_000)
    done = subprocess.run(
        [REMOTERUN, "exec", number, line], cwd=place.folder, env=place.env, input=data, capture_output=True, timeout=120
    )
    assert done.returncode == 7, done.stderr
    assert done.stdout == data + f"s3cret of exec|{number}\n".encode()
    assert done.stderr.startswith(b"none\n/")
    place.run("exec", number, "--", "false", status=1)
    # a terminal: its kind and size, ^C, the exit status; and this one is afterwards as it was before
    words = f"stty -g; {REMOTERUN} exec {number}; echo status $?; stty -g"
    terminal = pexpect.spawn(
        "/bin/sh", ["-c", words], cwd=str(place.folder), env=place.env, timeout=120, encoding="utf-8",
        dimensions=(31, 97),
    )  # fmt: skip
    terminal.expect(r"([0-9a-f:]{40,})\r\n")
    before = terminal.match[1]
    terminal.expect(PROMPT)
    terminal.sendline("stty size; echo $TERM=$TOKEN")
    terminal.expect_exact("31 97\r\n")
    terminal.expect_exact("xterm=s3cret of exec\r\n")
    terminal.expect(PROMPT)
    terminal.setwinsize(40, 123)
    terminal.sendline("until [ \"$(stty size)\" = '40 123' ]; do sleep 0.1; done; echo re''sized")
    terminal.expect_exact("resized\r\n")
    terminal.expect(PROMPT)
    terminal.sendline("echo sl''eeps; sleep " + SECONDS + "2; echo status $?")
    terminal.expect_exact("sleeps\r\n")
    until(lambda: running(SECONDS + "2"))
    terminal.sendintr()
    terminal.expect_exact("^C")
    terminal.expect(PROMPT)
    assert not running(SECONDS + "2") and running(SECONDS + "1")
    terminal.sendline("exit 9")
    terminal.expect_exact("status 9\r\n")
    terminal.expect_exact(before)
    assert ended(terminal) == 0
    # what a client that is gone had started ends; the run goes on
    for stdin in (subprocess.PIPE, subprocess.DEVNULL):  # also where its program's input had ended
        left = subprocess.Popen(
            [REMOTERUN, "exec", number, f"sleep {SECONDS}3"], cwd=place.folder, env=place.env, stdin=stdin
        )
        until(lambda: running(SECONDS + "3"))
        left.send_signal(signal.SIGKILL)
        left.communicate()
        until(lambda: not running(SECONDS + "3"))
    assert running(SECONDS + "1")
    # what it uses
    (used,) = map(json.loads, place.run("top", number, "--once", "--json").stdout.splitlines())
    assert used["number"] == int(number) and used["state"] == "running"
    assert used["memory"] > 0 and used["cpu_percent"] >= 0 and used["gpus"] == []
    place.env["NO_COLOR"] = "1"
    terminal = place.spawn("top")
    terminal.expect_exact("\x1b[?25l")
    terminal.expect(rf"RUN +CPU +MEMORY .*\r\n +{number} +\d+ % ")
    terminal.expect(r"\x1b\[\d*A")  # the next one takes its place
    terminal.sendintr()
    terminal.expect_exact("\x1b[?25h")
    assert ended(terminal) == 0
    # its machine
    if host is None:
        assert "`box` is this machine" in place.run("machines", "ssh", "box", status=2).stderr
        assert "hint: false" in place.run("machines", "ssh", "box", "--", "false", status=2).stderr
    else:
        for name in ("box", "host-a", number):
            done = place.run("machines", "ssh", name, 'echo "$(hostname) is it"; exit 6', status=6)
            assert done.stdout == "host-a is it\n"
    # and a run that has ended has nothing to look into
    place.run("kill", number)
    place.run("logs", number, status=137)
    assert place.json("info", number)["usage"]["memory"] > 0
    assert re.search(r"^ +[\d.]+ [KM]B of memory at most$", place.run("info", number).stdout, re.MULTILINE)
    assert "remoterun info" in place.run("top", number, status=2).stderr
    said = place.run("exec", number, "true", status=2).stderr
    assert said.startswith(f"error: run {number} is killed, and not running\n") and f"remoterun rerun {number}" in said


@pytest.mark.lab
@pytest.mark.parametrize("host", ["docker"], indirect=True)
def test_a_lost_link_leaves_the_terminal_as_it_was(place: Place, host: LabHost) -> None:
    number = start(place, host, SECONDS)
    place.env["NO_COLOR"] = "1"
    words = f"stty -g; {REMOTERUN} exec {number}; echo status $?; stty -g"
    terminal = pexpect.spawn(
        "/bin/sh", ["-c", words], cwd=str(place.folder), env=place.env, timeout=120, encoding="utf-8"
    )
    terminal.expect(r"([0-9a-f:]{40,})\r\n")
    before = terminal.match[1]
    terminal.expect(PROMPT)
    host.sever()
    terminal.expect_exact("status 125\r\n")
    lines = [line for line in terminal.before.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "the connection to box was lost: " in lines[0], terminal.before
    assert lines[0].endswith(f"; run {number} goes on")
    terminal.expect_exact(before)
    assert ended(terminal) == 0
    host.mend()
    place.run("kill", number)
