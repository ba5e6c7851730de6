"""What programs rely on: names of the package, and the shape of what `--json` prints."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import jsonschema
import pytest

import remoterun
from remoterun.agent.shared.states import RunState
from remoterun.cli.render import out_json
from remoterun.cli.schema import SCHEMAS, schema
from remoterun.client import json_shapes
from remoterun.job import More
from remoterun.model import HostUse, MachineType, Renting, Run, RunRequest
from remoterun.sizes import iso


def test_every_public_name_is_there_and_is_imported_on_its_first_use() -> None:
    assert dir(remoterun) == sorted([*remoterun.__all__, "__version__"])
    assert all(getattr(remoterun, name) is not None for name in dir(remoterun))
    with pytest.raises(AttributeError, match="`Clinet`"):
        getattr(remoterun, "Clinet")  # noqa: B009
    code = "import remoterun, sys; print([name for name in sys.modules if name.startswith('remoterun.')])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "['remoterun.on_use']\n"
    )


def test_the_library_takes_what_may_be_asked_of_a_run() -> None:
    """Each field by its name and of its type; a list may stand for a tuple. `Client.run` names five itself."""
    itself = {"command", "gpus", "mounts", "env", "secrets"}
    not_asked = {"options", "beside"}
    fields, keywords = get_type_hints(RunRequest), get_type_hints(More)
    assert keywords.keys() == fields.keys() - itself - not_asked
    for name, kind in keywords.items():
        assert plain(kind) == plain(fields[name]), name


def plain(kind: Any) -> set[Any]:
    """The types of a value, or of each value of a list."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return {get_args(each)[0] if get_origin(each) in (tuple, list, Sequence) else each for each in kinds}


@pytest.mark.parametrize("command", SCHEMAS)
def test_every_schema_is_one(command: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(command))


def test_a_run_in_every_state(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(1, "key", RunState.QUEUED, MachineType("local"), "true", 1_795_000_000.25, labels=("a",))
    out_json([{**run.record(), "state": state.value} for state in RunState])
    said = json.loads(capsys.readouterr().out)
    jsonschema.validate(said, schema("ps"))
    assert said[0]["created"] == "2026-11-18T11:06:40.250Z" == iso(1_795_000_000.25)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate([{**said[0], "created": 1.5}], schema("ps"))


def test_moments_of_a_run_are_texts_that_programs_read() -> None:
    """Those of its hosts and of its events, too; fields of others that have such a name stay as they are."""
    hosts = (HostUse("i-0", "t", "r", "z", 0.5, 5.0, deadline=6.0),)
    run = Run(1, "key", RunState.QUEUED, MachineType("local"), "true", 5.0, renting=Renting(6.0, hosts=hosts))
    spec = {"created": 5.0, "env": {"t": "5", "created": "6"}}
    events = [{"t": 0.0, "note": "n"}, {"t": 5.25, "state": "queued"}]
    said = json_shapes.run_info(run, {"spec": spec, "folder": "f", "events": events})
    five, six = "1970-01-01T00:00:05.000Z", "1970-01-01T00:00:06.000Z"
    assert said["created"] == said["renting"]["hosts"][0]["began"] == five and said["ended"] is None
    assert said["renting"]["deadline"] == said["renting"]["hosts"][0]["deadline"] == six
    assert said["spec"] == {"created": five, "env": {"t": "5", "created": "6"}}
    assert [event["t"] for event in said["events"]] == ["1970-01-01T00:00:00.000Z", "1970-01-01T00:00:05.250Z"]
    assert (iso(-1e300), iso(1e300)) == ("1970-01-01T00:00:00.000Z", "9999-12-31T23:59:59.000Z"), "a host may say so"
    nothing = json_shapes.run_info(run, {"spec": None, "folder": None, "events": None})
    assert nothing["spec"] is nothing["events"] is None
