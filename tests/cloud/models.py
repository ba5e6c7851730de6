"""Answers of the cloud's API, held against botocore's own models of it: what these do not name, AWS does not answer."""

from __future__ import annotations

import functools
import json
from typing import Any
from xml.etree import ElementTree

import botocore.session
from botocore.model import ServiceModel
from botocore.utils import parse_timestamp

NAMES = {"servicequotas": "service-quotas"}
"""The service of a signature → botocore's name for it."""
AROUND = {"requestId", "RequestId", "ResponseMetadata"}
"""Elements of an answer that are no part of its shape."""
READ = {"integer": int, "long": int, "float": float, "double": float, "timestamp": parse_timestamp}
KINDS: dict[str, Any] = {"integer": (int,), "long": (int,), "float": (int, float), "double": (int, float)}
KINDS |= {"boolean": (bool,), "string": (str,), "timestamp": (int, float, str), "list": (list,), "structure": (dict,)}


def wrong(service: str, action: str, answer: bytes) -> list[str]:
    """What is not as published in an answer that is no error."""
    model = _model(NAMES.get(service, service))
    shape = model.operation_model(action).output_shape if action in model.operation_names else None
    if shape is None or not answer.strip():
        return []
    if not answer.lstrip().startswith(b"<"):
        found = _of_json(json.loads(answer), shape, action)
    else:
        root = ElementTree.fromstring(answer)
        wrapper = shape.serialization.get("resultWrapper")
        result = next((each for each in root if _tag(each) == wrapper), None) if wrapper else root
        found = [f"{action}: no {wrapper}"] if result is None else _of_xml(result, shape, action)
    return found


@functools.cache
def _model(service: str) -> ServiceModel:
    return botocore.session.get_session().get_service_model(service)


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _of_xml(element: ElementTree.Element, shape: Any, where: str) -> list[str]:
    if shape.type_name == "structure":
        members = {_name_in_xml(name, each): each for name, each in shape.members.items()}
        found = []
        for each in element:
            if (member := members.get(_tag(each))) is not None:
                is_flat = member.serialization.get("flattened") and member.type_name == "list"
                found += _of_xml(each, member.member if is_flat else member, f"{where}.{_tag(each)}")
            elif _tag(each) not in AROUND:
                found.append(f"{where}.{_tag(each)}: no such field")
        return found
    if shape.type_name == "list":
        name = shape.member.serialization.get("name", "member")
        odd = [f"{where}.{_tag(each)}: no such item" for each in element if _tag(each) != name]
        return odd + [it for each in element if _tag(each) == name for it in _of_xml(each, shape.member, where)]
    return _of_text((element.text or "").strip(), shape, where)


def _name_in_xml(name: str, member: Any) -> str:
    if member.type_name == "list" and member.serialization.get("flattened"):
        return str(member.member.serialization.get("name") or member.serialization.get("name", name))
    return str(member.serialization.get("name", name))


def _of_text(text: str, shape: Any, where: str) -> list[str]:
    if shape.type_name == "boolean":
        return [] if text in ("true", "false") else [f"{where}: {text!r} is no boolean"]
    if shape.type_name == "string":
        return _of_enum(text, shape, where)
    try:
        READ.get(shape.type_name, str)(text)
    except ValueError:
        return [f"{where}: {text!r} is no {shape.type_name}"]
    return []


def _of_enum(text: str, shape: Any, where: str) -> list[str]:
    return [] if not shape.enum or text in shape.enum else [f"{where}: {text!r} is none of its values"]


def _of_json(value: Any, shape: Any, where: str) -> list[str]:
    if value is None or shape.type_name not in KINDS:
        return []
    if not isinstance(value, KINDS[shape.type_name]):
        return [f"{where}: {value!r} is no {shape.type_name}"]
    if shape.type_name == "structure":
        members = {each.serialization.get("name", name): each for name, each in shape.members.items()}
        known = [
            it
            for name, each in value.items()
            if name in members
            for it in _of_json(each, members[name], f"{where}.{name}")
        ]
        return [f"{where}.{name}: no such field" for name in value if name not in members] + known
    if shape.type_name == "list":
        return [it for each in value for it in _of_json(each, shape.member, where)]
    return _of_enum(value, shape, where) if isinstance(value, str) and shape.type_name == "string" else []
