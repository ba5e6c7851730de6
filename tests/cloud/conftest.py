"""Fixtures that several files of this folder share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cloud.cloud import Cloud
from tests.cloud.renters import Client
from tests.e2e.conftest import Place, make_place

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud


from remoterun.archive import writing
from tests.cloud.archives import SMALL_PACK


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is true of some packs of `SMALL_PACK` bytes is true of some of 32 MiB."""
    monkeypatch.setattr(writing, "PACK", SMALL_PACK)


@pytest.fixture
def client(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    return Client(tmp_path / "home")


@pytest.fixture
def place(cloud: Cloud, tmp_path: Path) -> Place:
    cloud.s3.ready()
    made = make_place(tmp_path)
    made.env.update(cloud.environment())
    return made
