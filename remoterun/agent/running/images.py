"""Images of environments in the archive, so that not every host builds its own; see shared/archive.py.

An image is stored and reported before the command starts, which could put something else in its place: the client
records the digest then, and other hosts load only what has it.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import os
import posixpath
import re
import subprocess
import sys
import tarfile
import time
import zlib
from typing import IO, Callable, List

from ..shared.archive import IMAGE_PART, MOST_IMAGE, Grant, ImageAccess, SignedObject, image_parts
from ..shared.states import BuiltImage
from ..shared.tree import hash_file
from ..store.download import CONNECTIONS, Download
from ..store.errors import HomeError
from ..store.home import Home
from ..store.http_client import HttpClient, HttpError, run_jobs
from ..store.objects import PIECE, Content, FilePart, Unreadable, post
from ..store.reserve import free_space
from .engines import EngineError
from .engines.building import BuildJob

FIRST, SLOWEST = 60.0, 2 << 20
"""Seconds after which a transfer is given up, and bytes for each of which it may take one more: a build takes
minutes."""
ROOM = 1 << 30
"""Bytes that remain free on the disk while an image is saved."""
_MANIFEST, _NAMING = "manifest.json", ("repositories", "index.json", "oci-layout")
"""Files of an archive that name its images: of one form, and of others, which it need not have."""
_ENTRIES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE)
SAVE = '{ "$1" save "$2" || touch "$3.failed"; } | gzip -1 >"$3" && test ! -e "$3.failed"'
"""A shell's words, for the engine's program, the image, and a path."""


class Unusable(Exception):
    """The image can't be had from the archive, or stored in it: why, in a few words."""


def load(home: Home, tool: str, image: str, stored: List[SignedObject], job: BuildJob) -> None:
    """Download an image and give it to the engine whose program is `tool`, once it has its digest. Blocks. Raises
    `Unusable`, `Interrupted`."""
    job.say("downloading the environment from the archive")
    digest, size = stored[0].takes[0][:2]
    path, had = home.blobs.path(digest), home.blobs.has(digest)
    try:
        with home.lease() as lease, Download(home, lease) as download:
            run_jobs(download.jobs(stored), CONNECTIONS, _in_time(job, size))
            download.finish()
            with home.temporary("image") as folder:
                plain = os.path.join(folder, "image")
                with gzip.open(path) as archive, open(plain, "wb") as out:
                    _copy_untagged(archive, image, out, job.check)
                status = job.run([tool, "load", "--input", plain])
        loaded = re.findall(r"^Loaded image.*\b([0-9a-f]{64})$", job.tail(3), re.MULTILINE)
        if status != 0 or len(loaded) != 1 or job.run([tool, "tag", loaded[0], image]) != 0:
            raise Unusable("%s does not take it: %s" % (tool, job.tail(1).strip()))
    except (HttpError, HomeError, EngineError) as error:
        raise Unusable(error.message)
    except OSError as error:
        raise Unusable(error.strerror or str(error))
    except (EOFError, LookupError, RecursionError, TypeError, ValueError, tarfile.TarError, zlib.error) as error:
        raise Unusable("it is not what `%s save` writes of this image: %s" % (tool, error))
    finally:
        if not had:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def _copy_untagged(archive: gzip.GzipFile, image: str, out: IO[bytes], check: Callable[[], None]) -> None:
    """Copy a tar that `save` wrote of one image, without its names: whoever wrote it may have named what others are
    built of. Headers are made anew, so that nobody reads more of them than we did. Raises `ValueError`, and what
    reading raises, for anything else."""
    left, named = MOST_IMAGE, False
    while True:
        check()
        head = archive.read(tarfile.BLOCKSIZE)
        if not head.strip(b"\0"):
            break
        entry = tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        entry.size = entry.size if entry.isreg() else 0
        left -= entry.size
        if entry.type not in _ENTRIES or not 0 <= entry.size <= left:
            raise ValueError("an entry that can't be")
        name = posixpath.basename(posixpath.normpath(entry.name))
        rest = entry.size + -entry.size % tarfile.BLOCKSIZE
        data = archive.read(min(PIECE, rest))
        if name == _MANIFEST:
            (about,) = json.loads(data[: entry.size])
            if named or rest > PIECE or about["RepoTags"] != [image]:
                raise ValueError("another one")
            data, named = json.dumps([dict(about, RepoTags=None)]).encode(), True
            entry.name, entry.size = _MANIFEST, len(data)
            data += bytes(-len(data) % tarfile.BLOCKSIZE)
        copied = name not in _NAMING
        out.write(entry.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + data if copied else b"")
        for at in range(PIECE, rest, PIECE):
            check()
            data = archive.read(min(PIECE, rest - at))
            out.write(data if copied else b"")
    if not named:
        raise ValueError("no list of images")
    out.write(bytes(2 * tarfile.BLOCKSIZE))


