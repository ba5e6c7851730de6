"""`SSHHost` brings the agent to a host and starts it, and says why where it can't."""

from __future__ import annotations

import os
import platform
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from remoterun.errors import AgentError, HostError
from remoterun.hosts.ssh.config import Deadlines
from tests.sshd import ECHO, PATH, Open, Refused, Server, Start, bundle_of, says
from tests.workshop import write_files

pytestmark = pytest.mark.timeout(60)


class TestStart:
    def test_the_agent_is_brought_once_and_then_started_with_one_command(self, start: Start, reach: Open) -> None:
        server = start()
        assert says(reach(server)) == b"ping"
        first = server.count("Starting session: command")
        installed = server.home / ".remoterun" / "agent" / bundle_of(ECHO).file_name
        assert installed.read_bytes() == bundle_of(ECHO).data
        assert stat.S_IMODE(installed.stat().st_mode) == 0o600
        assert stat.S_IMODE((server.home / ".remoterun").stat().st_mode) == 0o700
        assert [entry.name for entry in installed.parent.iterdir()] == [installed.name]
        assert says(reach(server)) == b"ping"
        assert (first, server.count("Starting session: command")) == (3, 4)

    def test_a_second_pipe_takes_the_same_connection(self, server: Server, reach: Open) -> None:
        host = reach(server)
        one = host.open()
        before = server.count("Accepted publickey")
        two = host.open()
        one.write(b"1")
        two.write(b"2")
        assert (two.read(10), one.read(10)) == (b"2", b"1")
        assert server.count("Accepted publickey") == before

    def test_the_home_is_where_it_was_asked_for(self, server: Server, reach: Open) -> None:
        for given in ("~/other place/it's!", "deep/er", f"{server.home}/abs\\olute"):
            assert says(reach(server, home=given)) == b"ping"
            place = server.home / given.removeprefix("~/")
            assert (place / "agent" / bundle_of(ECHO).file_name).exists()

    def test_noise_of_start_up_files_and_another_working_folder(
        self, start: Start, reach: Open, tmp_path: Path
    ) -> None:
        """Also where sshd greets with a banner."""
        (tmp_path / "banner").write_text("Authorised persons only.\n")
        server = start(f"Banner {tmp_path}/banner")
        (server.home / ".bashrc").write_text(
            "echo welcome; printf 'no newline'; echo oops >&2; head -c 20000 /dev/zero; cd /\n"
        )
        assert says(reach(server)) == b"ping"
        assert (server.home / ".remoterun" / "agent").is_dir()

    @pytest.mark.parametrize("noise", ["head -c 60000 /dev/zero", "printf x && sleep 0.1", "printf x >&2 && sleep 0.1"])
    def test_start_up_files_that_print_without_end(self, start: Start, reach: Open, noise: str) -> None:
        server = start()
        (server.home / ".bashrc").write_text(f"while {noise}; do :; done\n")  # ends with the connection
        began = time.monotonic()
        with pytest.raises(HostError) as caught:
            reach(server, deadlines=Deadlines(start=1, install=1)).open()
        assert time.monotonic() - began < Deadlines().start
        assert len(caught.value.evidence or "") < 10_000 and "start-up file" in (caught.value.hint or "")
        assert "~/.bashrc" in (caught.value.hint or "")

    def test_start_up_files_that_end_the_shell(self, start: Start, refused: Refused) -> None:
        server = start()
        for line in ("exit 0", "echo quota exceeded, see admin; exit 1"):
            (server.home / ".bashrc").write_text(line)
            refused(server, name=line)

    def test_a_damaged_agent_is_replaced(self, start: Start, reach: Open) -> None:
        server = start()
        assert says(reach(server)) == b"ping"
        installed = server.home / ".remoterun" / "agent" / bundle_of(ECHO).file_name
        installed.write_bytes(b"")
        assert says(reach(server)) == b"ping"

    def test_no_python_and_an_old_one(self, start: Start, refused: Refused, reach: Open, tmp_path: Path) -> None:
        (tools := tmp_path / "tools").mkdir()
        for name in ("sh", "mkdir", "cat", "ls", "wc", "mv", "rm", "uname"):
            (tools / name).symlink_to(str(shutil.which(name, path=PATH)))
        server = start(path=str(tools))
        refused(server, name="none")
        assert says(reach(server, python=sys.executable)) == b"ping"
        old = tools / "python3"
        old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.6.9\n[ "$1" = -c ] && exit 72\nexit 1\n')
        old.chmod(0o755)
        refused(server, name="an old one")

    def test_a_python_that_a_module_brings(self, start: Start, reach: Open, tmp_path: Path) -> None:
        """It is named. The shell function `module` is a stand-in for a site's."""
        tools, apps = tmp_path / "tools", tmp_path / "apps"
        for folder in (tools, apps):
            folder.mkdir()
        for name in ("sh", "mkdir", "cat", "ls", "wc", "bash", "env", "sed", "grep", "sort", "head"):
            (tools / name).symlink_to(str(shutil.which(name, path=PATH)))
        (apps / "python3").symlink_to(sys.executable)
        server = start(path=str(tools))
        module = f"if [ $1 = load ]; then PATH={apps}:$PATH; else echo gcc/12; echo 'python/3.12(default)'; fi"
        write_files(server.home, {".bash_profile": f"PATH={tools}; module() {{ {module}; }}\n"})
        with pytest.raises(AgentError) as caught:
            reach(server).open()
        said = f"{apps}/python3 is Python {platform.python_version()} (module load python/3.12)"
        assert (caught.value.evidence or "").endswith(said)

    def test_a_home_that_cannot_be_written(self, server: Server, refused: Refused) -> None:
        refused(server, home="/proc/remoterun")

    @pytest.mark.skipif(os.geteuid() != 0, reason="a small disk is made by root only")
    def test_a_full_disk(self, server: Server, reach: Open, tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "small", str(disk)], check=True)
        try:
            big = bundle_of(f"# {os.urandom(50_000).hex()}\n{ECHO}")
            with pytest.raises(AgentError, match="disk of `box` is full") as caught:
                reach(server, bundle=big, home=f"{disk}/home").open()
            assert "No space left" in (caught.value.evidence or "")
            assert list((disk / "home" / "agent").iterdir()) == []
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    def test_an_account_without_a_shell(self, start: Start, refused: Refused) -> None:
        refused(start("ForceCommand echo This service allows sftp connections only.; exit 1"))


class TestSessions:
    def test_more_pipes_than_the_host_gives_sessions(self, start: Start, reach: Open) -> None:
        server = start("MaxSessions 1")
        host = reach(server)
        pipes = [host.open() for _ in range(3)]
        for number, pipe in enumerate(pipes):
            pipe.write(b"%d" % number)
            assert pipe.read(10) == b"%d" % number

    def test_a_host_that_gives_none(self, start: Start, refused: Refused) -> None:
        refused(start("MaxSessions 0"))


def test_without_the_ssh_program(server: Server, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    refused(server)


def test_fabric_goes_over_the_same_connection(server: Server, reach: Open) -> None:
    host = reach(server)
    assert says(host) == b"ping"
    before = server.count("Accepted publickey")
    shell = host.fabric()
    assert shell.run("echo over fabric", hide=True, in_stream=False).stdout == "over fabric\n"
    assert says(host) == b"ping"
    assert server.count("Accepted publickey") == before
