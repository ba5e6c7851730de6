"""Fixtures that several files of this folder share."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoterun.model import MachineType
from tests.boxes import Box
from tests.lab import Lab, LabHost
from tests.sshd import agent, keys, reach, refused, server, start
from tests.workshop import Place

__all__ = ["agent", "keys", "reach", "refused", "server", "start"]


Boxes = Callable[..., Box]


@pytest.fixture
def box_of(
    lab: Lab, tmp_path: Path, new_host: Callable[..., LabHost], kept_host: Callable[..., LabHost]
) -> Iterator[Boxes]:
    """`box_of(host)`: the host with a fresh home."""
    del new_host, kept_host  # named here so that such hosts are discarded or mended after they were looked through
    made: list[Box] = []

    def make(host: LabHost) -> Box:
        made.append(Box(lab, host, tmp_path / f"home-{len(made)}", f"faults/{os.urandom(4).hex()}"))
        return made[-1]

    yield make
    for box in made:
        box.clean_up()


@pytest.fixture(scope="module")
def kept_place(tmp_path_factory: pytest.TempPathFactory, environment: Path) -> Iterator[Place]:
    """One `place` for all tests of a file: each looks at its own runs alone."""
    place = Place(tmp_path_factory.mktemp("place") / "home", environment)
    yield place
    place.close()


@pytest.fixture
def silent() -> Iterator[MachineType]:
    """A machine that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield MachineType("silent", host=f"me@127.0.0.1:{listener.getsockname()[1]}", connect_timeout=60)
