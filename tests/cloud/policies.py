"""Policies of IAM, as far as those that remoterun makes and needs go. A word that is not known here allows nothing."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any


def allowed(documents: Iterable[str], action: str, resource: str, context: Mapping[str, str]) -> bool:
    """Whether policies allow an action ("s3:PutObject") on a resource; `context`: the values of condition keys, such as
    "aws:userid"."""
    statements = [each for document in documents for each in _listed(json.loads(document)["Statement"])]
    matching = [each for each in statements if _matches(each, action, resource, context)]
    return bool(matching) and all(each["Effect"] == "Allow" for each in matching)


def trusts(document: str, service: str) -> bool:
    """Whether a role may be assumed by a service ("ec2.amazonaws.com")."""
    return any(
        each["Effect"] == "Allow"
        and each["Action"] == "sts:AssumeRole"
        and service in _listed(each["Principal"].get("Service", []))
        for each in _listed(json.loads(document)["Statement"])
    )


def _matches(statement: dict[str, Any], action: str, resource: str, context: Mapping[str, str]) -> bool:
    if set(statement) - {"Sid", "Effect", "Action", "Resource", "Condition"}:
        return False
    return (
        any(_is_like(action.lower(), each.lower()) for each in _listed(statement["Action"]))
        and any(_is_like(resource, _filled(each, context)) for each in _listed(statement["Resource"]))
        and all(
            _holds(operator, key, _listed(values), context)
            for operator, keys in statement.get("Condition", {}).items()
            for key, values in keys.items()
        )
    )


def _holds(operator: str, key: str, values: list[str], context: Mapping[str, str]) -> bool:
    found = next((value for name, value in context.items() if name.lower() == key.lower()), None)
    if operator == "Null":
        return values == [str(found is None).lower()]
    filled = [_filled(each, context) for each in values]
    if found is None:
        return False
    if operator == "StringEquals":
        return found in filled
    return operator in ("StringLike", "ArnLike") and any(_is_like(found, each) for each in filled)


def _filled(text: str, context: Mapping[str, str]) -> str:
    """With the values of `${aws:userid}` and so on; what is not known matches nothing."""
    return re.sub(r"\$\{([^}]+)\}", lambda found: context.get(found[1], "\0"), text)


def _is_like(text: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(text, pattern.replace("[", "[[]"))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