def store(home: Home, tool: str, images: List[ImageAccess], job: BuildJob) -> List[BuiltImage]:
    """Store those that have a grant; what was stored. Blocks. What fails is tried by the next host that builds them.
    Raises `Interrupted`."""
    stored = []
    for access in images:
        if access.grant is None:
            continue
        job.say("saving the environment for the archive")
        try:
            stored.append(_store(home, tool, access.image, access.grant, job))
        except (Unusable, EngineError, HttpError, Unreadable, OSError) as error:
            print("%s is not in the archive: %s" % (access.image, error), file=sys.stderr, flush=True)
    return stored


def _store(home: Home, tool: str, image: str, grant: Grant, job: BuildJob) -> BuiltImage:
    _check_room(home, tool, image)
    with home.temporary("image") as folder:
        path = os.path.join(folder, "image")
        if job.run(["sh", "-c", SAVE, "sh", tool, image, path]) != 0:
            raise Unusable("%s save failed" % tool)
        digest, about = hash_file(path, lambda _: job.check())
        built = BuiltImage(image, digest, about.st_size)

        def post_part(number: int, key: str, length: int, http: HttpClient) -> None:
            post(http, grant, key, Content.of_files([FilePart(path, number * IMAGE_PART, length)]))

        jobs = (functools.partial(post_part, number, *part) for number, part in enumerate(image_parts(built)))
        run_jobs(jobs, CONNECTIONS, _in_time(job, built.size))
    return built


def _check_room(home: Home, tool: str, image: str) -> None:
    """Docker writes the layers of an image to its own disk before it gives them out. Raises `Unusable` where another
    run might not find the room that it needs."""
    said = _said(tool, "image", "inspect", "--format", "{{.Size}}", image)
    if not said.isdigit():
        raise Unusable("it has no size: %s" % said[:80])
    told = _said(tool, "info", "--format", "{{.DockerRootDir}} {{.DriverStatus}}")  # where it has its images
    folder = "/var/lib/containerd" if "io.containerd" in told else told.partition(" ")[0]
    free = min(free_space(each) for each in (home.tmp, folder) if os.path.isdir(each))
    size = int(said)
    if free < 2 * size + ROOM:
        raise Unusable("to save it takes %d MiB of the disk, which has %d MiB free" % (size >> 19, free >> 20))


def _said(tool: str, *words: str) -> str:
    """The output of the engine's program. Raises `Unusable`."""
    try:
        return subprocess.check_output([tool, *words], stderr=subprocess.DEVNULL, timeout=FIRST).decode().strip()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise Unusable("it is not known whether it can be saved: %s" % error)


def _in_time(job: BuildJob, size: int) -> Callable[[], None]:
    """What is called while so many bytes are under way. It raises `Unusable`, `Interrupted`."""
    deadline = time.monotonic() + FIRST + size / SLOWEST

    def check() -> None:
        job.check()
        if time.monotonic() > deadline:
            raise Unusable("the archive is too slow")

    return check
