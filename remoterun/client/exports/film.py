"""A film of a run's diary: one HTML file with its pictures, sounds, texts and videos, and a slider over the steps."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import posixpath
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoterun.agent.shared.paths import SafeFolder, show
from remoterun.agent.shared.tree import Manifest
from remoterun.client.exports.diary import Diary, diary
from remoterun.errors import NotFound, UsageError
from remoterun.model import Run
from remoterun.sizes import size

if TYPE_CHECKING:
    from remoterun.transfer import Choice

MOST_STEPS, MOST_BYTES, MOST_TEXT = 600, 150 << 20, 64 << 10
"""Steps of a film; bytes of its files, which become 200 MiB in base64; bytes of a text."""
_KINDS = {"image": "image", "sound": "audio", "video": "video", "text": "text"}
_TYPES = {".jpg": "jpeg", ".svg": "svg+xml", ".mp3": "mpeg", ".m4a": "mp4"}


@dataclass(frozen=True)
class Film:
    """`groups` have the `steps` that are in it, of the `steps_found`."""

    place: Path
    groups: Sequence[Diary]
    steps_found: int

    @property
    def steps(self) -> int:
        return len(_steps(self.groups))

    @property
    def size(self) -> int:
        return self.place.stat().st_size


def make_film(run: Run, fetch: Callable[[Path, Choice], object], target: Path, name: str, fps: float) -> Film:
    """See `Files.film`. `fetch` copies the files that are chosen into a folder."""
    made = Film(target, (), 0)

    def choose(manifest: Manifest, _: object) -> Manifest:
        nonlocal made
        sizes = {entry.path: entry.size for entry in manifest.files}
        found = _named(diary(sizes), name, run.number)
        made = Film(target, fitting(found, sizes), len(_steps(found)))
        wanted = {path for group in made.groups for _, path in group.steps}
        return Manifest(entry for entry in manifest.files if entry.path in wanted)

    try:
        with tempfile.TemporaryDirectory(prefix=".film-", dir=target.parent) as folder:
            page, files = Path(folder, "page"), Path(folder, "files")
            files.mkdir()
            fetch(files, choose)
            with SafeFolder(str(files), make=False) as root, page.open("xb") as file:
                file.writelines(_page(root, run.description or f"Run {run.number}", fps, made.groups))
            page.replace(target)
    except OSError as error:
        raise UsageError(
            f"`{show(str(target))}` can't be written: {error.strerror}", hint="`--out FILE` names another place"
        )
    return made


def fitting(groups: Sequence[Diary], sizes: Mapping[str, int]) -> list[Diary]:
    """The groups with as many steps, evenly over all of them, as a film has room for. Raises `UsageError` for none."""
    steps = _steps(groups)
    count = min(len(steps), MOST_STEPS)
    while count:
        picked = {steps[round(place * (len(steps) - 1) / max(count - 1, 1))] for place in range(count)}
        chosen = [replace(each, steps=tuple(pair for pair in each.steps if pair[0] in picked)) for each in groups]
        total = sum(_part(each, sizes[path]) for each in chosen for _, path in each.steps)
        if total <= MOST_BYTES:
            return [each for each in chosen if each.steps]
        count = min(count - 1, int(count * MOST_BYTES / total))
    raise UsageError(f"a film holds {size(MOST_BYTES)}, and one step has more", hint="--name GROUP   takes some files")


def _part(group: Diary, found: int) -> int:
    """How many bytes of a file are taken."""
    return min(found, MOST_TEXT) if group.kind == "text" else found


def _steps(groups: Sequence[Diary]) -> list[float]:
    return sorted({step for group in groups for step, _ in group.steps})


def _named(groups: Sequence[Diary], name: str, number: int) -> list[Diary]:
    """The groups with `name` in their names. Raises `NotFound` for none."""
    if not groups:
        why = f"run {number} has no picture, sound or text with a step in its name, such as step-0100.png"
        raise NotFound(why, hint=f"remoterun ls runs/{number} -r")
    found = [group for group in groups if group.name == name] or [group for group in groups if name in group.name]
    if not found:
        known = ", ".join(f"`{show(group.name)}`" for group in groups[:8])
        raise NotFound(f"no group of run {number} has `{show(name)}` in its name", hint=f"its groups: {known}")
    return found


def _page(root: SafeFolder, title: str, fps: float, groups: Sequence[Diary]) -> Iterator[bytes]:
    """What comes from the run is JSON without `<`, or base64, in elements that are not executed."""
    page = Path(__file__).with_name("film.html").read_text("utf-8")
    script = page.partition("<script>")[2].partition("</script>")[0].encode()
    page = page.replace("$HASH", base64.b64encode(hashlib.sha256(script).digest()).decode())
    before, _, after = page.partition("$ITEMS")
    yield before.replace("$TITLE", html.escape(title)).encode(errors="replace")
    steps = _steps(groups)
    index: list[dict[str, Any]] = []
    left = MOST_BYTES  # a file of a run that goes on may have grown
    for group in groups:
        items: list[dict[str, Any]] = []
        for step, path in group.steps:
            data = b""
            with suppress(FileNotFoundError), open(root.open(path), "rb") as file:  # as what lies in .git is not copied
                data = file.read(_part(group, left))
            left -= len(data)
            text = _json(data.decode(errors="replace")) if group.kind == "text" else base64.b64encode(data).decode()
            extension = posixpath.splitext(path)[1].lower()
            type_ = f"{_KINDS[group.kind]}/{_TYPES.get(extension, extension[1:])}"
            items.append({"place": steps.index(step), "id": f"{len(index)}-{len(items)}", "type": type_})
            yield f'<script type="text/plain" id="{items[-1]["id"]}">{text}</script>\n'.encode()
        index.append({"name": show(group.name), "kind": group.kind, "items": items})
    about = _json({"fps": fps, "steps": steps, "groups": index})
    yield f'<script type="text/plain" id="index">{about}</script>{after}'.encode()


def _json(value: Any) -> str:
    return json.dumps(value).replace("<", "\\u003c")
