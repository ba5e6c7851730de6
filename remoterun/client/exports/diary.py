"""The diary of a run: its pictures, sounds, texts and videos whose names or folders hold the step of each; and how much
of the diaries of several runs one page holds."""

from __future__ import annotations

import itertools
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from remoterun.agent.shared.tree import Manifest, show
from remoterun.errors import NotFound, UsageError
from remoterun.model import listed
from remoterun.sizes import size

MOST_GROUPS, MOST_FILES = 200, 20_000
MOST_STEPS, MOST_BYTES, MOST_TEXT = 600, 150 << 20, 64 << 10
"""Steps of a page; bytes of its files, which become 200 MiB in base64; bytes of a text."""
KINDS = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".svg"), "image"),
    **dict.fromkeys((".wav", ".mp3", ".ogg", ".flac", ".m4a"), "sound"),
    **dict.fromkeys((".mp4", ".webm"), "video"),
    **dict.fromkeys((".txt", ".md"), "text"),
}
_NUMBER = re.compile(r"(?<![0-9])([0-9]{1,15})(?![0-9])")
_SAID = re.compile(r"(?<![a-z])(step|epoch|iter|iteration)s?[-_ =.:/]{0,2}\Z", re.IGNORECASE)
_MADE = (
    re.compile(r"(?P<folder>(?:.*/)?)events\.media/(?P<name>.+)/step-(?P<step>\d{1,15})\.\w+", re.DOTALL),
    re.compile(r"(?:.*/)?files/media/\w+/(?P<name>.+)_(?P<step>\d{1,15})_[0-9a-f]{20}\.\w+", re.DOTALL),
)
"""Paths of what the agent took out of TensorBoard's files (agent/store/media.py), and of wandb's, whose ends are a
part of the content's digest."""
_MOST_NUMBERS = 8
"""Of a path; those before the last ones are taken for text."""


@dataclass(frozen=True)
class Diary:
    """Files that are alike but for their step. `name`: their path, with `*` for what differs, or as a program called
    them; `kind`: "image", "sound", "text" or "video"; `steps`: (step, path) by step."""

    name: str
    kind: str
    steps: tuple[tuple[float, str], ...]

    @property
    def unit(self) -> str:
        """The unit of its numbers: "epoch", or "step"."""
        return "epoch" if re.search(r"epochs?[-_ =.:/]{0,2}\Z", self.name.rpartition("*")[0], re.I) else "step"


def diary(paths: Iterable[str]) -> list[Diary]:
    """The groups among `paths`, by name: of two files or more, or of one whose name says `step`, `epoch` or `iter`.

    The step is the number that differs between the files; of several the last one, and before all others one that is
    said to be a step. Of too many groups, those with the most files.
    """
    alike: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
    named: dict[tuple[str, str], list[tuple[float, str]]] = defaultdict(list)
    media = (path for path in paths if posixpath.splitext(path)[1].lower() in KINDS)
    for path in itertools.islice(media, MOST_FILES):
        if made := next(filter(None, (pattern.fullmatch(path) for pattern in _MADE)), None):
            name = made.groupdict().get("folder", "") + made["name"]
            named[name, _kind(path)].append((float(made["step"]), path))
            continue
        stem, extension = posixpath.splitext(path)
        parts = _NUMBER.split(stem)  # texts, with a number between each two
        before = max(len(parts) - 2 * _MOST_NUMBERS, 1)
        texts = ["".join(parts[:before]), *parts[before + 1 :: 2]]
        alike[*texts[:-1], texts[-1] + extension].append(tuple(parts[before::2]))
    found = [group for texts, members in alike.items() for group in _groups(texts, members)]
    found += [group for (name, kind), steps in named.items() for group in _one_a_step(name, kind, sorted(steps))]
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
            yield Diary(name, _kind(name), tuple(sorted(found)))


def _one_a_step(name: str, kind: str, steps: Iterable[tuple[float, str]]) -> Iterator[Diary]:
    """A group, and more where there are several files of a step."""
    groups: list[list[tuple[float, str]]] = []
    for step, same in itertools.groupby(steps, key=lambda each: each[0]):
        for place, (_, path) in enumerate(same):
            if place == len(groups):
                groups.append([])
            groups[place].append((step, path))
    for place, found in enumerate(groups[:MOST_GROUPS]):
        yield Diary(f"{name} {place + 1}" if place else name, kind, tuple(found))


def _kind(path: str) -> str:
    return KINDS[posixpath.splitext(path)[1].lower()]


def _path(texts: Sequence[str], between: Sequence[str]) -> str:
    return "".join(text for pair in zip(texts, [*between, ""], strict=True) for text in pair)


def diaries(found: Mapping[int, Manifest], name: str) -> list[Diary]:
    """The groups among the files of runs, by number, with `name` in their names, all of them for "". Each path is below
    a folder with the number of its run. Raises `NotFound` where a name has none."""
    every = {number: diary(entry.path for entry in manifest.files) for number, manifest in found.items()}
    chosen = [
        Diary(
            f"run {number}: {group.name}" if len(found) > 1 else group.name,
            group.kind,
            tuple((step, f"{number}/{path}") for step, path in group.steps),
        )
        for number, groups in every.items()
        for group in [each for each in groups if each.name == name] or [each for each in groups if name in each.name]
    ]
    if name and not chosen:
        known = [f"`{show(group.name)}`" for groups in every.values() for group in groups]
        of = listed(str(number) for number in found)
        why = f"no group of run {of} has `{show(name)}` in its name"
        if not known:
            why = f"run {of} has no picture, sound or text with a step in its name, such as step-0100.png"
        hint = f"its groups: {', '.join(known[:8])}" if known else f"remoterun ls runs/{next(iter(found), 'last')} -r"
        raise NotFound(why, hint=hint)
    return chosen


def fitting(groups: Sequence[Diary], sizes: Mapping[str, int]) -> list[Diary]:
    """The groups with as many steps, evenly over all of them, as a page has room for. Raises `UsageError` where one has
    no room."""
    steps = steps_of(groups)
    count = min(len(steps), MOST_STEPS)
    while count:
        picked = {steps[round(place * (len(steps) - 1) / max(count - 1, 1))] for place in range(count)}
        chosen = [replace(each, steps=tuple(pair for pair in each.steps if pair[0] in picked)) for each in groups]
        total = sum(bytes_taken(each, sizes[path]) for each in chosen for _, path in each.steps)
        if total <= MOST_BYTES:
            return [each for each in chosen if each.steps]
        count = min(count - 1, int(count * MOST_BYTES / total))
    if steps:
        hint = "--name GROUP   takes some files\n--no-files   takes none"
        raise UsageError(f"a report holds {size(MOST_BYTES)} of files, and one step has more", hint=hint)
    return []


def bytes_taken(group: Diary, found: int) -> int:
    """How many bytes of a file are taken."""
    return min(found, MOST_TEXT) if group.kind == "text" else found


def steps_of(groups: Sequence[Diary]) -> list[float]:
    return sorted({step for group in groups for step, _ in group.steps})
