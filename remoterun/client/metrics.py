"""The numbers that a run writes of its training: a line of JSON in `metrics.jsonl` for each moment."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import posixpath
import tempfile
from pathlib import Path

from remoterun import transfer
from remoterun.agent.shared.spec import ResourceRef
from remoterun.agent.shared.tree import Manifest
from remoterun.client.stores import Store, fetch
from remoterun.errors import SomeDamaged
from remoterun.model import Run

METRICS = "metrics.jsonl"
LARGEST, LONGEST_LINE = 4 << 20, 4096
"""Bytes of a file that is read, and of a line."""


def loss(store: Store, run: Run) -> list[float]:
    found = numbers(store, run)
    return next((found[name] for name in ("train_loss", "loss", "val_loss") if name in found), [])


def numbers(store: Store, run: Run) -> dict[str, list[float]]:
    """All values of each name that a run has written so far, in their order, as far as that file is not too large."""

    def choose(tree: Manifest, _: object) -> Manifest:
        named = (entry for entry in tree.files if posixpath.basename(entry.path) == METRICS and entry.size <= LARGEST)
        return Manifest(itertools.islice(named, 1))

    resource = ResourceRef("run", key=run.key, number=run.number)
    with tempfile.TemporaryDirectory(prefix="remoterun-") as folder:
        with contextlib.suppress(SomeDamaged):
            fetch(store, resource, Path(folder), transfer.refuse, transfer.Progress(), into=True, choose=choose)
        return next((parse(file.read_bytes()) for file in Path(folder).rglob(METRICS)), {})


def parse(text: bytes) -> dict[str, list[float]]:
    """Of lines such as `{"name": NAME, "value": V}`, or `{NAME: V, …}`. Others are left out."""
    found: dict[str, list[float]] = {}
    for line in text.splitlines():
        with contextlib.suppress(ValueError, TypeError, ArithmeticError, AttributeError, RecursionError):
            record = json.loads(line) if len(line) <= LONGEST_LINE else {}
            pairs = [(record["name"], record.get("value"))] if "name" in record else record.items()
            for name, value in pairs:
                if isinstance(value, (int, float)) and math.isfinite(value):
                    found.setdefault(str(name), []).append(float(value))
    return found
