"""Logging in: keys of every kind, agents, certificates, passphrases, passwords."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from remoterun.errors import AuthenticationError
from tests.sshd import (
    ME,
    Keys,
    Open,
    Server,
    Start,
    make_key,
    public,
    says,
)

pytestmark = pytest.mark.timeout(60)


class TestAuthentication:
    def test_a_wrong_key(self, server: Server, reach: Open, keys: Keys) -> None:
        with pytest.raises(AuthenticationError, match="refuses the key") as caught:
            reach(server, server.config(IdentityFile=str(keys.other))).open()
        assert f"{keys.other} (ED25519 SHA256:" in (caught.value.evidence or "")
        assert "ssh-copy-id" in (caught.value.hint or "") and "ssh -v" in (caught.value.hint or "")

    def test_no_key_at_all(self, server: Server, reach: Open) -> None:
        with pytest.raises(AuthenticationError, match="no key to log in with") as caught:
            reach(server, server.config(IdentityFile="/nowhere/key")).open()
        assert "/nowhere/key: no such file" in (caught.value.evidence or "")

    def test_several_keys(self, server: Server, reach: Open, keys: Keys) -> None:
        config = server.config(IdentityFile=f"{keys.other}\n  IdentityFile {keys.user}")
        assert says(reach(server, config)) == b"ping"

    @pytest.mark.parametrize("kind", ["rsa", "ecdsa", "rsa-pem", "pkcs8", "ecdsa-384"])
    def test_every_kind_of_key(self, start: Start, reach: Open, tmp_path: Path, kind: str) -> None:
        more = {
            "rsa": ("rsa", "-b", "2048"),
            "ecdsa": ("ecdsa",),
            "ecdsa-384": ("ecdsa", "-b", "384"),
            "rsa-pem": ("rsa", "-b", "2048", "-m", "PEM"),
            "pkcs8": ("ecdsa", "-m", "PKCS8"),
        }[kind]
        key = make_key(tmp_path / "key", *more)
        server = start(authorized=public(key))
        assert says(reach(server, server.config(IdentityFile=str(key)))) == b"ping"

    def test_too_many_keys(self, server: Server, reach: Open, tmp_path: Path) -> None:
        many = [make_key(tmp_path / f"key{number}") for number in range(8)]
        config = server.config(IdentityFile="\n  IdentityFile ".join(map(str, many)))
        with pytest.raises(AuthenticationError, match="accepts none of the 6 keys tried") as caught:
            reach(server, config).open()
        assert "Too many authentication failures" in (caught.value.evidence or "")
        assert "IdentitiesOnly" in (caught.value.hint or "")

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

    @pytest.mark.parametrize("form", ["openssh", "PEM", "PKCS8"])
    def test_a_passphrase_is_for_ssh_to_ask(self, server: Server, reach: Open, tmp_path: Path, form: str) -> None:
        more = () if form == "openssh" else ("-m", form)
        key = make_key(tmp_path / "locked", "rsa", "-b", "2048", *more, passphrase="open sesame")
        with pytest.raises(AuthenticationError) as caught:
            reach(server, server.config(IdentityFile=str(key))).open()
        assert f"{key}: needs a passphrase" in (caught.value.evidence or "")
        assert (caught.value.hint or "").startswith("remoterun login box ")

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

    def test_a_password_is_for_ssh_to_ask(self, start: Start, reach: Open, keys: Keys) -> None:
        server = start("PasswordAuthentication yes", authorized=public(keys.other))
        with pytest.raises(AuthenticationError, match="refuses the key") as caught:
            reach(server).open()
        assert "password: only a login by ssh asks for it" in (caught.value.evidence or "")
        assert (caught.value.hint or "").startswith("remoterun login box ")
