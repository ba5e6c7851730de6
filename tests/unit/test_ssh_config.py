from __future__ import annotations

import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.errors import ConfigError, HostError, HostUnreachable, UsageError
from remoterun.hosts.base import NOBODY
from remoterun.hosts.ssh import connection
from remoterun.hosts.ssh.config import Deadlines, HostKeyCheck, SSHSettings, SSHTarget, resolve, ssh_words
from remoterun.hosts.ssh.dial import Way
from tests.recorder import Recorded

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh here")


def test_targets(recorded: Recorded) -> None:
    recorded.cases(lambda text: repr(SSHTarget.parse(text)))


def test_bad_targets(recorded: Recorded) -> None:
    recorded.cases(SSHTarget.parse, UsageError)


@given(
    host=st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}|[0-9a-f]{1,4}(:[0-9a-f]{1,4}){7}", fullmatch=True),
    user=st.none() | st.from_regex(r"[a-z_][a-z0-9._@-]{0,20}", fullmatch=True),
    port=st.none() | st.integers(1, 65535),
)
def test_a_target_as_text_is_itself(host: str, user: str | None, port: int | None) -> None:
    target = SSHTarget(host, user, port)
    assert SSHTarget.parse(str(target)) == target
    assert SSHTarget.parse(f"ssh://{target}") == target


@given(st.text(max_size=30))
def test_any_text_is_a_target_or_a_usage_error(text: str) -> None:
    try:
        target = SSHTarget.parse(text)
    except UsageError:
        return
    assert target.host and not target.host.startswith("-")
    assert not set(target.host) & set(" \t\n'\"`$;&|<>(){}")


def resolved(folder: Path, text: str, *target: Any) -> SSHSettings:
    """The target, or else `box`, by a configuration of this text."""
    (folder / "config").write_text(text)
    return resolve(SSHTarget(*(target or ("box",))), folder / "config")


class TestResolve:
    def test_everything(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: Recorded) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        found = resolved(
            tmp_path,
            "Host box\n HostName gpu.example\n User ada\n Port 2222\n"
            " IdentityFile ~/.ssh/one\n IdentityFile /keys/%h-%r\n IdentitiesOnly yes\n"
            " IdentityAgent ~/agent.sock\n CertificateFile ~/cert.pub\n"
            " ProxyJump a@first:33,second\n HostKeyAlias alias\n StrictHostKeyChecking accept-new\n"
            " HashKnownHosts yes\n ConnectTimeout 7\n AddressFamily inet6\n"
            " UserKnownHostsFile /known/one /known/two\n GlobalKnownHostsFile /known/all\n",
        )
        assert Path(found.agent_socket or "").name == "agent.sock"
        assert [path.name for path in found.certificate_files] == ["cert.pub"]
        assert found.address_family == socket.AF_INET6
        rest = replace(found, agent_socket=None, certificate_files=(), address_family=socket.AF_UNSPEC)  # spelt anyhow
        recorded.same("\n".join(f"{name}: {value}" for name, value in vars(rest).items()))

    def test_what_was_typed_wins(self, tmp_path: Path) -> None:
        found = resolved(tmp_path, "Host *\n User ada\n Port 2222\n", "box", "bob", 23)
        assert (found.user, found.port, found.known_as) == ("bob", 23, "[box]:23")

    def test_defaults(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
        found = resolve(SSHTarget("Box"), None)
        assert found.hostname.lower() == "box" and found.port == 22 and found.known_as == "box"
        assert tmp_path / ".ssh/id_ed25519" in found.identity_files
        assert not found.identities_given and not found.identities_only
        assert found.agent_socket == "/run/agent"
        assert found.proxy_command is None
        assert found.host_key_check is HostKeyCheck.ASK
        assert found.user_known_hosts[0].parts[-2:] == (".ssh", "known_hosts")

    def test_a_proxy_command(self, tmp_path: Path) -> None:
        found = resolved(tmp_path, "Host box\n HostName 10.0.0.1\n User ada\n ProxyCommand nc -x %r%% %h %p\n")
        assert found.proxy_command == "nc -x ada% 10.0.0.1 22"

    @pytest.mark.parametrize(
        ("check", "expected"), [("no", HostKeyCheck.NO), ("off", HostKeyCheck.NO), ("ask", HostKeyCheck.ASK)]
    )
    def test_whether_the_host_key_is_checked(self, tmp_path: Path, check: str, expected: HostKeyCheck) -> None:
        assert resolved(tmp_path, f"StrictHostKeyChecking {check}\n").host_key_check is expected

    @pytest.mark.parametrize("files", ["/dev/null", "none"])
    def test_keys_that_ssh_writes_nowhere_are_kept_where_it_usually_does(self, tmp_path: Path, files: str) -> None:
        found = resolved(tmp_path, f"UserKnownHostsFile {files}\n")
        assert found.user_known_hosts == (Path.home() / ".ssh" / "known_hosts",) and found.writes_no_known_hosts

    def test_none_means_none(self, tmp_path: Path) -> None:
        found = resolved(tmp_path, "IdentityAgent none\nProxyJump none\nProxyCommand none\nGlobalKnownHostsFile none\n")
        assert found.agent_socket is None and found.proxy_command is None
        assert found.global_known_hosts == ()


def test_include_and_match(tmp_path: Path) -> None:
    (tmp_path / "more").write_text("Host box\n HostName 10.1.1.1\n")
    found = resolved(tmp_path, f"Include {tmp_path}/more\nMatch originalhost box\n Port 99\n")
    assert (found.hostname, found.port) == ("10.1.1.1", 99)


def test_a_broken_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        resolved(tmp_path, "Bogus yes\n")
    assert "line 1" in (caught.value.evidence or "")


def test_the_words_that_open_a_target(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target, file = SSHTarget.parse("me@[::1]:2222"), tmp_path / "config"
    words = ["-F", str(file), "-l", "me", "-p", "2222", "--", "::1"]
    assert ssh_words(target, file)[-len(words) :] == words
    assert ssh_words(target, file, "df -h", terminal=True)[-len(words) - 1 :] == [*words, "df -h"]
    assert "-t" in ssh_words(target, file, "df -h", terminal=True)
    assert "-t" not in [*ssh_words(target, file, "df -h"), *ssh_words(target, file, terminal=True)]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="not installed"):
        ssh_words(target)


def test_a_connection_that_is_gone_before_anything_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = socket.socket()
    closed.close()
    monkeypatch.setattr(connection, "dial", lambda *_: Way(closed, "192.0.2.1"))
    with pytest.raises(HostUnreachable, match="says nothing") as caught:
        connection.connect(SSHSettings(SSHTarget("box"), "box", 22, "user"), Deadlines(), NOBODY)
    assert caught.value.evidence == "[Errno 9] Bad file descriptor"
