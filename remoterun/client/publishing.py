"""The page of `open` with one model in it, as static files for any web host, which also work from disk."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from remoterun.agent.shared.files import open_regular
from remoterun.agent.shared.spec import RunSpec
from remoterun.agent.shared.tree import show
from remoterun.errors import AlreadyExists, RemoterunError, TransferError, UsageError
from remoterun.model import Run
from remoterun.model_page.libraries import FILES, PAGE, page_file
from remoterun.model_page.models import SETTINGS, PageModel, open_file, wanted
from remoterun.sizes import duration, iso, size

MARK, MODEL = "publication.json", "models"
"""The file that lists the others with their SHA-256; the folder in which the page looks for its model."""
MOST_BYTES, MOST_MARK = 256 << 20, 1 << 20
_LOADER = """"use strict";
// A page from disk may fetch nothing, so the model is in this script: it answers fetch(), and the requests of ml5.js.
{
  const files = new Map($FILES);
  const named = (address) => (String(address).startsWith("$MODEL/") ? String(address).slice($LENGTH) : null);
  const blob = (name) => new Blob([Uint8Array.from(atob(files.get(name)), (each) => each.charCodeAt(0))]);
  const there = window.fetch;
  window.fetch = async (address, ...more) => {
    const name = named(address);
    if (name === null) return there(address, ...more);
    return files.has(name) ? new Response(blob(name)) : new Response(null, { status: 404 });
  };
  const open = XMLHttpRequest.prototype.open;
  XMLHttpRequest.prototype.open = function (method, address, ...more) {
    const name = named(address);
    return open.call(this, method, files.has(name) ? URL.createObjectURL(blob(name)) : address, ...more);
  };
}
"""
_STYLE = """
/* Of a publication: it has one model, and says how that was made. */
#opening :is(label, .row) {
  display: none;
}

.card {
  margin-top: 2rem;
  color: var(--faint);
  font-size: 1rem;
}

.card h2 {
  font: italic 1.4rem/1 "Fell", Georgia, serif;
}

.card dl {
  display: grid;
  grid-template-columns: auto minmax(0, 1fr);
  gap: 0.2rem 1.5rem;
}

.card dd {
  margin: 0;
  overflow-wrap: anywhere;
}
"""


@dataclass(frozen=True)
class Publication:
    """`card`: what it says of how its model was made."""

    folder: Path
    files: int
    size: int
    card: Mapping[str, str]


def made_how(model: PageModel, run: Run | None, spec: RunSpec | None) -> dict[str, str]:
    """The lines of the card, as far as they are known. A machine that was named by its address is not shown."""
    card: dict[str, str] = {}
    if run is not None and spec is not None:
        data = [mount.typed.partition("/")[2] for mount in spec.mounts if mount.resource.kind == "upload"]
        card |= {"Data": ", ".join(data), "Command": spec.command}
        card |= {f"Parameter {name}": value for name, value in spec.params.items()}
    if model.step is not None:
        card["Steps"] = f"{model.step:,}"
    if run is not None:
        card["Machine"] = "" if "@" in run.machine.name or "." in run.machine.name else run.machine.name
        if run.started is not None:
            if run.ended is not None:
                card["Duration"] = duration(run.ended - run.started)
            card["Date"] = iso(run.ended or run.started)[:10]
    card["Made with"] = "remoterun, ml5.js, p5.js"
    return {name: value for name, value in card.items() if value}


def check_free(folder: Path) -> None:
    """Raises `AlreadyExists` unless the folder is new or empty, or a publication as it was made; `UsageError`."""
    shown = show(str(folder))
    other = "name a folder that is new or empty"
    if folder in (Path.cwd(), *Path.cwd().parents):
        raise UsageError(f"`{shown}` is the folder you are in, or above it", hint=other)
    if folder.exists() and not folder.is_dir():
        raise AlreadyExists(f"`{shown}` is a file", hint=other)
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        listed = json.loads(_content(folder / MARK, MOST_MARK))["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise AlreadyExists(f"`{shown}` holds other files, and no publication", hint=other)
    for path in sorted(each for each in folder.rglob("*") if each.is_symlink() or not each.is_dir()):
        name = path.relative_to(folder).as_posix()
        try:
            known = name == MARK or listed.get(name) == _digest(_content(path, 2 * MOST_BYTES))
        except (OSError, AttributeError):
            known = False
        if not known:
            raise AlreadyExists(f"`{show(name)}` in `{shown}` is not as `publish` made it", hint=other)


def publish(model: PageModel, card: Mapping[str, str], libraries: Path, folder: Path) -> Publication:
    """Make `folder`, or replace the publication in it: all of it, or nothing. Raises `TransferError`, `UsageError`."""
    check_free(folder)
    files = {f"libraries/{name}": (libraries / name).read_bytes() for name in FILES}
    files |= {name: _page(name, card) for name in PAGE}
    files[f"{MODEL}.js"] = _loader(model)
    mark = {"format": 1, "files": {name: _digest(data) for name, data in sorted(files.items())}}
    files[MARK] = json.dumps(mark, indent=1).encode()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".publish-", dir=folder.parent) as work:
            new, old = Path(work, "new"), Path(work, "old")
            for name, data in files.items():
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                (new / name).write_bytes(data)
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
    except OSError as error:
        raise UsageError(f"`{show(str(folder))}` can't be written: {error.strerror}", hint="name another folder")
    return Publication(folder, len(files), sum(map(len, files.values())), card)


def _page(name: str, card: Mapping[str, str]) -> bytes:
    """A file of the page as it is, but for where its libraries are, the script with the model, and the card. (Some web
    hosts leave out folders that are called node_modules.)"""
    text = page_file(name).read_text("utf-8").replace("node_modules/", "libraries/")
    if name == "style.css":
        text += _STYLE
    if name == "index.html":
        lines = [f"<dt>{html.escape(head)}</dt><dd>{html.escape(words)}</dd>" for head, words in card.items()]
        footer = '<footer class="card"><h2>How this was made</h2><dl>{}</dl></footer>'.format("\n".join(lines))
        for before, put in (
            ('<script defer src="model.js">', f'<script defer src="{MODEL}.js"></script>\n  '),
            ("<noscript>", f"{footer}\n  "),
        ):
            if before not in text:
                raise RemoterunError(f"the page of `open` was changed: it has no {before}")
            text = text.replace(before, put + before)
    return text.encode(errors="replace")


def _loader(model: PageModel) -> bytes:
    files = []
    if model.size > MOST_BYTES:
        raise UsageError(f"the model has {size(model.size)}, and a page takes {size(MOST_BYTES)}", hint="a smaller one")
    for name in sorted(wanted(model.folder)):
        try:
            with open_file(model.folder, name) as file:
                files.append([name, base64.b64encode(file.read(MOST_BYTES)).decode()])
        except OSError:
            if name != SETTINGS:
                raise TransferError(f"the model of {model.name} is not whole: {show(name)} is missing")
    script = _LOADER.replace("$MODEL", MODEL).replace("$LENGTH", str(len(MODEL) + 1))
    return script.replace("$FILES", json.dumps(files)).encode()


def _content(path: Path, most: int) -> bytes:
    with os.fdopen(open_regular(str(path)), "rb") as file:
        return file.read(most)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
