"""Who refers to which blobs of a home. Whatever keeps a digest has its place here, or `gc` frees its blob.

    an upload       of each version: the files of its manifest
    a run           the files of its source, and of its saved outputs
                    the files that earlier attempts of it left, until it has ended
                    its environment: the tree that holds docker/ and trainer/, saved as a blob, and that tree's files
                    the diff of its commit, saved as a blob
                    each mount: the tree, saved as a blob (what the run has read); its files until the run has ended

That an ended run's mounts pin no files is on purpose: `--keep` and `rm` would free nothing that was ever trained on.

Manifests are read line by line.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

from ..shared.records import Record
from ..shared.spec import ResolvedMount, RunSpec
from ..shared.states import FINAL
from ..shared.tree import Entry, TreeError, read_entries, show
from ..store.errors import HomeError
from ..store.home import Home
from ..store.run_folder import RunFolder


class Referrer(Record):
    """One manifest that refers to blobs, or one blob that something refers to by its digest.

    `manifest` is the file ("" for none), `digest` its SHA-256 ("" where none is recorded), `is_blob` whether that file
    is a blob of the home, to which the referrer refers, too. `folder` is where the files lie as links to blobs ("" for
    nowhere); `whole` whether they are to stay there as they are.
    """

    kind: str  # "upload" or "run"
    name: str  # of the upload; the run's key
    version: int  # of the upload; 0 for a run
    part: str  # "files" of an upload; of a run "source", "left", "outputs", "mount", "environment" or "diff"
    manifest: str
    digest: str
    is_blob: bool = False
    folder: str = ""
    whole: bool = False

    @property
    def title(self) -> str:
        if self.kind == "upload":
            return "version %d of the upload %s" % (self.version, show(self.name))
        return "the %s of the run %s" % (self.part, self.name)

    def user(self, path: str = "") -> Dict[str, Any]:
        """As a finding names it; "tree" is the digest of a version, "run" the key of a run."""
        if self.kind == "upload":
            return {"upload": self.name, "tree": self.digest, "version": self.version, "path": path}
        return {"run": self.name, "part": self.part, "path": path}

    def entries(self) -> Iterator[Entry]:
        """What the manifest names. Raises `HomeError("damaged")` when it can't be read."""
        if not self.manifest:
            return
        try:
            for entry in read_entries(self.manifest):
                yield entry
        except (OSError, TreeError) as error:
            raise HomeError("damaged", "the list of files of %s can't be read: %s" % (self.title, _why(error)))

    def blobs(self) -> Iterator[bytes]:
        """The digests of all blobs to which it refers. Raises `HomeError("damaged")`."""
        if self.is_blob:
            yield bytes.fromhex(self.digest)
        for entry in self.entries():
            if entry.kind == "f":
                yield bytes.fromhex(entry.digest)


def of_upload(home: Home, name: str) -> List[Referrer]:
    """The versions of an upload, oldest first. Raises `HomeError("damaged")`."""
    folder = home.uploads.folder_of(name)
    with _read_whole("the versions of the upload %s" % show(name)):
        return [
            Referrer(
                "upload",
                name,
                version["version"],
                "files",
                os.path.join(folder, "%d.tree" % version["version"]),
                version["digest"],
                folder=os.path.join(folder, str(version["version"])),
                whole=True,
            )
            for version in home.uploads.versions(name)
        ]


def of_run(home: Home, run: RunFolder) -> List[Referrer]:
    """What a run refers to now. Raises `HomeError("damaged")`; `FileNotFoundError` for a run that is gone."""
    with _read_whole("what the run %s refers to" % run.key):
        spec = run.spec()
        ended = run.state()[0] in FINAL
        found = [Referrer("run", run.key, 0, "source", run.source_file, spec.source)]
        if not ended and os.path.exists(run.left_file):
            found.append(Referrer("run", run.key, 0, "left", run.left_file, ""))
        found += _of_spec(home, run, spec, ended)
    if os.path.exists(run.outputs_file):
        found.append(Referrer("run", run.key, 0, "outputs", run.outputs_file, "", folder=run.out, whole=True))
    return found


