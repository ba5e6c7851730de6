"""Images of environments in the archive, so that not every host builds its own; see shared/archive.py.

What a host stores is reported before its command starts, which could put something else in its place: the client
records the digest then, and other hosts load only what has it.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
import time
from typing import Callable, List, NamedTuple

from ..shared.archive import IMAGE_PART, Grant, ImageAccess, SignedObject, Take, image_parts
from ..shared.files import remove_tree, token
from ..shared.pieces import write_at
from ..shared.states import BuiltImage
from ..shared.tree import hash_file
from ..store.errors import HomeError
from ..store.home import Home
from ..store.http_client import HttpClient, HttpError, run_jobs
from ..store.objects import Content, FilePart, Unreadable, post, read_range
from ..store.reserve import free_space
from .engines import EngineError
from .engines.building import BuildJob

CONNECTIONS = 6
FIRST, SLOWEST = 60.0, 2 << 20
"""Seconds after which a download is given up, and bytes for each of which it may take one more: a build takes
minutes."""
ROOM = 1 << 30
"""Bytes that remain free on the disks while an image is saved."""
TICK = 0.2
SAVE = '{ "$1" save "$2" || touch "$3.failed"; } | gzip -1 >"$3" && test ! -e "$3.failed"'
"""A shell's words, for the engine's program, the image, and a path."""


class Unusable(Exception):
    """The image can't be had from the archive, or stored in it: why, in a few words."""


def load(home: Home, tool: str, stored: List[SignedObject], job: BuildJob) -> None:
    """Download an image and give it to the engine whose program is `tool`, once it has its digest. Blocks. Raises
    `Unusable`, `Interrupted`."""
    job.say("downloading the environment from the archive")
    with home.temporary("image") as folder:
        try:
            path = _downloaded(home, os.path.join(folder, "image"), stored, job)
            if job.run([tool, "load", "--input", path]) != 0:
                raise Unusable("%s does not take it: %s" % (tool, job.tail(1).strip()))
        except (HttpError, HomeError, EngineError) as error:
            raise Unusable(error.message)
        except OSError as error:
            raise Unusable(error.strerror or str(error))


def _downloaded(home: Home, path: str, stored: List[SignedObject], job: BuildJob) -> str:
    """`path`, with the image. Raises `Unusable`, `HttpError`, `HomeError`, `Interrupted`, `OSError`."""
    digest, size = stored[0].takes[0][:2]
    home.reserve.check(size)
    deadline = time.monotonic() + FIRST + size / SLOWEST

    def fetch(url: str, take: Take, http: HttpClient) -> None:
        position = take.position
        for data in read_range(http, url, take.offset, take.length):
            write_at(file.fileno(), position, data)
            position += len(data)

    def check() -> None:
        job.check()
        if time.monotonic() > deadline:
            raise Unusable("it comes too slowly")

    with open(path, "xb") as file:
        jobs = (functools.partial(fetch, part.url, take) for part in stored for take in part.takes)
        run_jobs(jobs, CONNECTIONS, check)
    if hash_file(path)[0] != digest:
        raise Unusable("it is not the image that was stored")
    return path


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
        self._may_post = threading.Event()
        self._may_post.set()
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
        try:
            size = int(self._ask("image", "inspect", "--format", "{{.Size}}", image))
            free = min(free_space(self._ask("info", "--format", "{{.DockerRootDir}}")), free_space(self._home.tmp))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise Unusable("it is not known whether it can be saved: %s" % error)
        if free < 2 * size + ROOM:
            raise Unusable("to save it takes %d MiB of the disk, which has %d MiB free" % (size >> 19, free >> 20))

    def _ask(self, *words: str) -> str:
        nothing = subprocess.DEVNULL
        asked = [self._tool, *words]
        done = subprocess.run(asked, stdin=nothing, stdout=subprocess.PIPE, stderr=nothing, timeout=FIRST, check=True)
        return done.stdout.decode("utf-8", "replace").strip()

    def start(self) -> None:
        """Post what was saved. May be called again."""
        if self._thread.ident is None:
            self._thread.start()

    def hold(self) -> None:
        """Leave the network to the outputs, until `until_end`."""
        self._may_post.clear()

    def until_end(self, last_moment: Callable[[], float]) -> None:
        """Blocks until all is stored, or until `last_moment` (seconds since 1970) has come."""
        self._may_post.set()
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
            content = Content.of_files([FilePart(saved.path, number * IMAGE_PART, length)])
            self._await_turn()
            post(http, saved.grant, key, content, self._await_turn)

    def _await_turn(self) -> None:
        """Raises `Unusable` where it does not come any more."""
        self._may_post.wait()
        if self._stopped.is_set():
            raise Unusable("there was no time for it")


def _report(text: str) -> None:
    """To the supervisor's own log."""
    print(text, file=sys.stderr, flush=True)
