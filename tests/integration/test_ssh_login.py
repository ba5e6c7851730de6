"""Logging in: keys of every kind, agents, certificates, passphrases, passwords."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sshd import ME, Keys, Open, Refused, Server, Start, make_key, public, says

pytestmark = pytest.mark.timeout(60)


class TestAuthentication:
    def test_a_wrong_key_and_none_at_all(self, server: Server, refused: Refused, keys: Keys) -> None:
        refused(server, server.config(IdentityFile=str(keys.other)), "a wrong key")
        refused(server, server.config(IdentityFile="/nowhere/key"), "none")

    def test_several_keys(self, server: Server, reach: Open, keys: Keys) -> None:
        config = server.config(IdentityFile=f"{keys.other}\n  IdentityFile {keys.user}")
        assert says(reach(server, config)) == b"ping"

    def test_every_kind_of_key(self, start: Start, reach: Open, tmp_path: Path) -> None:
        kinds = ("rsa -b 2048", "ecdsa", "ecdsa -b 384", "rsa -b 2048 -m PEM", "ecdsa -m PKCS8")
        made = [make_key(tmp_path / f"key{number}", *kind.split()) for number, kind in enumerate(kinds)]
        server = start(authorized="".join(map(public, made)))
        for key in made:
            assert says(reach(server, server.config(IdentityFile=str(key)))) == b"ping"

    def test_too_many_keys(self, server: Server, refused: Refused, tmp_path: Path) -> None:
        many = [make_key(tmp_path / f"key{number}") for number in range(8)]
        refused(server, server.config(IdentityFile="\n  IdentityFile ".join(map(str, many))))

    def test_a_key_of_the_agent(
        self, server: Server, reach: Open, keys: Keys, agent: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = agent(keys.other, keys.user)
        config = server.config(IdentityFile="/nowhere/key", IdentityAgent=path, IdentitiesOnly="no")
        assert says(reach(server, config)) == b"ping"
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        config = server.config(IdentityFile="/nowhere/key", IdentityAgent="", IdentitiesOnly="no")
        assert says(reach(server, config)) == b"ping"

    def test_the_named_key_comes_before_the_many_of_the_agent(
        self, server: Server, reach: Open, keys: Keys, agent: Callable[..., str], tmp_path: Path
    ) -> None:
        path = agent(*(make_key(tmp_path / f"key{number}") for number in range(7)), keys.user)
        assert says(reach(server, server.config(IdentityAgent=path, IdentitiesOnly="no"))) == b"ping"

    def test_the_public_half_names_a_key_of_the_agent(
        self, server: Server, reach: Open, keys: Keys, agent: Callable[..., str], tmp_path: Path
    ) -> None:
        path = agent(*(make_key(tmp_path / f"key{number}") for number in range(7)), keys.user)
        (tmp_path / "only.pub").write_text(public(keys.user))
        for named in ("only.pub", "only"):
            config = server.config(IdentityAgent=path, IdentityFile=str(tmp_path / named))
            assert says(reach(server, config)) == b"ping"

    def test_a_dead_agent_is_passed_over(self, server: Server, reach: Open, tmp_path: Path) -> None:
        assert says(reach(server, server.config(IdentityAgent=str(tmp_path / "gone")))) == b"ping"

    def test_an_agent_that_will_not_sign(
        self, server: Server, reach: Open, keys: Keys, agent: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = agent()
        env = {**os.environ, "SSH_AUTH_SOCK": path, "SSH_ASKPASS": "/bin/false", "DISPLAY": ""}
        subprocess.run(["ssh-add", "-q", "-c", str(keys.other)], check=True, capture_output=True, env=env)
        config = server.config(
            IdentityFile=f"{keys.other}\n  IdentityFile {keys.user}", IdentityAgent=path, IdentitiesOnly="no"
        )
        assert says(reach(server, config)) == b"ping"

    def test_a_passphrase_is_for_ssh_to_ask(self, server: Server, refused: Refused, tmp_path: Path) -> None:
        for form in ("RFC4716", "PEM", "PKCS8"):
            key = make_key(tmp_path / form, "rsa", "-b", "2048", "-m", form, passphrase="open sesame")
            refused(server, server.config(IdentityFile=str(key)), form)

    @pytest.mark.parametrize("kind", ["ed25519", "rsa"])
    def test_a_certificate_beside_the_key(
        self, start: Start, reach: Open, tmp_path: Path, keys: Keys, agent: Callable[..., str], kind: str
    ) -> None:
        authority = make_key(tmp_path / "authority")
        key = make_key(tmp_path / "key", kind)
        sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", "me", "-n", ME, f"{key}.pub"]
        subprocess.run(sign, check=True, capture_output=True)
        server = start(f"TrustedUserCAKeys {authority}.pub", authorized=public(keys.other))
        assert says(reach(server, server.config(IdentityFile=str(key)))) == b"ping"
        path = agent(key)
        assert says(reach(server, server.config(IdentityFile=str(key), IdentityAgent=path))) == b"ping"
        elsewhere = tmp_path / "elsewhere.pub"
        Path(f"{key}-cert.pub").rename(elsewhere)
        config = server.config(IdentityFile=str(key), CertificateFile=str(elsewhere))
        assert says(reach(server, config)) == b"ping"

    def test_a_password_is_for_ssh_to_ask(self, start: Start, refused: Refused, keys: Keys) -> None:
        refused(start("PasswordAuthentication yes", authorized=public(keys.other)))
