"""Images of environments in the archive, so that not every host builds its own; see shared/archive.py.

What a host stores is reported before its command starts, which could put something else in its place: the client
records the digest then, and other hosts load only what has it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from typing import Callable, List, NamedTuple

from ..shared.archive import IMAGE_PART, Grant, ImageAccess, SignedObject, image_parts
from ..shared.files import remove_tree, token
from ..shared.states import BuiltImage
from ..shared.tree import hash_file
from ..store.download import CONNECTIONS, Download
from ..store.errors import HomeError
from ..store.home import Home
from ..store.http_client import HttpClient, HttpError, run_jobs
from ..store.objects import Content, FilePart, Unreadable, post
from ..store.reserve import free_space
from .engines import EngineError
from .engines.building import BuildJob

PATIENCE = 60.0
"""Seconds that the engine has to describe an image."""
ROOM = 1 << 30
"""Bytes that remain free on the disk while an image is saved."""
TICK = 0.2
SAVE = '{ "$1" save "$2" || touch "$3.failed"; } | gzip -1 >"$3" && test ! -e "$3.failed"'
"""A shell's words, for the engine's program, the image, and a path."""


class Unusable(Exception):
    """The image can't be had from the archive, or stored in it: why, in a few words."""


def load(home: Home, tool: str, stored: List[SignedObject], job: BuildJob) -> None:
    """Download an image and give it to the engine whose program is `tool`, once it has its digest. Blocks. Raises
    `Unusable`, `Interrupted`."""
    job.say("downloading the environment from the archive")
    digest = stored[0].takes[0].digest
    path, had = home.blobs.path(digest), home.blobs.has(digest)
    try:
        with home.lease() as lease, Download(home, lease) as download:
            run_jobs(download.jobs(stored), CONNECTIONS, job.check)
            download.finish()
            if job.run([tool, "load", "--input", path]) != 0:
                raise Unusable("%s does not take it: %s" % (tool, job.tail(1).strip()))
    except (HttpError, HomeError, EngineError) as error:
        raise Unusable(error.message)
    except OSError as error:
        raise Unusable(error.strerror or str(error))
    finally:
        if not had:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


class SavedImage(NamedTuple):
    """An image as it will be stored: the file at `path`."""

    built: BuiltImage
    path: str
    grant: Grant


class ImageArchiving:
    """Stores the images that a run's host has built. `save` them before the command starts; a thread posts them while
    it runs or after it, and nothing waits for that. What fails is tried by the next host that builds them."""

    def __init__(self, home: Home, tool: str) -> None:
        self._home, self._tool = home, tool
        self._folder = os.path.join(home.tmp, "image-%d-%s" % (os.getpid(), token()))
        self._saved: List[SavedImage] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._post_all, name="remoterun posts an image", daemon=True)

    def save(self, images: List[ImageAccess], job: BuildJob) -> List[BuiltImage]:
        """Save those that have a grant to files, which takes a while. Returns what will be stored. Raises
        `Interrupted`."""
        for access in images:
            if access.grant is None:
                continue
            job.say("saving the environment for the archive")
            try:
                self._saved.append(self._save(access.image, access.grant, job))
            except (Unusable, EngineError, OSError) as error:
                _report("%s is not in the archive: %s" % (access.image, error))
        return [saved.built for saved in self._saved]

    def _save(self, image: str, grant: Grant, job: BuildJob) -> SavedImage:
        self._check_room(image)
        os.makedirs(self._folder, 0o700, exist_ok=True)
        path = os.path.join(self._folder, str(len(self._saved)))
        if job.run(["sh", "-c", SAVE, "sh", self._tool, image, path]) != 0:
            remove_tree(path)
            raise Unusable("%s save failed" % self._tool)
        digest, about = hash_file(path, lambda _: job.check())
        return SavedImage(BuiltImage(image, digest, about.st_size), path, grant)

    def _check_room(self, image: str) -> None:
        """Docker writes the layers of an image to its own disk before it gives them out. Raises `Unusable` where the
        command might not find the room that it needs."""
        asked = [self._tool, "image", "inspect", "--format", "{{.Size}}", image]
        try:
            size = int(subprocess.check_output(asked, stderr=subprocess.DEVNULL, timeout=PATIENCE))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise Unusable("it is not known whether it can be saved: %s" % error)
        free = free_space(self._home.tmp)
        if free < 2 * size + ROOM:
            raise Unusable("to save it takes %d MiB of the disk, which has %d MiB free" % (size >> 19, free >> 20))

    def start(self) -> None:
        """Post what was saved. May be called again."""
        if self._thread.ident is None:
            self._thread.start()

    def until_end(self, last_moment: Callable[[], float]) -> None:
        """Blocks until all is stored, or until `last_moment` (seconds since 1970) has come."""
        while self._thread.is_alive() and time.time() < last_moment():
            self._thread.join(TICK)
        self._stopped.set()
        remove_tree(self._folder)

    def _post_all(self) -> None:
        with HttpClient() as http:
            for saved in self._saved:
                try:
                    self._post(http, saved)
                    _report("%s is in the archive, %d bytes" % (saved.built.image, saved.built.size))
                except (HttpError, Unreadable, Unusable) as error:
                    _report("%s is not in the archive: %s" % (saved.built.image, error))
                remove_tree(saved.path)

    def _post(self, http: HttpClient, saved: SavedImage) -> None:
        """Raises `HttpError`, `Unreadable`, `Unusable`."""
        for number, (key, length) in enumerate(image_parts(saved.built)):
            if self._stopped.is_set():
                raise Unusable("there was no time for it")
            post(http, saved.grant, key, Content.of_files([FilePart(saved.path, number * IMAGE_PART, length)]))


def _report(text: str) -> None:
    """To the supervisor's own log."""
    print(text, file=sys.stderr, flush=True)
