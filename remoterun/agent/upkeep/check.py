"""Verify a home: every blob against its name, every list of files, every file that stands for a blob; and mend.

What is found is a *finding*:

    {"what": "blob"     a file of blobs/, or its executable twin, is "damaged"; or "missing", and something refers to it
             "file"     in an upload's folder, or among a run's outputs, a file is "missing", or is "changed": no longer
                        what the list of files says
             "folder"   all of them are missing
             "list"     what an upload or a run refers to can't be read: "damaged"
     "problem", "digest" (hex, "" if there is none), "size" (bytes, 0 if unknown),
     "users": [{"upload", "version", "path"} or {"run" (its key), "part", "path"}, …], "more" users than those,
     "mended": from what, in words; "" if it could not be, "why": then why not}

Mending takes the content of a blob from its executable twin (or the other way round), or from a file of the home that
is no link to it: each is hashed first. A blob's file is linked into folders of uploads and outputs; they get the new
file, too, one by one, in read-only folders as well. Everything appears whole: temporary name, fsync, rename. Where
nothing here helps, the client may bring the content by `put`, and `mend` does the rest.

Nothing damaged is deleted before there is a whole one in its place. But a damaged blob must not pass for the content:
it would spare the next upload from sending it. So what can't be mended is moved to damaged/, under its own name; then
the blob is missing, is sent when somebody has it, and the next check or `mend` puts it wherever it belongs. The links
in folders of uploads stay as they are meanwhile, and the version is marked as damaged in versions.json: a repeated
upload of the same content does not count it as there, and makes a new one. A damaged blob that nothing refers to is
moved there, too, and that is all it needs. Without `repair` nothing is changed.

Memory: 32 bytes for each digest that is referred to, and at most `MOST` findings; the rest is counted, for a next
check. What is removed while we look is no finding. Standard library only; Python >= 3.8.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple

from ..shared.digests import Digests
from ..shared.files import DISK_FULL, locked, private_copy, write_whole
from ..shared.protocol import PIECE, Stream
from ..shared.tree import Entry, Manifest, TreeError, hash_file, is_digest, walk
from ..store.blobs import blob_digest
from ..store.errors import HomeError
from ..store.home import Home
from .references import Holder, gone, of_run, of_upload

MOST = 10000
USERS = 100
SAY_EVERY = 0.2


class _Fault:
    """A digest with something wrong in blobs/: each of its two files is "whole", "damaged" or "absent"."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.plain = self.twin = "absent"
        self.inodes: Set[int] = set()
        self.size = 0
        self.users: List[Dict[str, Any]] = []
        self.more = 0
        self.copies: List[str] = []
        self.versions: Set[Tuple[str, int]] = set()
        self.mended = ""
        self.why = ""

    def used_by(self, user: Dict[str, Any]) -> None:
        if "upload" in user:
            self.versions.add((user["upload"], user["version"]))
        if len(self.users) < USERS:
            self.users.append(user)
        else:
            self.more += 1

    def finding(self) -> Dict[str, Any]:
        problem = "damaged" if "damaged" in (self.plain, self.twin) else "missing"
        return _finding("blob", problem, self.digest, self.users, self.mended, self.why, size=self.size, more=self.more)


