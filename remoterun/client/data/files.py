"""The files of uploads and runs: listed, copied, shown in the browser.

Names may have `*`, `?` and `[…]` as in a shell; they are matched on the client, by the manifest. `*` matches within one
part of a path, and `**` any number of parts. A file that is really called so comes first.
"""

from __future__ import annotations

import io
import os
import secrets
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoterun import transfer
from remoterun.agent.shared import api
from remoterun.agent.shared.frames import PIECE
from remoterun.agent.shared.paths import check_path
from remoterun.agent.shared.spec import ResourceRef, RunSpec
from remoterun.agent.shared.states import Reason
from remoterun.agent.shared.tree import Manifest, TreeError, show
from remoterun.client.data.upload_copies import first_copy, note_versions
from remoterun.client.homes import find_store
from remoterun.connections import Connections
from remoterun.errors import NotFound, UsageError
from remoterun.model import Resource, Upload
from remoterun.stores import Store, store_of, tree_of
from remoterun.transfer import Fetched, Progress

if TYPE_CHECKING:
    from remoterun.client.exports.publishing import Publication
    from remoterun.client.exports.report import Shown
    from remoterun.model_page import PageModel
    from remoterun.transfer import Conflict


class Files:
    """What a client does with the files of a resource."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def list(self, resource: Resource) -> tuple[Manifest, api.Tree]:
        """(what is below a resource, what else is known of it). Names with `*` are matched: their paths then begin
        where the first `*` stands. Raises `NotFound`."""
        below, pattern = split_pattern(resource)
        store, where = self._locate(below)
        tree = tree_of(store, where, below)
        return (matching(tree.manifest, below, pattern) if pattern else tree.manifest), tree.about

    def copy(
        self,
        source: str,
        target: Path,
        conflict: Conflict | None = None,
        progress: Progress | None = None,
        *,
        into: bool = False,
    ) -> Fetched:
        """Copy from a run or an upload to here, while the run goes on too.

        A folder's contents land in `target`. One file gets that name, or keeps its own if `target` is a folder, or is
        to be one (`into`). What names with `*` match keeps its path from the first `*` on. `conflict` is asked about
        each file that exists already; None: the first one raises `AlreadyExists`. Raises `SomeDamaged`, with what was
        copied, where some files are damaged there; `NotFound`, also where nothing matches.
        """
        below, pattern = split_pattern(Resource.parse(source))

        def choose(manifest: Manifest, _: api.Tree) -> Manifest:
            return matching(manifest, below, pattern)

        how = conflict or transfer.refuse
        return self._fetch(below, target, how, progress or Progress(), into, choose if pattern else None)

    def read(
        self, source: str, write: Callable[[bytes], None], progress: Progress | None = None, *, archive: bool = False
    ) -> Fetched:
        """Give `write` the bytes of a file of a run or an upload, also of a run that goes on.

        Of a folder that holds one file it gets that one; of names with `*` those of each file that matches. With
        `archive`, a folder, or what matches, is given as a tar stream. All of it is whole and verified before the
        first byte is written. Raises `UsageError` for a folder without `archive`, and what `copy` raises.
        """
        resource = Resource.parse(source)
        below, pattern = split_pattern(resource)
        single = False

        def choose(manifest: Manifest, about: api.Tree) -> Manifest:
            nonlocal single
            single = about.single
            if not single and not pattern and not archive and manifest.file_count != 1:
                raise UsageError(
                    f"{show(str(resource))} is a folder",
                    hint=f"remoterun ls {resource}\nremoterun cp {resource} - | tar x   brings all of it",
                )
            return matching(manifest, below, pattern) if pattern else manifest

        with tempfile.TemporaryDirectory(prefix="remoterun-") as folder:
            fetched = self._fetch(below, Path(folder), transfer.refuse, progress or Progress(), True, choose)
            if archive and not single:
                with tarfile.open(fileobj=_Written(write), mode="w|") as archived:
                    for name in sorted(os.listdir(folder)):
                        archived.add(os.path.join(folder, name), name, filter=_of_nobody)
                return fetched
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file() and not path.is_symlink():
                    with path.open("rb") as file:
                        while data := file.read(PIECE):
                            write(data)
            return fetched

    def saved(self, resource: Resource, folder: Path) -> Path:
        """A file of a run or an upload, below `folder`, where it is named by its content and copied once; of a run that
        goes on, anew. Its name is no pattern. Raises `UsageError` for a folder, and what `copy` raises."""
        try:
            check_path(resource.sub)
        except TreeError:
            raise NotFound(f"there is no {show(str(resource))}")
        store, where = self._locate(resource)
        tree = tree_of(store, where, resource)
        entry = next(iter(tree.manifest.files), None)
        if not tree.about.single or entry is None:
            raise UsageError(f"{show(str(resource))} is a folder")
        place = folder / (entry.digest or secrets.token_hex(16))
        if not place.exists():
            tree.fetch(place, transfer.refuse, Progress())
        return place

    def _fetch(
        self,
        resource: Resource,
        target: Path,
        conflict: Conflict,
        progress: Progress,
        into: bool,
        choose: transfer.Choice | None,
    ) -> Fetched:
        store, where = self._locate(resource)
        try:
            return store.tree(where).fetch(target, conflict, progress, into, choose)
        except NotFound as error:
            if resource.kind == "runs" and where.key in error.message:
                raise NotFound(f"run {where.number} was removed while it was copied", hint="remoterun ps") from None
            if resource.sub and not error.hint:
                error.hint = f"remoterun ls {replace(resource, sub='')}"
            raise

    def model(self, source: str, progress: Progress | None = None) -> PageModel:
        """A model for the page in which it writes. `source`: a resource, or a folder here.

        The model may stand in a folder below. One of a run or an upload is copied into the home, anew each time; a run
        that goes on gives its newest export. Raises `NotFound`, `UsageError`, `HostError`, `TransferError`.
        """
        from remoterun import model_page as pages

        if Resource.is_one(source):
            return self._fetch_model(Resource.parse(source), progress or Progress())
        return pages.local_model(Path(source))

    def publish(
        self,
        source: str,
        folder: Path,
        progress: Progress | None = None,
        note: Callable[[str], None] = lambda _: None,
        agree: Callable[[str], bool] = lambda _: False,
    ) -> Publication:
        """Make a folder of static files: the page of `open` with its model, and a card of how that was made.

        `agree`: whether the card may show this command, which has values, and its parameters.
        The folder is new or empty, or holds a former publication that nobody changed, which is replaced as a whole.
        Raises what `model` raises, `AlreadyExists`, and `RemoterunError` without npm.
        """
        from remoterun import model_page as pages
        from remoterun.client.exports import publishing
        from remoterun.client.runs.runs import Runs

        folder = Path(os.path.realpath(folder))
        publishing.check_free(folder)
        model = self.model(source, progress)
        card = publishing.made_how(model)
        if Resource.is_one(source) and (resource := Resource.parse(source)).kind == "runs":
            run, details = Runs(self._connections).info(resource.name)
            if details["spec"] is not None:
                card = publishing.made_how(model, run, RunSpec.from_record(details["spec"]))
                command = card.get("Command", "")
                is_plain = publishing.NO_VALUES.fullmatch(command) and "Parameters" not in card
                if not is_plain and not agree(command):
                    card = {head: words for head, words in card.items() if head not in ("Command", "Parameters")}
        libraries = pages.libraries(self._connections.config.home, note)
        return publishing.publish(model, card, libraries, folder)

    def report(
        self,
        numbers: Sequence[int | str],
        write: Callable[[bytes], object],
        name: str = "",
        fps: float = 4,
        progress: Progress | None = None,
        *,
        with_files: bool = True,
    ) -> Shown:
        """Give `write` an HTML file of these runs: what they were, their parameters, best values and curves, and their
        diaries, or the groups of these with `name` in their names, with a slider that plays `fps` steps a second.

        Opens the machines that have the runs; where one can't be reached, what is known here. Raises `NotFound`,
        `UsageError`, `HostError`, `TransferError`, all before the first byte."""
        from remoterun.client.exports.report import report
        from remoterun.client.runs.runs import Runs

        def list_files(number: int) -> Manifest:
            return self.list(Resource("runs", str(number)))[0] if with_files else Manifest([])

        def fetch_some(number: int, folder: Path, choose: transfer.Choice) -> None:
            self._fetch(Resource("runs", str(number)), folder, transfer.refuse, progress or Progress(), True, choose)

        runs = Runs(self._connections)
        return report(runs, numbers, write, list_files, fetch_some, name, fps)

    def _fetch_model(self, resource: Resource, progress: Progress) -> PageModel:
        from remoterun import model_page as pages

        resource = self._connections.registry.numbered(resource)
        store, where = self._locate(resource)
        tree = tree_of(store, where, resource)
        live = tree.about.live
        again = f"remoterun ls {resource}"
        try:
            sub = pages.find((entry.path for entry in tree.manifest if entry.kind == "f"), str(resource), again)
        except NotFound as error:
            if live:
                error.hint = f"run {resource.name} goes on and may write one yet: `remoterun logs {resource.name}`"
            raise
        where = where._replace(sub="/".join(part for part in (resource.sub, sub) if part))
        name = str(replace(resource, sub=where.sub))
        folder = self._connections.config.home / "page" / name

        def fetch_some(names: frozenset[str]) -> None:
            def choose(manifest: Manifest, _: api.Tree) -> Manifest:
                return Manifest([entry for entry in manifest if entry.path in names])

            store.tree(where).fetch(folder, lambda _: True, progress, choose=choose)

        return pages.refresh(name, folder, fetch_some, live=live)

    def _locate(self, resource: Resource) -> tuple[Store, ResourceRef]:
        """The store that has a resource, and what it is there."""
        if resource.kind == "runs":
            run = self._connections.registry.run(resource.name)
            if run.reason is Reason.START_FAILED and run.started is None:
                raise NotFound(f"run {run.number} never started", hint=f"remoterun info {run.number}")
            where = ResourceRef("run", key=run.key, number=run.number, sub=resource.sub)
            return find_store(self._connections, run)[1], where
        registry = self._connections.registry
        if not registry.uploads.versions(resource.name, resource.version):  # another client may have put it there
            for home in dict.fromkeys([self._connections.home(None), *self._connections.named_bucket()]):
                note_versions(registry, store_of(self._connections, home), resource.name)

        def found(upload: Upload, store: Store) -> tuple[Store, ResourceRef]:
            return store, ResourceRef("upload", upload.name, sub=resource.sub, digest=upload.digest)

        return first_copy(self._connections, resource.name, resource.version, found)


class _Written(io.RawIOBase):
    """A file that can only be written, and hands everything on."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._write(bytes(data))
        return len(data)


