"""What the quick packet path needs of paramiko is there; and what happens where it isn't."""

from __future__ import annotations

import pytest

from remoterun.cli.commands import maintenance as doctor
from remoterun.hosts.ssh import internals
from remoterun.hosts.ssh.internals import INTERNALS, Internal


@pytest.mark.parametrize("internal", INTERNALS, ids=lambda internal: f"{internal.owner}.{internal.name}")
def test_each_is_in_the_installed_version(internal: Internal) -> None:
    assert internals.exists(internal)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("paramiko.packet.Packetizer", "no_such_method"),
        ("paramiko.channel.Channel", "no_such_attribute"),
        ("paramiko.packet.NoSuchClass", ""),
        ("paramiko.no_such_module.Packetizer", "send_message"),
    ],
)
def test_one_that_is_gone_is_missing(monkeypatch: pytest.MonkeyPatch, owner: str, name: str) -> None:
    monkeypatch.setattr(internals, "INTERNALS", (*INTERNALS, Internal(owner, name, "a later paramiko")))
    internals.missing.cache_clear()
    assert internals.missing() == (f"{owner}.{name}".rstrip("."),)
    internals.missing.cache_clear()


def test_doctor_says_so_and_is_not_red(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.packets() == []
    monkeypatch.setattr(internals, "missing", lambda: ("paramiko.channel.Channel.lock",))
    (line,) = doctor.packets()
    assert line.name == "packets" and line.ok is None
    assert line.detail.startswith("paramiko's own; the quick path needs paramiko 5")
