"""What no linter of imports holds of the rooms: what they reach for, and how large they are."""

from __future__ import annotations

from pathlib import Path

import pytest

PRODUCT = Path(__file__).parents[2] / "remoterun"


def test_the_command_line_and_the_page_ask_nouns_and_no_registry() -> None:
    files = [*PRODUCT.glob("cli/**/*.py"), *PRODUCT.glob("ui/*.py"), PRODUCT / "job.py"]
    assert [file.name for file in files if ".registry" in file.read_text()] == ["complete.py"]


@pytest.mark.parametrize("room", ["runs", "sets", "data", "live", "exports", "upkeep"])
def test_a_room_of_the_client_fits_a_head(room: str) -> None:
    files = [file for file in (PRODUCT / "client" / room).glob("*.py") if file.name != "__init__.py"]
    assert len(files) <= 12 and sum(len(file.read_text().splitlines()) for file in files) <= 3000
