"""The page's own files: in the checkout below `examples/`, in a wheel below `_bundle/`."""

from __future__ import annotations

from pathlib import Path

from remoterun.errors import RemoterunError

PAGE = ("index.html", "style.css", "model.js", "sketch.js", "page.js")


def page_file(name: str) -> Path:
    """Raises `RemoterunError` when the installation is damaged."""
    package = Path(__file__).parents[1]
    bundled = package / "_bundle"
    path = (bundled if bundled.is_dir() else package.parent) / "examples" / "lstm-browser" / name
    if not path.is_file():
        raise RemoterunError(f"this installation is damaged: {path} is missing", hint="pip install -U remoterun")
    return path