class Check:
    """One look at a home. `send(at=…)` is called as it goes on, `send(finding=…)` for each finding at the end."""

    def __init__(
        self, home: Home, repair: bool, send: Callable[..., Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.home = home
        self._repair = repair
        self._send = send
        self._clock = clock
        self._needed = Digests()
        self._holders: List[Holder] = []
        self._faults: Dict[str, _Fault] = {}
        self._findings: List[Dict[str, Any]] = []
        self._replace: Dict[str, List[Dict[str, Any]]] = {}
        self._more = 0
        self._phase = ""
        self._said = 0.0
        self._files = self._files_total = self._bytes = self._bytes_total = 0

    def run(self) -> Dict[str, Any]:
        """The totals: {"blobs", "bytes", "files", "findings", "more": not looked into}."""
        self._read_lists()
        blobs, size = self._count()
        self._verify_blobs()
        self._begin("files", 0, 0)
        for holder in self._holders:
            self._verify_folder(holder)
        files = self._files
        if self._repair:
            self._mend()
        found = self._findings + [fault.finding() for fault in self._faults.values() if self._counts(fault)]
        for finding in found:
            self._send(finding=finding)
        return {"blobs": blobs, "bytes": size, "files": files, "findings": len(found), "more": self._more}

    def _counts(self, fault: _Fault) -> bool:
        return bool(fault.users) or "damaged" in (fault.plain, fault.twin)

    # -- progress

    def _begin(self, phase: str, files: int, size: int) -> None:
        self._phase, self._files, self._bytes = phase, 0, 0
        self._files_total, self._bytes_total = files, size
        self._say()

    def _moved(self, size: int, files: int = 0) -> None:
        self._bytes += size
        self._files += files
        if self._clock() - self._said > SAY_EVERY:
            self._say()

    def _say(self) -> None:
        self._said = self._clock()
        self._send(
            at={
                "phase": self._phase,
                "files": self._files,
                "files_total": self._files_total,
                "bytes": self._bytes,
                "bytes_total": self._bytes_total,
            }
        )

    # -- lists of files

    def _read_lists(self) -> None:
        self._begin("lists", 0, 0)
        for name in self.home.uploads.names():
            try:
                holders = of_upload(self.home, name)
            except HomeError as error:
                self._list_finding({"upload": name, "version": 0, "path": ""}, "", error.message)
                continue
            for holder in holders:
                self._read_list(holder)
        for key in self.home.run_keys():
            run = self.home.run(key)
            if not run.exists():
                continue
            try:
                holders = of_run(self.home, run)
            except FileNotFoundError:
                continue
            except HomeError as error:
                self._list_finding({"run": key, "part": "spec", "path": ""}, "", error.message)
                continue
            for holder in holders:
                self._read_list(holder)

    def _read_list(self, holder: Holder) -> None:
        if holder.is_blob:
            self._needed.add(bytes.fromhex(holder.digest))
        elif holder.digest and not _is_whole(holder.manifest, holder.digest) and not gone(self.home, holder):
            mended = mend_list(self.home, holder) if self._repair else ""
            self._list_finding(_user(holder, ""), holder.digest, "", mended)
            if not mended:
                return
        try:
            for entry in holder.entries():
                if entry.kind == "f":
                    self._needed.add(bytes.fromhex(entry.digest))
                self._moved(0, 1)
        except HomeError as error:
            if not holder.is_blob and not gone(self.home, holder):  # a blob shows itself
                self._list_finding(_user(holder, ""), holder.digest, error.message)
            return
        self._holders.append(holder)

    def _list_finding(self, user: Dict[str, Any], digest: str, why: str, mended: str = "") -> None:
        self._found(_finding("list", "damaged", digest, [user], mended, why))

    def _found(self, finding: Dict[str, Any]) -> bool:
        if len(self._findings) + len(self._faults) >= MOST:
            self._more += 1
            return False
        self._findings.append(finding)
        return True

    # -- blobs

    def _count(self) -> Tuple[int, int]:
        self._begin("counting", 0, 0)
        count = size = 0
        for path in _blobs(self.home):
            try:
                size += os.stat(path).st_size
            except FileNotFoundError:
                continue
            count += 1
        self._begin("blobs", count, size)
        return count, size

    def _verify_blobs(self) -> None:
        for first in range(256):
            present = set()
            for name in _listed(os.path.join(self.home.blobs.folder, "%02x" % first)):
                digest = blob_digest(first, name)
                if digest is None:
                    continue
                state = self._verify_blob(digest.hex(), name.endswith(".x"))
                if not name.endswith(".x") and state != "absent":
                    present.add(digest)
            for digest in self._needed.part(first) - present:
                self._fault(digest.hex())

    def _verify_blob(self, digest: str, twin: bool) -> str:
        path = self.home.blobs.path(digest, twin)
        state = _state(path, digest, self._moved)
        self._moved(0, 1)
        if state == "damaged":
            fault = self._fault(digest)
            if fault is not None:
                status = os.stat(path)
                fault.inodes.add(status.st_ino)
                fault.size = status.st_size
        return state

    def _fault(self, digest: str) -> Optional[_Fault]:
        """Of that digest, with the state of both files; None when there are too many."""
        if digest not in self._faults:
            if len(self._findings) + len(self._faults) >= MOST:
                self._more += 1
                return None
            fault = _Fault(digest)
            fault.plain = _state(self.home.blobs.path(digest), digest)
            fault.twin = _state(self.home.blobs.path(digest, True), digest)
            self._faults[digest] = fault
        return self._faults[digest]

    # -- folders

    def _verify_folder(self, holder: Holder) -> None:
        found: List[Dict[str, Any]] = []
        if holder.is_blob and holder.digest in self._faults:
            self._faults[holder.digest].used_by(_user(holder, ""))
        look = holder.whole
        try:
            for number, entry in enumerate(holder.entries()):
                if number == 0 and look and not os.path.isdir(holder.folder):
                    found.append(_finding("folder", "missing", "", [_user(holder, "")]))
                    look = False
                problem = self._verify_file(holder, entry) if look else ""
                fault = self._faults.get(entry.digest) if entry.kind == "f" else None
                if fault is not None:
                    fault.size = entry.size
                    if fault.plain != "whole" or entry.executable or problem:
                        fault.used_by(_user(holder, entry.path))
                elif problem and len(found) < MOST:
                    found.append(_finding("file", problem, entry.digest, [_user(holder, entry.path)], size=entry.size))
        except HomeError:
            pass  # removed meanwhile: it could be read before
        if found and not gone(self.home, holder):
            for finding in found:
                if self._found(finding):
                    self._replace.setdefault(_place(holder), []).append(finding)

    def _verify_file(self, holder: Holder, entry: Entry) -> str:
        """ "missing", "changed", or "" for what is as it should be, or the fault of its blob."""
        path = os.path.join(holder.folder, entry.path)
        self._moved(0, 1)
        try:
            status = os.lstat(path)
        except OSError:
            return "missing"
        if entry.kind == "d":
            return "" if stat.S_ISDIR(status.st_mode) else "changed"
        if entry.kind == "l":
            return "" if stat.S_ISLNK(status.st_mode) and os.readlink(path) == entry.target else "changed"
        if not stat.S_ISREG(status.st_mode):
            return "changed"
        fault = self._faults.get(entry.digest)
        if fault is not None and status.st_ino in fault.inodes:
            return ""
        if fault is None and _same_file(
            status, self.home.blobs.path(entry.digest), self.home.blobs.path(entry.digest, True)
        ):
            return ""
        if _state(path, entry.digest, self._moved) == "whole":
            if fault is not None:
                fault.copies.append(path)
            return ""
        return "changed"

    # -- mending

    def _mend(self) -> None:
        whole = set()
        for fault in self._faults.values():
            if not self._counts(fault):
                continue
            try:
                fault.mended = self._mend_blob(fault)
            except OSError as error:
                fault.why = _why(error)
            if fault.mended:
                whole.add(fault.digest)
        wanted = whole | {finding["digest"] for found in self._replace.values() for finding in found}
        failed: Dict[str, str] = {}
        for holder in self._holders:
            self._mend_folder(holder, wanted, failed)
        for fault in self._faults.values():
            if fault.mended and fault.digest in failed:
                fault.mended, fault.why = "", failed[fault.digest]
            elif not fault.mended and self._counts(fault):
                self._set_aside(fault)
        self._mark()
        broken = {fault.digest for fault in self._faults.values() if not fault.mended}
        broken |= {finding["digest"] for finding in self._findings if not finding["mended"]}
        _drop_mended(self.home, lambda digest: digest not in broken)

    def _mark(self) -> None:
        """Note which versions of uploads are not whole."""
        broken = {version for fault in self._faults.values() if not fault.mended for version in fault.versions}
        for finding in self._findings:
            if not finding["mended"]:
                broken |= {(user["upload"], user["version"]) for user in finding["users"] if "upload" in user}
        for name in self.home.uploads.names():
            _mark_versions(self.home, name, lambda upload, version: (upload, version["version"]) in broken)

    def _mend_blob(self, fault: _Fault) -> str:
        plain, twin = self.home.blobs.path(fault.digest), self.home.blobs.path(fault.digest, True)
        words = ""
        if fault.plain != "whole":
            if fault.twin == "whole":
                source, words = twin, "its executable twin"
            elif fault.copies:
                source = fault.copies[0]
                words = "its copy in %s" % os.path.relpath(source, self.home.path)
            else:
                return ""
            _restore(source, plain, fault.digest, 0o444, self.home)
        if fault.twin == "damaged":
            _restore(plain, twin, fault.digest, 0o555, self.home)
            words = words or "the blob beside it"
        return words

    def _set_aside(self, fault: _Fault) -> None:
        for twin, state in ((False, fault.plain), (True, fault.twin)):
            if state == "damaged":
                try:
                    os.makedirs(self.home.damaged, 0o700, exist_ok=True)
                    os.replace(self.home.blobs.path(fault.digest, twin), _aside(self.home, fault.digest, twin))
                except OSError as error:
                    fault.why = _why(error)
                    return
        if not fault.users:
            fault.mended = "nothing refers to it: it was set aside"

    def _mend_folder(self, holder: Holder, wanted: Set[str], failed: Dict[str, str]) -> None:
        findings = self._replace.get(_place(holder), [])
        paths = {finding["users"][0]["path"]: finding for finding in findings}
        if "" in paths:
            self._finish(paths[""], _rebuild(self.home, holder))
            return
        if holder.folder and wanted:
            for entry, why in _relink(self.home, holder, wanted, set(paths)):
                if entry.path in paths:
                    self._finish(paths[entry.path], why)
                elif why:
                    failed[entry.digest] = why

    def _finish(self, finding: Dict[str, Any], why: str) -> None:
        finding["mended"], finding["why"] = ("", why) if why else ("its blob", "")


# -- what the client does with the rest


def mend(home: Home, wanted: Digests, send: Callable[..., Any]) -> None:
    """Put the blobs of `wanted` wherever they belong, now that they are here. May be repeated.

    `send(mended=digest)`, or `send(failed=digest, why=…)`: the blob is not here, or not whole, or has no way there.
    """
    whole: Set[str] = set()
    failed: Dict[str, str] = {}
    for first in range(256):
        for raw in wanted.part(first):
            digest = raw.hex()
            if _is_whole(home.blobs.path(digest), digest):
                whole.add(digest)
            else:
                failed[digest] = "it is not here"
    for holder in _holders(home):
        if holder.digest in whole and not holder.is_blob and not _is_whole(holder.manifest, holder.digest):
            mend_list(home, holder)
        if holder.folder:
            with contextlib.suppress(HomeError):  # a list that can't be read is a finding of its own
                for entry, why in _relink(home, holder, whole, set()):
                    if why:
                        failed[entry.digest] = why
    for name in home.uploads.names():
        _mark_versions(home, name, lambda upload, version: _is_broken(home, upload, version))
    _drop_mended(home, lambda digest: digest in whole and digest not in failed)
    for digest in sorted(whole - set(failed)):
        send(mended=digest)
    for digest, why in sorted(failed.items()):
        send(failed=digest, why=why)


def send_blob(home: Home, digest: str, stream: Stream) -> None:
    """Send {"d": digest, "s": size} and the bytes of a blob, or of the list of files of that digest; {"d", "gone": 1}
    if there is none that is whole."""
    path = next((path for path in _contents(home, digest) if _is_whole(path, digest)), None)
    if path is None:
        stream.send(d=digest, gone=1)
        return
    with open(path, "rb") as file:
        header: Dict[str, Any] = {"d": digest, "s": os.fstat(file.fileno()).st_size}
        while True:
            data = file.read(PIECE)
            if not data and "d" not in header:
                return
            stream.send(data, **header)
            header = {}


def mend_list(home: Home, holder: Holder) -> str:
    """Write the list of files of an upload's version anew; from what, or "" if nothing here has it."""
    if holder.kind != "upload":
        return ""
    try:
        if _is_whole(home.blobs.path(holder.digest), holder.digest):
            with open(home.blobs.path(holder.digest), "rb") as file:
                data, words = file.read(), "its blob"
        else:
            data, words = _list_of(holder.folder), "the files of the folder"
        if hashlib.sha256(data).hexdigest() != holder.digest:
            return ""
        write_whole(holder.manifest, data)
    except (OSError, TreeError):
        return ""
    return words


# -- parts


def _holders(home: Home) -> Iterator[Holder]:
    """All that can be read."""
    for name in home.uploads.names():
        with contextlib.suppress(HomeError):
            yield from of_upload(home, name)
    for key in home.run_keys():
        with contextlib.suppress(HomeError, FileNotFoundError):
            yield from of_run(home, home.run(key))


def _drop_mended(home: Home, mended: Callable[[str], bool]) -> None:
    """Delete what was set aside, and of which there is a whole one again, wherever it belongs."""
    for name in _listed(home.damaged):
        digest = name[:-2] if name.endswith(".x") else name
        if is_digest(digest) and mended(digest) and _is_whole(home.blobs.path(digest), digest):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(home.damaged, name))


def _mark_versions(home: Home, name: str, broken: Callable[[str, Dict[str, Any]], bool]) -> None:
    unreadable = contextlib.suppress(OSError, ValueError, LookupError, TypeError)  # that is a finding of its own
    with unreadable, locked(home.lock("upload-" + name)):
        versions = home.uploads.versions(name)
        marked = []
        for version in versions:
            plain = {key: value for key, value in version.items() if key != "damaged"}
            marked.append(dict(plain, damaged=True) if broken(name, version) else plain)
        if marked != versions:
            home.uploads.write_versions(name, marked)


def _is_broken(home: Home, name: str, version: Dict[str, Any]) -> bool:
    """Whether a version that was damaged lacks a blob still."""
    if not version.get("damaged"):
        return False
    try:
        (holder,) = [holder for holder in of_upload(home, name) if holder.version == version["version"]]
        return not all(entry.kind != "f" or home.blobs.has(entry.digest) for entry in holder.entries())
    except (HomeError, ValueError):
        return True


def _contents(home: Home, digest: str) -> Iterator[str]:
    yield home.blobs.path(digest)
    yield home.blobs.path(digest, True)
    for holder in _holders(home):
        if holder.digest == digest and holder.manifest:
            yield holder.manifest


def _list_of(folder: str) -> bytes:
    entries = []
    for found in walk(folder):
        entry = found.entry
        if entry.kind == "f":
            entry = entry._replace(digest=hash_file(os.path.join(folder, entry.path))[0])
        entries.append(entry)
    return Manifest(entries).encode()


def _rebuild(home: Home, holder: Holder) -> str:
    """Make the folder of a holder anew; why not, or ""."""
    try:
        with _lock_of(home, holder), home.temporary("mend") as temporary:
            if gone(home, holder) or os.path.isdir(holder.folder):
                return ""
            tree = os.path.join(temporary, "tree")
            with open(holder.manifest, "rb") as file:
                manifest = Manifest.decode(file.read())
            home.checkout(manifest, tree, private=False)
            os.rename(tree, holder.folder)
    except HomeError as error:
        return error.message
    except (OSError, TreeError) as error:
        return _why(error)
    return ""


def _relink(home: Home, holder: Holder, digests: Set[str], paths: Set[str]) -> Iterator[Tuple[Entry, str]]:
    """Give each entry of a holder's folder that has one of `digests`, or is one of `paths`, its blob's file again,
    unless it has that content; (entry, why it could not be or "") for each."""
    wanted = [entry for entry in holder.entries() if entry.path in paths or (entry.digest and entry.digest in digests)]
    if not wanted:
        return
    with _lock_of(home, holder):
        if gone(home, holder):
            return
        for entry in wanted:
            try:
                _put_in_place(home, holder, entry)
                yield entry, ""
            except HomeError as error:
                yield entry, error.message
            except OSError as error:
                yield entry, _why(error)


def _put_in_place(home: Home, holder: Holder, entry: Entry) -> None:
    path = os.path.join(holder.folder, entry.path)
    there = os.path.lexists(path)
    if not there and not holder.whole:
        return  # mounts are there while a run needs them only
    if entry.kind == "f":
        source = home.blobs.path(entry.digest)
        if not _is_whole(source, entry.digest):
            raise HomeError("missing_blob", "its blob is not here")
        if there and _state(path, entry.digest) == "whole" and not os.path.islink(path):
            return
        if entry.executable:
            source = home.blobs.executable_twin(entry.digest)
    with _writable(holder.folder, os.path.dirname(entry.path)) as folder:
        if entry.kind == "d":
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o555)
            return
        temporary = os.path.join(folder, ".%s.remoterun" % secrets.token_hex(6))
        try:
            if entry.kind == "l":
                os.symlink(entry.target, temporary)
            else:
                _link(source, temporary, 0o555 if entry.executable else 0o444)
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        _flush(folder)


