"""The diary of a run: its pictures, sounds, texts and videos whose names or folders hold the step of each."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

MOST_GROUPS, MOST_FILES = 200, 20_000
KINDS = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".svg"), "image"),
    **dict.fromkeys((".wav", ".mp3", ".ogg", ".flac", ".m4a"), "sound"),
    **dict.fromkeys((".mp4", ".webm"), "video"),
    **dict.fromkeys((".txt", ".md"), "text"),
}
_NUMBER = re.compile(
    r"((?<![a-z])(?:steps?|epochs?|iters?|iterations?)[-_ =.:/]{0,2})?(?<![0-9])([0-9]{1,15})(?![0-9])", re.IGNORECASE
)
_MOST_NUMBERS = 8
"""Of a path; those before the last ones are taken for text."""


@dataclass(frozen=True)
class Diary:
    """Files that are alike but for their step. `name`: their path, with `*` for what differs; `kind`: "image", "sound",
    "text" or "video"; `steps`: (step, path) by step."""

    name: str
    kind: str
    steps: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class _Path:
    """`parts`: the texts between the numbers of a path; `said`: which numbers are said to be steps, as in `epoch3`."""

    path: str
    parts: tuple[str, ...]
    numbers: tuple[str, ...]
    said: frozenset[int]

    def masked(self, places: Iterable[int]) -> str:
        shown = ["*" if place in places else number for place, number in enumerate(self.numbers)]
        return "".join(text for pair in zip(self.parts, [*shown, ""], strict=True) for text in pair)


def diary(paths: Iterable[str]) -> list[Diary]:
    """The groups among `paths`, by name: of two files or more, or of one whose name says `step`, `epoch` or `iter`.

    The step is the number that differs between the files; of several the last one, and before all others one that is
    said to be a step. Of too many groups, those with the most files.
    """
    alike: dict[tuple[str, ...], list[_Path]] = defaultdict(list)
    for path in _media(paths):
        alike[path.parts].append(path)
    found = [group for members in alike.values() for group in _groups(members)]
    found.sort(key=lambda group: (-len(group.steps), group.name))
    return sorted(found[:MOST_GROUPS], key=lambda group: group.name)


def _media(paths: Iterable[str]) -> Iterator[_Path]:
    left = MOST_FILES
    for path in paths:
        stem, extension = posixpath.splitext(path)
        if extension.lower() not in KINDS:
            continue
        matches = list(_NUMBER.finditer(stem))[-_MOST_NUMBERS:]
        if not matches:
            continue
        edges = [0, *(edge for match in matches for edge in match.span(2)), len(path)]
        parts = tuple(path[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True))
        said = frozenset(place for place, match in enumerate(matches) if match[1])
        yield _Path(path, parts, tuple(match[2] for match in matches), said)
        left -= 1
        if not left:
            return


def _groups(members: Sequence[_Path]) -> Iterator[Diary]:
    """The groups of paths that are alike but for their numbers."""
    first = members[0]
    columns = zip(*(each.numbers for each in members), strict=True)
    differs = {place for place, numbers in enumerate(columns) if len(set(map(int, numbers))) > 1}
    places = (differs & first.said) or differs or first.said
    if not places:
        return
    step = max(places)
    together = places if step in first.said else {step}
    steps = [int(each.numbers[step]) for each in members]
    if len(set(steps)) < len(steps):  # as `iter` begins anew in each epoch
        together = {step}
    named: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for each, number in zip(members, steps, strict=True):
        named[each.masked(together)].append((float(number), each.path))
    kind = KINDS[posixpath.splitext(first.path)[1].lower()]
    for name, found in named.items():
        if len(found) > 1 or step in first.said:
            yield Diary(name, kind, tuple(sorted(found)))
