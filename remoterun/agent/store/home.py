"""A home: the folder in which remoterun keeps blobs, uploads, runs and environments. Every path of it is named here.

    HOME/
        home.json       {"format": 1, "id": …}
        agent/          the agent's bundles
        blobs/ab/cdef…  a file's content, read-only, named by its SHA-256; "….x" is its executable twin
        partial/…       blobs under way
        uploads/NAME/   versions.json; N/ the files of version N (hard links to blobs); N.tree its manifest
        runs/KEY/       see run_folder.py
        active/KEY      a mark for each run that hasn't been cleaned up after its end
        envs/HASH/      environments of the engine `process`
        leases/PID-…    digests that somebody is about to refer to: see leases.py
        damaged/…       blobs that are not what their name says, and that nothing here could mend: see check.py
        queue/, locks/, tmp/

Standard library only; Python >= 3.8.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import time
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Set, Tuple

from ..shared.files import DISK_FULL, locked, private_copy, read_json, remove_tree, token, write_whole
from ..shared.tree import Entry, Landing, Manifest, TreeError, hash_file, is_digest, show, walk
from .leases import Lease
from .run_folder import RunFolder
from .this_machine import Machine

FORMAT = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
EMPTY = hashlib.sha256(b"").hexdigest()
KEY = re.compile(r"[0-9a-z]{8,40}\Z")


class HomeError(Exception):
    """A request a home can't fulfil. `code` is a word of the protocol; `message` has no full stop."""

    def __init__(self, code: str, message: str, hint: Optional[str] = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


def disk_full(home: str) -> HomeError:
    return HomeError("disk_full", "the disk that holds %s is full" % home)


class Home:
    """One home. `open` makes it where it is missing. Safe for several processes at once."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(os.path.expanduser(path))
        self.agents = self._at("agent")
        self.blobs = self._at("blobs")
        self.partial = self._at("partial")
        self.uploads = self._at("uploads")
        self.runs = self._at("runs")
        self.active = self._at("active")
        self.envs = self._at("envs")
        self.queue = self._at("queue")
        self.locks = self._at("locks")
        self.tmp = self._at("tmp")
        self.leases = self._at("leases")
        self.damaged = self._at("damaged")
        self.id = ""

    @classmethod
    def open(cls, path: str) -> "Home":
        """The home at `path`, made if missing (mode 0700). Raises `HomeError` for one of another format."""
        home = cls(path)
        marker = home._at("home.json")
        try:
            about = read_json(marker)
        except (FileNotFoundError, NotADirectoryError):
            about = home._make(marker)
        except ValueError:
            raise HomeError("bad_home", "%s is damaged" % marker)
        if about.get("format") != FORMAT:
            raise HomeError(
                "bad_home",
                "%s is a home of format %s, and this version knows %d" % (home.path, about.get("format"), FORMAT),
                "upgrade remoterun, or give that machine another home",
            )
        if not all(map(os.path.isdir, home._folders())):  # somebody made room by hand
            home._make(marker)
        home.id = about["id"]
        return home

    def _folders(self) -> List[str]:
        """Those that are always there."""
        kept = [self.agents, self.blobs, self.partial, self.uploads, self.runs, self.envs]
        return [self.path, *kept, self.active, self.queue, self.locks, self.tmp, self.leases]

    def _make(self, marker: str) -> Dict[str, Any]:
        try:
            for folder in self._folders():
                os.makedirs(folder, 0o700, exist_ok=True)
            with locked(self.lock("home")):
                if not os.path.exists(marker):
                    write_whole(marker, json.dumps({"format": FORMAT, "id": token(8)}).encode())
        except OSError as error:
            if error.errno in DISK_FULL:
                raise disk_full(self.path)
            raise HomeError(
                "bad_home", "the home %s can't be made: %s" % (self.path, error.strerror), "give it another `home`"
            )
        about: Dict[str, Any] = read_json(marker)
        return about

    def _at(self, *parts: str) -> str:
        return os.path.join(self.path, *parts)

    def lock(self, name: str) -> str:
        return os.path.join(self.locks, name)

    def lease(self) -> Lease:
        """To protect blobs from `gc` before something refers to them."""
        return Lease(self.leases, self.lock("blobs"))

    @contextlib.contextmanager
    def temporary(self, label: str) -> Iterator[str]:
        """A new folder under tmp/, gone afterwards."""
        path = os.path.join(self.tmp, "%s-%d-%s" % (label, os.getpid(), token()))
        os.mkdir(path, 0o700)
        try:
            yield path
        finally:
            remove_tree(path)

    # -- blobs

    def blob(self, digest: str, executable: bool = False) -> str:
        return "%s/%s/%s%s" % (self.blobs, digest[:2], digest[2:], ".x" if executable else "")

    def blob_size(self, digest: str) -> Optional[int]:
        """Bytes of a blob; None if it isn't here. A file without content counts only if that is its content: after a
        power cut it may be an empty husk."""
        try:
            size = os.stat(self.blob(digest)).st_size
        except OSError:
            return None
        return size if size or digest == EMPTY else None

    def has_blob(self, digest: str) -> bool:
        return self.blob_size(digest) is not None

    def partial_size(self, digest: str) -> int:
        try:
            return os.stat(os.path.join(self.partial, digest)).st_size
        except OSError:
            return 0

    def partials(self, most: int = 1000) -> Dict[str, int]:
        """Sizes of the blobs that cut transfers have left, by the names they have meanwhile; `most` of them."""
        found = {}
        for name in sorted(os.listdir(self.partial))[:most]:
            size = self.partial_size(name)
            if size:
                found[name] = size
        return found

    def sizes_of_blobs(self, sizes: Set[int], most: int = 50000) -> Set[int]:
        """Those of `sizes` that a blob here has; all, if there are more than `most` blobs to look at."""
        found: Set[int] = set()
        count = 0
        for folder in os.scandir(self.blobs):
            for blob in os.scandir(folder.path) if folder.is_dir() else ():
                count += 1
                if count > most:
                    return sizes
                with contextlib.suppress(OSError):
                    size = blob.stat(follow_symlinks=False).st_size
                    if size in sizes:
                        found.add(size)
        return found

    def adopt(self, path: str, digest: str) -> None:
        """Make the file at `path` the blob `digest`, by a hard link, unless there is one. `path` becomes read-only."""
        if self.has_blob(digest):
            return
        target = self.blob(digest)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.chmod(path, 0o444)
        try:
            os.link(path, target)
        except FileExistsError:
            if not self.has_blob(digest):  # a husk, which is replaced in one move: another may put the blob there now
                with self.temporary("adopt") as folder:
                    whole = os.path.join(folder, "blob")
                    os.link(path, whole)
                    os.replace(whole, target)

    def executable_twin(self, digest: str) -> str:
        """The path of the blob's executable twin, made where missing (a hard link shares its mode, so it's a copy)."""
        target = self.blob(digest, executable=True)
        if not os.path.exists(target):
            with self.temporary("twin") as folder:
                copy = os.path.join(folder, "x")
                private_copy(self.blob(digest), copy)
                os.chmod(copy, 0o555)
                os.replace(copy, target)
        return target

    def put(self, data: bytes) -> str:
        """Keep `data` as a blob; its digest."""
        digest = hashlib.sha256(data).hexdigest()
        if not self.has_blob(digest):
            with self.temporary("put") as folder:
                whole = os.path.join(folder, "blob")
                write_whole(whole, data)
                self.adopt(whole, digest)
        return digest

    # -- trees

    def tree(self, digest: str) -> Manifest:
        """The manifest that is kept as a blob (a tree's digest is the SHA-256 of its canonical form)."""
        try:
            return Manifest.decode(_read(self.blob(digest)))
        except FileNotFoundError:
            raise HomeError("missing_blob", "the tree %s is not in %s" % (digest[:12], self.path))
        except TreeError as error:
            raise HomeError("damaged", "the tree %s is damaged: %s" % (digest[:12], error))

    def missing(self, manifest: Manifest) -> List[Entry]:
        """The files of which this home holds no blob."""
        return [entry for entry in manifest.files if not self.has_blob(entry.digest)]

    def checkout(self, manifest: Manifest, target: str, private: bool) -> None:
        """Write a tree into the folder `target`, which is made.

        `private`: copies that may be written. Otherwise hard links to blobs, read-only, folders too. Raises `HomeError`
        for a missing blob or a full disk.
        """
        with Checkout(self, target, private, {}) as checkout:
            for entry in manifest.entries:
                checkout.place(entry)
            checkout.finish()

    # -- uploads

    def upload_folder(self, name: str) -> str:
        if not NAME.match(name):
            raise HomeError("bad_name", "%s is no name for an upload" % show(name))
        return os.path.join(self.uploads, name)

    def upload_versions(self, name: str) -> List[Dict[str, Any]]:
        """Versions of an upload, oldest first; empty when there is none of that name."""
        try:
            versions: List[Dict[str, Any]] = read_json(os.path.join(self.upload_folder(name), "versions.json"))
            return versions
        except FileNotFoundError:
            return []

    def is_newest(self, name: str, digest: str) -> bool:
        """Whether the newest version of an upload is the tree `digest`, and whole."""
        versions = self.upload_versions(name)
        return bool(versions) and versions[-1]["digest"] == digest and not versions[-1].get("damaged")

    def commit_upload(
        self, name: str, manifest: Manifest, placed: Optional["Checkout"] = None
    ) -> Tuple[Dict[str, Any], bool]:
        """Make `manifest` the newest version of the upload `name`; (version, whether it is new).

        All blobs must be there. `placed`: a checkout of all of it, whose blobs a lease protects. The same content as
        the newest version makes none, unless that is damaged. May be repeated.
        """
        folder = self.upload_folder(name)
        digest = manifest.digest
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked(self.lock("upload-" + name)))
            versions = self.upload_versions(name)
            if self.is_newest(name, digest):
                return versions[-1], False
            os.makedirs(folder, 0o700, exist_ok=True)
            number = versions[-1]["version"] + 1 if versions else 1
            if placed is None:
                stack.enter_context(self.lease()).add(packed(manifest))
                tree = os.path.join(stack.enter_context(self.temporary("upload")), "tree")
                self.checkout(manifest, tree, private=False)
            else:
                placed.finish()
                tree = placed.target
            target = os.path.join(folder, str(number))
            remove_tree(target)  # left by a crash before versions.json named it
            os.rename(tree, target)
            write_whole(os.path.join(folder, "%d.tree" % number), manifest.encode())
            version = {
                "version": number,
                "digest": digest,
                "size": manifest.size,
                "files": manifest.file_count,
                "created": round(time.time(), 3),
            }
            self.write_versions(name, versions + [version])
        return version, True

    def write_versions(self, name: str, versions: List[Dict[str, Any]]) -> None:
        """To be called under the upload's lock. "damaged" marks a version that is not whole: see check.py."""
        write_whole(os.path.join(self.upload_folder(name), "versions.json"), json.dumps(versions).encode())

    def upload_tree(self, name: str, version: Optional[int] = None, digest: Optional[str] = None) -> "Stored":
        """A version of an upload (the newest by default). Raises `HomeError("not_found")`."""
        versions = self.upload_versions(name)
        chosen = [
            item
            for item in versions
            if (version is None or item["version"] == version) and (digest is None or item["digest"] == digest)
        ]
        if not chosen:
            what = "there is no upload %s" % show(name)
            if versions:
                what = "the upload %s has no such version" % show(name)
            raise HomeError("not_found", what)
        number = chosen[-1]["version"]
        folder = self.upload_folder(name)
        return Stored(os.path.join(folder, "%d.tree" % number), os.path.join(folder, str(number)), chosen[-1])

    def list_uploads(self) -> List[Dict[str, Any]]:
        found = []
        for name in sorted(os.listdir(self.uploads)):
            if NAME.match(name):
                versions = self.upload_versions(name)
                if versions:
                    found.append(dict(versions[-1], name=name))
        return found

    def remove_upload(self, name: str) -> bool:
        """Whether there was one. Runs that mount it keep what they mounted."""
        folder = self.upload_folder(name)
        with locked(self.lock("upload-" + name)):
            there = os.path.isdir(folder)
            if there:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(folder, "versions.json"))
                remove_tree(folder)
        return there

    # -- runs

    def run(self, key: str) -> RunFolder:
        """The run folder of `key`, there or not. Raises `HomeError` for what is no key."""
        if not KEY.match(key):
            raise HomeError("bad_name", "%s is no key of a run" % show(key))
        return RunFolder(os.path.join(self.runs, key))

    def existing_run(self, key: str) -> RunFolder:
        run = self.run(key)
        if not run.exists():
            raise HomeError("not_found", "there is no run %s in %s" % (key, self.path))
        return run

    def run_keys(self) -> List[str]:
        return sorted(key for key in os.listdir(self.runs) if KEY.match(key))

    def active_keys(self) -> List[str]:
        return sorted(key for key in os.listdir(self.active) if KEY.match(key))

    def mark_active(self, key: str) -> None:
        write_whole(os.path.join(self.active, key), b"")

    def unmark_active(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.active, key))

    def create_run(self, spec: Dict[str, Any], source: Manifest) -> RunFolder:
        """Make the run folder of `spec["key"]`, its first event QUEUED. Once made, a repetition changes nothing.

        Raises `HomeError("missing_blob")` when a file of the source isn't here.
        """
        run = self.run(str(spec.get("key", "")))
        if run.exists():
            return run
        absent = self.missing(source)
        if absent:
            raise HomeError("missing_blob", "%d files of the source are missing here" % len(absent))
        with self.temporary("run") as temporary:
            staged = RunFolder(temporary)
            os.mkdir(staged.io, 0o700)
            write_whole(staged.source_file, source.encode())
            write_whole(staged.events_file, _event("queued"))
            write_whole(staged.machine_file, json.dumps(Machine.this().record()).encode())
            write_whole(staged.spec_file, json.dumps(spec).encode())
            self.mark_active(run.key)
            remove_tree(run.path)
            os.rename(temporary, run.path)
        return run

    def save_outputs(self, run: RunFolder, skip: Iterable[str]) -> Tuple[Manifest, List[str]]:
        """Turn new and changed files of the work tree into the tree of outputs: (manifest, names of special files).

        Files become blobs by hard links: no data is copied. May be repeated after a crash at any point. What can't be
        read, since it belongs to another user, counts as special too, and the work tree stays, for it is there only.
        """
        with self.lease() as lease:
            return self._save_outputs(run, skip, lease)

    def _save_outputs(self, run: RunFolder, skip: Iterable[str], lease: Lease) -> Tuple[Manifest, List[str]]:
        source = {entry.path: entry for entry in Manifest.decode(_read(run.source_file)).entries}
        _open_up(run.work)
        special: List[str] = []
        unreadable: List[str] = []
        entries = []
        for found in walk(run.work, skip, special, unreadable):
            entry = found.entry
            known = source.get(entry.path)
            if entry.kind == "f":
                path = os.path.join(run.work, entry.path)
                try:
                    digest = _hash_ours(path)
                except PermissionError:
                    unreadable.append(entry.path)
                    continue
                entry = entry._replace(digest=digest)
                if known == entry:
                    continue
                lease.add(bytes.fromhex(digest))
                self._adopt_output(path, entry, found.status)
            elif known == entry:
                continue
            entries.append(entry)
        manifest = Manifest(entries)
        with self.temporary("outputs") as temporary:
            tree = os.path.join(temporary, "out")
            self.checkout(manifest, tree, private=False)
            remove_tree(run.out)
            os.rename(tree, run.out)
        write_whole(run.outputs_file, manifest.encode())
        if not unreadable:
            with contextlib.suppress(PermissionError):  # a folder of another user: what is in it stays beside its copy
                remove_tree(run.work)
        return manifest, special + unreadable

    def _adopt_output(self, path: str, entry: Entry, status: os.stat_result) -> None:
        if status.st_uid == os.geteuid() and status.st_nlink == 1 and not entry.executable:
            self.adopt(path, entry.digest)
        elif not self.has_blob(entry.digest):
            # A blob is not executable and a hard link shares its mode: a repetition after a crash would lose the bit.
            # What belongs to another user, such as root, can't be made read-only; and what has a name elsewhere, too,
            # must not be: there somebody writes to it.
            with self.temporary("out") as folder:
                copy = os.path.join(folder, "x")
                private_copy(path, copy)
                self.adopt(copy, entry.digest)

    def outputs(self, run: RunFolder) -> Optional["Stored"]:
        """The saved outputs, or None while the run hasn't saved any."""
        if not os.path.exists(run.outputs_file):
            return None
        return Stored(run.outputs_file, run.out, {})