@contextlib.contextmanager
def _writable(top: str, below: str) -> Iterator[str]:
    """The folder `below` in `top`, made where it is missing; we may write it, and those above, until the end."""
    modes: List[Tuple[str, int]] = []
    path = top
    try:
        for part in [""] + (below.split("/") if below else []):
            path = os.path.join(path, part) if part else path
            if not os.path.lexists(path):
                os.mkdir(path, 0o755)
                modes.append((path, 0o555))
                continue
            status = os.lstat(path)
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            if stat.S_IMODE(status.st_mode) & 0o700 != 0o700:
                os.chmod(path, 0o755)
                modes.append((path, stat.S_IMODE(status.st_mode)))
        yield path
    finally:
        for path, mode in reversed(modes):
            os.chmod(path, mode)


def _link(source: str, target: str, mode: int) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EMLINK, errno.EXDEV, errno.EPERM):
            raise
        private_copy(source, target)
        os.chmod(target, mode)
        _flush(target)


def _restore(source: str, target: str, digest: str, mode: int, home: Home) -> None:
    """Make `target` the file `source`, or a copy if that has another mode. Raises `OSError`, also if it is damaged."""
    with home.temporary("mend") as folder:
        copy = os.path.join(folder, "blob")
        if stat.S_IMODE(os.stat(source).st_mode) == mode:
            _link(source, copy, mode)
        else:
            private_copy(source, copy)
        if not _is_whole(copy, digest):
            raise OSError(errno.EIO, "%s is damaged, too" % source)
        if stat.S_IMODE(os.stat(copy).st_mode) != mode:
            os.chmod(copy, mode)
        _flush(copy)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.replace(copy, target)
        _flush(os.path.dirname(target))


