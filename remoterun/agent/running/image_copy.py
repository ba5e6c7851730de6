"""Images of environments that the bucket of a run keeps, so that not every host builds its own; see shared/bucket.py.

An image travels as `docker save` writes it, compressed, in pieces that are named by their SHA-256. No copy of the whole
lies on the disk on either way: the engine takes each piece once it is verified, and a piece that was compressed is
posted from memory; Docker itself needs the room of one meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import subprocess
import sys
import threading
import time
from typing import IO, Callable, Dict, Iterator, List, Tuple, Union

from ..shared.bucket import IMAGE, IMAGE_PIECE, Chunk, Grant, ImageAccess, ImageArchive, SignedObject
from ..shared.records import encode
from ..store.bucket_download import whole_part
from ..store.http_client import HttpClient, HttpError
from ..store.posting import Content, post
from ..store.reserve import free_space
from .engines.building import BuildJob, end

CONNECTIONS = 6
"""Pieces that are fetched at once. As many lie in memory."""
TRIES = 2
"""Tries in a row that may bring nothing: to build takes minutes, and so may waiting."""
PAUSE = 1.0
"""Seconds between tries."""
FIRST, SLOWEST = 60.0, 2 << 20
"""Seconds after which fetching is given up, and bytes for each of which it may take one more: a build takes minutes."""
ROOM = 1 << 30
"""Bytes that stay free on Docker's disk while it saves an image."""
TICK = 0.2


class Unusable(Exception):
    """The image can't be had from the bucket: why, in a few words."""


