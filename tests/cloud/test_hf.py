"""Runs on hosts that Hugging Face's Jobs would give: `tests/rented_jobs.py` stands in for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from remoterun.clouds.base import Intent, RentedHost
from remoterun.clouds.hf.provider import HuggingFace
from remoterun.config import Config
from remoterun.model import MachineType, Rental, new_key
from tests.e2e.conftest import Place, make_place
from tests.rented_jobs import Jobs
from tests.workshop import until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    with Jobs(tmp_path / "hf") as found:
        yield found


@pytest.fixture
def place(jobs: Jobs, tmp_path: Path) -> Place:
    """A machine without anything of AWS."""
    found = make_place(tmp_path)
    return replace(found, env={**found.env, **jobs.environment, "AWS_EC2_METADATA_DISABLED": "true"})


def test_a_run_from_its_start_to_its_outputs(place: Place, jobs: Jobs) -> None:
    place.run("machines", "add", "hf-t4", "--provider", "hf", "--types", "t4-small", "--idle", "5s")
    assert "lisa" in place.run("doctor", "hf").stdout
    ran = place.run("run", "-t", "hf-t4", "-y", "--no-git", "echo hi; echo made >result")
    assert ran.stdout == "hi\n"