def _of_nobody(item: tarfile.TarInfo) -> tarfile.TarInfo:
    """An archive does not say who made it here."""
    item.uid = item.gid = 0
    item.uname = item.gname = ""
    return item


_SPECIAL = frozenset("*?[")
ANY_DEPTH = "**"


def split_pattern(resource: Resource) -> tuple[Resource, str]:
    """(the part of a resource before its first name with a special character, the rest); "" where there is none."""
    parts = resource.sub.split("/") if resource.sub else []
    plain = next((number for number, part in enumerate(parts) if _SPECIAL & set(part)), len(parts))
    return replace(resource, sub="/".join(parts[:plain])), "/".join(parts[plain:])


def matching(manifest: Manifest, below: Resource, pattern: str) -> Manifest:
    """The entries that `pattern` names, with all that lies below such a folder. Raises `NotFound` if there are none."""
    found = [entry for entry in manifest if entry.path == pattern or entry.path.startswith(f"{pattern}/")]
    if not found:
        parts = pattern.split("/")
        found = [entry for entry in manifest if _fits(entry.path.split("/"), parts)]
    if not found:
        raise NotFound(f"nothing in {show(str(below))} matches `{show(pattern)}`", hint=f"remoterun ls {below}")
    return Manifest(found)


def _fits(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the pattern names the path, or a folder above it."""
    if not pattern:
        return True
    if pattern[0] == ANY_DEPTH:
        return any(_fits(path[start:], pattern[1:]) for start in range(len(path)))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and _fits(path[1:], pattern[1:])