class Checkout:
    """A tree that is written into the folder `target`, entry by entry, in their order. A context manager.

    As `Home.checkout`. `sizes`: those of blobs that were looked at a moment ago; others are looked up.
    """

    def __init__(self, home: Home, target: str, private: bool, sizes: Mapping[str, int]) -> None:
        self.target = target
        self._home, self._private, self._sizes = home, private, sizes
        self._folders: Set[str] = {""}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Checkout":
        with contextlib.ExitStack() as stack:
            try:
                os.makedirs(self.target, 0o755, exist_ok=True)
                self._blobs = stack.enter_context(_opened(self._home.blobs))
                self._landing = stack.enter_context(Landing(self.target))
            except OSError as error:
                self._say_if_full(error)
                raise
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def place(self, entry: Entry) -> None:
        """Raises `HomeError` for a blob that is missing or damaged, which may be tried again, and for a full disk."""
        try:
            parent, _, name = entry.path.rpartition("/")
            within = entry.path if entry.kind == "d" else parent
            folder = self._landing.folder(within)
            while within not in self._folders:
                self._folders.add(within)
                within = within.rpartition("/")[0]
            if entry.kind == "l":
                os.symlink(entry.target, name, dir_fd=folder)
            elif entry.kind == "f":
                self._place_file(entry, folder, name)
        except OSError as error:
            self._say_if_full(error)
            raise

    def finish(self) -> None:
        """All are in place: folders become read-only, too."""
        if not self._private:
            for path in sorted(self._folders, reverse=True)[:-1]:
                os.chmod(os.path.join(self.target, path), 0o555)

    def _place_file(self, entry: Entry, folder: int, name: str) -> None:
        """`folder`: a descriptor of where the file gets its `name`."""
        digest = entry.digest
        blob = digest[:2] + "/" + digest[2:]
        try:
            # What was seen of another size may have been mended since.
            size = self._sizes.get(digest)
            if size != entry.size and os.stat(blob, dir_fd=self._blobs).st_size != entry.size:
                raise HomeError("damaged", "the content of %s is damaged in %s" % (show(entry.path), self._home.path))
            if self._private:
                private_copy(blob, name, 0o755 if entry.executable else 0o644, self._blobs, folder)
                return
            if entry.executable:
                self._home.executable_twin(digest)
                blob += ".x"
            try:
                os.link(blob, name, src_dir_fd=self._blobs, dst_dir_fd=folder)
            except OSError as error:
                if error.errno not in (errno.EMLINK, errno.EXDEV, errno.EPERM):
                    raise
                # out of links to one file (65,000 on ext4), or a file system without
                private_copy(blob, name, 0o555 if entry.executable else 0o444, self._blobs, folder)
        except FileNotFoundError:
            if not os.fstat(folder).st_nlink:  # it is our folder that is gone
                raise
            raise HomeError("missing_blob", "the content of %s is not in %s" % (show(entry.path), self._home.path))

    def _say_if_full(self, error: OSError) -> None:
        if error.errno in DISK_FULL:
            raise disk_full(self._home.path)


