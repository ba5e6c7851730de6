"""What TAB does, in real shells: names that a host chose run nothing, and a folder goes on below itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.commands import REMOTERUN
from tests.conftest import require_program
from tests.e2e.conftest import Place, make_place
from tests.e2e.said import left
from tests.workshop import until

SHELLS = {
    "bash": (["--norc", "--noprofile"], ""),
    "zsh": (["-f"], "autoload -Uz compinit && compinit -u -D; "),
    "fish": (["--no-config"], ""),
}
EVIL = r"\$(touch PWNED)", "$(touch PWNED)", "`touch PWNED`", "m;touch PWNED;", 'q";touch PWNED;"', "n'$(touch PWNED)'"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place with the uploads `evil`, whose names run programs in a shell, and `deep`; and a run of such a name."""
    place = make_place(tmp_path_factory.mktemp("completion"))
    place.env["PATH"] = f"{Path(REMOTERUN).parent}:{place.env['PATH']}"
    evil, deep = place.folder / "evil", place.folder / "deep" / "models"
    evil.mkdir()
    for name in (*EVIL, "fine.txt"):
        (evil / name).write_text(name)
    deep.mkdir(parents=True)
    for name in ("model.json", "weights.bin"):
        (deep / name).write_text(name)
    for folder in (evil, deep.parent):
        place.run("upload", str(folder))
    place.run("run", "-y", "-t", "local", "--framework", "none", "--label", "x$(touch PWNED)", r": '\$(touch PWNED)'")
    return place


@pytest.fixture(params=SHELLS)
def shell(place: Place, request: pytest.FixtureRequest) -> Iterator[pexpect.spawn]:
    """A shell at its prompt, with the completion that remoterun gives it."""
    words, first = SHELLS[request.param]
    script = place.folder / f"complete.{request.param}"
    script.write_text(place.run(env={"_REMOTERUN_COMPLETE": f"source_{request.param}"}).stdout)
    terminal = pexpect.spawn(
        require_program(request.param),
        [*words, "-i"],
        cwd=str(place.folder),
        env=place.env,
        timeout=120,
        encoding="utf-8",
        dimensions=(24, 200),
    )
    (place.folder / "PWNED").unlink(missing_ok=True)
    try:
        terminal.sendline(f"{first}source {script}")
        answered(terminal)
        yield terminal
    finally:
        left(terminal)


def answered(terminal: pexpect.spawn) -> str:
    """Wait until the shell has done all that was typed; what it has shown since."""
    terminal.sendline("echo do''ne")
    terminal.expect("[\r\n]done")
    return str(terminal.before)


def test_a_name_that_a_host_chose_runs_nothing(place: Place, shell: pexpect.spawn) -> None:
    """Neither when it is offered, nor with the Enter that follows: of an upload's files, runs' commands and labels."""
    files = (f"ls uploads/evil/{begin}" for begin in ("", "\\\\", "\\$", "m"))
    for line in (*files, "logs ", "ps --label "):
        shell.send(f"remoterun {line}\t")
        shell.sendline("")
        answered(shell)
        assert not (place.folder / "PWNED").exists(), line


def test_a_folder_goes_on_below_itself(place: Place, shell: pexpect.spawn) -> None:
    """`uploads/deep/models/` is completed without a space behind it, and what follows names one of its files."""

    def listed() -> bool:
        shell.send("remoterun ls uploads/deep/m\tw\t")
        shell.sendline("")
        return "11 bytes  weights.bin" in answered(shell)

    until(listed)  # a machine has three seconds to list its files
