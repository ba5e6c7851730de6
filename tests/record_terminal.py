"""Records a session of the real `remoterun` in a pseudo-terminal as an SVG: python -m tests.record_terminal

It makes `examples/recording.svg`. The commands run in a temporary folder, with a temporary home, on a machine `box`
that is an sshd of this user; its runs use the engine `process`, with an environment that has no packages. Only what
stays on the screen is drawn, each line from the moment on when it has its last content.
"""

from __future__ import annotations

import contextlib
import fcntl
import html
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from dataclasses import dataclass, field
from pathlib import Path

from remoterun.agent.store.home import Home
from tests.sshd import make_keys, starter
from tests.workshop import build_environment, lend

TARGET = Path(__file__).parents[1] / "examples" / "recording.svg"
COLUMNS, ROWS = 80, 24
SESSION: tuple[tuple[str, str | None], ...] = (
    ("remoterun upload data/input.txt --name doom", None),
    ('remoterun run -t box --mount uploads/doom:data "python train.py"', "step 3"),
    ("remoterun logs 1 --tail 3", None),
    ("remoterun cp runs/1/model.txt .", None),
)
"""What is typed, and the output at which ^C is pressed."""
TRAIN = """
import pathlib, time
text = pathlib.Path("data/input.txt").read_text()
for step in range(1, 7):
    time.sleep(0.7)
    print(f"step {step} of 6, loss {4.1 / (step + 1):.2f}")
pathlib.Path("model.txt").write_text(f"trained on {len(text)} characters\\n")
"""
TYPING, LONGEST_PAUSE, COMMAND_LIMIT = 0.9, 1.0, 120.0
"""Seconds: before each command; between two lines, in the recording; for one command."""

COLOURS = {31: "#f38ba8", 32: "#a6e3a1", 33: "#f9e2af", 34: "#89b4fa", 35: "#cba6f7", 36: "#94e2d5"}
CHARACTER, LINE, MARGIN = 8.43, 20, 16


@dataclass
class Cell:
    text: str = " "
    style: tuple[int, ...] = ()


@dataclass
class Row:
    cells: list[Cell] = field(default_factory=list)
    changed: float = 0.0


class Screen:
    """What a terminal shows, with all that has scrolled away; `clock` is the time of what is written next."""

    def __init__(self) -> None:
        self.rows = [Row()]
        self.clock = 0.0
        self._row = self._column = 0
        self._style: tuple[int, ...] = ()
        self._rest = ""

    def write(self, text: str) -> None:
        text = self._rest + text
        whole = re.fullmatch(r"(.*?)(\x1b(?:\[[0-9;?]*)?)?", text, re.DOTALL)
        assert whole
        self._rest = whole[2] or ""
        for part in re.findall(r"\x1b\[[0-9;?]*[@-~]|\x1b.|.", whole[1], re.DOTALL):
            if part.startswith("\x1b["):
                self._control(part[-1], part[2:-1])
            elif part == "\r":
                self._column = 0
            elif part == "\n":
                self._down(1)
            elif part == "\b":
                self._column = max(self._column - 1, 0)
            elif part >= " ":
                if self._column == COLUMNS:
                    self._down(1)
                    self._column = 0
                self._put(self._column, Cell(part, self._style))
                self._column += 1

    def _down(self, count: int) -> None:
        self._row = max(self._row + count, 0)
        while len(self.rows) <= self._row:
            self.rows.append(Row())

    def _put(self, column: int, cell: Cell) -> None:
        row = self.rows[self._row]
        row.cells += [Cell() for _ in range(column + 1 - len(row.cells))]
        if row.cells[column] != cell:
            row.cells[column] = cell
            row.changed = self.clock

    def _control(self, kind: str, arguments: str) -> None:
        numbers = [int(number or 0) for number in arguments.split(";")] if "?" not in arguments else []
        count = max(numbers[0], 1) if numbers else 1
        if kind == "m":
            for number in numbers:
                self._style = () if number == 0 else (*self._style, number)
        elif kind in "AB":
            self._down(-count if kind == "A" else count)
        elif kind == "G":
            self._column = count - 1
        elif kind == "K":
            row = self.rows[self._row]
            start = 0 if numbers and numbers[0] == 2 else self._column
            if row.cells[start:]:
                del row.cells[start:]
                row.changed = self.clock
        elif kind == "J":
            self._control("K", "0")
            del self.rows[self._row + 1 :]
        elif kind not in "hl":
            raise ValueError(f"a control sequence that is not drawn: ESC [ {arguments} {kind}")


