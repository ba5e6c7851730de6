"""What `--json` prints, as JSON Schema: one page for programs and people; `remoterun help --schema` shows it.

Every listing is held to it by the tests. Fields may be added; none is renamed or taken away within a major version.
"""

from __future__ import annotations

import enum
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from remoterun.agent.shared.facts import MOMENT as A_MOMENT
from remoterun.agent.shared.measured import Progress
from remoterun.agent.shared.records import Record
from remoterun.agent.shared.spec import RunSpec
from remoterun.client.json_shapes import SPEC_MOMENTS
from remoterun.clouds import ARCHIVE
from remoterun.model import MachineType, Renting, Run
from remoterun.model.runs import FACTS_IN_JSON

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TEXT, NUMBER, COUNT, FLAG = {"type": "string"}, {"type": "number"}, {"type": "integer"}, {"type": "boolean"}
MOMENT = {"type": "string", "format": "date-time"}
"""UTC, as 2026-11-26T22:01:37.250Z."""


def _maybe(kind: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [kind, {"type": "null"}]}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _object(**fields: dict[str, Any]) -> dict[str, Any]:
    """All of these fields are there; others may be."""
    return {"type": "object", "properties": fields, "required": list(fields)}


def _record(kind: type[Record]) -> dict[str, Any]:
    """Of the JSON of a record. One that an older remoterun wrote may lack what has a default."""
    types = get_type_hints(kind)
    fields = {name: _typed(types[name], MOMENT if name in SPEC_MOMENTS else NUMBER) for name in kind._fields}
    return {"type": "object", "properties": fields, "required": [n for n in fields if n not in kind._field_defaults]}


def _typed(type_: Any, number: dict[str, Any] = NUMBER) -> dict[str, Any]:
    """Of a field of this type; `number`: what a float is in it."""
    arguments = get_args(type_)
    if get_origin(type_) in (Union, UnionType):
        return _maybe(_typed(arguments[0], number))
    if get_origin(type_) in (tuple, list):
        return _list(_typed(arguments[0]))
    if get_origin(type_) is dict:
        return {"type": "object", "additionalProperties": _typed(arguments[1])}
    if issubclass(type_, enum.Enum):
        return {"enum": [each.value for each in type_]}
    return number if type_ is float else _PLAIN[type_] if type_ in _PLAIN else _record(type_)


def _facts() -> dict[str, dict[str, Any]]:
    """Of what is known of a run."""
    types = get_type_hints(Run)
    moments = {True: MOMENT, False: NUMBER}
    return {each.json or name: _typed(types[name], moments[each.form == A_MOMENT]) for name, each in FACTS_IN_JSON}


_PLAIN: dict[Any, dict[str, Any]] = {str: TEXT, int: COUNT, bool: FLAG, MachineType: TEXT, Renting: {"type": "object"}}

RUN = _object(**_facts(), reachable=FLAG, cost=_maybe(NUMBER))
"""`reason` says why it ended; `exit_status` is the command's own, null before it has one; `outputs.size` in bytes;
`reachable`: whether its machine answered just now, else it is as it was `last_seen`."""
UPLOAD = _object(
    name=TEXT,
    version=COUNT,
    digest=TEXT,
    size=COUNT,
    files=COUNT,
    created=MOMENT,
    machine=TEXT,
    path=_maybe(TEXT),
    copies=_list(_object(machine=TEXT, last_seen=_maybe(MOMENT), reachable=FLAG)),
    runs=_list(COUNT),
)
ENTRY = _object(path=TEXT, kind={"enum": ["f", "d", "l"]}, size=_maybe(COUNT), sha256=_maybe(TEXT), target=_maybe(TEXT))
CHECK = _object(name=TEXT, ok=_maybe(FLAG), detail=_maybe(TEXT), fix=_maybe(TEXT))
BILLED = _object(name=TEXT, hours=NUMBER, cost=NUMBER, idle=NUMBER, complete=FLAG)
"""`complete`: false where the price of a host is not known, which is not in the sums then."""
FREED = _object(kind=TEXT, count=COUNT, bytes=COUNT)
REFUSED = _object(machine=TEXT, error=TEXT)
"""Of a machine of a pool that can't be asked."""


