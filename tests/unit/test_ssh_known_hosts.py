from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.hosts.ssh.known_hosts import HostKey, KnownHosts, Standing, remember


def key(kind: str = "ssh-ed25519", body: bytes = b"one") -> HostKey:
    return HostKey(kind, len(kind).to_bytes(4, "big") + kind.encode() + body)


def line(names: str, shown: HostKey, marker: str = "") -> str:
    return f"{marker} {names} {shown.kind} {base64.b64encode(shown.blob).decode()} a comment\n".lstrip()


def known(tmp_path: Path, text: str) -> KnownHosts:
    file = tmp_path / "known_hosts"
    file.write_text(text)
    return KnownHosts.read([tmp_path / "absent", file])


@pytest.mark.parametrize(
    ("names", "asked", "matches"),
    [
        ("box", "box", True),
        ("box", "boxer", False),
        ("BOX", "box", True),
        ("a,box,b", "box", True),
        ("*.lab", "gpu.lab", True),
        ("*.lab", "lab", False),
        ("gpu?", "gpu1", True),
        ("*.lab,!bad.lab", "bad.lab", False),
        ("!bad.lab,*.lab", "bad.lab", False),
        ("!bad.lab,*.lab", "good.lab", True),
        ("!box", "other", False),
        ("[box]:22", "[box]:22", True),
        ("[box]:2222", "box", False),
        ("[*.lab]:2222", "[gpu.lab]:2222", True),
        ("[ab]", "a", False),
        ("|1|broken", "box", False),
        ("|1|!!|??", "box", False),
    ],
)
def test_names(tmp_path: Path, names: str, asked: str, matches: bool) -> None:
    verdict = known(tmp_path, line(names, key())).judge(asked, key())
    assert (verdict.standing is Standing.KNOWN) == matches


def test_changed_and_unknown(tmp_path: Path) -> None:
    hosts = known(tmp_path, "# first\n" + line("box", key(body=b"old")) + line("box", key("ssh-rsa")))
    changed = hosts.judge("box", key())
    assert changed.standing is Standing.CHANGED
    assert [found.place for found in changed.lines] == [f"{tmp_path}/known_hosts:2"]
    other_kind = hosts.judge("box", key("ecdsa-sha2-nistp256"))
    assert other_kind.standing is Standing.UNKNOWN and len(other_kind.lines) == 2
    assert hosts.judge("elsewhere", key()).standing is Standing.UNKNOWN
    assert hosts.kinds("box") == ("ssh-ed25519", "ssh-rsa")


def test_one_of_two_keys_is_enough(tmp_path: Path) -> None:
    hosts = known(tmp_path, line("box", key(body=b"old")) + line("box", key()))
    assert hosts.judge("box", key()).standing is Standing.KNOWN


def test_the_same_key_without_the_port(tmp_path: Path) -> None:
    hosts = known(tmp_path, line("box", key()))
    assert hosts.judge("[box]:2222", key()).standing is Standing.KNOWN
    assert hosts.judge("[box]:2222", key(body=b"other")).standing is Standing.UNKNOWN
    assert hosts.kinds("[box]:2222") == ("ssh-ed25519",)


def test_revoked_comes_first(tmp_path: Path) -> None:
    hosts = known(tmp_path, line("box", key()) + line("*", key(), "@revoked"))
    assert hosts.judge("box", key()).standing is Standing.REVOKED
    assert hosts.judge("box", key(body=b"other")).standing is Standing.CHANGED


def test_lines_that_say_nothing_leave_a_note(tmp_path: Path) -> None:
    text = "\n   \n# c\nbox\nbox ssh-rsa\nbox ssh-rsa ???\n@what box ssh-rsa AAAA\n"
    text += line("*", key(), "@cert-authority") + "box ssh-rsa " + line("x", key()).split()[2] + "\n"
    hosts = known(tmp_path, text + line("box", key()))
    assert hosts.judge("box", key()).standing is Standing.KNOWN
    assert [note.split(":")[1] for note in hosts.notes] == ["4", "5", "6", "7", "8", "9"]


def test_a_folder_in_its_place_leaves_a_note(tmp_path: Path) -> None:
    assert "directory" in KnownHosts.read([tmp_path]).notes[0]


@given(st.binary(max_size=300))
def test_any_bytes_can_be_read(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any"
    file.write_bytes(data + b"\n" + line("box", key()).encode())
    assert KnownHosts.read([file]).judge("box", key()).standing is Standing.KNOWN


@pytest.mark.parametrize("hashed", [False, True])
def test_remember(tmp_path: Path, hashed: bool) -> None:
    file = tmp_path / "ssh" / "known_hosts"
    remember(file, "[box]:2222", key(), hashed=hashed)
    remember(file, "other", key(body=b"two"), hashed=hashed)
    hosts = KnownHosts.read([file])
    assert hosts.judge("[box]:2222", key()).standing is Standing.KNOWN
    assert hosts.judge("other", key(body=b"two")).standing is Standing.KNOWN
    assert hosts.judge("box", key()).standing is Standing.UNKNOWN
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert ("other" in file.read_text()) != hashed


def test_remember_after_a_line_without_end(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(line("box", key()).rstrip("\n"))
    remember(file, "other", key(), hashed=False)
    assert len(KnownHosts.read([file]).lines) == 2


def test_remember_nowhere() -> None:
    remember(Path("/dev/null"), "box", key(), hashed=False)


def test_words() -> None:
    assert key().short_kind == "ED25519"
    assert key("ssh-rsa").short_kind == "RSA"
    assert key("ecdsa-sha2-nistp256").short_kind == "ECDSA"
    assert key().fingerprint.startswith("SHA256:") and not key().fingerprint.endswith("=")