def _of_spec(home: Home, run: RunFolder, spec: RunSpec, ended: bool) -> Iterator[Referrer]:
    for number, mount in enumerate(run.mounts()):
        folder = os.path.join(run.path, "mounts", str(number))
        listed = "" if ended else home.blobs.path(mount.tree)
        yield Referrer("run", run.key, 0, "mount", listed, mount.tree, is_blob=True, folder="" if ended else folder)
    context = spec.environment.context
    yield Referrer("run", run.key, 0, "environment", home.blobs.path(context), context, is_blob=True)
    diff = spec.git.diff if spec.git is not None else None
    if diff:
        yield Referrer("run", run.key, 0, "diff", "", diff, is_blob=True)


class ActiveRun(Record):
    """A run that has not ended: what it asked for, and what it mounts."""

    spec: RunSpec
    mounts: Tuple[ResolvedMount, ...]


def active_runs(home: Home) -> List[ActiveRun]:
    """Every run that has not ended. Raises `HomeError("damaged")`."""
    found = []
    for key in home.run_keys():
        run = home.run(key)
        # it may be removed meanwhile
        with contextlib.suppress(FileNotFoundError), _read_whole("what the run %s refers to" % key):
            if run.exists() and run.state()[0] not in FINAL:
                found.append(ActiveRun(run.resolved_spec(), run.mounts()))
    return found


def gone(home: Home, referrer: Referrer) -> bool:
    """Whether it was removed since it was found."""
    if referrer.kind == "run":
        return not home.run(referrer.name).exists()
    return referrer.digest not in [version["digest"] for version in home.uploads.versions(referrer.name)]


class ReferenceReader:
    """Adds to a set of digests what all referrers refer to; called again, only what is new since.

    `without`: versions of uploads (name, digest) that count as removed.
    """

    def __init__(self, home: Home, without: Optional[Set[Tuple[str, str]]] = None) -> None:
        self._home = home
        self._without = set() if without is None else without
        self._read: Set[Tuple[str, str, str, str]] = set()
        self._ended: Set[str] = set()

    def update(self, digests: Set[bytes]) -> None:
        """Raises `HomeError("damaged")` when what something refers to can't be read."""
        for name in self._home.uploads.names():
            for referrer in of_upload(self._home, name):
                if (name, referrer.digest) not in self._without:
                    self._take(referrer, digests)
        for key in self._home.run_keys():
            if key not in self._ended:
                self.take_run(self._home.run(key), digests)

    def spare(self, name: str, digest: str) -> None:
        """Count a version as one that stays."""
        self._without.discard((name, digest))

    def take_run(self, run: RunFolder, digests: Set[bytes]) -> None:
        """The same of one run."""
        if not run.exists():
            return
        referrers, ended = [], False  # type: List[Referrer], bool
        with contextlib.suppress(FileNotFoundError), _read_whole("what the run %s refers to" % run.key):
            ended = run.state()[0] in FINAL
            referrers = of_run(self._home, run)
        for referrer in referrers:
            self._take(referrer, digests)
        if ended:
            self._ended.add(run.key)  # nothing of it is added any more

    def _take(self, referrer: Referrer, digests: Set[bytes]) -> None:
        mark = (referrer.kind, referrer.name, referrer.part, referrer.digest)
        if mark in self._read:
            return
        try:
            digests.update(referrer.blobs())
        except HomeError:
            if gone(self._home, referrer):
                return
            raise
        self._read.add(mark)


@contextlib.contextmanager
def _read_whole(what: str) -> Iterator[None]:
    """Raises `HomeError("damaged")` for what can't be read, and `FileNotFoundError` for what is gone."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise HomeError("damaged", "%s can't be read: %s" % (what, _why(error)))


def _why(error: BaseException) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, TreeError):
        return "it is damaged"
    return "%s is not there" % error if isinstance(error, KeyError) else str(error)