class Recording:
    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.screen = Screen()
        self._folder = folder
        self._environment = environment
        self._last = 0.0

    def type(self, command: str, interrupt_at: str | None) -> None:
        self._last = time.monotonic() - TYPING
        self._write(f"\x1b[32m$\x1b[0m \x1b[1m{command}\x1b[0m\r\n")
        main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        words = shlex.split(command)
        words[0] = str(Path(sys.executable).parent / words[0])
        process = subprocess.Popen(
            words, cwd=self._folder, env=self._environment, stdin=side, stdout=side, stderr=side, start_new_session=True
        )
        os.close(side)
        deadline = time.monotonic() + COMMAND_LIMIT
        said = ""
        with contextlib.suppress(OSError):  # how a pseudo-terminal ends
            while time.monotonic() < deadline:
                if not select.select([main], [], [], 1)[0]:
                    continue
                text = os.read(main, 65536).decode()
                if not text:
                    break
                said += text
                self._write(text)
                if interrupt_at and interrupt_at in said:
                    interrupt_at = None
                    process.send_signal(signal.SIGINT)
        os.close(main)
        status = process.wait(10)
        if status not in (0, 130):
            raise SystemExit(f"{command}: status {status}\n{said}")

    def _write(self, text: str) -> None:
        now = time.monotonic()
        self.screen.clock += min(now - self._last, LONGEST_PAUSE)
        self._last = now
        self.screen.write(text)


def svg(screen: Screen) -> str:
    """The rows of a screen, each shown from the moment on when it changed last."""
    rows = list(screen.rows)
    while rows and not "".join(cell.text for cell in rows[-1].cells).strip():
        rows.pop()
    width, height = round(COLUMNS * CHARACTER) + 2 * MARGIN, len(rows) * LINE + 2 * MARGIN
    styles = ["text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#cdd6f4}"]
    styles += [".b{font-weight:bold}", ".d{opacity:.6}"]
    styles += [f".c{number}{{fill:{colour}}}" for number, colour in COLOURS.items()]
    styles.append(
        "@media (prefers-reduced-motion:no-preference){.l{animation:l 1ms both}@keyframes l{from{opacity:0}}}"
    )
    lines = []
    for number, row in enumerate(rows):
        y = MARGIN + 14 + number * LINE
        delay = f' style="animation-delay:{row.changed:.1f}s"' if row.changed >= 0.05 else ""
        lines.append(f'<text class="l"{delay} x="{MARGIN}" y="{y}" xml:space="preserve">{_spans(row)}</text>')
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">',
            "<title>A run on another machine: upload, run, ^C, the log again, the file it made</title>",
            f"<style>{''.join(styles)}</style>",
            f'<rect width="{width}" height="{height}" rx="8" fill="#1e1e2e"/>',
            *lines,
            "</svg>\n",
        ]
    )


def _spans(row: Row) -> str:
    parts: list[tuple[tuple[int, ...], str]] = []
    for cell in row.cells:
        if parts and parts[-1][0] == cell.style:
            parts[-1] = (cell.style, parts[-1][1] + cell.text)
        else:
            parts.append((cell.style, cell.text))
    spans = ""
    for style, text in parts:
        names = ["b" if n == 1 else "d" if n == 2 else f"c{n}" for n in style if n in (1, 2) or n in COLOURS]
        shown = html.escape(text, quote=False)
        spans += f'<tspan class="{" ".join(names)}">{shown}</tspan>' if names else shown
    return spans.rstrip()


def record() -> str:
    """The SVG of `SESSION`. Blocks for some 20 s."""
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recording")))
        for name in ("keys", "sshd", "user", "home", "song/data"):
            (root / name).mkdir(parents=True)
        server = starter(root / "sshd", make_keys(root / "keys"), stack)(path=os.environ["PATH"])
        lend(build_environment(root / "environment"), Home.open(str(root / "box")))
        (root / "home/config.toml").write_text(
            f'[machines.box]\nhost = "box"\nengine = "process"\nhome = "{root}/box"\n'
            f'[machines.local]\nengine = "process"\n'
        )
        environment = {
            "HOME": str(root / "user"),
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "REMOTERUN_HOME": str(root / "home"),
            "REMOTERUN_SSH_CONFIG": str(server.config()),
        }
        song = root / "song"
        (song / "train.py").write_text(TRAIN)
        (song / ".gitignore").write_text("data/\n")
        (song / "data/input.txt").write_text("".join(f"line {line} of the song\n" for line in range(12000)))
        git = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org"]
        for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "The first song"]):
            subprocess.run([*git, *words], cwd=song, env=environment, check=True)
        recording = Recording(song, environment)
        for command, interrupt_at in SESSION:
            recording.type(command, interrupt_at)
        return svg(recording.screen)


if __name__ == "__main__":
    TARGET.write_text(record())
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes")