def _or_of_each(of: dict[str, Any]) -> dict[str, Any]:
    """Of one machine; of a pool a list, with each of its machines."""
    return {"anyOf": [of, _list({"anyOf": [of, REFUSED]})]}


SCHEMAS: dict[str, dict[str, Any]] = {
    "ps": _list(RUN),
    "run": RUN,
    "wait": _list(RUN),
    "info": {
        "allOf": [
            RUN,
            _object(spec=_maybe(_record(RunSpec)), events=_maybe(_list({"type": "object"})), folder=_maybe(TEXT)),
        ]
    },
    "metrics": _list(
        _object(
            number=COUNT,
            state=TEXT,
            left=_maybe(NUMBER),
            cost_left=_maybe(NUMBER),
            cut_at=_maybe(NUMBER),
            total=_maybe(NUMBER),
            progress=_maybe(_record(Progress)),
        )
    ),
    "ls": {
        "anyOf": [
            _list(UPLOAD),
            _object(resource=TEXT, live=FLAG, folder=TEXT, entries=_list(ENTRY)),
        ]
    },
    "upload": {"allOf": [UPLOAD, _object(new=FLAG, bytes_sent=COUNT, bytes_present=COUNT)]},
    "publish": _object(folder=TEXT, files=COUNT, size=COUNT, card={"type": "object", "additionalProperties": TEXT}),
    "cp": _object(to=TEXT, files=COUNT, bytes=COUNT, bytes_present=COUNT, kept=_list(TEXT), damaged=_list(TEXT)),
    "machines": _list(_object(name=TEXT, default=FLAG)),
    "machines rented": _list(
        _object(
            id=TEXT,
            token=TEXT,
            state=TEXT,
            type=TEXT,
            zone=TEXT,
            spot=FLAG,
            price=_maybe(NUMBER),
            extra=NUMBER,
            number=COUNT,
            began=MOMENT,
            ends_at=MOMENT,
            cost=_maybe(NUMBER),
            serves=_maybe(COUNT),
            idle_since=_maybe(MOMENT),
            ends_idle=_maybe(MOMENT),
        )
    ),
    "bill": _object(
        since=MOMENT,
        until=MOMENT,
        by={"enum": ["day", "run", "machine"]},
        rows=_list(BILLED),
        total=BILLED,
        billed={"type": "object", "additionalProperties": _list(_object(day=TEXT, dollars=NUMBER, token=TEXT))},
        bucket=_object(bytes=_maybe(COUNT), monthly=_maybe(NUMBER)),
    ),
    "secret": _list(_object(name=TEXT, set=MOMENT, kept=TEXT)),
    "doctor": {"anyOf": [_list(CHECK), _list({"anyOf": [_object(machine=TEXT, checks=_list(CHECK)), REFUSED]})]},
    "machines check": _or_of_each(
        _object(machine=TEXT, blobs=COUNT, bytes=COUNT, sound=FLAG, damage=_list({"type": "object"}))
    ),
    "machines gc": _or_of_each(
        _object(machine=TEXT, dry_run=FLAG, freed=COUNT, free=COUNT, parts=_list(FREED), kept=_list(FREED))
    ),
    "machines df": _or_of_each(
        _object(machine=TEXT, home=TEXT, total=COUNT, free=COUNT, disk=COUNT, uses=_list({"type": "object"}))
    ),
    "whoami": _object(
        user=TEXT, machine=TEXT, home=TEXT, settings=TEXT, default=TEXT, bucket=_maybe(TEXT), **{ARCHIVE: _maybe(TEXT)}
    ),
}
"""By command. Sizes are in bytes, prices in US dollars an hour, costs in US dollars."""


def schema(command: str) -> dict[str, Any]:
    """The schema of what `remoterun COMMAND --json` prints. Raises `KeyError`."""
    return {"$schema": DIALECT, "title": f"remoterun {command} --json", **SCHEMAS[command]}
