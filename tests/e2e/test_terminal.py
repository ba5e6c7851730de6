"""What a terminal gets of a command's output: its text and colours, and nothing that takes control of the terminal."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pexpect
import pytest

from tests.commands import REMOTERUN
from tests.e2e.conftest import Place, make_place

HARMLESS = b"\x1b[1;32mgreen\x1b[0m 10%\r\x1b[K20%\b \x1b[3D\xc3\xbc\n"
HARMFUL = (
    b"\x1b]0;TITLE\x07", b"\x1b]52;c;Q0xJUA==\x1b\\", b"\x1bP$qm\x1b\\", b"\x1b[2J", b"\x1b[5A", b"\x1b[6n", b"\x1bc",
    b"\x07", b"\xc2\x9b2J", b"\xc2\x9d0;TITLE\xc2\x9c", b"\x9b2J", b"\x1b[?1049h", b"\x1b]0;", b"\x1b_G", b"\x1b(0",
)  # fmt: skip
RUN = ("run", "-y", "-t", "local", "--framework", "none")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place with a run, 1, that prints what is harmful, to stdout and stderr, and has it as a file, `bytes`."""
    place = make_place(tmp_path_factory.mktemp("terminal"))
    (place.folder / "told").write_bytes(HARMLESS + b"\n".join(HARMFUL) + b"\nend\n")
    subprocess.run(["git", "add", "told"], cwd=place.folder, env=place.env, check=True)
    place.run(*RUN, "cat told; cat told >&2; cp told bytes", status=None)
    return place


@pytest.mark.parametrize(
    "words",
    [[*RUN, "cat told; cat told >&2"], ["logs", "1"], ["logs", "1", "--no-follow"], ["cp", "runs/1/bytes", "-"]],
    ids=lambda words: f"{words[0]} {words[-1]}",
)
def test_a_terminal_obeys_colours_and_moves_within_the_line_only(place: Place, words: list[str]) -> None:
    terminal = pexpect.spawn(REMOTERUN, words, cwd=str(place.folder), env=place.env, timeout=60)
    terminal.expect(pexpect.EOF)
    shown = terminal.before
    assert HARMLESS.replace(b"\n", b"\r\n") in shown and b"end\r\n" in shown
    rest = shown.replace(b"\x1b[?25l", b"").replace(b"\x1b[?25h", b"")  # of our own spinner
    for harmful in HARMFUL:
        assert harmful not in rest, harmful


def test_elsewhere_each_byte_is_as_it_was_written(place: Place, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        subprocess.run([REMOTERUN, "logs", "1"], cwd=place.folder, env=place.env, stdout=file, check=True)
    assert (tmp_path / "log").read_bytes() == (place.folder / "told").read_bytes() * 2
