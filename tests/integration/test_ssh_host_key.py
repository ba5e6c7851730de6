"""Whether the machine that answers is the one that was meant."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from remoterun.errors import HostKeyError
from remoterun.hosts.base import UnknownHostKey
from tests.sshd import Keys, Open, Refused, Server, Start, fingerprint, public, says

pytestmark = pytest.mark.timeout(60)


class TestHostKeys:
    def test_unknown(self, server: Server, refused: Refused, tmp_path: Path) -> None:
        """Where nobody is there to ask, where somebody declines, and where the user wants nobody to be asked."""
        file = tmp_path / "none"
        config = server.config(UserKnownHostsFile=str(file))
        refused(server, config, "nobody to ask")
        refused(server, config, "declined", confirm_host_key=lambda key: False)
        config = server.config(UserKnownHostsFile=str(file), StrictHostKeyChecking="yes")
        refused(server, config, "strict", confirm_host_key=lambda key: pytest.fail("asked"))
        assert not file.exists()

    @pytest.mark.parametrize("hashed", ["no", "yes"])
    def test_unknown_and_accepted(self, server: Server, reach: Open, keys: Keys, tmp_path: Path, hashed: str) -> None:
        file = tmp_path / "new" / "known_hosts"
        config = server.config(UserKnownHostsFile=f"{file} {tmp_path}/second", HashKnownHosts=hashed)
        asked: list[UnknownHostKey] = []

        def confirm(key: UnknownHostKey) -> bool:
            asked.append(key)
            return True

        assert says(reach(server, config, confirm_host_key=confirm)) == b"ping"
        assert [key.fingerprint for key in asked] == [fingerprint(keys.host)]
        assert asked[0].host == "box" and asked[0].address == "127.0.0.1" and asked[0].file == file
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert (f"[127.0.0.1]:{server.port}" in file.read_text()) == (hashed == "no")
        assert says(reach(server, config)) == b"ping"
        find = ["ssh-keygen", "-F", f"[127.0.0.1]:{server.port}", "-f", str(file)]
        assert subprocess.run(find, capture_output=True).returncode == 0

    def test_accept_new(self, server: Server, reach: Open, tmp_path: Path) -> None:
        file = tmp_path / "none"
        config = server.config(UserKnownHostsFile=str(file), StrictHostKeyChecking="accept-new")
        assert says(reach(server, config)) == b"ping"
        assert file.exists()

    def test_changed(self, server: Server, refused: Refused, keys: Keys, tmp_path: Path) -> None:
        file = tmp_path / "old"
        file.write_text(f"# a comment\n\n[127.0.0.1]:{server.port} {public(keys.other)}")
        for check in ("ask", "no", "accept-new"):
            config = server.config(UserKnownHostsFile=str(file), StrictHostKeyChecking=check)
            refused(server, config, check, confirm_host_key=lambda key: True)

    def test_no_means_ask(
        self, server: Server, reach: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: Keys
    ) -> None:
        """As for a lab box: ssh would accept any key and write none down, so `ssh box` would not help."""
        monkeypatch.setenv("HOME", str(tmp_path))
        file = tmp_path / ".ssh" / "known_hosts"
        file.parent.mkdir()
        config = server.config(UserKnownHostsFile="/dev/null", StrictHostKeyChecking="no")
        with pytest.raises(HostKeyError) as caught:
            reach(server, config).open()
        assert "`StrictHostKeyChecking no` is not followed" in (caught.value.evidence or "")
        hint = f"ssh -o StrictHostKeyChecking=ask -o UserKnownHostsFile={file} box true"
        assert (caught.value.hint or "").startswith(hint)
        assert not file.exists()
        typed = [*hint.replace("=ask", "=accept-new").split()[:-2], "-F", str(config), "box", "true"]
        subprocess.run(typed, check=True, capture_output=True)
        assert says(reach(server, config)) == b"ping"

    def test_a_key_that_is_accepted_though_ssh_writes_none(
        self, server: Server, reach: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        config = server.config(UserKnownHostsFile="/dev/null")
        assert says(reach(server, config, confirm_host_key=lambda key: True)) == b"ping"
        assert str(server.port) in (tmp_path / ".ssh" / "known_hosts").read_text()
        assert says(reach(server, config)) == b"ping"

    def test_revoked(self, server: Server, refused: Refused, keys: Keys) -> None:
        file = server.folder / "revoked"
        file.write_text(server.known_hosts.read_text() + f"@revoked * {public(keys.host)}")
        refused(server, server.config(UserKnownHostsFile=str(file)), confirm_host_key=lambda key: True)

    def test_an_authority_and_broken_lines_do_no_harm(self, server: Server, reach: Open, keys: Keys) -> None:
        file = server.folder / "odd"
        file.write_bytes(
            f"@cert-authority * {public(keys.other)}\xff\nnonsense\nx ssh-rsa !!!\n|1|a|b ssh-rsa AAAA\n".encode(
                "latin-1"
            )
            + server.known_hosts.read_bytes()
        )
        assert says(reach(server, server.config(UserKnownHostsFile=str(file)))) == b"ping"

    def test_the_known_kind_is_asked_for(self, start: Start, reach: Open, keys: Keys) -> None:
        server = start(host_keys=(keys.host, keys.host_rsa))
        server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {public(keys.host_rsa)}")
        assert says(reach(server)) == b"ping"

    def test_another_kind_than_the_known_one(self, server: Server, refused: Refused, keys: Keys) -> None:
        file = server.folder / "rsa"
        file.write_text(f"[127.0.0.1]:{server.port} {public(keys.host_rsa)}")
        refused(server, server.config(UserKnownHostsFile=str(file), StrictHostKeyChecking="accept-new"))

    def test_an_alias_of_the_key(self, server: Server, reach: Open, keys: Keys) -> None:
        file = server.folder / "alias"
        file.write_text(f"gpu,*.lab {public(keys.host)}")
        config = server.config(UserKnownHostsFile=str(file), HostKeyAlias="gpu")
        assert says(reach(server, config)) == b"ping"
