"""What differs between two runs: what was asked for, the files that were sent, how they ended."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from remoterun.agent.shared import api
from remoterun.agent.shared.asked import HandedOn, Packages
from remoterun.agent.shared.records import same_fields
from remoterun.agent.shared.spec import ResourceRef, RunSpec
from remoterun.agent.shared.tree import Entry
from remoterun.client import metrics
from remoterun.client.connections import Connections
from remoterun.client.reruns import read_spec
from remoterun.client.stores import Store
from remoterun.model import Run
from remoterun.parsing import duration_text

LARGEST = 512 << 10
"""Bytes of the largest file whose lines are compared; larger ones are only named."""
MOST = 16 << 20
"""Bytes of all files whose lines are compared."""
_LOOKED_INTO = 8000
"""Bytes in which a zero byte tells that a file is not text, as for git."""


@dataclass(frozen=True)
class FileChange:
    """A file of the source that is another, or is only in one of them (None). `lines`: of a unified diff; none for what
    is not text, or too large, or not kept any more."""

    path: str
    before: Entry | None
    after: Entry | None
    lines: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return "added" if self.before is None else "removed" if self.after is None else "changed"

    @property
    def added(self) -> int:
        return sum(line.startswith("+") for line in self.lines[2:])

    @property
    def removed(self) -> int:
        return sum(line.startswith("-") for line in self.lines[2:])


@dataclass(frozen=True)
class Difference:
    """`facts`: what is said of the two runs in words, where that is not the same: (name, lines of the first, lines of
    the second). Times are in seconds: `durations`, None for a run that goes on, or never began."""

    before: Run
    after: Run
    facts: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]
    files: tuple[FileChange, ...]

    @property
    def durations(self) -> tuple[float | None, float | None]:
        return _duration(self.before), _duration(self.after)


def compare(connections: Connections, before: int | str, after: int | str) -> Difference:
    """See `Runs.diff`."""
    (first, here, old, details), (second, there, new, others) = (read_spec(connections, n) for n in (before, after))
    told = [_facts(run, spec) for run, spec in ((first, old), (second, new))]
    facts = [(name, lines, told[1][name]) for name, lines in told[0].items() if lines != told[1][name]]
    mounts = [_mounts(spec, about) for spec, about in ((old, details), (new, others))]
    if mounts[0].keys() != mounts[1].keys():
        facts.append(("mounts", tuple(mounts[0].values()), tuple(mounts[1].values())))
    numbers = [_numbers(store, run) for run, store in ((first, here), (second, there))]
    if numbers[0] != numbers[1]:
        facts.append(("numbers", _listed(*numbers), _listed(*numbers[::-1])))
    trees = []
    for run, store in ((first, here), (second, there)):
        tree, _ = store.manifest(_source(run))
        trees.append({entry.path: entry for entry in tree.entries})
    changed = [path for path in sorted(trees[0].keys() | trees[1].keys()) if trees[0].get(path) != trees[1].get(path)]
    pairs = [(trees[0].get(path), trees[1].get(path)) for path in changed]
    return Difference(first, second, tuple(facts), tuple(_changes(pairs, ((first, here), (second, there)))))


def _duration(run: Run) -> float | None:
    return run.ended - run.started if run.ended is not None and run.started is not None else None


def _mounts(spec: RunSpec, details: api.RunDetails) -> dict[tuple[str, str, str], str]:
    """A description of each mount, by its resource, its place and the digest of what it held."""
    found = {}
    for place, mount in enumerate(spec.mounts):
        digest = details.mounts[place].tree if place < len(details.mounts) else mount.resource.digest or ""
        found[mount.typed, mount.place, digest] = f"{mount.typed} at {mount.path} ({digest[:8]})"
    return found


def _source(run: Run) -> ResourceRef:
    return ResourceRef("source", key=run.key, number=run.number)


def _numbers(store: Store, run: Run) -> dict[str, float]:
    """The last of the numbers that a run saved, by their names."""
    found = metrics.numbers(store, run) if run.outputs else {}
    return {name: values[-1] for name, values in found.items()}


def _listed(own: dict[str, float], other: dict[str, float]) -> tuple[str, ...]:
    return tuple(f"{name} {value:g}" for name, value in own.items() if value != other.get(name))


_NAMES = ("description", "labels", "ports")
"""These change nothing that a run does."""


def _shown(value: Any) -> Sequence[str]:
    """The lines of a value that was asked for; none for nothing."""
    if isinstance(value, str):
        return value.splitlines()
    if isinstance(value, tuple):
        return value
    return [str(value)] if value else []


def _facts(run: Run, spec: RunSpec) -> dict[str, tuple[str, ...]]:
    git, environment = spec.git, spec.environment
    commit = f"{git.commit[:12]} ({git.branch or 'no branch'}{', changed' if git.dirty else ''})" if git else ""
    status = "" if run.code is None else f", exit status {run.code}"
    listed: dict[str, Sequence[str]] = {
        "command": spec.command.splitlines(),
        "machine": [run.machine.name],
        "engine": [run.engine or ""],
        "gpus": [str(spec.gpus)],
        "commit": [commit],
        "started in": [spec.workdir or "."],
        "variables": spec.asked_env,
        "framework": ["" if environment.image else environment.framework],
        **{name: _shown(value) for name, value in same_fields(Packages, environment).items()},
        **{name: _shown(value) for name, value in same_fields(HandedOn, spec).items() if name not in _NAMES},
        "timeout": [duration_text(spec.timeout) if spec.timeout else ""],
        "attempts": [str(spec.attempts)],
        "state": [run.state.value + status],
    }
    return {name: tuple(line for line in lines if line) for name, lines in listed.items()}


def _changes(
    pairs: Sequence[tuple[Entry | None, Entry | None]], stores: Sequence[tuple[Run, Store]]
) -> Iterator[FileChange]:
    texts: list[dict[str, bytes]] = []
    budget = MOST
    small = []
    for pair in pairs:
        size = sum(entry.size for entry in pair if entry is not None)
        if all(entry is None or entry.size <= LARGEST for entry in pair) and size <= budget:
            budget -= size
            small.append(pair)
    for side, (run, store) in enumerate(stores):
        wanted = [pair[side] for pair in small]
        digests = [entry.digest for entry in wanted if entry is not None and entry.kind == "f"]
        texts.append(store.contents(_source(run), digests, MOST) if digests else {})
    for before, after in pairs:
        entry = after or before
        assert entry is not None
        sides = [_lines(each, known) for each, known in ((before, texts[0]), (after, texts[1]))]
        lines: tuple[str, ...] = ()
        if sides[0] is not None and sides[1] is not None:
            names = (
                ("/dev/null" if before is None else f"a/{entry.path}"),
                ("/dev/null" if after is None else f"b/{entry.path}"),
            )
            lines = tuple(difflib.unified_diff(sides[0], sides[1], *names, lineterm=""))
        yield FileChange(entry.path, before, after, lines)


def _lines(entry: Entry | None, texts: dict[str, bytes]) -> list[str] | None:
    """The lines of a text; none for a file that is not there; None for what has no lines to be compared. A last line
    that does not end is marked, as git does it."""
    if entry is None:
        return []
    text = os.fsencode(entry.target) if entry.kind == "l" else texts.get(entry.digest)
    if entry.kind == "d" or text is None or b"\0" in text[:_LOOKED_INTO]:
        return None
    lines = text.decode(errors="surrogateescape").split("\n")
    if lines[-1]:
        lines[-1] += "\n\\ No newline at end of file"
    else:
        del lines[-1]
    return lines