def load(tool: str, access: ImageAccess, job: BuildJob) -> None:
    """Fetch an image and give it to the engine whose program is `tool`. Blocks. Raises `Unusable`, `Interrupted`."""
    size = sum(piece.takes[0].length for piece in access.pieces)
    deadline = time.monotonic() + FIRST + size / SLOWEST

    def check() -> None:
        job.check()
        if time.monotonic() > deadline:
            raise Unusable("it comes too slowly")

    job.say("fetching the environment from the bucket")
    with open(job.log, "ab", buffering=0) as log:
        try:
            engine = subprocess.Popen(
                [tool, "load"], stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        except OSError as error:
            raise Unusable("%s can't be started: %s" % (tool, error.strerror))
        try:
            done = told = 0
            assert engine.stdin is not None
            with engine.stdin as target, _Pieces(access.pieces) as pieces:
                os.set_blocking(target.fileno(), False)
                for data in pieces.each(check):
                    if not _feed(target.fileno(), data, check):
                        break  # its status says why
                    done += len(data)
                    if done * 100 // size > told:
                        told = done * 100 // size
                        log.write(b"fetching the environment from the bucket, %d %%\n" % told)
            while engine.poll() is None:
                check()
                time.sleep(TICK)
        finally:
            end(engine)
    if engine.returncode:
        raise Unusable("%s does not take it: %s" % (tool, job.tail(1).strip()))


class ImageCopy:
    """Puts images into the bucket, on a thread, while the command runs or after it: nothing waits for that. What fails
    is tried again by the next host that builds them.

    One at a time, compressed by a process that leaves the processors to others."""

    def __init__(self, tool: str, images: List[Tuple[str, Grant]]) -> None:
        self._tool = tool
        self._images = images
        self._stopped = threading.Event()
        self._goes_on = threading.Event()
        self._goes_on.set()
        self._thread = threading.Thread(target=self._work, name="remoterun posts an image", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def hold(self) -> None:
        """Leave the network to the outputs, until `until_end`."""
        self._goes_on.clear()

    def until_end(self, last_moment: Callable[[], float]) -> None:
        """Blocks until all is done, or until `last_moment` (seconds since 1970) has come."""
        self._goes_on.set()
        while self._thread.is_alive() and time.time() < last_moment():
            self._thread.join(TICK)
        self._stopped.set()
        self._thread.join(TICK * 10)

    def _work(self) -> None:
        with HttpClient() as http:
            for image, grant in self._images:
                try:
                    archive = self._put(http, image, grant)
                    print("%s is in the bucket, %d bytes" % (image, archive.size), file=sys.stderr, flush=True)
                except (HttpError, OSError, Unusable) as error:
                    print("%s is not in the bucket: %s" % (image, error), file=sys.stderr, flush=True)

    def _put(self, http: HttpClient, image: str, grant: Grant) -> ImageArchive:
        """Raises `Unusable`, `HttpError`, `OSError`."""
        self._check_room(image)
        pieces: List[Chunk] = []
        for data in self._saved(image):
            content = Content.of(data)
            self._post(http, grant, content.digest, content)
            pieces.append(Chunk(content.digest, content.size))
        archive = ImageArchive(image, sum(piece.length for piece in pieces), pieces)
        self._post(http, grant, IMAGE, Content.of(encode(archive)))
        return archive

    def _check_room(self, image: str) -> None:
        """Docker writes the layers of an image to its own disk before it gives them out. Raises `Unusable` where the
        command might not find the room that it needs."""
        try:
            size = int(self._say("image", "inspect", "--format", "{{.Size}}", image))
            free = free_space(self._say("info", "--format", "{{.DockerRootDir}}"))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise Unusable("it is not known whether there is room to save it: %s" % error)
        if free < size + ROOM:
            raise Unusable("to save it takes %d MiB of the disk, which has %d MiB free" % (size >> 20, free >> 20))

    def _say(self, *words: str) -> str:
        asked = [self._tool, *words]
        done = subprocess.run(
            asked,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=FIRST,
            check=True,
        )
        return done.stdout.decode("utf-8", "replace").strip()

    def _saved(self, image: str) -> Iterator[bytes]:
        """The archive of an image, piece after piece. Raises `Unusable` where it does not come to its end."""
        nothing = subprocess.DEVNULL
        words = ["nice", "-n", "19", "gzip", "-1"]
        with contextlib.ExitStack() as stack:
            saving = stack.enter_context(_process([self._tool, "save", image], nothing))
            compressing = stack.enter_context(_process(words, saving.stdout))
            assert saving.stdout is not None and compressing.stdout is not None
            saving.stdout.close()  # so that it ends when the other does
            while True:
                data = compressing.stdout.read(IMAGE_PIECE)
                if not data:
                    break
                yield data
            if saving.wait() or compressing.wait():
                raise Unusable("%s save failed" % self._tool)

    def _post(self, http: HttpClient, grant: Grant, key: str, content: Content) -> None:
        self._await_turn(0.0)
        post(http, grant, key, content, lambda _: self._await_turn(PAUSE))

    def _await_turn(self, pause: float) -> None:
        """Raises `Unusable` where it does not come any more."""
        self._stopped.wait(pause)
        self._goes_on.wait()
        if self._stopped.is_set():
            raise Unusable("there was no time left")


class _Pieces:
    """Fetches several at once, and gives them in their order. A context manager. Its threads end by themselves, and
    nobody waits for that: a server may be silent."""

    def __init__(self, pieces: List[SignedObject]) -> None:
        self._count = len(pieces)
        self._left = iter(list(enumerate(pieces)))
        self._taking = threading.Lock()
        self._room = threading.Semaphore(CONNECTIONS)
        self._came: Dict[int, Union[bytes, Unusable]] = {}
        self._news = threading.Condition()
        self._stopped = threading.Event()
        self._clients = [HttpClient() for _ in range(CONNECTIONS)]

    def __enter__(self) -> "_Pieces":
        for http in self._clients:
            threading.Thread(target=self._work, args=(http,), name="remoterun fetches", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for http in self._clients:
            http.cut()

    def each(self, check: Callable[[], None]) -> Iterator[bytes]:
        """Raises `Unusable`, and what `check` raises, which is called now and then."""
        for number in range(self._count):
            with self._news:
                while number not in self._came:
                    check()
                    self._news.wait(TICK)
                found = self._came.pop(number)
            if isinstance(found, Unusable):
                raise found
            yield found
            self._room.release()

    def _work(self, http: HttpClient) -> None:
        with http:
            while not self._stopped.is_set():
                if not self._room.acquire(timeout=TICK):
                    continue
                with self._taking:
                    number, piece = next(self._left, (-1, None))
                if piece is None:
                    return
                try:
                    found: Union[bytes, Unusable] = self._whole(http, piece)
                except Unusable as error:
                    found = error
                except Exception as error:  # noqa: BLE001 - `each` raises it
                    found = Unusable("%s: %s" % (type(error).__name__, error))
                with self._news:
                    self._came[number] = found
                    self._news.notify_all()

    def _whole(self, http: HttpClient, piece: SignedObject) -> bytes:
        """A piece, also over cut connections."""
        (take,) = piece.takes
        try:
            data = b"".join(
                whole_part(http, piece.url, 0, take.length, TRIES, lambda failures: self._stopped.wait(PAUSE))
            )
        except HttpError as error:
            raise Unusable(error.message)
        if hashlib.sha256(data).hexdigest() != take.digest:
            raise Unusable("a piece of it is damaged")
        return data


@contextlib.contextmanager
def _process(words: List[str], source: Union[int, IO[bytes], None]) -> "Iterator[subprocess.Popen[bytes]]":
    """One whose output is read; it ends with the context."""
    process = subprocess.Popen(
        words,
        stdin=source,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        end(process)
        assert process.stdout is not None
        process.stdout.close()


def _feed(pipe: int, data: bytes, check: Callable[[], None]) -> bool:
    """Write all of `data`; False where nobody reads any more. Raises what `check` raises."""
    left = memoryview(data)
    while left:
        check()
        if select.select([], [pipe], [], TICK)[1]:
            try:
                left = left[os.write(pipe, left) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                return False
    return True