class Stored:
    """A tree that is at rest in a home: its manifest and the folder that holds it as plain files."""

    def __init__(self, manifest_file: str, folder: str, about: Dict[str, Any]) -> None:
        self._manifest_file = manifest_file
        self.folder = folder
        self.about = about

    def manifest(self) -> Manifest:
        data = _read(self._manifest_file)
        if hashlib.sha256(data).hexdigest() == self.about.get("digest"):
            return Manifest.checked_before(data, self.about["files"], self.about["size"])
        try:
            return Manifest.decode(data)
        except TreeError as error:
            raise HomeError("damaged", "%s is damaged: %s" % (self._manifest_file, error))


def packed(manifest: Manifest) -> bytes:
    """The digests of its files, 32 bytes each."""
    raw = bytearray()
    for entry in manifest.files:
        raw += bytes.fromhex(entry.digest)
    return bytes(raw)


def blob_digest(first: int, name: str) -> Optional[bytes]:
    """Of which blob a file of blobs/XX is the content, or the executable twin; `first` is XX. None for other files."""
    text = "%02x" % first + (name[:-2] if name.endswith(".x") else name)
    return bytes.fromhex(text) if is_digest(text) else None


def all_readable(root: str) -> bool:
    """Whether we may read every file and folder below `root`."""
    paths = (os.path.join(folder, name) for folder, names, files in os.walk(root) for name in names + files)
    return all(os.path.islink(path) or os.access(path, os.R_OK) for path in paths)


def _hash_ours(path: str) -> str:
    """The digest of a file that we may read, or may allow ourselves to. Raises `PermissionError`."""
    try:
        return hash_file(path)[0]
    except PermissionError:
        os.chmod(path, 0o600)
        return hash_file(path)[0]


def _open_up(root: str) -> None:
    """Let us read every folder below `root`, whatever a command has done to their modes."""
    for folder, names, _ in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path) and not os.access(path, os.R_OK | os.W_OK | os.X_OK):
                with contextlib.suppress(OSError):
                    os.chmod(path, 0o700)


def _event(state: str) -> bytes:
    return json.dumps({"t": round(time.time(), 3), "state": state}).encode() + b"\n"


@contextlib.contextmanager
def _opened(folder: str) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