def _flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _lock_of(home: Home, holder: Holder) -> Iterator[None]:
    if holder.kind == "upload":
        with locked(home.lock("upload-" + holder.name)):
            yield
    else:
        yield


def _state(path: str, digest: str, read: Callable[[int], None] = lambda count: None) -> str:
    """ "whole", "damaged" (also if it can't be read), or "absent"."""
    try:
        return "whole" if hash_file(path, read)[0] == digest else "damaged"
    except FileNotFoundError:
        return "absent"
    except (OSError, TreeError):
        return "damaged"


def _is_whole(path: str, digest: str) -> bool:
    return _state(path, digest) == "whole"


def _same_file(status: os.stat_result, *paths: str) -> bool:
    for path in paths:
        try:
            other = os.stat(path)
        except OSError:
            continue
        if (other.st_ino, other.st_dev) == (status.st_ino, status.st_dev):
            return True
    return False


def _blobs(home: Home) -> Iterator[str]:
    for first in range(256):
        folder = os.path.join(home.blobs.folder, "%02x" % first)
        for name in _listed(folder):
            if blob_digest(first, name) is not None:
                yield os.path.join(folder, name)


def _listed(folder: str) -> List[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _aside(home: Home, digest: str, twin: bool) -> str:
    return os.path.join(home.damaged, digest + (".x" if twin else ""))


def _place(holder: Holder) -> str:
    return "%s %s %d %s" % (holder.kind, holder.name, holder.version, holder.part)


def _user(holder: Holder, path: str) -> Dict[str, Any]:
    if holder.kind == "upload":
        return {"upload": holder.name, "version": holder.version, "path": path}
    return {"run": holder.name, "part": holder.part, "path": path}


def _finding(
    what: str,
    problem: str,
    digest: str,
    users: List[Dict[str, Any]],
    mended: str = "",
    why: str = "",
    size: int = 0,
    more: int = 0,
) -> Dict[str, Any]:
    return {
        "what": what,
        "problem": problem,
        "digest": digest,
        "size": size,
        "users": users,
        "more": more,
        "mended": mended,
        "why": why,
    }


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return "the disk is full" if error.errno in DISK_FULL else (error.strerror or str(error))
    return str(error)
