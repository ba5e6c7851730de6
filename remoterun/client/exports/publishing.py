"""The page of `open` with one model in it, as static files for any web host, which also work from disk."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from remoterun.agent.shared.files import read_settings
from remoterun.agent.shared.spec import RunSpec
from remoterun.agent.shared.tree import show
from remoterun.client.data.metrics import parameters
from remoterun.errors import AlreadyExists, RemoterunError, TransferError, UsageError
from remoterun.model import Run
from remoterun.model_page.libraries import FILES, PAGE, page_file
from remoterun.model_page.models import SETTINGS, PageModel, open_file, wanted
from remoterun.sizes import clock, duration, size

MARK, MODEL = "publication.json", "models"
"""The file by which a publication is known; the folder in which the page looks for its model."""
MOST_BYTES = 256 << 20
"""Of a model."""
NO_VALUES = re.compile(r"[\w./-]+( -m [\w.]+| [\w/-]+\.\w{1,5})?")
"""A command that is shown unasked: a program, or one with a file or a module, as `python train.py`."""
_SAYS_NOTHING = re.compile(r"null|None||[0-9a-f]{32,}")
"""The value of a parameter that is not on the card: none, or a digest."""
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
/* A publication has one model, and says how that was made. */
#opening :is(label, .row) { display: none; }
.card { margin-top: 2rem; color: var(--faint); font-size: 1rem; }
.card h2 { font: italic 1.4rem/1 "Fell", Georgia, serif; }
.card dl { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 0.2rem 1.5rem; }
.card dd { margin: 0; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Publication:
    """`card`: what it says of how its model was made."""

    folder: Path
    files: int
    size: int
    card: Mapping[str, str]


def made_how(model: PageModel, run: Run | None = None, spec: RunSpec | None = None) -> dict[str, str]:
    """What the card says, as far as it is known. A machine that was named by its address is not shown."""
    card = {"Steps": "" if model.step is None else f"{model.step:,}"}
    if run is not None and spec is not None:
        data = [mount.typed.partition("/")[2] for mount in spec.mounts if mount.resource.kind == "upload"]
        others = parameters("", spec.params, run.progress).items()
        text = ", ".join(f"{name} {value}" for name, value in others if not _SAYS_NOTHING.fullmatch(value))
        card = {"Data": ", ".join(data), "Command": spec.command, "Parameters": text, **card}
        card["Machine"] = "" if {"@", "."} & set(run.machine.name) else run.machine.name
        if run.started is not None and run.ended is not None:
            card |= {"Duration": duration(run.ended - run.started), "Date": clock(run.ended)[:10]}
    return {name: words for name, words in {**card, "Made with": "remoterun, ml5.js, p5.js"}.items() if words}


def check_free(folder: Path) -> None:
    """Raises `AlreadyExists` unless the folder is new or empty, or a publication as it was made; `UsageError`."""
    shown, hint = show(str(folder)), "name a folder that is new or empty"
    if folder in (Path.cwd(), *Path.cwd().parents):
        raise UsageError(f"`{shown}` is the folder you are in, or above it", hint=hint)
    if folder.exists() and not folder.is_dir():
        raise AlreadyExists(f"`{shown}` is a file", hint=hint)
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        made = json.loads(read_settings(str(folder / MARK)))["sha256"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise AlreadyExists(f"`{shown}` holds other files, and no publication", hint=hint)
    if made != _digest(folder):
        raise AlreadyExists(f"`{shown}` was changed since `publish` made it", hint=hint)


def publish(model: PageModel, card: Mapping[str, str], libraries: Path, folder: Path) -> Publication:
    """Make `folder`, or replace the publication in it: all of it, or nothing. Raises `TransferError`, `UsageError`."""
    check_free(folder)
    files = {f"libraries/{name}": (libraries / name).read_bytes() for name in FILES}
    files |= {name: _page(name, card) for name in PAGE}
    files[f"{MODEL}.js"] = _loader(model)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".publish-", dir=folder.parent) as work:
            new, old = Path(work, "new"), Path(work, "old")
            for name, data in files.items():
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                (new / name).write_bytes(data)
            (new / MARK).write_text(json.dumps({"format": 1, "sha256": _digest(new)}))
            try:
                if folder.exists():
                    folder.rename(old)
                new.rename(folder)
            finally:
                if old.exists() and not folder.exists():
                    old.rename(folder)
    except OSError as error:
        raise UsageError(f"`{show(str(folder))}` can't be written: {error.strerror}", hint="name another folder")
    return Publication(folder, len(files) + 1, sum(map(len, files.values())), card)


def _page(name: str, card: Mapping[str, str]) -> bytes:
    """A file of the page as it is, but for where its libraries are (web hosts leave out what is called node_modules),
    the script with the model, and the card."""
    text = page_file(name).read_text("utf-8").replace("node_modules/", "libraries/")
    lines = [f"<dt>{html.escape(head)}</dt><dd>{html.escape(words)}</dd>" for head, words in card.items()]
    footer = '<footer class="card"><h2>How this was made</h2><dl>{}</dl></footer>'.format("\n".join(lines))
    if name == "index.html":
        for before, put in (
            ('<script defer src="model.js">', f'<script defer src="{MODEL}.js"></script>\n  '),
            ("<noscript>", f"{footer}\n  "),
        ):
            if before not in text:
                raise RemoterunError(f"the page of `open` was changed: it has no {before}")
            text = text.replace(before, put + before)
    return (text + (_STYLE if name == "style.css" else "")).encode(errors="replace")


def _loader(model: PageModel) -> bytes:
    """The script with the files of the model. Raises `TransferError`, `UsageError`."""
    if model.size > MOST_BYTES:
        raise UsageError(f"the model has {size(model.size)}, and a page takes {size(MOST_BYTES)}")
    files = []
    for name in sorted(wanted(model.folder)):
        try:
            with open_file(model.folder, name) as file:
                files.append([name, base64.b64encode(file.read(MOST_BYTES)).decode()])
        except OSError:
            if name != SETTINGS:
                raise TransferError(f"the model of {model.name} is not whole: {show(name)} is missing")
    script = _LOADER.replace("$MODEL", MODEL).replace("$LENGTH", str(len(MODEL) + 1))
    return script.replace("$FILES", json.dumps(files)).encode()


def _digest(folder: Path) -> str:
    """Of the names and contents of all files but the mark."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path != folder / MARK and (path.is_symlink() or not path.is_dir()):
            data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            found.update(b"%s\0%d\0%s" % (os.fsencode(path.relative_to(folder)), len(data), data))
    return found.hexdigest()
