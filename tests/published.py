"""What a stand-in is asked and answers, held against the service's own description of its interface.

    with Published("runpod-v2") as api:      tests/apis/runpod-v2.json
        status, answer = api.exchange("POST", "/v2/pods?count=1", body, lambda: (201, {…}))

A description is `{"source": …, "endpoints": {"POST /v2/pods/{id}": {"query": {name: schema}, "request": schema,
"answers": {"200": schema, "default": schema}}}}`, each schema of JSON Schema 2020-12. A string in the place of a schema
means that it is not checked. Stricter than the schemas are: no field may be sent or answered that they do not name.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema

APIS = Path(__file__).parent / "apis"


class Published:
    """Leaving its context raises AssertionError if anything in `violations`. It may be used by several threads."""

    def __init__(self, name: str) -> None:
        self.endpoints = json.loads((APIS / f"{name}.json").read_text())["endpoints"]
        self.violations: list[str] = []

    def __enter__(self) -> Published:
        return self

    def __exit__(self, *_: object) -> None:
        assert not self.violations, "against the published interface:\n" + "\n".join(self.violations)

    def exchange(self, method: str, target: str, body: Any, answer: Callable[[], tuple[int, Any]]) -> tuple[int, Any]:
        """The status and JSON to send (None: no body): what `answer` returns, or 400 where that or the request is
        not as published. `target`: path and query; `body`: JSON, None where there is none."""
        if wrong := self.check_request(method, target, body):
            return 400, {"error": wrong}
        status, answered = answer()
        wrong = self.check_answer(method, target, status, answered)
        return (400, {"error": wrong}) if wrong else (status, answered)

    def filled(self, method: str, target: str, status: int, answer: Any) -> Any:
        """The answer, in which each required field that it lacks has a value that says nothing."""
        answers = (self._endpoint(method, urllib.parse.urlsplit(target).path) or {}).get("answers", {})
        schema = answers.get(str(status), answers.get("default"))
        return answer if answer is None or not isinstance(schema, dict) else _filled(schema, answer)

    def check_request(self, method: str, target: str, body: Any = None) -> str:
        """Returns what is wrong with a request, and records it; "" if nothing is."""
        split = urllib.parse.urlsplit(target)
        if (endpoint := self._endpoint(method, split.path)) is None:
            return self._record(method, target, ["no such endpoint"])
        wrong, known = [], endpoint.get("query", {})
        for name, values in urllib.parse.parse_qs(split.query, keep_blank_values=True).items():
            if isinstance(known, str):
                break
            readings = [_errors(each, known[name]) for each in _readings(values)] if name in known else [["unknown"]]
            wrong += [] if [] in readings else [f"query {name}: {each}" for each in readings[0]]
        schema = endpoint.get("request")
        if schema is not None:
            wrong += [f"request {each}" for each in _errors(body, schema)]
        elif body is not None:
            wrong.append("request: it has no body")
        return self._record(method, target, wrong)

    def check_answer(self, method: str, target: str, status: int, answered: Any) -> str:
        """Returns what is wrong with an answer, and records it; "" if nothing is. An error whose status is not
        described is not checked."""
        endpoint = self._endpoint(method, urllib.parse.urlsplit(target).path)
        answers = (endpoint or {}).get("answers", {})
        if isinstance(answers, str):
            return ""
        schema = answers.get(str(status), answers.get("default", "" if status >= 400 else False))
        if schema is None:
            wrong = [] if answered is None else ["it has no body"]
        else:
            wrong = _errors(answered, schema)
        return self._record(method, target, [f"answer {status} {each}" for each in wrong])

    def _endpoint(self, method: str, path: str) -> dict[str, Any] | None:
        words = path.strip("/").split("/")
        found = []
        for name, endpoint in self.endpoints.items():
            its_method, _, its_path = name.partition(" ")
            its_words = its_path.strip("/").split("/")
            is_it = len(words) == len(its_words) and all(
                b == a or b[:1] == "{" for a, b in zip(words, its_words, strict=True)
            )
            if its_method == method and is_it:
                found.append((sum(each[:1] == "{" for each in its_words), endpoint))
        return min(found, key=lambda each: each[0])[1] if found else None

    def _record(self, method: str, target: str, wrong: list[str]) -> str:
        self.violations += [f"{method} {target}: {each}" for each in wrong]
        return "; ".join(wrong)


def _errors(value: Any, schema: Any) -> list[str]:
    if isinstance(schema, str):
        return []
    validator = jsonschema.Draft202012Validator(_strict(schema), format_checker=jsonschema.FormatChecker())
    return [f"{each.json_path}: {each.message[:300]}" for each in validator.iter_errors(value)]


def _strict(schema: Any, is_whole: bool = True) -> Any:
    """The schema without unknown fields, wherever it names any. `is_whole`: no branch of an `allOf` or the like."""
    if not isinstance(schema, dict):
        return schema
    strict = {**schema}
    for word in ("allOf", "anyOf", "oneOf"):
        if word in schema:
            strict[word] = [_strict(each, False) for each in schema[word]]
    if "properties" in schema:
        strict["properties"] = {name: _strict(each) for name, each in schema["properties"].items()}
    for word in ("items", "additionalProperties"):
        if word in schema:
            strict[word] = _strict(schema[word])
    return {**strict, "unevaluatedProperties": False} if is_whole and _names_fields(schema) else strict


def _flat(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with the fields of its `allOf` as its own: what one branch requires, another may describe."""
    flat: dict[str, Any] = {name: each for name, each in schema.items() if name != "allOf"}
    for branch in map(_flat, schema.get("allOf", ())):
        fields = {**flat.get("properties", {}), **branch.get("properties", {})}
        required = [*flat.get("required", ()), *branch.get("required", ())]
        flat = {**flat, **branch, **({"properties": fields, "required": required} if fields else {})}
    return flat


def _filled(schema: dict[str, Any], value: Any = None) -> Any:
    schema = _flat(schema)
    branches, kinds = schema.get("anyOf") or schema.get("oneOf") or (), schema.get("type", ())
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    if branches:
        is_null = value is None and any(each.get("type") == "null" for each in branches)
        return None if is_null else _filled(branches[0], value)
    if "properties" in schema and (isinstance(value, dict) or (value is None and "null" not in kinds)):
        fields, known = value or {}, schema["properties"]
        wanted = [each for each in known if each in fields or each in schema.get("required", ())]
        return {**fields, **{each: _filled(known[each], fields.get(each)) for each in wanted}}
    if isinstance(value, list) and "items" in schema:
        return [_filled(schema["items"], each) for each in value]
    if value is not None or not kinds or "null" in kinds:
        return value
    empty = {"string": "x", "integer": schema.get("minimum", 0), "number": schema.get("minimum", 0), "boolean": False}
    if schema.get("format") == "date-time":
        return "2026-01-01T00:00:00Z"
    return schema["enum"][0] if "enum" in schema else {**empty, "array": [], "object": {}}[kinds[0]]


def _names_fields(schema: Any) -> bool:
    branches = [each for word in ("allOf", "anyOf", "oneOf") for each in schema.get(word, ())]
    return "properties" in schema or any(_names_fields(each) for each in branches)


def _readings(values: list[str]) -> list[Any]:
    """What a query's text may mean: itself, its JSON, or a list of those."""
    texts = [each for value in values for each in value.split(",")]
    found: list[Any] = [values[0]] if len(values) == 1 else []
    for text in values[:1]:
        try:
            found.append(json.loads(text))
        except ValueError:
            pass
    return [*found, values, texts]
