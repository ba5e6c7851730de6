"""The parameters in simple YAML, as of Lightning's `hparams.yaml` and hydra's `config.yaml`: `name: value`, and what is
indented below a name. A line of another form is left out."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Tuple

from . import Point
from .lines import params

LONGEST = 500  # Characters of a line: the expression takes the square of it.
_LINE = re.compile(r"( *)([\w./-]+):(?: +(.*?))?(?: +#.*)?\s*")


def read(data: bytes, state: Dict[str, Any]) -> Tuple[List[Point], int]:
    found: Dict[str, str] = {}
    above: List[Tuple[int, str]] = []
    lines = (line for line in data.decode("utf-8", "replace").splitlines() if len(line) <= LONGEST)
    for line in filter(None, map(_LINE.fullmatch, lines)):
        indent, name, value = len(line[1]), line[2], line[3] or ""
        above = [each for each in above if each[0] < indent] + [(indent, name)]
        if value and value[0] not in "&|>!#":
            quoted = len(value) > 1 and value[0] in "'\"" and value[-1] == value[0]
            found["/".join(each for _, each in above[-8:])] = value[1:-1] if quoted else value
    state["params"] = params(found)
    return [], len(data)
