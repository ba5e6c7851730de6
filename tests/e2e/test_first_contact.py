"""The first contact with a machine, at a terminal: its key is unknown, and it wants a password."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Place, make_place
from tests.e2e.said import INTERRUPT, talk
from tests.lab import Lab, LabHost

PASSWORD = "correct horse"
UPLOAD = ("upload", "notes.txt", "--name", "notes")


@pytest.fixture
def place(lab: Lab, new_host: Callable[..., LabHost], tmp_path: Path) -> Iterator[Place]:
    """The user of a host that takes passwords only and was never seen before, its machine `box`."""
    short = tempfile.mkdtemp(prefix="rr")  # a socket's path has 107 bytes at most
    host = new_host()
    host.exec(["chpasswd"], input=f"me:{PASSWORD}\n", check=True)
    settings = host.path("/etc/ssh/sshd_config")
    settings.write_text(settings.read_text().replace("PasswordAuthentication no", "PasswordAuthentication yes"))
    host.stop_sshd()
    host.start_sshd()
    config = tmp_path / "ssh_config"
    config.write_text(
        f"Host box\n  HostName {host.address}\n  Port {host.port}\n  User me\n"
        f"  UserKnownHostsFile {tmp_path / 'known_hosts'}\n  IdentityFile none\n  IdentityAgent none\n"
        f"  ControlPath {short}/%C\n"
    )
    place = make_place(tmp_path, config)
    place.run("machines", "add", "box", "box", "--engine", "process", "--default")
    yield place
    place.run("logout", "box")
    shutil.rmtree(short)


def test_the_key_and_the_password_are_asked_for(place: Place) -> None:
    shown = re.compile("has not been seen before.*SHA256:", re.DOTALL)
    said = talk(place.spawn(*UPLOAD), shown, None, "the machine you mean", "y", "password:", PASSWORD)
    assert "uploads/notes" in said and PASSWORD not in said, "it is not shown"

    assert "notes.txt" in place.run("ls", "uploads/notes").stdout, "for some minutes nobody is asked again"
    place.run("logout", "box")
    assert place.run("ls", "uploads/notes", status=125).stderr


def test_a_key_that_is_not_the_machines_is_not_remembered(place: Place) -> None:
    assert "password" not in talk(place.spawn(*UPLOAD), "the machine you mean", "n", status=125)
    talk(place.spawn(*UPLOAD), "has not been seen before", INTERRUPT, status=130)


def test_a_wrong_password_and_nobody_to_ask(place: Place) -> None:
    wrong = ("password:", "wrong one") * 3
    talk(place.spawn(*UPLOAD), "the machine you mean", "y", *wrong, "ssh did not log in to `box`", status=125)
    done = place.run("ls", "uploads/notes", status=125)  # without a terminal
    assert "password: only a login by ssh asks for it" in done.stderr and "Traceback" not in done.stderr
