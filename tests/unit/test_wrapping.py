"""Long lines on a terminal: broken between words, and never within a command that is to be copied."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from remoterun.cli import render
from remoterun.cli.render.terminal import columns
from remoterun.errors import RemoterunError

QUOTA = "aws service-quotas request-service-quota-increase --service-code ec2 --quota-code L-DB2E81BA --desired-value 8"
COPY = "ssh-copy-id -p 2222 somebody@gpu-box.example.org"
COMMANDS = (
    QUOTA,
    COPY,
    "remoterun run --mount uploads/doom:data COMMAND",
    "remoterun logs 16",
    "remoterun ls runs/16",
    "remoterun cp runs/16",
    "sudo usermod -aG docker $USER",
)
WIDE = "データの準備 ができました 実行を 始めます 準備 ができました 実行を 始めます 準備 ができました 実行を"
PROSE = "somebody@gpu-box.example.org refuses what was typed, and so nothing could be sent there, nor was anything run"
FLAGS = "name the key that fits: IdentityFile and `IdentitiesOnly yes` for that host in the file ~/.ssh/config"


def everything() -> None:
    """A line of each kind."""
    render.error(RemoterunError(PROSE, evidence=f"{PROSE}\n{WIDE}", hint=f"{QUOTA}\n{COPY}   takes your key there"))
    render.error(RemoterunError(WIDE, hint=FLAGS))
    render.warning(f"{PROSE}; `sudo usermod -aG docker $USER`, then log out and in")
    render.line("  remoterun run --mount uploads/doom:data COMMAND   finds it in ./the-folder-of-doom/and-gloom")
    render.line("  remoterun logs 16   shows its log again, live until it ends, and after that as long as it is kept")
    render.line(render.DONE, "12,345 files saved (1.2 GB): `remoterun ls runs/16` · `remoterun cp runs/16`")
    render.line(f"  at most  {PROSE}")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], str]]:
    """What a terminal of so many columns gets of `everything`."""
    opened: list[int] = []

    def shown(width: int) -> str:
        here, there = os.openpty()
        opened.extend((here, there))
        fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        with open(there, "w", closefd=False) as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            everything()
        said = b""
        while select.select([here], [], [], 0)[0]:
            said += os.read(here, 1 << 16)
        return said.decode().replace("\r\n", "\n")

    yield shown
    for descriptor in opened:
        os.close(descriptor)


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_word_is_cut(
    width: int, terminal: Callable[[int], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without colours each line is also no wider than the terminal, but where one word or command alone is."""
    monkeypatch.setenv("NO_COLOR", "1")
    everything()
    whole, shown = capsys.readouterr().err, terminal(width)
    assert shown.split() == whole.split()
    for line in shown.splitlines():
        alone = any(line.strip().strip("`;,") == command for command in COMMANDS) or len(line.split()) == 1
        assert columns(line) <= width or alone, line
    for command in COMMANDS:
        assert shown.count(command) == whole.count(command), "a command stays in one line"


@pytest.mark.parametrize("width", [40, 80])
def test_colours_change_no_line(width: int, terminal: Callable[[int], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    plain = terminal(width)
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = terminal(width)
    assert "\x1b[31;1merror:\x1b[0m" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain


def test_a_line_goes_on_below_its_text(terminal: Callable[[int], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    lines = terminal(80).splitlines()
    assert lines[:2] == [
        "error: somebody@gpu-box.example.org refuses what was typed, and so nothing could",
        "       be sent there, nor was anything run",
    ]
    hint = lines.index("hint:")
    assert lines[hint + 1] == QUOTA, "longer than the terminal, it begins at the left edge"
    assert lines[hint + 2] == f"      {COPY}   takes your key"[:80] or COPY in lines[hint + 2]
    at_most = next(number for number, line in enumerate(lines) if line.startswith("  at most  "))
    assert lines[at_most + 1].startswith(" " * 11) and lines[at_most + 1][11] != " "


def test_nothing_is_wrapped_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    render.error(RemoterunError(PROSE * 3, hint=FLAGS * 3))
    assert capsys.readouterr().err == f"error: {PROSE * 3}\n\nhint: {FLAGS * 3}\n"


def helps(command: Any, words: tuple[str, ...] = ("remoterun",)) -> Iterator[tuple[str, str]]:
    """Each command, and its `--help`."""
    with command.make_context(" ".join(words), [], resilient_parsing=True) as context:
        yield " ".join(words), command.get_help(context)
    for word, below in getattr(command, "commands", {}).items():
        yield from helps(below, (*words, word))


@pytest.mark.parametrize("width", [50, 80])
def test_no_word_and_no_example_of_a_help_is_broken(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.main import get_command

    from remoterun.cli.commands import application

    monkeypatch.setenv("COLUMNS", str(width))
    shown = dict(helps(get_command(application())))
    assert len(shown) > 30
    for name, text in shown.items():
        for line in text.splitlines():
            assert len(line) <= width and not re.search(r"\w-$", line), f"{name}: {line}"
    assert width == 50 or len(shown["remoterun"].splitlines()) <= 40
    words = " ".join(shown["remoterun"].split())
    assert "`remoterun help COMMAND`" in words and "`--version`" in words and "`--install-completion`" in words


@pytest.mark.parametrize("width", [50, 80])
def test_the_first_page_fits_a_small_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from remoterun.cli.main import main

    monkeypatch.setattr("remoterun.cli.render.terminal.terminal_width", lambda stream: width)
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 23 and max(map(len, lines)) <= width, "with the prompt below it, 24"
    assert sum(line.startswith("  remoterun ") for line in lines) == 9 and "`remoterun --help`" in lines[-2] + lines[-1]
    assert any("`ui`" in line for line in lines)
