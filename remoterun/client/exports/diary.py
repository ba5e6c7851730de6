"""The diary of a run: its pictures, sounds, texts and videos whose names or folders hold the step of each."""

from __future__ import annotations

import itertools
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
_NUMBER = re.compile(r"(?<![0-9])([0-9]{1,15})(?![0-9])")
_SAID = re.compile(r"(?<![a-z])(step|epoch|iter|iteration)s?[-_ =.:/]{0,2}\Z", re.IGNORECASE)
_MOST_NUMBERS = 8
"""Of a path; those before the last ones are taken for text."""


@dataclass(frozen=True)
class Diary:
    """Files that are alike but for their step. `name`: their path, with `*` for what differs; `kind`: "image", "sound",
    "text" or "video"; `steps`: (step, path) by step."""

    name: str
    kind: str
    steps: tuple[tuple[float, str], ...]


def diary(paths: Iterable[str]) -> list[Diary]:
    """The groups among `paths`, by name: of two files or more, or of one whose name says `step`, `epoch` or `iter`.

    The step is the number that differs between the files; of several the last one, and before all others one that is
    said to be a step. Of too many groups, those with the most files.
    """
    alike: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
    media = (path for path in paths if posixpath.splitext(path)[1].lower() in KINDS)
    for path in itertools.islice(media, MOST_FILES):
        stem, extension = posixpath.splitext(path)
        parts = _NUMBER.split(stem)  # texts, with a number between each two
        before = max(len(parts) - 2 * _MOST_NUMBERS, 1)
        texts = ["".join(parts[:before]), *parts[before + 1 :: 2]]
        alike[*texts[:-1], texts[-1] + extension].append(tuple(parts[before::2]))
    found = [group for texts, members in alike.items() for group in _groups(texts, members)]
    found.sort(key=lambda group: (-len(group.steps), group.name))
    return sorted(found[:MOST_GROUPS], key=lambda group: group.name)


def _groups(texts: Sequence[str], members: Sequence[Sequence[str]]) -> Iterator[Diary]:
    """The groups of paths with the same texts, each given by its numbers."""
    said = {place for place, text in enumerate(texts[:-1]) if _SAID.search(text)}
    columns = zip(*members, strict=True)
    differs = {place for place, numbers in enumerate(columns) if len(set(map(int, numbers))) > 1}
    places = (differs & said) or differs or said
    if not places:
        return
    step = max(places)
    steps = [int(numbers[step]) for numbers in members]
    if step not in said or len(set(steps)) < len(steps):  # as `iter` begins anew in each epoch
        places = {step}
    named: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for numbers, number in zip(members, steps, strict=True):
        masked = ["*" if place in places else text for place, text in enumerate(numbers)]
        named[_path(texts, masked)].append((float(number), _path(texts, numbers)))
    for name, found in named.items():
        if len(found) > 1 or step in said:
            yield Diary(name, KINDS[posixpath.splitext(name)[1].lower()], tuple(sorted(found)))


def _path(texts: Sequence[str], between: Sequence[str]) -> str:
    return "".join(text for pair in zip(texts, [*between, ""], strict=True) for text in pair)
