"""What differs between two runs: what was asked for, the files that were sent, how they ended."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from remoterun.agent.shared import api
from remoterun.agent.shared.asked import HandedOn, Packages, memory_text
from remoterun.agent.shared.records import same_fields
from remoterun.agent.shared.spec import RunSpec
from remoterun.agent.shared.tree import Entry
from remoterun.client.runs.reruns import read_spec, source_of
from remoterun.connections import Connections
from remoterun.host_store import ResourceTree
from remoterun.model import Run
from remoterun.parsing import duration_text
from remoterun.sizes import size
from remoterun.source.patch import patches, quoted

LINES_UP_TO = 512 << 10
"""Bytes of the largest file that is read, unless what is not text is wanted, too."""
MOST = 16 << 20, 64 << 20
"""Bytes of all files that are read; where what is not text is wanted, too."""


@dataclass(frozen=True)
class FileChange:
    """A file of the source that is another, or is only in one of them (None). `lines`: those of `git diff`; with the
    sizes of what is not text, too large, or not saved any more."""

    path: str
    before: Entry | None
    after: Entry | None
    lines: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return "added" if self.before is None else "removed" if self.after is None else "changed"

    @property
    def sizes(self) -> tuple[str, str]:
        """Of both for people: `12.3 MB`, `none`."""
        before, after = ("none" if entry is None else size(entry.size) for entry in (self.before, self.after))
        return before, after

    @property
    def hunks(self) -> tuple[str, ...]:
        """The lines from the first that differs on; none of what is not text."""
        return tuple(itertools.dropwhile(lambda line: not line.startswith("@@ "), self.lines))

    def count(self, mark: str) -> int:
        """How many lines are added (`+`), or removed (`-`)."""
        return sum(line.startswith(mark) for line in self.hunks)


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


def compare(connections: Connections, before: int | str, after: int | str, binary: bool) -> Difference:
    """See `Runs.diff`."""
    (first, here, old, details), (second, there, new, others) = (read_spec(connections, n) for n in (before, after))
    told = [_facts(run, spec) for run, spec in ((first, old), (second, new))]
    facts = [(name, lines, told[1][name]) for name, lines in told[0].items() if lines != told[1][name]]
    mounts = [_mounts(spec, about) for spec, about in ((old, details), (new, others))]
    if mounts[0].keys() != mounts[1].keys():
        facts.append(("mounts", tuple(mounts[0].values()), tuple(mounts[1].values())))
    numbers = [_numbers(run) for run in (first, second)]
    if numbers[0] != numbers[1]:
        facts.append(("numbers", _listed(*numbers), _listed(*numbers[::-1])))
    sources = [store.tree(source_of(run)) for run, store in ((first, here), (second, there))]
    trees = [{entry.path: entry for entry in source.manifest} for source in sources]
    changed = [path for path in sorted(trees[0].keys() | trees[1].keys()) if trees[0].get(path) != trees[1].get(path)]
    pairs = [(trees[0].get(path), trees[1].get(path)) for path in changed]
    return Difference(first, second, tuple(facts), tuple(_changes(pairs, sources, binary)))


def _duration(run: Run) -> float | None:
    return run.ended - run.started if run.ended is not None and run.started is not None else None


def _mounts(spec: RunSpec, details: api.RunDetails) -> dict[tuple[str, str, str], str]:
    """A description of each mount, by its resource, its place and the digest of what it held."""
    found = {}
    for place, mount in enumerate(spec.mounts):
        digest = details.mounts[place].tree if place < len(details.mounts) else mount.resource.digest or ""
        found[mount.typed, mount.place, digest] = f"{mount.typed} at {mount.path} ({digest[:8]})"
    return found


def _numbers(run: Run) -> dict[str, float]:
    """The last value of each metric that it has reported."""
    series = run.progress.series if run.progress is not None else []
    return {each.name: each.last for each in series if each.last is not None}


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
        "memory": [memory_text(spec.memory) if spec.memory else ""],
        "timeout": [duration_text(spec.timeout) if spec.timeout else ""],
        "attempts": [str(spec.attempts)],
        "state": [run.state.value + status],
    }
    return {name: tuple(line for line in lines if line) for name, lines in listed.items()}


def _changes(
    pairs: Sequence[tuple[Entry | None, Entry | None]], sources: Sequence[ResourceTree], binary: bool
) -> Iterator[FileChange]:
    budget = MOST[binary]
    chosen = []
    for pair in pairs:
        total = sum(entry.size for entry in pair if entry is not None)
        if total <= budget and (binary or all(entry is None or entry.size <= LINES_UP_TO for entry in pair)):
            budget -= total
            chosen.append(pair)
    sides: list[dict[str, tuple[str, bytes]]] = []
    lost: set[str] = set()
    for side, source in enumerate(sources):
        entries = [entry for pair in chosen if (entry := pair[side]) is not None and entry.kind != "d"]
        digests = [entry.digest for entry in entries if entry.kind == "f"]
        known = source.contents(digests, MOST[binary]) if digests else {}
        lost.update(entry.path for entry in entries if entry.kind == "f" and entry.digest not in known)
        sides.append({entry.path: _as_git(entry, known) for entry in entries if entry.path not in lost})
    before, after = ({path: file for path, file in side.items() if path not in lost} for side in sides)
    found = patches(before, after, binary)
    for old, new in pairs:
        entry = new or old
        assert entry is not None
        change = FileChange(entry.path, old, new)
        names = quoted(f"a/{entry.path}"), quoted(f"b/{entry.path}")
        sized = f"Files {names[0]} ({change.sizes[0]}) and {names[1]} ({change.sizes[1]}) differ"
        lines = found.get(entry.path) or (["diff --git {} {}".format(*names), sized] if entry.kind != "d" else [])
        yield replace(change, lines=tuple(sized if line.startswith("Binary files ") else line for line in lines))


def _as_git(entry: Entry, known: dict[str, bytes]) -> tuple[str, bytes]:
    if entry.kind == "l":
        return "120000", os.fsencode(entry.target)
    return "100755" if entry.executable else "100644", known[entry.digest]
