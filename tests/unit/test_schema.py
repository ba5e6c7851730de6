"""What programs rely on: names of the package, and the shape of what `--json` prints."""

from __future__ import annotations

import json
import subprocess
import sys

import jsonschema
import pytest

import remoterun
from remoterun.agent.shared.states import RunState
from remoterun.cli.render.output import iso, out_json
from remoterun.cli.schema import SCHEMAS, schema
from remoterun.errors import UsageError
from remoterun.model import MachineType, Mount, Run, RunRequest


def test_every_public_name_is_there_and_is_imported_on_its_first_use() -> None:
    for name in remoterun.__all__:
        assert getattr(remoterun, name) is not None and name in dir(remoterun)
    with pytest.raises(AttributeError, match="`Clinet`"):
        remoterun.Clinet  # noqa: B018
    code = "import remoterun, sys; print([name for name in sys.modules if name.startswith('remoterun.')])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "['remoterun.on_use']\n"
    )


def test_mounts_may_be_given_as_they_are_typed() -> None:
    assert RunRequest("true", mounts=("uploads/doom:data",)).mounts == (Mount.parse("uploads/doom:data"),)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        RunRequest("true", mounts=("doom",))  # type: ignore[arg-type]


@pytest.mark.parametrize("command", SCHEMAS)
def test_every_schema_is_one(command: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(command))


def test_a_run_in_every_state(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(1, "key", MachineType("local"), RunState.QUEUED, "true", 1_795_000_000.25, labels=("a",))
    out_json([{**run.record(), "state": state.value} for state in RunState])
    said = json.loads(capsys.readouterr().out)
    jsonschema.validate(said, schema("ps"))
    assert said[0]["created"] == "2026-11-18T11:06:40.250Z" == iso(1_795_000_000.25)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate([{**said[0], "created": 1.5}], schema("ps"))


def test_what_is_no_moment_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    out_json({"created": True, "set": None, "env": {"t": "5"}, "items": [{"t": 0, "size": 5}]})
    said = json.loads(capsys.readouterr().out)
    expected = {
        "created": True,
        "set": None,
        "env": {"t": "5"},
        "items": [{"t": "1970-01-01T00:00:00.000Z", "size": 5}],
    }
    assert said == expected
