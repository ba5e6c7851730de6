"""Words that reach a remote program as they are, whatever shell takes them apart."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.errors import UsageError
from remoterun.hosts.bundle import AgentBundle
from remoterun.hosts.ssh.commands import SCRIPT, command_line, login_relative, start_command
from tests.recorder import Recorded

SHELLS = [name for name in ("sh", "bash", "dash", "zsh", "ksh", "busybox", "fish", "tcsh", "csh") if shutil.which(name)]
WORDS = st.lists(
    st.text(st.characters(exclude_characters="\0\n\r", exclude_categories=["Cs"]), max_size=12)
    | st.text("'\"\\!$`~*?[]{}()<>|&;# ^%=-", max_size=8),
    min_size=1,
    max_size=6,
)


def taken_apart(shell: str, line: str) -> list[str]:
    call = [shell, "sh", "-c"] if shell == "busybox" else [shell, "-c"]
    done = subprocess.run([*call, line], capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize("shell", SHELLS)
@given(words=WORDS)
def test_every_shell_splits_them_into_the_same_words(shell: str, words: list[str]) -> None:
    program = shutil.which("printf")
    assert program is not None
    assert taken_apart(shell, command_line([program, r"%s\0", *words])) == words


def test_plain_words_stay_readable() -> None:
    line = command_line(["python3", ".remoterun/agent/0a.pyz", "serve", "--home", "a b"])
    assert line == "python3 .remoterun/agent/0a.pyz serve --home 'a b'"


@pytest.mark.parametrize("word", ["a\nb", "a\rb", "a\0b"])
def test_a_line_break_is_refused(word: str) -> None:
    with pytest.raises(UsageError):
        command_line(["echo", word])


def test_the_installer_needs_no_quoting_that_a_shell_may_not_know() -> None:
    assert not set(SCRIPT) & set("'\\!\n")


@pytest.mark.parametrize("shell", [name for name in SHELLS if name not in ("fish", "tcsh", "csh")])
@pytest.mark.parametrize("group", ["own", "another"])
@pytest.mark.parametrize("mode", [0o755, 0o1777, 0o775, 0o757, 0o2775])
def test_every_sh_walks_up_from_the_home(tmp_path: Path, shell: str, mode: int, group: str) -> None:
    """A home of this user, in a folder that others, or a group of the user's name, may or may not write."""
    (tmp_path / "real" / "a b" / "agent").mkdir(0o700, parents=True)
    if group == "another" and os.geteuid() != 0:
        pytest.skip("only root gives folders to another group")
    if group == "another":
        os.chown(tmp_path / "real", -1, 12345)
    (tmp_path / "real").chmod(mode)
    (tmp_path / "home").symlink_to("real/a b")
    words = shlex.split(start_command(AgentBundle({}), str(tmp_path / "home"), "echo"))[3:]
    done = subprocess.run([shell, *(["sh"] if shell == "busybox" else []), *words], capture_output=True, text=True)
    if mode in (0o755, 0o1777) or (group == "own" and mode in (0o775, 0o2775)):
        assert done.stdout.endswith(f" serve --home {tmp_path}/real/a b\n") and done.returncode == 0
    else:
        assert done.stdout.endswith(f" {tmp_path}/real\n") and done.returncode == 77
    assert done.stderr == ""


def test_paths_from_the_login_folder(recorded: Recorded) -> None:
    recorded.cases(login_relative)


def test_paths_that_are_refused(recorded: Recorded) -> None:
    recorded.cases(login_relative, UsageError)
