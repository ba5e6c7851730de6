"""Trees from a host: what is wanted is named, and comes in one flow; each file is whole and verified before it has its
name.

Nothing that comes from a host is trusted: see `SafeFolder` and `check_path`.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from remoterun.agent.shared import api
from remoterun.agent.shared.api import Tree
from remoterun.agent.shared.files import DISK_FULL, no_room
from remoterun.agent.shared.paths import SafeFolder, TreeError, link_stays_inside, show
from remoterun.agent.shared.spec import ResourceRef
from remoterun.agent.shared.tree import Entry, Manifest, hash_file
from remoterun.errors import AlreadyExists, SomeDamaged, TransferError, UnsafePath
from remoterun.session import Session
from remoterun.sizes import size as readable
from remoterun.transfer.destination import (
    Destination,
    Fetched,
    bytes_here,
    refuse_twins,
    remove_parts,
    require_room,
    temporary_name,
    way_out,
    without_git_folders,
)
from remoterun.transfer.downloads import Download
from remoterun.transfer.progress import Progress


def fetch_manifest(session: Session, resource: ResourceRef) -> tuple[Manifest, Tree]:
    """(manifest, what else is known) of a resource on a host. Raises `UnsafePath` where a path leads out."""
    try:
        with session.stream(api.tree, api.OfResource(resource)) as stream, tempfile.TemporaryFile() as text:
            stream.end()
            text.writelines(stream.parts())  # of a million files, which are in memory once
            about = session.result(api.tree, stream)
            text.seek(0)
            return Manifest.decode(text, hashed=not about.live), about
    except TreeError as error:
        raise UnsafePath(f"{session.machine.name} sent a list of files that is refused: {error}")


Conflict = Callable[[str], bool]
"""Asked for each file that exists already, with its path for people: overwrite it? May raise."""


Choice = Callable[[Manifest, Tree], Manifest]
"""The part that is wanted of a resource, by its manifest and what else is known of it. May raise."""


def refuse(path: str) -> bool:
    """The conflict policy without a person: never overwrite silently."""
    raise AlreadyExists(f"`{show(path)}` exists already", hint="overwrite=True overwrites it")


def place(
    manifest: Manifest,
    about: Tree,
    download: Download,
    remote_name: str,
    target: Path,
    conflict: Conflict,
    progress: Progress,
    into: bool = False,
) -> Fetched:
    """Copy what `manifest` lists to `target`, as `cp` does: a folder's contents land in it, and it is made; one file
    gets that name, or keeps its own if `target` is a folder (or is to be one: `into`). `download` downloads the files,
    from what is called `remote_name`.

    Every file appears whole, after its hash was checked. Conflicts are asked about before anything is written. A
    link of a repository that leads out of it is refused, unless the user typed a "/" after it (`into`).
    Raises `AlreadyExists`, `UnsafePath`, `TransferError`; `SomeDamaged` when all that is whole was copied.
    """
    name = None
    if about.single and manifest.count == 1 and not into and not os.path.isdir(target):
        target, name = target.parent, target.name
    way = way_out(str(target))
    if way is not None and (way.to_git or way.tracked is not False and not into):
        raise UnsafePath(
            f"`{show(way.link)}` is a link, which leads to `{show(way.goal)}`",
            hint=f"name that folder itself, if you mean it: {shlex.quote(os.path.realpath(target))}",
        )
    if os.path.exists(target) and not os.path.isdir(target):
        raise AlreadyExists(
            f"`{show(str(target))}` is not a folder", hint="name a folder: it is made if it isn't there"
        )
    result = Fetched(live=about.live)
    if name is None:  # otherwise the user chose the name
        manifest, of_git = without_git_folders(manifest, target)
        if of_git:
            result.warn(_of_git(of_git))
    for path in (entry.path for entry in manifest if os.path.basename(entry.path) == "remoterun.toml"):
        result.warn(f"`{show(path)}` has settings for `remoterun run`, which asks before it follows them")
    one = next(iter(manifest)).path if about.single and manifest.count == 1 else ""
    result.place = str(target / (name or one))
    result.listed = manifest.count
    if not result.listed:
        return result
    left_out = _left_out(manifest, target, name, conflict, result)

    def plan() -> Iterator[Entry]:
        return (entry for entry in manifest if entry.path not in left_out)

    wanted, size = manifest.file_count, manifest.size
    if left_out:
        sizes = [entry.size for entry in plan() if entry.kind == "f"]
        wanted, size = len(sizes), sum(sizes)
    progress.start("copying", wanted, size)
    try:
        to_come = size - bytes_here((entry for entry in plan() if entry.kind == "f"), target)
        require_room(target, to_come, f"{readable(to_come)} are to come")
        target.mkdir(parents=True, exist_ok=True)
        refuse_twins(manifest, target)
        remove_parts(target, {os.path.dirname(name or entry.path) for entry in plan()})
        with SafeFolder(str(target)) as root:
            destination = Destination(root, target, name, result, progress, at_rest=not about.live)
            if wanted:
                download((entry for entry in plan() if entry.kind == "f"), size, destination)
            for entry in plan():
                if entry.kind == "l":
                    _place_link(root, entry, result)
                elif entry.kind == "d":
                    root.folder(entry.path)
        result.there = progress.bytes_present
        came = (each for each in plan() if each.kind != "d" and each.path not in result.damaged)
        result.written = [os.path.join(target, name or each.path) for each in came]
        if result.damaged:
            raise _damaged(result, remote_name)
    except TreeError as error:
        raise UnsafePath(f"refused: {error}")
    except OSError as error:
        raise _unwritable(error, target)
    return result


def _unwritable(error: OSError, target: Path) -> TransferError:
    if error.errno in DISK_FULL:
        why = no_room(str(target.parent)) or f"the disk that holds `{show(str(target))}` is full"
        return TransferError(why, hint="free some space, and repeat the command: files `.*.remoterun` hold what came")
    shown = show(str(error.filename)) if error.filename else ""
    where = f" (`{shown}`)" if shown not in ("", show(str(target))) else ""
    return TransferError(
        f"`{show(str(target))}` can't be written: {error.strerror}{where}",
        hint="name a folder that you may write, after the resource",
    )


def _of_git(paths: list[str]) -> str:
    left_out = f"`{show(paths[0])}` was" if len(paths) == 1 else f"`{show(paths[0])}` and {len(paths) - 1:,} more were"
    return f"{left_out} left out: git may run what a folder `.git`, a bare repository or `core.hooksPath` holds"


def _damaged(result: Fetched, machine: str) -> SomeDamaged:
    several = len(result.damaged) > 1
    named = "".join(f"\n{show(path)}" for path in sorted(result.damaged)[1:10])
    more = f"\nand {len(result.damaged) - 10:,} more" if len(result.damaged) > 10 else ""
    first = f"`{show(min(result.damaged))}`" + (f" and {len(result.damaged) - 1:,} more" if several else "")
    return SomeDamaged(
        f"{first} {'are' if several else 'is'} damaged on {machine}, and left out",
        result,
        evidence=(named + more).strip() or None,
        hint=f"remoterun machines check {machine}   names what makes it whole",
    )


def _left_out(
    manifest: Manifest, target: Path, name: str | None, conflict: Conflict, result: Fetched
) -> frozenset[str]:
    """Paths that are not fetched, as they are here already or shall stay; `name` is that of the one file, if it gets
    another."""
    if not os.path.lexists(target):
        return frozenset()
    found = set()
    for entry in manifest:
        place = os.path.join(target, name or entry.path)
        try:
            status = os.lstat(place)
        except OSError:  # not there, or it can't be: that shows when it is written
            continue
        if entry.kind == "d":
            found.add(entry.path)
        elif stat.S_ISDIR(status.st_mode):
            result.warn(f"`{show(place)}` is a folder here and a file there; it was left out")
            result.skipped.append(entry.path)
            found.add(entry.path)
        elif _same(entry, place, status):
            result.unchanged += 1
            found.add(entry.path)
        elif not conflict(place):
            result.skipped.append(entry.path)
            found.add(entry.path)
    return frozenset(found)


def _same(entry: Entry, place: str, status: os.stat_result) -> bool:
    if entry.kind == "l":
        return stat.S_ISLNK(status.st_mode) and os.readlink(place) == entry.target
    if not entry.digest or not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
        return False
    try:
        return hash_file(place)[0] == entry.digest
    except (OSError, TreeError):
        return False


def _place_link(root: SafeFolder, entry: Entry, result: Fetched) -> None:
    if not link_stays_inside(entry.path, entry.target):
        result.warn(f"`{show(entry.path)}` points outside (`{show(entry.target)}`); the link was left out")
        return
    folder, name = root.place(entry.path)
    temporary = temporary_name()
    os.symlink(entry.target, temporary, dir_fd=folder)
    try:
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError as error:
        os.unlink(temporary, dir_fd=folder)
        if error.errno not in (errno.EISDIR, errno.ENOTEMPTY):
            raise
        result.warn(f"`{show(entry.path)}` is a folder here; the link was left out")
